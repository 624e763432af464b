"""The audit's own state vectors against PennyLane's: states, gates on any wires, gates left out."""

import pennylane as qml
import pytest
import torch

from qcifar.audit.gates import points, read_gates
from qcifar.audit.simulate import apply, states, values, values_without_each
from tests.helpers.audited import SCRIPTS_CIRCUITS, assert_equal, by_pennylane, circuit_of, descriptor


@pytest.mark.parametrize("wires", [(0,), (2,), (0, 1), (3, 1), (2, 0, 3)])
def test_a_matrix_on_any_wires(wires):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(5, 2 ** len(wires), 2 ** len(wires), generator=generator, dtype=torch.complex128)
    state = torch.randn(5, 16, generator=generator, dtype=torch.complex128)
    expected = [
        torch.as_tensor(qml.math.expand_matrix(m.numpy(), wires, range(4))) @ s
        for m, s in zip(matrix, state, strict=True)
    ]
    assert_equal(apply(matrix, wires, state), torch.stack(expected))


def test_states_are_pennylanes():
    def ansatz(x):
        qml.AngleEmbedding(x, wires=range(3), rotation="Y")
        qml.IsingXY(x[..., 0], wires=[2, 0])
        qml.CRX(x[..., 1], wires=[1, 2])
        qml.Toffoli(wires=[2, 0, 1])
        return qml.expval(qml.Z(0))

    circuit = circuit_of(ansatz, 3)
    gates, (inputs, _) = read_gates(circuit), points(circuit, 4, 3)

    @qml.qnode(qml.device("default.qubit", wires=3))
    def state(x):
        for op in qml.tape.make_qscript(ansatz)(x).operations:
            qml.apply(op)
        return qml.state()

    overlap = (states(gates, gates.angles(inputs, None)).conj() * state(inputs)).sum(1).abs()  # but for a phase
    assert_equal(overlap, torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("name", SCRIPTS_CIRCUITS)
def test_values_without_each_gate_are_those_without_it(name):
    gates = read_gates(SCRIPTS_CIRCUITS[name])
    angles = gates.angles(*points(gates.circuit, 3, 4))
    found = values_without_each(gates, angles)
    assert len(found) == len(gates.gates)
    for place in range(len(gates.gates)):
        assert_equal(found[place], values(gates, angles, frozenset([place])))


def test_leaving_out_a_gate_is_the_circuit_without_its_line():
    gates = read_gates(descriptor("default", 0, n_qubits=2))

    def without_the_first(x):
        qml.RY(x[..., 1], wires=1)
        qml.CNOT(wires=[0, 1])
        qml.CNOT(wires=[1, 0])
        for i in range(2):
            qml.RZ(x[..., 1 - i] / 2, wires=i)
            qml.RY(x[..., i] / 2, wires=i)
        return [qml.expval(qml.Z(i)) for i in range(2)]

    inputs, _ = points(gates.circuit, 4, 6)
    expected = by_pennylane(circuit_of(without_the_first, 2), inputs)
    assert_equal(values(gates, gates.angles(inputs, None), frozenset([0])), expected)


def test_values_come_in_chunks_and_for_chosen_outputs(monkeypatch):
    gates = read_gates(SCRIPTS_CIRCUITS["head"])
    angles = gates.angles(*points(gates.circuit, 11, 7))
    whole = values(gates, angles)
    monkeypatch.setattr("qcifar.audit.simulate.AMPLITUDES", 64)
    assert_equal(values(gates, angles, outputs=[2, 0]), whole[:, [2, 0]])
