"""Circuits as portable gates: the same values as PennyLane's, whatever their angles follow from; and as text."""

import math
import re

import numpy as np
import pennylane as qml
import pytest
import torch

from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import make_circuits
from qcifar.errors import InputError
from qcifar.hardware.gates import NAMES, along_z, portable
from qcifar.hardware.qasm import qasm
from qcifar.quantum.layer import stack_values
from tests.helpers.circuits import TWO, random_circuit

PENNYLANE = {
    name: operation for operation, name in NAMES.items() if operation not in ("U1", "Adjoint(S)", "Adjoint(T)")
}


def head(n=4):
    circuit, shape = make_circuit(n, 2)
    weights = 2 * math.pi * torch.rand(shape, generator=torch.Generator().manual_seed(0))  # float32, as trained

    def bound(angles):
        return circuit(angles, weights.double())

    return bound


def other_angles(angles):
    """Angles that are not a polynomial, and values along X and Y."""
    qml.RX(torch.sin(angles[..., 0]), wires=0)
    qml.RY(angles[..., 1] ** 2 + 0.5, wires=1)
    qml.IsingXX(angles[..., 0] * angles[..., 1], wires=[0, 1])
    return [qml.expval(qml.X(0) @ qml.Y(1)), qml.expval(0.5 * qml.Y(1) - 2 * qml.X(0))]


CIRCUITS = {
    "head": (head(), 4),
    **{f"{kind} {c.func.__name__}": (c, 4) for kind in ("default", "published") for c in make_circuits(kind, 4, 2)},
    "other": (other_angles, 2),
}


def points(n, count=5):
    return torch.randn(count, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def values_of(function, angles, n):
    return stack_values(qml.QNode(function, qml.device("default.qubit", wires=n))(angles), len(angles)).double()


def values_of_gates(there, angles):
    """What PennyLane makes of portable gates: probabilities, and from these the values."""
    columns = torch.from_numpy(there.values(angles))

    def circuit():
        for gate in there.gates:
            given = [torch.as_tensor(angle.of(columns.unbind(1)), dtype=torch.float64) for angle in gate.angles]
            if gate.name in ("sdg", "tdg"):
                qml.adjoint({"sdg": qml.S, "tdg": qml.T}[gate.name](gate.wires))
            else:
                getattr(qml, PENNYLANE[gate.name])(*given, wires=gate.wires)
        return qml.probs(wires=range(there.n_qubits))

    found = qml.QNode(circuit, qml.device("default.qubit", wires=there.n_qubits))()
    return found.double() @ torch.from_numpy(there.signs())


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("name", CIRCUITS)
def test_gates_have_the_values_of_the_circuit(name, degree):
    function, n = CIRCUITS[name]
    there, angles = portable(function, n, degree), points(n)
    torch.testing.assert_close(values_of_gates(there, angles), values_of(function, angles, n), rtol=0, atol=1e-9)
    if degree == 1:
        assert all(len(factors) == 1 for gate in there.gates for angle in gate.angles for factors, _ in angle.terms)


@pytest.mark.parametrize("seed", range(4))
def test_gates_of_random_circuits(seed):
    circuit, n = random_circuit(3 * seed)  # those of which one word is measured
    weights = points(64, 1)[0]
    n = max(n, 1)

    def bound(angles):
        return circuit(angles, weights)

    try:
        there = portable(bound, n)
    except InputError as error:
        pytest.skip(str(error))
    angles = points(n)
    torch.testing.assert_close(values_of_gates(there, angles), values_of(bound, angles, n), rtol=0, atol=1e-8)


def test_along_z_gives_the_same_values():
    turned, angles = along_z(other_angles, 2), points(2)
    torch.testing.assert_close(values_of(turned, angles, 2), values_of(other_angles, angles, 2), rtol=0, atol=1e-12)
    assert along_z(head(), 4).__name__ == "bound"


def test_text_has_all_digits_and_parameters_where_they_are_wanted():
    there, angles = portable(head(), 4, degree=2), points(4)
    text = qasm(there, 2, there.values(angles)[0])
    numbers = [float(one) for one in re.findall(r"\(([^)]*)\)", text)]
    assert text.startswith("OPENQASM 2.0;") and "measure q -> c;" in text
    assert numbers[:4] == angles[0].tolist()  # to the last bit
    text = qasm(portable(CIRCUITS["default texture_circuit"][0], 4, degree=2), 3)
    assert "input float[64] x00;" in text and "rz(1.0*x00*x01) q[1];" in text and "rx(0.7*x03) q[3];" in text
    assert "g00" not in text
    assert "input float[64] g00;" in qasm(portable(other_angles, 2, degree=2), 3)


def test_what_cannot_be_written_is_refused():
    there = portable(head(), 4)
    with pytest.raises(InputError, match="OpenQASM 2 has no parameters"):
        qasm(there, 2)
    with pytest.raises(InputError, match="expected 4 parameters of one image, got 5"):  # a batch, for example
        qasm(there, 3, np.zeros(5))


def two_ways(angles):
    qml.RX(angles[..., 0], wires=0)
    return [qml.expval(qml.X(0)), qml.expval(qml.Z(0))]


def noisy(angles):
    qml.RX(angles[..., 0], wires=0)
    qml.DepolarizingChannel(0.1, wires=0)
    return [qml.expval(qml.Z(0))]


def named_wires(angles):
    qml.RX(angles[..., 0], wires="a")
    return [qml.expval(qml.Z("a"))]


def fails(angles):
    raise ValueError("no such thing")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (two_ways, "wire 0 is read along X and Z"),
        (noisy, "DepolarizingChannel cannot be sent"),
        (named_wires, "expected wires 0, 1, 2"),
        (fails, "cannot be built: ValueError: no such thing"),
        (lambda angles: qml.probs(wires=0), "expected expectation values"),
    ],
)
def test_circuits_that_no_device_takes_are_refused(function, message):
    with pytest.raises(InputError, match=message):
        portable(function, 1)


def test_every_portable_gate_is_tried():
    tried = {gate.name for function, n in CIRCUITS.values() for gate in portable(function, n).gates}
    assert {"rx", "ry", "rz", "cx", "cz", "h", "sdg"} <= tried and len(TWO) > 10
