"""Closed forms against PennyLane's values; those that are known by hand; frequencies and features."""

import math

import numpy as np
import pennylane as qml
import pytest
import torch

from qcifar.audit.effect import cones
from qcifar.audit.fourier import closed_form, encoding_of, features
from qcifar.audit.gates import LeftOut, read_gates
from qcifar.audit.parts import values_by
from tests.helpers.audited import (
    SCRIPTS_CIRCUITS,
    assert_equal,
    by_pennylane,
    circuit_of,
    descriptor,
    head,
    same_weights,
)


def forms_of(circuit, seed=5):
    """Closed forms of all outputs, with the points, their angles and PennyLane's values there."""
    gates = read_gates(circuit)
    live = cones(circuit, values_by(circuit, gates), gates).angles.numpy()
    inputs, weights, one = same_weights(circuit, 40, seed)
    encoding = encoding_of(gates, one)
    found = [closed_form(gates, encoding, k, live[k]) for k in range(len(live))]
    angles = gates.angles(inputs, weights).detach().numpy()
    return found, inputs.numpy(), angles, by_pennylane(circuit, inputs, one, gates.n_wires)


def frequencies_1_and_0_7(x):
    qml.RY(x[..., 0], wires=0)
    qml.RY(0.7 * x[..., 0], wires=1)
    qml.CNOT(wires=[0, 1])
    return [qml.expval(qml.Z(1)), qml.expval(qml.X(0) @ qml.X(1))]


def several_encodings_of_one_input(x):
    for _ in range(3):
        qml.RX(x[..., 0], wires=0)
        qml.Rot(0.3, 0.4, 0.5, wires=0)
    return qml.expval(qml.Z(0))


def mixed_inputs(x):
    qml.RX(x[..., 0] + 2 * x[..., 1], wires=0)
    qml.RY(0.3 - x[..., 1], wires=1)
    qml.CZ(wires=[0, 1])
    qml.RY(2 * x[..., 0] + 4 * x[..., 1] + 1, wires=0)
    return [qml.expval(qml.Z(0)), qml.expval(qml.X(1))]


def controlled_rotations(x):
    """Frequencies 1/2 and 1."""
    qml.Hadamard(0)
    qml.CRX(x[..., 0], wires=[0, 1])
    qml.CRY(0.3 * x[..., 1], wires=[1, 2])
    qml.CRZ(x[..., 0], wires=[1, 0])
    qml.ControlledPhaseShift(x[..., 1], wires=[2, 0])
    return [qml.expval(qml.Z(2)), qml.expval(qml.X(0)), qml.expval(qml.Y(0) @ qml.Z(1))]


def two_qubit_rotations(x):
    qml.AngleEmbedding(x, wires=range(3), rotation="Y")
    qml.IsingXX(x[..., 0], wires=[0, 1])
    qml.IsingYY(2 * x[..., 1], wires=[1, 2])
    qml.MultiRZ(0.5 * x[..., 2], wires=[0, 1, 2])
    return [qml.expval(qml.X(i)) for i in range(3)]


def squares_and_sines(x):
    qml.RX(x[..., 0] ** 2 + x[..., 1], wires=0)
    qml.RY(torch.sin(x[..., 1]), wires=1)
    qml.CNOT(wires=[0, 1])
    return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1))]


def embedded_as_iqp(x):
    qml.IQPEmbedding(x, wires=range(3), n_repeats=1)
    qml.RX(0.4, wires=0)
    return [qml.expval(qml.Z(0) @ qml.Z(1)), qml.expval(qml.X(2))]


def weights_times_inputs(x, w):
    for layer in range(2):
        for i in range(2):
            qml.RX(w[layer, i] * x[..., i], wires=i)
        qml.CNOT(wires=[0, 1])
    return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1))]


OTHERS = {
    function.__name__: circuit_of(function, n, shape)
    for function, n, shape in (
        (frequencies_1_and_0_7, 1, None), (several_encodings_of_one_input, 1, None), (mixed_inputs, 2, None),
        (controlled_rotations, 2, None), (two_qubit_rotations, 3, None), (squares_and_sines, 2, None),
        (embedded_as_iqp, 3, None), (weights_times_inputs, 2, (2, 2)),
    )
}  # fmt: skip
DEEPER = {"published texture, depth 2": descriptor("published", 1, 2, 2), "edge, 3 qubits": descriptor("default", 0, 3)}
CASES = SCRIPTS_CIRCUITS | OTHERS | DEEPER


@pytest.mark.parametrize("name", CASES)
def test_closed_forms_equal_direct_evaluation(name):
    found, inputs, angles, expected = forms_of(CASES[name])
    for k, form in enumerate(found):
        assert_equal(form(inputs, angles), expected[:, k].numpy(), 1e-11)


def test_the_published_texture_circuit_is_a_sine():
    found, inputs, _, expected = forms_of(SCRIPTS_CIRCUITS["published texture"])
    assert [str(form) for form in found] == [f"-sin(0.7 v{i})" for i in range(4)]
    assert all(form.short and form.grid == 3 and form.frequencies == 2 for form in found)
    assert_equal(-np.sin(0.7 * inputs), expected.numpy(), 1e-14)


EDGE = {
    0: "cos(0.5 v0) cos(v1) cos(v2) cos(v3) - sin(v0) sin(0.5 v0) sin(v1) cos(0.5 v1)",
    1: "cos(v0) cos(v1) cos(0.5 v1) - sin(v1) sin(0.5 v1) sin(v2) cos(0.5 v2)",
}
TEXTURE = {0: "sin(v0) sin(0.7 v0) cos(v1) cos(v2) cos(v3)", 1: "cos(v1) sin(0.7 v1) sin(v0 v1)"}


@pytest.mark.parametrize(("name", "expected"), [("edge", EDGE), ("texture", TEXTURE)])
def test_our_descriptor_circuits_as_printed(name, expected):
    """The printed text is Python, but for the products' signs, and gives PennyLane's values."""
    found, inputs, _, values = forms_of(SCRIPTS_CIRCUITS[name])
    for k, text in expected.items():
        assert str(found[k]) == text and found[k].short
    for k, form in enumerate(found):
        assert_equal(as_python(str(form), inputs), values[:, k].numpy(), 1e-11)


def as_python(text, inputs):
    names = {f"v{i}": inputs[:, i] for i in range(inputs.shape[1])} | {"cos": np.cos, "sin": np.sin}
    spelt = text.replace(") ", ")*").replace(")*-", ") -").replace(")*+", ") +")
    for i in range(inputs.shape[1]):
        spelt = spelt.replace(f" v{i}", f"*v{i}")
    return eval(spelt, names)


def test_frequencies_of_known_circuits():
    (form,), *_ = forms_of(OTHERS["several_encodings_of_one_input"])
    assert form.axes[0].degree == 3 and form.frequencies == 7 and form.grid == 7  # -3 to 3
    (first, second), *_ = forms_of(OTHERS["frequencies_1_and_0_7"])
    assert str(first) == "cos(v0) cos(0.7 v0)" and first.frequencies == 4 and first.grid == 9  # +-1 +-0.7
    assert str(second) == "sin(v0)"
    mixed, *_ = forms_of(OTHERS["mixed_inputs"])
    assert any("v0 + 2 v1" in axis.text(1) for axis in mixed[0].axes)  # one axis for x0 + 2 x1 and its double


def test_frequencies_whose_coefficients_cancel_are_not_counted():
    def cancel(x):
        qml.RX(x[..., 0], wires=0)
        qml.RX(1 / 3 * x[..., 0], wires=1)
        qml.RX(-(math.sqrt(2) + 1 / 3) * x[..., 0], wires=2)
        return qml.expval(qml.Z(0) @ qml.Z(1) @ qml.Z(2) - qml.Z(0) @ qml.Z(1) @ qml.Z(2) + qml.Z(0))

    (form,), *_ = forms_of(circuit_of(cancel, 1))
    assert str(form) == "cos(v0)" and form.frequencies == 2


def test_constants():
    def constants(x):
        qml.RX(x[..., 0], wires=0)
        qml.RY(math.pi / 3, wires=1)
        return [qml.expval(qml.Z(1)), qml.expval(qml.X(0)), qml.expval(0.5 * qml.I(0) + 0.25 * qml.Z(0))]

    found, *_ = forms_of(circuit_of(constants, 1))
    assert [str(form) for form in found] == ["0.5", "0", "0.5 + 0.25 cos(v0)"]
    assert [form.frequencies for form in found] == [1, 0, 3]


def test_a_grid_that_is_too_large_is_left_out_with_its_size():
    def many(x):
        for layer in range(40):
            qml.RX((1 + 0.01 * math.sqrt(layer)) * x[..., 0], wires=0)
            qml.RY(0.3, wires=0)
        return qml.expval(qml.Z(0))

    with pytest.raises(LeftOut, match=r"its grid has [\d,]+ points, at most 300,000"):
        forms_of(circuit_of(many, 1))


# ---- fixed features


@pytest.mark.parametrize(("n_qubits", "n_layers"), [(1, 1), (2, 2), (3, 2), (4, 2)])
def test_the_head_is_a_linear_map_of_3_to_the_n_features(n_qubits, n_layers):
    """A least-squares fit of PennyLane's values on the products of 1, cos, sin leaves nothing; the rank is its."""
    circuit = head(n_qubits, n_layers)
    gates = read_gates(circuit)
    live = cones(circuit, values_by(circuit, gates), gates).angles.numpy()
    found = features(gates, live)
    assert found.count == 3**n_qubits
    columns, fitted = None, []
    for seed in range(3**n_qubits // n_qubits + 4):
        inputs, _, one = same_weights(circuit, 3**n_qubits + 20, seed)
        columns = np.ones((len(inputs), 1))
        for x in inputs.numpy().T:
            each = np.stack([np.ones_like(x), np.cos(x), np.sin(x)], axis=1)
            columns = (columns[:, :, None] * each[:, None]).reshape(len(x), -1)
        values = by_pennylane(circuit, inputs, one).numpy()
        coefficients, *_ = np.linalg.lstsq(columns, values, rcond=None)
        assert np.abs(columns @ coefficients - values).max() < 1e-12
        fitted += list(coefficients.T)
    assert np.linalg.matrix_rank(np.array(fitted), tol=1e-9) == found.rank


def test_features_are_claimed_only_where_they_are_fixed():
    for circuit in (OTHERS["weights_times_inputs"], SCRIPTS_CIRCUITS["edge"]):
        gates = read_gates(circuit)
        assert features(gates, np.ones((2, len(gates.linear)), dtype=bool)) is None

    def sine(x, w):
        qml.RX(torch.sin(x[..., 0] * w[0]), wires=0)
        return qml.expval(qml.Z(0))

    gates = read_gates(circuit_of(sine, 1, (1,)))
    assert features(gates, np.ones((1, 1), dtype=bool)) is None
