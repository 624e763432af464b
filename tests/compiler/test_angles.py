"""Which angles are linear in inputs and weights, which depend on the image, and their exact derivatives."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from qcifar.compiler.angles import classify, jacobian

# angle -> (linear in the arguments, depends on the image)
ANGLES = {
    "an input": (lambda x, w: x[:, 0], True, True),
    "a weight": (lambda x, w: w[1], True, False),
    "a constant": (lambda x, w: torch.tensor(0.5, dtype=x.dtype), True, False),
    "a sum": (lambda x, w: 2 * x[:, 0] - w[0] / 4 + 0.25, True, True),
    "an input times a constant of the trace": (lambda x, w: x[:, 1] * torch.tensor(1.5).sin(), True, True),
    "a product": (lambda x, w: x[:, 0] * w[0], False, True),
    "a square": (lambda x, w: w[0] * w[0], False, False),
    "a quotient": (lambda x, w: 1 / w[1], False, False),
    "a sine": (lambda x, w: x[:, 1].sin(), False, True),
}


@pytest.mark.parametrize("name", ANGLES)
def test_linear_angles_are_known_and_have_exact_derivatives(name):
    angle, is_linear, is_batch = ANGLES[name]
    generator = torch.Generator().manual_seed(1)
    x, w = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((3, 2), (2,)))
    graph = make_fx(lambda x, w: [angle(x, w)])(x, w)
    linear, batch = classify(graph, 2)
    (node,) = graph.graph.find_nodes(op="output")[0].args[0]
    assert (node in linear, node in batch) == (is_linear, is_batch)
    (row,) = jacobian(graph, (x, w), [], [node in linear], (x + 1, w - 1))
    assert (row is not None) == is_linear
    if is_linear:
        by_input, by_weights, offset = row
        predicted = x.numpy() @ by_input + w.numpy() @ by_weights + offset
        torch.testing.assert_close(torch.from_numpy(predicted), angle(x, w).expand(3), rtol=0, atol=1e-14)
