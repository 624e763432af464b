"""The layer around a circuit, against PennyLane's TorchLayer."""

import copy
import functools
import io
import pickle
import shutil

import pennylane as qml
import pytest
import torch

from qcifar.errors import InputError
from qcifar.quantum.layer import QuantumLayer, circuit_name, stack_values
from qcifar.quantum.runner import make_qnode
from tests.helpers import slow
from tests.helpers.circuits import HOW, broken_circuit, head_layer, random_head, torch_layer, values_and_gradients


@pytest.mark.parametrize("method", ["backprop", "adjoint", "parameter-shift", "lightning.qubit", "fast"])
@pytest.mark.parametrize(("n_qubits", "batch"), [(4, 6), slow(4, 1), (3, 2), (1, 3), slow(1, 1)])
def test_layer_equals_torch_layer(n_qubits, batch, method):
    inputs, weights = random_head(n_qubits, batch=batch)
    how = {"lightning.qubit": (method, "adjoint"), "fast": (method, "backprop")}.get(method, ("default.qubit", method))
    layer = head_layer(n_qubits, weights, *how)
    assert layer(inputs).shape == (batch, n_qubits)
    expected = values_and_gradients(torch_layer(n_qubits, weights), inputs)
    for one, other in zip(values_and_gradients(layer, inputs), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", ["fast", "default.qubit"])
def test_state_dict_is_torch_layers(device):
    inputs, weights = random_head(4)
    ours, theirs = head_layer(4, weights, device), torch_layer(4, torch.zeros_like(weights))
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weights"]
    back = head_layer(4, torch.zeros_like(weights), device)
    for target, source in ((theirs, ours), (back, theirs)):
        target.load_state_dict(source.state_dict())
        assert torch.equal(target.weights, weights)
    assert torch.allclose(back(inputs), theirs(inputs).to(torch.float32), atol=1e-5)


def test_circuit_that_raises_is_named():
    layer = QuantumLayer(make_qnode(broken_circuit, "default.qubit", 2, "backprop"), torch.zeros(1, 2, 3))
    with pytest.raises(InputError, match=r"broken_circuit.*no such wire"):
        layer(torch.zeros(2, 2))


def test_layer_computes_in_float32_under_autocast():
    inputs, weights = random_head(4, batch=5)
    layer, reduced = head_layer(4, weights), inputs.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        values = layer(reduced)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, torch_layer(4, weights)(reduced.float()).float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", HOW)
def test_empty_batch_has_no_values_and_zero_gradients(how):
    _, weights = random_head(3)
    layer = head_layer(3, weights, *how)
    for shape in ((0, 3), (2, 0, 3)):
        inputs = torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True)
        values = layer(inputs)
        assert values.shape == shape and values.dtype == torch.float32
        layer.zero_grad()
        values.sum().backward()
        assert inputs.grad.shape == shape and torch.equal(layer.weights.grad, torch.zeros_like(weights))


@pytest.fixture
def layer():
    return head_layer(3, random_head(3)[1], "fast")


def test_deepcopy_pickle_and_any_leading_dimensions(layer):
    x = torch.randn(2, 5, 3)
    again = pickle.loads(pickle.dumps(layer))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    for other in (copy.deepcopy(layer), again):
        assert torch.equal(other(x), layer(x)) and other.weights is not layer.weights
    assert torch.allclose(layer(x)[1, 3], layer(x[1, 3]), atol=1e-6)
    assert layer(x[:, :0]).shape == (2, 0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.float())) and layer(x).dtype == torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torch_compile_gives_the_same(layer, backend):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    x = torch.randn(6, 3, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend)
    found = []
    for run in (layer, compiled):
        values = run(x)
        found.append([values, *torch.autograd.grad((values * torch.arange(3.0)).sum(), [layer.weights, x])])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_what_circuits_return_becomes_one_tensor():
    a, b = torch.rand(5), torch.rand(5)
    assert torch.equal(stack_values([a, b], 5), torch.stack([a, b], dim=1))
    assert torch.equal(stack_values(a, 5), a[:, None])
    assert torch.equal(stack_values([a, torch.tensor(0.5), 1.0], 5)[:, 1:], torch.tensor([0.5, 1.0]).expand(5, 2))
    together = torch.rand(5, 3)
    assert stack_values(together, 5) is together


def test_name_of_a_circuit_however_it_is_wrapped():
    qnode = qml.QNode(functools.partial(broken_circuit, weights=1), qml.device("default.qubit", wires=2))
    for circuit in (broken_circuit, functools.partial(broken_circuit), qnode, functools.partial(qnode)):
        assert circuit_name(circuit) == "broken_circuit"
