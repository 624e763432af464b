"""What is kept of one call of a quantum function, and what cannot be compiled, by name."""

import pennylane as qml
import pytest
import torch

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
    with pytest.raises(NotCompilable, match="cannot be traced"):
        CompiledCircuit(branches_on_a_value, 2, (1,))
    with pytest.raises(NotCompilable, match="17 wires, more than 16"):
        CompiledCircuit(wide, 17)
