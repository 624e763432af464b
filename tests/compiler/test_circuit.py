"""The compiler against PennyLane's default.qubit: random circuits, templates, the scripts' own circuits."""

import math

import numpy as np
import pennylane as qml
import pytest
import torch

from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import make_circuits
from qcifar.compiler import CompiledCircuit, NotCompilable
from qcifar.quantum.checks import compare_with_pennylane
from tests.helpers import slow
from tests.helpers.circuits import random_circuit


@pytest.mark.parametrize("seed", [*range(40), *map(slow, range(40, 200))])
def test_random_circuits_equal_pennylane(seed):
    """Values and both gradients; PennyLane is asked gate by gate and broadcasts over the batch."""
    circuit, n = random_circuit(seed)
    fast = CompiledCircuit(circuit, 3, (2, 2))
    assert compare_with_pennylane(fast, circuit, n, 1e-4) < 1e-4
    assert compare_with_pennylane(fast.double(), circuit, n, 1e-10) < 1e-10
    x, w = torch.linspace(-2, 2, 15, dtype=torch.float64).view(5, 3), torch.linspace(-1, 3, 4, dtype=torch.float64)
    with torch.no_grad():  # another way through the steps
        plain = fast(x, w.view(2, 2))
    torch.testing.assert_close(fast(x, w.view(2, 2).requires_grad_()).detach(), plain, rtol=0, atol=1e-12)


FAST_SIZES = [(2, 1), (4, 2), (5, 3)]


@pytest.mark.parametrize(
    ("n", "depth"),
    [*FAST_SIZES, *(slow(n, k) for n in (2, 4, 5, 8) for k in (1, 2, 3, 4) if (n, k) not in FAST_SIZES)],
)
def test_the_scripts_circuits_equal_pennylane(n, depth):
    for kind in ("default", "published"):
        for circuit in make_circuits(kind, n, depth):
            assert compare_with_pennylane(CompiledCircuit(circuit, n).double(), circuit, n, 1e-10) < 1e-10
    circuit, shape = make_circuit(n, depth)
    assert compare_with_pennylane(CompiledCircuit(circuit, n, shape).double(), circuit, n, 1e-10) < 1e-10


N = 4
WIRES = range(N)
TEMPLATES = {
    "AngleEmbedding Y, BasicEntanglerLayers": (
        lambda x, w: (qml.AngleEmbedding(x, WIRES, rotation="Y"), qml.BasicEntanglerLayers(w, WIRES)), (2, N)),
    "AngleEmbedding Z after H": (
        lambda x, w: ([qml.Hadamard(i) for i in WIRES], qml.AngleEmbedding(x, WIRES, rotation="Z"),
                      qml.BasicEntanglerLayers(w, WIRES, rotation=qml.RY)), (3, N)),
    "IQPEmbedding": (
        lambda x, w: (qml.IQPEmbedding(x, WIRES, n_repeats=2), qml.StronglyEntanglingLayers(w, WIRES)), (1, N, 3)),
    "SimplifiedTwoDesign": (
        lambda x, w: (qml.AngleEmbedding(x, WIRES), qml.SimplifiedTwoDesign(w[0, :, 0], w[1:, :3], WIRES)), (3, N, 2)),
    "RandomLayers": (
        lambda x, w: (qml.AngleEmbedding(x, WIRES), qml.RandomLayers(w, WIRES, seed=3)), (2, 6)),
    "QFT": (lambda x, w: (qml.AngleEmbedding(x, WIRES), qml.QFT(WIRES), qml.BasicEntanglerLayers(w, WIRES)), (1, N)),
    "re-uploading": (
        lambda x, w: [(qml.AngleEmbedding(w[k, 0] * x, WIRES), qml.StronglyEntanglingLayers(w[k : k + 1, :, None]
                      .expand(1, N, 3), WIRES)) for k in range(2)], (2, N)),
    "adjoint": (
        lambda x, w: (qml.AngleEmbedding(x, WIRES), qml.adjoint(qml.StronglyEntanglingLayers)(w, WIRES)), (2, N, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_equal_pennylane(name):
    body, shape = TEMPLATES[name]

    def circuit(x, w):
        body(x, w)
        return [qml.expval(qml.PauliZ(i)) for i in WIRES]

    assert compare_with_pennylane(CompiledCircuit(circuit, N, shape).double(), circuit, N, 1e-10) < 1e-10


def test_sums_of_pauli_words():
    def circuit(x, w):
        qml.AngleEmbedding(x, range(3))
        qml.StronglyEntanglingLayers(w, range(3))
        return [
            qml.expval(0.5 * qml.PauliZ(0) @ qml.PauliZ(1) - 2.0 * qml.PauliX(2) + 0.25 * qml.Identity(0)),
            qml.expval(qml.PauliZ(0) + qml.PauliY(1) @ qml.PauliY(2)),
        ]

    assert compare_with_pennylane(CompiledCircuit(circuit, 3, (2, 3, 3)).double(), circuit, 3, 1e-10) < 1e-10


def test_gradient_by_the_parameter_shift_rule():
    """d<Z>/dtheta = (f(theta + pi/2) - f(theta - pi/2)) / 2 for every weight of the head's circuit."""
    fast = CompiledCircuit(make_circuit(3, 2)[0], 3, (2, 3, 3)).double()
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    w = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(fast(x, w).sum(), w)
    for place in np.ndindex(*w.shape):
        shift = torch.zeros_like(w)
        shift[place] = math.pi / 2
        shifted = (fast(x, w + shift).sum() - fast(x, w - shift).sum()) / 2
        assert gradient[place].item() == pytest.approx(shifted.item(), abs=1e-12)
    assert torch.autograd.gradcheck(fast, (x.requires_grad_(), w), eps=1e-6, atol=1e-8)


def test_float64_is_exact_also_inside_another_module():
    circuit = make_circuits("default", 3, 2)[1]
    x = torch.randn(5, 3, dtype=torch.float64)
    inside = torch.nn.Sequential(CompiledCircuit(circuit, 3)).double()
    assert torch.equal(inside(x), CompiledCircuit(circuit, 3).double()(x))


def test_wrong_shapes_are_refused_by_name():
    fast = CompiledCircuit(make_circuit(3, 2)[0], 3, (2, 3, 3))
    with pytest.raises(ValueError, match=r"expected inputs \(\.\.\., 3\), got \(2, 4\)"):
        fast(torch.zeros(2, 4), torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"expected weights \(2, 3, 3\), got \(1, 3, 3\)"):
        fast(torch.zeros(2, 3), torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match=r"expected weights \(2, 3, 3\), got None"):
        fast(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"expected weights None, got \(1,\)"):
        CompiledCircuit(make_circuits("default", 3, 1)[0], 3)(torch.zeros(2, 3), torch.zeros(1))


def test_what_is_no_circuit_is_refused_in_one_line():
    circuit, shape = make_circuit(3, 2)
    node = qml.QNode(circuit, qml.device("default.qubit", wires=3))
    for error, words, arguments in (
        (TypeError, "got a QNode", (node, 3, shape)),
        (TypeError, "got a NoneType", (None, 3, shape)),
        (ValueError, "inputs from 1 on, got 0", (circuit, 0, shape)),
        (ValueError, "as a tuple, such as .*, got 24", (circuit, 3, 24)),
        (NotCompilable, "returns no measurement", (lambda x: qml.AngleEmbedding(x, range(3)) and None, 3)),
    ):
        with pytest.raises(error, match=words) as caught:
            CompiledCircuit(*arguments)
        assert "\n" not in str(caught.value)
    fast = CompiledCircuit(circuit, 3, shape)
    for inputs, weights in ((np.zeros((2, 3)), torch.zeros(shape)), (torch.zeros(2, 3), np.zeros(shape))):
        with pytest.raises(TypeError, match="expected tensors, got a numpy.ndarray"):
            fast(inputs, weights)


def test_an_empty_batch_has_gradients():
    x, w = torch.zeros(0, 3, requires_grad=True), torch.ones(2, 3, 3, requires_grad=True)
    values = CompiledCircuit(make_circuit(3, 2)[0], 3, (2, 3, 3))(x, w)
    values.sum().backward()
    assert values.shape == x.grad.shape == (0, 3) and torch.equal(w.grad, torch.zeros(2, 3, 3))


def test_a_non_linear_angle_of_the_weights_only_in_a_rotation_of_the_images():
    def circuit(x, w):
        qml.RY(x[..., 0], wires=0)
        qml.RY(torch.sin(w[0]), wires=0)
        return [qml.expval(qml.PauliZ(0))]

    compare_with_pennylane(CompiledCircuit(circuit, 1, (1,)).double(), circuit, 1, tolerance=1e-12)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_compiling_without_gradients_gives_the_same(context):
    circuit = make_circuits("default", 3, 1)[1]
    x = torch.randn(5, 3)
    with context():
        inside = CompiledCircuit(circuit, 3)(x)
    assert torch.equal(inside, CompiledCircuit(circuit, 3)(x)) and inside.std() > 0.01
