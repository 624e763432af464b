"""Gates, angles and observables that are read from a quantum function: values equal PennyLane's."""

import pennylane as qml
import pytest
import torch

from qcifar.audit.gates import Circuit, LeftOut, Unreadable, points, read_gates
from qcifar.audit.simulate import values
from tests.helpers.audited import SCRIPTS_CIRCUITS, assert_equal, by_pennylane, circuit_of, head, same_weights
from tests.helpers.circuits import branches_on_a_value, random_circuit


@pytest.mark.parametrize("name", SCRIPTS_CIRCUITS)
def test_the_scripts_circuits_are_read_and_have_pennylanes_values(name):
    circuit = SCRIPTS_CIRCUITS[name]
    gates = read_gates(circuit)
    inputs, weights, one = same_weights(circuit, 6, 5)
    assert_equal(values(gates, gates.angles(inputs, weights)), by_pennylane(circuit, inputs, one))
    assert bool(gates.linear.all()) == (name != "texture")  # which has products of inputs


@pytest.mark.parametrize("seed", range(12))
def test_random_circuits_have_pennylanes_values(seed):
    """Angles are linear, products, powers and sines of inputs and weights."""
    function, n = random_circuit(seed)
    circuit = Circuit("random", function, n, (n, 2))
    gates = read_gates(circuit)
    inputs, weights, one = same_weights(circuit, 5, seed)
    assert_equal(values(gates, gates.angles(inputs, weights)), by_pennylane(circuit, inputs, one), 1e-11)


def test_each_row_has_its_own_weights():
    circuit = head()
    gates = read_gates(circuit)
    inputs, weights = points(circuit, 3, 9)
    rows = [by_pennylane(circuit, x[None], w) for x, w in zip(inputs, weights, strict=True)]
    assert_equal(values(gates, gates.angles(inputs, weights)), torch.cat(rows))


def test_rows_of_linear_angles_are_the_coefficients():
    def circuit(x, w):
        qml.RX(0.7 * x[..., 1] - 2 * w[0, 1] + 0.25, wires=0)
        qml.RY(x[..., 0] * w[1, 0], wires=1)
        return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1))]

    gates = read_gates(circuit_of(circuit, 2, (2, 2)))
    assert gates.linear.tolist() == [True, False]
    assert_equal(gates.by_input, torch.tensor([[0, 0.7], [0, 0]], dtype=torch.float64))
    assert_equal(gates.by_weight, torch.tensor([[0, -2.0, 0, 0], [0, 0, 0, 0]], dtype=torch.float64))
    assert_equal(gates.constant, torch.tensor([0.25, 0], dtype=torch.float64))
    assert [str(gate) for gate in gates.gates] == ["RX(0)", "RY(1)"] and gates.owner == [0, 1]


def test_angles_that_autograd_does_not_see_are_computed_by_calling():
    def circuit(x):
        qml.RX(x[..., 0].detach() * 0.5, wires=0)
        return qml.expval(qml.Z(0))

    gates = read_gates(circuit_of(circuit, 1))
    inputs, _ = points(gates.circuit, 4, 1)
    assert gates.linear.tolist() == [False]
    assert_equal(gates.angles(inputs, None), 0.5 * inputs)


def test_a_function_that_takes_float32_only():
    matrix = torch.tensor([[0.5, 0.25], [0.0, 1.0]])

    def circuit(x):
        qml.AngleEmbedding(x @ matrix, wires=range(2))
        return [qml.expval(qml.Z(i)) for i in range(2)]

    gates = read_gates(circuit_of(circuit, 2))
    assert gates.dtype == torch.float32 and bool(gates.linear.all())
    assert_equal(gates.by_input, matrix.T.double(), 1e-6)


def test_observables_and_gates_that_only_have_a_matrix():
    hermitian = torch.tensor([[0.5, 0.2], [0.2, -0.5]], dtype=torch.float64)

    def circuit(x):
        qml.RX(x[..., 0], wires=0)
        qml.QFT(wires=[0, 1])
        qml.QubitUnitary(torch.tensor([[0, 1], [1, 0]]), wires=1)
        return [qml.expval(qml.Hermitian(hermitian, wires=1)), qml.expval(0.5 * qml.X(1) @ qml.Z(0) + qml.Y(0))]

    circuit = circuit_of(circuit, 2)
    gates, (inputs, _) = read_gates(circuit), points(circuit, 5, 2)
    assert_equal(values(gates, gates.angles(inputs, None)), by_pennylane(circuit, inputs))


def measured(x):
    qml.RX(x[..., 0], wires=0)
    qml.cond(qml.measure(0), qml.X)(wires=1)
    return qml.expval(qml.Z(1))


def noisy(x):
    qml.DepolarizingChannel(0.1, wires=0)
    return qml.expval(qml.Z(0))


def variance(x):
    qml.RX(x[..., 0], wires=0)
    return qml.var(qml.Z(0))


def wide(x):
    for i in range(17):
        qml.RX(x[..., 0], wires=i)
    return qml.expval(qml.Z(0))


def fails(x):
    raise ValueError("no such wire")


@pytest.mark.parametrize(
    ("function", "shape", "expected"),
    [
        (branches_on_a_value, (2, 2), "depends on the values"),
        (measured, None, "the operation MidMeasureMP"),
        (noisy, None, "the operation DepolarizingChannel"),
        (variance, None, "the measurement var"),
        (wide, None, "17 qubits, more than 16"),
        (fails, None, "ValueError: no such wire"),
    ],
)
def test_what_is_more_than_gates_and_expectation_values_is_named(function, shape, expected):
    with pytest.raises(Unreadable, match=expected) as caught:
        read_gates(circuit_of(function, 2, shape))
    assert isinstance(caught.value, LeftOut)


def test_reading_draws_from_no_generator_of_torch():
    before = torch.get_rng_state()
    read_gates(head())
    assert torch.equal(torch.get_rng_state(), before)
