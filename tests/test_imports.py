"""Who may import whom, that importing does nothing, that the compiler stands alone, and how long files may become."""

import ast
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from tests.helpers import ROOT

FOLDERS = ("qcifar", "benchmarks", "studies", "tests")
PROGRAMS = ("benchmarks", "studies", "tests")  # who may import anything, and is imported by nobody
SOURCES = [path.relative_to(ROOT) for f in (ROOT, *map(ROOT.joinpath, FOLDERS)) for path in sorted(f.glob("*.py"))]
SOURCES += [path.relative_to(ROOT) for folder in FOLDERS for path in sorted((ROOT / folder).glob("*/**/*.py"))]
MODULES = {path: ".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in SOURCES}
TESTS = [path for path in SOURCES if path.parts[0] == "tests"]

GROUND = [module for path, module in MODULES.items() if path.parent == Path("qcifar") and module != "qcifar"]
EXPERIMENTS = [path.stem for path in SOURCES if path.stem.startswith("cifar100_")]
VERBS = [path.stem for path in SOURCES if len(path.parts) == 1 and path.stem not in ("DLfunctions", *EXPERIMENTS)]
# Which of our own modules each may import. The longest name that fits counts, so "qcifar" is the ground floor.
MAY_IMPORT = {
    "qcifar": GROUND,
    "qcifar.data": ["qcifar.data", *GROUND],
    "qcifar.compiler": ["qcifar.compiler"],
    "qcifar.quantum": ["qcifar.quantum", "qcifar.compiler", "qcifar.data", *GROUND],
    "qcifar.experiment": ["qcifar.experiment", "qcifar.data", *GROUND],
    "qcifar.audit": ["qcifar.audit", "qcifar.quantum", "qcifar.compiler", "qcifar.data", *GROUND],
    "qcifar.hardware": [
        "qcifar.hardware",
        "qcifar.quantum",
        "qcifar.experiment",
        "qcifar.compiler",
        "qcifar.data",
        *GROUND,
    ],
    "qcifar.comparison": ["qcifar.comparison", "qcifar.experiment.identity", *GROUND],
    "qcifar.sweep": ["qcifar.sweep", *GROUND],
    "DLfunctions": GROUND,
    **{experiment: ["DLfunctions", "qcifar"] for experiment in EXPERIMENTS},
    **{verb: ["DLfunctions", "qcifar", *(f"{experiment}.prepare" for experiment in EXPERIMENTS)] for verb in VERBS},
}
OURS = {module.split(".")[0] for module in MODULES.values()}
COMPILER_NEEDS = {"numpy", "torch", "pennylane", *sys.stdlib_module_names}


def tree_of(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, whether it is imported relative to the file) of all imports, those under TYPE_CHECKING, too."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, False) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*path.parts[: -node.level], node.module] if node.level else [node.module]
            found += [(".".join([*filter(None, base), alias.name]), node.level > 0) for alias in node.names]
    return found


def lies_in(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def may_import(module: str, name: str, relative: bool) -> bool:
    part = max((known for known in MAY_IMPORT if lies_in(module, known)), key=len)
    if lies_in(name, "pennylane") and part in ("qcifar", "DLfunctions"):
        return False
    if part == "qcifar.compiler" and not relative:
        return name.split(".")[0] in COMPILER_NEEDS
    return name.split(".")[0] not in OURS or any(lies_in(name, other) for other in MAY_IMPORT[part])


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parts[0] not in PROGRAMS], ids=str)
def test_import_directions(path):
    if len(path.parts) > 2:
        assert ".".join(path.parts[:2]) in MAY_IMPORT, f"give {path.parent} its row in MAY_IMPORT"
    wrong = [name for name, relative in imports_of(path) if not may_import(MODULES[path], name, relative)]
    assert wrong == [], f"{path} must not import {', '.join(wrong)}"


@pytest.mark.parametrize("path", TESTS, ids=str)
def test_no_test_file_imports_another(path):
    """What several of them use lies in tests/helpers."""
    assert [name for name, _ in imports_of(path) if ".test_" in f".{name}" or lies_in(name, "tests.conftest")] == []


PROGRAM = """
import importlib, random, sys
import numpy, torch
import pennylane  # which imports jax where that is installed, and jax draws
state = lambda: (torch.get_rng_state().tolist(), repr(numpy.random.get_state()), random.getstate())
before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert state() == before, name
assert not torch.are_deterministic_algorithms_enabled()
"""


def files_of(folder):
    """Code and what lies beside it, without the folders that tools and other tests write."""
    others = {".git", ".venv", ".pytest_cache", ".ruff_cache", "__pycache__", "runs", "data", "tests"}
    top = {path for path in folder.iterdir() if path.name not in others}
    return top | {path for path in (folder / "qcifar").rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_importing_creates_no_file_and_draws_no_number(tmp_path):
    modules = [module for path, module in MODULES.items() if path.parts[0] not in PROGRAMS]
    assert len(modules) >= 25 and {"DLfunctions", "compare_runs", *EXPERIMENTS} < set(modules)
    assert importlib.import_module("compare_runs").__file__ == str(ROOT / "compare_runs.py")
    before, folders = files_of(ROOT), [(ROOT / name).exists() for name in ("runs", "data")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path)}
    importlib.import_module("matplotlib.font_manager")  # builds its list of fonts, in seconds, where there is none
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # PennyLane imports it
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *modules], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []  # neither in the working directory nor, here the same, in the home
    assert files_of(ROOT) == before and [(ROOT / name).exists() for name in ("runs", "data")] == folders


ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import pennylane as qml, torch
from circuits import CompiledCircuit, NotCompilable

def circuit(x, w):
    qml.AngleEmbedding(x, wires=range(3))
    qml.StronglyEntanglingLayers(w, wires=range(3))
    return [qml.expval(qml.PauliZ(i)) for i in range(3)]

def found(run):
    torch.manual_seed(0)
    x, w = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((5, 3), (2, 3, 3)))
    values = run(x, w)
    return values, *torch.autograd.grad((values * torch.arange(1.0, 4.0)).sum(), (x, w))

node = qml.QNode(circuit, qml.device("default.qubit", wires=3), interface="torch", diff_method="backprop")
expected = found(lambda x, w: torch.stack(node(x, w), dim=-1))
torch.testing.assert_close(found(CompiledCircuit(circuit, 3, (2, 3, 3)).double()), expected, rtol=0, atol=1e-12)
assert not [name for name in sys.modules if name.split(".")[0] in ("qcifar", "DLfunctions")]
print("equal")
"""


@pytest.mark.slow  # a process that imports PennyLane; `test_import_directions` reads what the compiler imports
def test_the_compiler_works_in_somebody_elses_project(tmp_path):
    """Copied alone, under another name, with the repository not on the path."""
    shutil.copytree(ROOT / "qcifar" / "compiler", tmp_path / "circuits", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path)]  # -I: without PYTHONPATH and the working directory
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


MOST_LINES, MOST_LINES_OF_A_FUNCTION = 450, 60
ONE_CLASS = Path("qcifar/compiler/circuit.py")  # CompiledCircuit, which would not be clearer in two files


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_no_file_and_no_function_is_long(path):
    if path != ONE_CLASS:
        assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}
