"""The whole audit: the known facts in its numbers, what is left out, three lines, and the time they take."""

import json
import time

import pennylane as qml
import pytest
import torch

from qcifar.audit import Settings, audit, three_lines
from qcifar.audit.parts import amplitudes_in_words, microseconds, values_by
from qcifar.errors import InputError
from qcifar.quantum.runner import make_runner
from tests.helpers.audited import (
    SCRIPTS_CIRCUITS,
    assert_equal,
    by_pennylane,
    circuit_of,
    descriptor,
    head,
    same_weights,
)
from tests.helpers.circuits import branches_on_a_value

SMALL = Settings(500, 20, (2, 3, 4), (1, 2), rows=100, data_dir="nowhere")


@pytest.fixture(scope="module")
def audits():
    """name -> audit of the scripts' circuits, with the numbers as a reader of the file gets them."""
    return {
        name: json.loads(json.dumps(audit(circuit, SMALL), allow_nan=False))
        for name, circuit in SCRIPTS_CIRCUITS.items()
    }


@pytest.mark.slow
def test_nothing_is_left_out_of_the_heads_audit(audits):
    assert audits["head"]["left_out"] == []
    assert all(audits["head"][part] for part in ("specs", "effect", "closed_form", "states", "gradients", "classical"))


@pytest.mark.parametrize("name", SCRIPTS_CIRCUITS)
def test_specs_are_pennylanes(audits, name):
    expected = {
        "head": (9, 20, 8), "edge": (7, 16, 4), "texture": (9, 18, 6), "published edge": (7, 16, 4),
        "published texture": (9, 18, 6),
    }[name]  # fmt: skip
    specs = audits[name]["specs"]
    assert (specs["depth"], specs["gates"], specs["two_qubit_gates"]) == expected
    assert specs["qubits"] == 4 and specs["larger_gates"] == 0 and audits[name]["runs_on"] == "compiled"
    assert sum(specs["gate_types"].values()) == specs["gates"]


def test_the_known_facts(audits):
    """Those of DESIGN.md, as the audit says them."""
    texture = audits["published texture"]
    assert [output["text"] for output in texture["closed_form"]["outputs"]] == [f"-sin(0.7 v{i})" for i in range(4)]
    assert texture["effect"]["live_two_qubit_gates"] == 0
    assert texture["effect"]["entanglement_without_inert"] == pytest.approx(0, abs=1e-12)
    assert [each["gate"] for each in audits["published edge"]["effect"]["inert_gates"]] == [
        f"RZ({i})" for i in range(4)
    ]
    effect = audits["head"]["effect"]
    assert (effect["live_weights"], effect["weights"]) == (20, 24)
    assert effect["inert_weights"] == [[1, i, 2] for i in range(4)]
    assert audits["head"]["closed_form"]["features"]["count"] == 81
    for name in ("edge", "texture"):
        effect = audits[name]["effect"]
        assert (
            effect["inert_gates"] == [] and effect["live_two_qubit_gates"] == audits[name]["specs"]["two_qubit_gates"]
        )
        assert all(sum(row) >= 2 for row in effect["inputs_of_output"])
        assert not {"additive", "of one input", "constant"} & set(effect["form_of_output"])


def test_closed_forms_hold_to_rounding_and_measures_are_in_range(audits):
    for found in audits.values():
        assert all(output["error"] < 1e-13 for output in found["closed_form"]["outputs"])
        assert 0 <= found["states"]["entangling_capability"] <= 1
        assert found["states"]["expressibility"]["kl"] > 0
        assert found["lie_algebra"]["full"] == 255 and found["microseconds_per_image"] > 0
        assert list(found["gradients"]["qubits"]) == ["2", "3", "4"] if found["gradients"] else True
        assert 1 <= found["classical"]["effective_rank"] <= 4
    assert "SYNTHETIC" in audits["edge"]["classical"]["inputs"]
    assert audits["published texture"]["classical"]["linear"][0] > 0.95 > audits["edge"]["classical"]["quadratic"][0]


def test_simulability_in_words(audits):
    first, *more = audits["head"]["simulability"]
    assert first == "16 amplitudes: no computational advantage can follow from this circuit"
    assert amplitudes_in_words(12).startswith("4,096 amplitudes")
    assert "depends on at most 4 of 4 inputs" in more[0] and "255 of 255" in more[1] and "Fourier" in more[2]
    assert "microseconds an image on one core (compiled)" in more[3]
    assert "depends on at most 1 of 4 inputs" in audits["published texture"]["simulability"][1]


# ---- circuits of other kinds


def measured(x):
    qml.RX(x[..., 0], wires=0)
    qml.cond(qml.measure(0), qml.X)(wires=1)
    qml.RY(x[..., 1], wires=1)
    return [qml.expval(qml.Z(i)) for i in range(2)]


@pytest.mark.parametrize(
    ("function", "shape", "reason"),
    [
        (branches_on_a_value, (2, 2), "depends on the values"),
        (measured, None, "MidMeasureMP"),
    ],
)
def test_what_cannot_be_compiled_goes_through_pennylane_and_is_said(function, shape, reason, capsys):
    found = audit(circuit_of(function, 2, shape), SMALL)
    assert found["runs_on"] == "default.qubit" and "cannot be compiled" in capsys.readouterr().out
    assert len(found["left_out"]) == 1 and reason in found["left_out"][0]
    assert found["effect"]["inputs_of_output"] and "inert_gates" not in found["effect"]
    assert found["classical"]["rows"] == 100 and "closed_form" not in found
    assert "default.qubit" in found["simulability"][-1]


def test_values_by_pennylane_alone_are_those_by_gates():
    circuit = head(2, 1)
    inputs, _, one = same_weights(circuit, 6, 4)
    weights = torch.stack([one, one + 1, one, one + 2, one + 1, one])
    found = values_by(circuit, None)(inputs, weights)
    for k, row in enumerate(weights):
        assert_equal(found[k : k + 1], by_pennylane(circuit, inputs[k : k + 1], row))


def test_an_observable_that_the_compiler_does_not_take_has_a_closed_form():
    def circuit(x):
        qml.RX(x[..., 0], wires=0)
        return qml.expval(qml.Hermitian(torch.tensor([[0.5, 0.0], [0.0, -0.5]]), wires=0))

    found = audit(circuit_of(circuit, 1), SMALL)
    assert found["runs_on"] == "default.qubit"
    assert found["closed_form"]["outputs"][0]["text"] == "0.5 cos(v0)"


def test_parts_that_are_too_large_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr("qcifar.audit.parts.WORK", 1e4)
    found = audit(head(5, 1), SMALL)
    left_out = " ".join(found["left_out"])
    assert found["effect"] is None and found["closed_form"] is None and found["states"] is None
    for part in (
        "effect: 5 qubits and 15 gates need",
        "closed_form: it needs",
        "states: ",
        "lie_algebra: 5 qubits, at most 4",
    ):
        assert part in left_out
    assert found["simulability"][0].startswith("32 amplitudes")


def test_values_that_are_not_finite_are_refused():
    def root(x):
        qml.RX(torch.sqrt(x[..., 0]), wires=0)
        return qml.expval(qml.Z(0))

    with pytest.raises(InputError, match="root returned values that are not finite for random inputs"):
        audit(circuit_of(root, 1), SMALL)


def test_a_circuit_without_effect_of_its_inputs():
    def still(x):
        qml.RX(0.0, wires=0)
        return [qml.expval(qml.Z(0)), qml.expval(qml.X(0))]

    found = audit(circuit_of(still, 1), SMALL)
    assert [output["text"] for output in found["closed_form"]["outputs"]] == ["1", "0"]
    assert found["effect"]["form_of_output"] == ["constant", "constant"] and found["lie_algebra"]["dimension"] == 0
    assert found["classical"]["linear"] == [None, None] and found["classical"]["effective_rank"] == 0


def test_time_of_an_image_is_on_one_core_and_leaves_the_threads():
    before, circuit = torch.get_num_threads(), head(2, 1)
    found = microseconds(circuit, make_runner(circuit.function, "fast", 2, circuit.weight_shape), 0.01)
    assert 0 < found < 1e5 and torch.get_num_threads() == before


# ---- the three lines

FIRST = {
    "head": "head_circuit: 4 qubits, 20 gates, 8 on several qubits; 20 of 24 weights live",
    "edge": "edge_circuit: 4 qubits, 16 gates, 4 on several qubits",
    "published edge": "published_edge_circuit: 4 qubits, 16 gates, 4 on several qubits, 4 of them without effect",
}
SECOND = {
    "head": "a linear map of 81 products over 4 factors such as (1, cos(v0), sin(v0)), in 56 of these dimensions",
    "edge": "output 0 of 4 is exactly cos(0.5 v0) cos(v1) cos(v2) cos(v3) - sin(v0) sin(0.5 v0) sin(v1) cos(0.5 v1)",
    "published texture": "exactly -sin(0.7 v0); -sin(0.7 v1); -sin(0.7 v2); -sin(0.7 v3)",
}


@pytest.mark.parametrize("name", SCRIPTS_CIRCUITS)
def test_three_lines(name):
    circuit, before = SCRIPTS_CIRCUITS[name], torch.get_rng_state()
    started = time.process_time()
    lines = three_lines(circuit.function, circuit.n_inputs, circuit.weight_shape)
    assert time.process_time() - started < 1
    assert len(lines) == 3 and all(len(line) < 140 and "\n" not in line for line in lines)
    assert lines[0] == FIRST.get(name, lines[0]) and lines[1] == SECOND.get(name, lines[1])
    assert lines[2] == amplitudes_in_words(4)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("circuit", "expected"),
    [
        (circuit_of(branches_on_a_value, 2, (2, 2)), "no closed form: which gates there are depends on the values"),
        (head(10, 8), "light cones and closed form: see audit_circuits.py"),
        (head(8, 2), "each output depends on 5 to 8 of 8 inputs"),
        (descriptor("default", 0, 4, 3), "each output depends on 4 of 4 inputs"),  # its grid takes 20 seconds
    ],
)
def test_three_lines_of_other_circuits_are_as_quick(circuit, expected):
    started = time.process_time()
    lines = three_lines(circuit.function, circuit.n_inputs, circuit.weight_shape, "mine")
    assert time.process_time() - started < 3
    assert lines[1].startswith(expected) and lines[0].startswith("mine: ") and len(lines) == 3


def _with_an_ancilla(x):
    for i in range(3):
        qml.RY(x[..., i], wires=i)
        qml.CNOT(wires=[i, 3])
    return [qml.expval(qml.Z(3))]


def _with_names(x):
    qml.RY(x[..., 0], wires="a")
    qml.CNOT(wires=["a", "b"])
    return [qml.expval(qml.Z("b")), qml.expval(qml.Z("a"))]


@pytest.mark.parametrize(
    ("function", "inputs", "qubits", "texts"),
    [
        (_with_an_ancilla, 3, 4, ["cos(v0) cos(v1) cos(v2)"]),
        (_with_names, 1, 2, ["cos(v0)", "cos(v0)"]),
    ],
)
def test_circuits_on_other_wires_than_one_for_each_input_run_in_pennylane(function, inputs, qubits, texts):
    found = audit(circuit_of(function, inputs), SMALL)
    assert found["runs_on"] == "default.qubit" and found["specs"]["qubits"] == qubits
    assert [output["text"] for output in found["closed_form"]["outputs"]] == texts
    x = torch.rand(5, inputs, dtype=torch.float64)
    node = qml.QNode(function, qml.device("default.qubit"))
    torch.testing.assert_close(x.cos().prod(1), node(x)[-1].double(), rtol=0, atol=1e-12)


def test_more_qubits_than_inputs_and_than_can_be_audited():
    def wide(x):
        for i in range(18):
            qml.RY(x[..., i % 4], wires=i)
        return [qml.expval(qml.Z(0))]

    with pytest.raises(InputError, match="wide uses 18 qubits; expected at most 16, which can be audited"):
        audit(circuit_of(wide, 4), SMALL)
