"""FILE.py:name: what is found there, with which sizes, and what is refused in one line."""

import re
import sys

import pytest

import cifar100_hybrid_Qhead as head_script
from qcifar.audit.gates import points, read_gates
from qcifar.audit.source import Sizes, circuits_of, circuits_that_ran, load
from qcifar.errors import InputError
from qcifar.quantum.checks import circuit_fingerprint
from tests.helpers import ROOT

FILE = """
import functools
import pennylane as qml
import torch
from beside import FACTOR

N_QUBITS = 3

def plain(x):
    for i in range(2):
        qml.RX(FACTOR * x[..., i], wires=i)
    return [qml.expval(qml.Z(i)) for i in range(2)]

def sized(angles, n_qubits, depth):
    for _ in range(depth):
        qml.AngleEmbedding(angles, wires=range(n_qubits))
    return [qml.expval(qml.Z(i)) for i in range(n_qubits)]

def basic(angles, weights, n_qubits):
    qml.AngleEmbedding(angles, wires=range(n_qubits))
    qml.BasicEntanglerLayers(weights, wires=range(n_qubits))
    return [qml.expval(qml.Z(i)) for i in range(n_qubits)]

def strong(angles, weights):
    qml.AngleEmbedding(angles, wires=range(4))
    qml.StronglyEntanglingLayers(weights, wires=range(4))
    return [qml.expval(qml.Z(i)) for i in range(4)]

def one_number(x, w):
    qml.RX(x[..., 0] * w[4], wires=0)
    return qml.expval(qml.Z(0))

def two_each(x, w):
    qml.Rot(w[0, 1, 0], w[1, 0, 1], x[..., 0], wires=0)
    return qml.expval(qml.Z(0))

def make(n_qubits):
    return functools.partial(sized, n_qubits=n_qubits, depth=1)

def make_two(n_qubits, depth):
    return [functools.partial(sized, n_qubits=n_qubits, depth=d) for d in (depth, depth + 1)]

def make_three_things(n_qubits):
    return make(n_qubits), 3

def make_with_an_error(n_qubits):
    raise KeyError("left")

def three(a, b, c):
    pass

def nothing():
    pass

def many(*arguments):
    pass

def fails(x):
    raise ValueError("no such wire")

def prints(x):
    return 3

def starts_with_sizes(n_qubits, x):
    pass

@qml.qnode(qml.device("default.qubit", wires=2))
def node(x):
    return qml.expval(qml.Z(0))

in_a_partial = functools.partial(node)
number = 3
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("FACTOR = 0.5\n")
    yield str(tmp_path / "mine.py")
    sys.modules.pop("beside", None)


def only(target, **sizes):
    (circuit,) = circuits_of(target, Sizes(**sizes))
    return circuit


def test_a_plain_function_and_what_lies_beside_its_file(file):
    before = list(sys.path)
    circuit = only(f"{file}:plain", n_qubits=2)
    assert (circuit.name, circuit.n_inputs, circuit.weight_shape, circuit.resized) == ("plain", 2, None, None)
    assert read_gates(circuit).by_input.diagonal().tolist() == [0.5, 0.5]
    assert sys.path == before


def test_sizes_come_from_the_command_line_else_the_file_else_are_standard(file):
    assert only(f"{file}:sized").n_inputs == 3  # N_QUBITS of the file
    circuit = only(f"{file}:sized", n_qubits=2, depth=4)
    assert (circuit.n_inputs, circuit.layers, len(read_gates(circuit).gates)) == (2, 4, 8)
    assert len(read_gates(circuit.resized(5, 2)).gates) == 10


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "assumed"),
    [
        ("basic", {}, (2, 3), True),
        ("basic", {"n_qubits": 2, "n_layers": 5}, (5, 2), True),
        ("basic", {"weight_shape": "3,3"}, (3, 3), False),
        ("basic", {"n_qubits": 2, "weight_shape": "L, N"}, (2, 2), False),
        ("strong", {"n_qubits": 4}, (2, 4, 3), True),
        ("strong", {"n_qubits": 4, "weight_shape": "1,4,3"}, (1, 4, 3), False),
        ("one_number", {"n_qubits": 1, "weight_shape": "6"}, (6,), False),
        ("one_number", {"n_qubits": 5}, (5,), True),  # not (2, 5): a gate would get five angles
        ("two_each", {"n_qubits": 4}, (2, 4, 2), True),
    ],
)
def test_shapes_of_weights_are_tried_or_given(file, name, sizes, shape, assumed):
    circuit = only(f"{file}:{name}", **sizes)
    assert circuit.weight_shape == shape and bool(circuit.note) == assumed
    assert not assumed or (str(shape) in circuit.note and "--weight-shape" in circuit.note)
    assert (circuit.resized is not None) == (name == "basic")


def test_functions_that_make_circuits(file):
    circuit = only(f"{file}:make", n_qubits=2)
    assert (circuit.name, circuit.n_inputs, circuit.resized(4, 1).n_inputs) == ("sized", 2, 4)
    first, second = circuits_of(f"{file}:make_two", Sizes(depth=2))
    assert (first.name, second.name) == ("sized_1", "sized_2")
    assert [len(read_gates(circuit).gates) for circuit in (first, second)] == [6, 9]
    assert len(read_gates(second.resized(2, 1)).gates) == 4


def test_the_scripts_are_files_like_any_other():
    circuit = only(str(ROOT / "cifar100_hybrid_Qhead.py:make_circuit"))
    assert (circuit.n_inputs, circuit.weight_shape, circuit.layers) == (4, (2, 4, 3), 2)
    assert circuit.resized(3, 1).weight_shape == (1, 3, 3)
    for which, names in (
        ("file", ["edge_circuit", "texture_circuit"]),
        ("published", ["published_edge_circuit", "published_texture_circuit"]),
    ):
        found = circuits_of(str(ROOT / "cifar100_quantum_channels.py:make_circuits"), Sizes(circuits=which, n_qubits=3))
        assert [circuit.name for circuit in found] == names and found[0].n_inputs == 3
    plain = only(str(ROOT / "cifar100_hybrid_Qhead.py:head_circuit"), n_qubits=2, n_layers=3)
    assert plain.weight_shape == (3, 2, 3)
    gates = read_gates(only(str(ROOT / "cifar100_hybrid_Qhead.py:make_circuit"), n_qubits=2))
    assert gates.angles(*points(gates.circuit, 2, 0)).shape == (2, 14)


@pytest.mark.parametrize("control", ["quantum", "frozen", "product", "fourier", "planted"])
def test_the_circuits_of_a_run_are_those_that_its_control_runs(control):
    """The head records the fingerprint of the whole circuit, whatever stands in its place."""
    script = ROOT / "cifar100_hybrid_Qhead.py"
    circuit, shape = head_script.make_circuit(3, 1)
    recorded = [circuit_fingerprint(circuit, (2, 3), shape)]
    found = circuits_that_ran(script, Sizes(n_qubits=3, n_layers=1), recorded, control)
    if control in ("fourier", "planted"):
        assert found == []
        return
    (one,) = found
    several = [gate for gate in read_gates(one).gates if len(gate.wires) > 1]
    if control == "product":
        assert one.name == "product_head_circuit" and several == []
        assert [len(gate.wires) for gate in read_gates(one.resized(2, 2)).gates] == [1] * 6
    else:
        assert one.name == "head_circuit" and len(several) == 3


REFUSED = {
    "no_such": "has no no_such; it has plain, sized, basic",
    "plane": "has no plane; did you mean plain?",
    "number": "number in .*: expected a function, got int",
    "qml": "qml in .*: expected a function, got module",
    "node": "node in .* is a QNode; take the @qml.qnode line away",
    "in_a_partial": "is a QNode",
    "three": r"three: expected the arguments angles, or angles and weights, .*; got \(a, b, c\)",
    "nothing": r"nothing: expected the arguments angles.*; got \(\)",
    "many": r"expected the arguments angles, or angles and weights, got \*arguments",
    "starts_with_sizes": r"expected the arguments angles.*; got \(n_qubits, x\)",
    "fails": "the circuit fails on 3 qubits failed: ValueError: no such wire",
    "prints": "the circuit prints: expected a list of expectation values",
    "make_three_things": "expected it to return a circuit, a list of circuits, or .*, got tuple",
    "make_with_an_error": "make_with_an_error failed with n_qubits=3: KeyError: 'left'",
    "one_number": "one_number .*; give the weights' shape, such as --weight-shape 2,4,3",
    "strong": "strong on 3 qubits failed: .*angles .2, 3. and weights .2, 3.*--weight-shape",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_circuit_is_refused_in_one_line(file, name):
    with pytest.raises(InputError, match=REFUSED[name]) as caught:
        circuits_of(f"{file}:{name}", Sizes())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"n_qubits": 17}, "N_QUBITS (--n-qubits): expected from 1 to 16, which can be audited, got 17"),
        ({"weight_shape": "2;4"}, "WEIGHT_SHAPE (--weight-shape): expected auto or numbers such as 2,4,3"),
        ({"weight_shape": "2,0"}, "WEIGHT_SHAPE (--weight-shape)"),
        ({"weight_shape": "7,5"}, "Weights tensor must have last dimension of length 3; got 5"),
    ],
)
def test_sizes_that_do_not_fit(file, sizes, expected):
    with pytest.raises(InputError, match=re.escape(expected)):
        circuits_of(f"{file}:basic", Sizes(**sizes))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def ansatz(x:\n", r"mine\.py cannot be read as Python \(line 1\): SyntaxError"),
        ("x = '\udcff'", "cannot be read as Python"),
        (
            "import no_such_module",
            r"failed when it was imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("import sys; sys.exit('stop')", "failed when it was imported: SystemExit: stop"),
        ("N_QUBITS = 'four'\ndef ansatz(x): pass", r"N_QUBITS \(--n-qubits\): expected from 1 to 16.*got 'four'"),
        ("x = 3", "has no ansatz; it has no function"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, expected):
    path = tmp_path / "mine.py"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=expected) as caught:
        circuits_of(f"{path}:ansatz", Sizes())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["mine.py", "mine.py:", "mine:ansatz", "mine.py:an satz", ":ansatz", "mine.txt:f"])
def test_what_is_no_file_and_name(target):
    with pytest.raises(InputError, match=re.escape(f"{target}: expected FILE.py:name, such as my_circuits.py:ansatz")):
        circuits_of(target, Sizes())


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"mine\.py: no such file; expected FILE\.py:name"):
        load(tmp_path / "mine.py")
