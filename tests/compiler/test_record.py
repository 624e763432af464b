"""What is kept of one call of a quantum function, and what cannot be compiled, by name."""

import time

import pennylane as qml
import pytest
import torch

from cifar100_hybrid_Qhead import make_circuit
from qcifar.compiler import CompiledCircuit, NotCompilable
from qcifar.compiler.record import record
from tests.helpers.circuits import branches_on_a_value


def test_gates_wires_angles_and_observables():
    def circuit(x, w):
        qml.RX(x[..., 0], wires="b")
        qml.Barrier(wires=["a", "b"])
        qml.Rot(w[0], 0.5, 2 * w[1] * x[..., 1], wires="a")
        qml.adjoint(qml.CNOT)(wires=["b", "a"])
        return [qml.expval(qml.PauliZ("b")), qml.expval(0.5 * qml.PauliX("a") @ qml.PauliY("b") - 2 * qml.PauliZ("a"))]

    generator = torch.Generator().manual_seed(0)
    x, w = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((3, 2), (2,)))
    found = record(circuit, (x, w))
    assert found.n_wires == 2 and not found.rounded
    assert found.gates == [("RX", [1], [0]), ("Rot", [0], [1, 2, 3]), ("CNOT", [1, 0], [])]
    angles = found.angles(x, w)
    for angle, expected in zip(angles, (x[:, 0], w[0], torch.tensor(0.5), 2 * w[1] * x[:, 1]), strict=True):
        torch.testing.assert_close(angle, expected.double())
    assert found.observables == [[(1.0, {1: "Z"})], [(0.5, {0: "X", 1: "Y"}), (-2.0, {0: "Z"})]]


@pytest.mark.parametrize("rounds", [lambda x: x.float(), lambda x: x.to(torch.bfloat16) * 1.0])
def test_a_circuit_that_rounds_by_itself_is_known(rounds):
    def circuit(x):
        qml.RX(rounds(x[..., 0]), wires=0)
        return qml.expval(qml.PauliZ(0))

    assert CompiledCircuit(circuit, 1).rounded


def test_what_cannot_be_compiled_is_named():
    def probabilities(x, w):
        qml.AngleEmbedding(x, range(2))
        qml.StronglyEntanglingLayers(w, range(2))
        return [qml.probs(wires=0)]

    def channel(x):
        qml.AngleEmbedding(x, range(2))
        qml.ResetError(0.1, 0.1, wires=0)
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    def trainable_observable(x, w):
        qml.AngleEmbedding(x, range(2))
        return [qml.expval(w[0] * qml.PauliZ(0))]

    def wide(x):
        qml.AngleEmbedding(x, range(17))
        return [qml.expval(qml.PauliZ(0))]

    with pytest.raises(NotCompilable, match="the measurement probs"):
        CompiledCircuit(probabilities, 2, (1, 2, 3))
    with pytest.raises(NotCompilable, match="the operation ResetError"):
        CompiledCircuit(channel, 2)
    with pytest.raises(NotCompilable, match="a coefficient that follows from the arguments"):
        CompiledCircuit(trainable_observable, 2, (1,))
    with pytest.raises(NotCompilable, match="a condition that is read from inputs, weights"):
        CompiledCircuit(branches_on_a_value, 2, (1,))
    with pytest.raises(NotCompilable, match="17 wires, more than 16"):
        CompiledCircuit(wide, 17)


def read_out(values):
    for wire in range(3):
        qml.RX(values[..., wire], wires=wire)
    return [qml.expval(qml.PauliZ(wire)) for wire in range(3)]


@pytest.mark.parametrize(
    ("size", "angles"),
    {
        "a mean over the batch's size": lambda x: x / len(x),
        "a size beside others": lambda x: torch.cat([x / len(x), torch.zeros(len(x), 1, dtype=x.dtype)], dim=1),
        "linear in size": lambda x: x * (2 * x.shape[0] - 1) / 50 + x.shape[0],
    }.items(),
)
def test_angles_that_follow_from_the_size_of_the_batch_are_right_for_every_size(size, angles):
    fast = CompiledCircuit(lambda x: read_out(angles(x)), 3).double()
    for images in (1, 2, 3, 5, 8, 70):
        x = torch.linspace(-2, 2, 3 * images, dtype=torch.float64).view(images, 3)
        torch.testing.assert_close(fast(x), torch.cos(angles(x)[:, :3]), rtol=0, atol=1e-12)


def test_what_follows_from_the_size_in_another_way_is_not_compiled():
    def gate_in_large_batches(least):
        def circuit(x):
            if x.shape[0] > least:
                qml.PauliX(wires=0)
            return read_out(x)

        return circuit

    for circuit in (
        lambda x: read_out(x / x.shape[0] ** 2),
        lambda x: read_out(x * x.shape[0] ** 2),
        lambda x: read_out(x if len(x) < 50 else 2 * x),
        gate_in_large_batches(4),
        gate_in_large_batches(50),
    ):
        with pytest.raises(NotCompilable, match="size"):
            CompiledCircuit(circuit, 3)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_a_gradient_that_the_operations_do_not_have_is_not_compiled():
    with pytest.raises(NotCompilable, match="under torch.no_grad"):
        CompiledCircuit(lambda x: read_out(StraightThrough.apply(x)), 3)


@pytest.mark.parametrize(
    "reads",
    [
        lambda x: float(x[0, 0]),
        lambda x: x.detach().numpy()[0, 0],
        lambda x: x[0].tolist()[0],
        lambda x: 2.0 if torch.allclose(x, x) else 1.0,
        lambda x: float(learns),
        lambda x: learns.item(),
        lambda x: float(learns.detach().numpy()),
        lambda x: (learns * 2).tolist(),
        lambda x: 2.0 if learns > 0 else 1.0,
    ],
)
def test_a_number_read_from_what_changes_is_not_compiled(reads):
    with pytest.raises(NotCompilable, match="a number or a condition that is read from"):
        CompiledCircuit(lambda x: read_out(x * reads(x)), 3)


learns = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))


def test_a_constant_that_is_detached_and_then_filled_is_not_compiled():
    def circuit(x):
        made = torch.zeros_like(x)
        still = made.detach()
        made.copy_(x)
        return read_out(still)  # without a gradient, which the graph would give it

    with pytest.raises(NotCompilable, match="angles that follow from more than arguments"):
        CompiledCircuit(circuit, 3)


def test_a_buffer_that_is_filled_has_gradients():
    def circuit(x):
        made = torch.zeros_like(x)
        made[:, 0], made[:, 1] = x[:, 1], 2 * x[:, 0]
        return read_out(made)

    x = torch.randn(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(CompiledCircuit(circuit, 3)(x).sum(), x)
    torch.testing.assert_close(gradient, torch.stack([-2 * (2 * x[:, 0]).sin(), -x[:, 1].sin(), 0 * x[:, 2]], dim=1))


def test_arguments_that_are_changed_in_place_are_not_compiled():
    def circuit(x):
        x *= 2
        return read_out(x)

    with pytest.raises(NotCompilable, match="changes its arguments in place"):
        CompiledCircuit(circuit, 3)


def test_recording_takes_time_in_proportion_to_the_gates():
    def seconds(layers):
        start = time.process_time()
        record(make_circuit(4, layers)[0], (torch.randn(3, 4).double(), torch.rand(layers, 4, 3).double()))
        return time.process_time() - start

    seconds(1)
    assert seconds(40) < 4  # by torch's make_fx 8 to 20
