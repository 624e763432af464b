"""The table: what it says of an audit."""

import pennylane as qml
import pytest

from qcifar.audit import Settings, audit, three_lines
from qcifar.audit.words import _pairs, as_text
from tests.helpers.audited import SCRIPTS_CIRCUITS, circuit_of

SMALL = Settings(500, 20, (2, 3), (1,), rows=100, data_dir="nowhere")


def rows_of(circuit):
    """(heading, text) of the lines below the drawing."""
    lines = as_text(audit(circuit, SMALL), "drawing").splitlines()
    assert lines[:4] == [circuit.name, "=" * len(circuit.name), "drawing", ""]
    return [(line[:24].strip(), line[24:]) for line in lines[4:]]


@pytest.fixture(scope="module")
def head():
    return rows_of(SCRIPTS_CIRCUITS["head"])


def test_every_part_has_its_line(head):
    names = [name for name, _ in head]
    for name in (
        "qubits", "depth", "gates", "two-qubit gates", "runs", "gates without effect", "pairs without effect",
        "live weights", "tolerance",
        "output 3", "closed form 3", "linear map of", "expressibility", "entangling capability", "Lie algebra",
        "gradient variance, N", "gradient variance, L", "regressions on", "R2, linear", "R2, quadratic",
        "effective rank", "simulability",
    ):  # fmt: skip
        assert names.count(name) == 1, name
    assert "left out" not in names


def test_numbers_come_with_what_they_rest_on(head):
    said = dict(head)
    assert said["live weights"] == "20 of 24; without effect: (1, 0, 2), (1, 1, 2), (1, 2, 2), (1, 3, 2)"
    assert said["tolerance"] == "1e-09 at 8 random points"
    assert "(500 pairs; as many of Haar's give" in said["expressibility"]
    assert "by weights, 20 samples" in said["gradient variance, N"]
    assert "in audit.json" in said["closed form 0"] and "at random weights" in said["closed form 0"]
    assert said["Lie algebra"] == "255 of 255 dimensions"


def test_the_published_texture_circuit_in_words():
    said = dict(rows_of(SCRIPTS_CIRCUITS["published texture"]))
    assert said["closed form 0"] == "-sin(0.7 v0)  (checked to 1e-12)"
    assert said["gates without effect"].startswith("10: RX(0), RX(1), ")
    assert said["gates without effect"].endswith("; all at once") and said["two-qubit gates left"] == "0"
    assert said["entanglement left"].startswith("0.000")
    assert said["output 1"] == "depends on v1: a function of one input"
    assert "SYNTHETIC" in said["regressions on"]


def test_gates_that_are_inert_together_in_words():
    def doubled(x):
        for i in range(2):
            qml.RY(x[..., i], wires=i)
        qml.CZ(wires=[0, 1])
        qml.CZ(wires=[0, 1])
        return [qml.expval(qml.X(0)), qml.expval(qml.X(1))]

    circuit = circuit_of(doubled, 2)
    said = dict(rows_of(circuit))
    assert said["gates without effect"] == "none" and said["two-qubit gates left"] == "0"
    assert said["pairs without effect"] == "1, inert together: CZ(0, 1) with CZ(0, 1)"
    assert said["entanglement left"] == "0.000 (Meyer-Wallach) without them"
    first = three_lines(circuit.function, 2)[0]
    assert first == "doubled: 2 qubits, 4 gates, 2 on several qubits, 2 without effect in pairs"


def test_it_says_that_not_all_pairs_were_tried():
    effect = {"inert_pairs": [], "pairs_tried": 1200, "pairs_there": 13041}
    assert _pairs(effect) == "none; the nearest 1,200 of 13,041 pairs were tried"


def test_what_is_missing_is_said():
    def circuit(x):
        qml.RX(x[..., 0] ** 3, wires=0)
        for _ in range(14):
            qml.CNOT(wires=[0, 1])
        return [qml.expval(qml.Z(0)), qml.expval(qml.X(1))]

    found = rows_of(circuit_of(circuit, 2))
    said = dict(found)
    assert said["closed form 0"].startswith("cos(angle 0)") and said["angle 0"] == "angle of the gate RX(0)"
    assert said["output 1"] == "depends on no input: constant in the inputs" and said["R2, linear"].endswith("constant")
    assert said["left out"].startswith("gradients: the circuit does not take n_qubits")
    assert said["gates without effect"].endswith("and 2 more; all at once")
