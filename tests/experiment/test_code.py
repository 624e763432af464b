"""Fingerprints of code: an edit that can change a number is seen wherever it stands, and nothing else is."""

import re

import pytest

from qcifar.experiment import code
from tests.helpers import ROOT
from tests.helpers.scripts import copy_of_the_code, edit

HEAD = "cifar100_hybrid_Qhead.py"
CONSTANTS = {"SEED", "SPLIT_SEED", "EPOCHS", "BATCH_SIZE", "N_LAYERS", "N_QUBITS"}
SOURCE = (ROOT / HEAD).read_text(encoding="utf-8")


@pytest.fixture
def of(tmp_path):
    """Text of a script and of modules beside it -> its own code."""

    def own(text, name=HEAD, **modules):
        for module, content in modules.items():
            path = tmp_path / f"{module.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(content, encoding="utf-8")
        (tmp_path / name).write_text(text, encoding="utf-8")
        compile(text, name, "exec")
        return code.own_code(tmp_path / name, CONSTANTS)

    return own


def test_a_scripts_own_code_is_the_script_and_what_only_circuits_need(of):
    assert of(SOURCE) == code.own_code(ROOT / HEAD, CONSTANTS)
    files = {HEAD, "qcifar/quantum/layer.py", "qcifar/quantum/descriptors.py", "qcifar/compiler/circuit.py"}
    assert files <= of(SOURCE).keys()
    assert list(code.own_code(ROOT / "cifar100_baseline.py", CONSTANTS)) == ["cifar100_baseline.py"]
    assert not files & code.shared_code().keys()


def test_shared_code_is_what_makes_images_networks_training_and_scores():
    needed = "DLfunctions.py qcifar/data/augment.py qcifar/experiment/recipe.py qcifar/experiment/result.py"
    shared = code.shared_code().keys()
    assert set(needed.split()) <= shared
    assert not {"qcifar/config.py", "qcifar/files.py", "qcifar/experiment/folder.py"} & shared


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("N_LAYERS = 2 ", "N_LAYERS = 3 "),
        ("N_LAYERS = 2 ", "N_LAYERS: int = 2 "),
        ("SEED = 42 ", "SEED: int = 7 "),
        ("EPOCHS = 40 ", "EPOCHS = 20\nEPOCHS *= 2 "),
        ("# (B, n_qubits)", "# shape"),
        ("Everything that is", "All"),
        ("expected from 0 to EPOCHS", "wanted from 0 to EPOCHS"),
        ('"N_QUBITS": own(4, whole(1, 20))', '"N_QUBITS": own(4, whole(1, 18))'),
        ('if __name__ == "__main__"', "if __name__ == '__main__'"),
    ],
)
def test_what_no_number_depends_on_is_not_seen(of, old, new):
    assert old in SOURCE and of(SOURCE.replace(old, new)) == of(SOURCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("math.pi * torch.tanh", "2 * math.pi * torch.tanh"),
        ("math.log(alpha_start / (1 - alpha_start))", "math.log(alpha_start)"),
        ("facts=lambda logits: {", "facts=lambda logits: print and {"),
        ('"N_QUBITS": own(4, ', '"N_QUBITS": own(6, '),
        ('one_of("shared", "per_phase"), changes_recipe=True', 'one_of("shared", "per_phase")'),
        ("own_rules = {", "lower = 3\nown_rules = {"),
    ],
)
def test_what_a_number_may_depend_on_is_seen(of, old, new):
    assert old in SOURCE and of(SOURCE.replace(old, new))[HEAD] != of(SOURCE)[HEAD]


@pytest.mark.parametrize("module", ["math", "torch", "np"])
def test_a_logarithm_is_no_message(of, module):
    text = f"y = {module}.log(a / (1 - a))\nz = {module}.log(table['a'])\nrun.log('text' + ('more' if few else ''))"
    for old, new in (("(a / (1 - a))", "(a)"), ("'a'", "'b'"), ("if few", "if many")):
        assert of(text.replace(old, new), "s.py") != of(text, "s.py")
    assert of(text.replace("'text'", "f'{other} text'"), "s.py") == of(text, "s.py")


@pytest.mark.parametrize(
    ("line", "same", "other"),
    [
        ("EPOCHS, BATCH_SIZE = 40, 128", "EPOCHS, BATCH_SIZE = 2, 16", None),
        ("EPOCHS, lower = 40, 0.5", "EPOCHS, lower = 2, 0.5", "EPOCHS, lower = 40, 0.7"),
        ("if True:\n    EPOCHS = 40", "if True:\n    EPOCHS = 2", "if f():\n    EPOCHS = 40"),
        ("EPOCHS = SEED = 3", "EPOCHS = SEED = 4", None),
    ],
)
def test_constants_are_those_that_become_flags_however_they_are_written(of, line, same, other):
    assert of(same, "s.py") == of(line, "s.py")
    assert other is None or of(other, "s.py") != of(line, "s.py")


@pytest.mark.parametrize(
    ("statement", "module", "file"),
    [
        ("from my_scale import loss_scale", "my_scale", "my_scale.py"),
        ("import my_scale", "my_scale", "my_scale.py"),
        ("def f():\n    import my_scale as m", "my_scale", "my_scale.py"),
        ("from parts import scale", "parts__scale", "parts/scale.py"),
        ("import parts.scale", "parts__scale", "parts/scale.py"),
        ("from parts.scale import *", "parts__scale", "parts/scale.py"),
    ],
)
def test_imports_are_followed_to_the_users_own_modules(of, statement, module, file):
    first, second = (of(statement, "s.py", **{module: f"loss_scale = {value}"}) for value in (1, 2))
    assert first.keys() == {"s.py", file} and first[file] != second[file] and first["s.py"] == second["s.py"]


def test_imports_of_imports_count_too_and_relative_ones(of):
    modules = {"first": "from parts import second", "parts__second": "from . import third\nimport first"}
    before = of("import first", "s.py", **modules, parts__third="x = 1")
    after = of("import first", "s.py", **modules, parts__third="x = 2")
    assert before.keys() == {"s.py", "first.py", "parts/second.py", "parts/third.py"}
    assert [name for name in before if before[name] != after[name]] == ["parts/third.py"]


def test_every_way_to_import_a_circuits_module_counts(of):
    circuits = of("from qcifar.quantum.layer import QuantumLayer", "s.py")
    assert "qcifar/compiler/steps.py" in circuits
    for text in ("import qcifar.quantum.layer", "from qcifar import compiler", "import mine"):
        found = of(text, "s.py", mine="import qcifar.quantum.runner")
        assert found.keys() - {"mine.py"} == circuits.keys()
    assert of("from qcifar.experiment.recipe import place\nimport torch", "s.py").keys() == {"s.py"}


def test_a_module_that_shared_code_imports_counts_as_shared(tmp_path, monkeypatch):
    copy_of_the_code(tmp_path)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    assert code.shared_code().keys() and "my_loss.py" not in code.shared_code()
    edit(tmp_path / "DLfunctions.py", "import math\n", "import math\nimport my_loss\n")
    (tmp_path / "my_loss.py").write_text("smoothing = 1")
    assert "my_loss.py" in code.shared_code()
    assert "my_loss.py" not in code.own_code(tmp_path / "cifar100_baseline.py", CONSTANTS)


def test_code_of_descriptors_is_that_of_the_circuit_and_of_what_it_uses(tmp_path):
    text = (ROOT / "cifar100_quantum_channels.py").read_text(encoding="utf-8")
    text = text.replace("def edge_circuit", "def turn(angle):\n    return angle / 2\n\n\ndef edge_circuit")
    text = text.replace("qml.RY(angles[..., i] / 2, wires=i)", "qml.RY(turn(angles[..., i]), wires=i)", 1)
    script = tmp_path / "cifar100_quantum_channels.py"

    def found(edited):
        script.write_text(edited, encoding="utf-8")
        return [code.descriptor_code(script, circuit) for circuit in ("edge_circuit", "texture_circuit")]

    edge, texture = found(text)
    assert edge != texture
    assert found(text.replace("angle / 2", "torch.where(angle > 3, angle, angle / 2)"))[0] != edge
    for elsewhere in ("0.7 * angles", "old.weight.mean", "QUANTUM_DEPTH = 1"):
        assert elsewhere in text and found(re.sub(re.escape(elsewhere), elsewhere + " + 1", text))[0] == edge
