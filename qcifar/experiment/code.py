"""Fingerprints of the code that determines a run's numbers, so that an edit is noticed.

Of each file its syntax tree counts: not comments, formatting, docstrings or the texts of messages; of a script not
the values of its constants either, which are compared by themselves. Imports are followed: a module that lies below
the script's folder or this repository counts with what imports it.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from qcifar.config import assignments, constants_in

ROOT = Path(__file__).resolve().parents[2]
# What every experiment is made with, and all that these files import.
SHARED = (
    "DLfunctions.py", "qcifar/streams.py", "qcifar/device.py", "qcifar/distributed.py", "qcifar/data/*.py",
    "qcifar/experiment/models.py", "qcifar/experiment/weights.py", "qcifar/experiment/recipe.py",
    "qcifar/experiment/result.py",
)  # fmt: skip
CIRCUITS = ("qcifar/compiler/*.py", "qcifar/quantum/*.py")  # all of them, if an experiment imports one
MAPS = ("qcifar/data/augment.py", "qcifar/data/cifar.py", *CIRCUITS)  # what makes descriptors of images
# Constants, messages and files: no number depends on them. They are not followed either.
WITHOUT_NUMBERS = (
    "qcifar/config.py", "qcifar/errors.py", "qcifar/files.py", "qcifar/flags.py", "qcifar/experiment/code.py",
    "qcifar/experiment/folder.py", "qcifar/experiment/identity.py", "qcifar/events.py", "qcifar/audit/*.py",
)  # fmt: skip
TEXTS = {"InputError", "Interrupted", "ValueError", "TypeError", "NotCompilable", "note", "say", "log", "refuse"}


def shared_code() -> dict[str, str]:
    """{file: fingerprint} of the code that all experiments share."""
    return _fingerprints(_with_imports(_files(SHARED), ROOT))


def own_code(script: Path, constants: Iterable[str]) -> dict[str, str]:
    """{file: fingerprint} of a script without its `constants`, and of what it imports beside the shared code."""
    script = script.resolve()
    tree = _without_constants(_tree(script, script.read_bytes()), set(constants))
    return {script.name: _fingerprint(tree)} | _fingerprints(_imported_by(script), script)


def descriptor_code(script: Path, circuit: str) -> str:
    """12 hex digits of the code that makes descriptors: of the function `circuit` of the script, and what it uses."""
    script = script.resolve()
    tree = _tree(script, script.read_bytes())
    definitions = {name: node for node in tree.body for name in _defined_by(node)}
    wanted, used = [circuit] if circuit in definitions else list(definitions), {}
    while wanted:
        name = wanted.pop()
        if name in definitions and name not in used:
            used[name] = _fingerprint(ast.Module([definitions[name]], []))
            wanted += [node.id for node in ast.walk(definitions[name]) if isinstance(node, ast.Name)]
    files = _fingerprints(set(_files(MAPS)) | _imported_by(script), script)
    return _hash([sorted(used.items()), sorted(files.items())])


def _defined_by(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return []
    return [name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)]


def _imported_by(script: Path) -> set[Path]:
    """What a script imports, shared code left out; every file of the circuits if it imports one of them."""
    found, circuits = _with_imports([script], script.parent), set(_files(CIRCUITS))
    if found & circuits:
        found |= _with_imports(circuits, ROOT)
    return found - {script} - _with_imports(_files(SHARED), ROOT)


def _files(patterns: Iterable[str]) -> list[Path]:
    return sorted(path for pattern in patterns for path in ROOT.glob(pattern))


def _with_imports(files: Iterable[Path], folder: Path) -> set[Path]:
    """`files`, and all that they import from below `folder` or this repository, and what these import."""
    tops, without = (folder, ROOT), set(_files(WITHOUT_NUMBERS))
    locate = functools.cache(lambda module: _locate(module, tops))  # most modules are imported by many files
    waiting, found = list(files), set()
    while waiting:
        path = waiting.pop()
        if path not in found and path not in without:
            found.add(path)
            waiting += [target for module in _modules_of(path, tops) for target in locate(module)]
    return found


def _modules_of(path: Path, tops: tuple[Path, ...]) -> list[str]:
    """Dotted names of what a file imports; of `from a import b` also a.b, which may be a module."""
    top = next((top for top in tops if path.is_relative_to(top)), path.parent)
    package, modules = path.relative_to(top).parts[:-1], []
    for level, base, names in _read(path, path.read_bytes())[1]:
        above = package[: len(package) - level + 1] if level else ()
        whole = ".".join([*above, *filter(None, [base])])
        modules += [name for name in (whole, *(f"{whole}.{name}".strip(".") for name in names)) if name]
    return modules


@functools.lru_cache(maxsize=256)
def _read(path: Path, content: bytes) -> tuple[str, list[tuple[int, str | None, list[str]]]]:
    """The fingerprint of a file, and its imports: dots before the name, name, and what is taken from there."""
    tree, imports = _tree(path, content), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append((node.level, node.module, [alias.name for alias in node.names]))
    return _fingerprint(tree), imports


def _locate(module: str, tops: tuple[Path, ...]) -> list[Path]:
    """The files that `import module` runs, its packages' too, in the first of `tops` that has it."""
    parts = module.split(".")
    for top in tops:
        found = [top.joinpath(*parts[:count], "__init__.py") for count in range(1, len(parts) + 1)]
        found.append(top.joinpath(*parts[:-1], f"{parts[-1]}.py"))
        found = [path.resolve() for path in found if path.is_file()]
        if found:
            return found
    return []


def _fingerprints(files: Iterable[Path], script: Path | None = None) -> dict[str, str]:
    """{path: fingerprint}, the paths as seen from this repository or, of a script elsewhere, from its folder."""
    named = {}
    for path in sorted(files):
        top = script.parent if script and not path.is_relative_to(ROOT) else ROOT
        named[str(path.relative_to(top))] = _read(path, path.read_bytes())[0]
    return named


def _tree(path: Path, content: bytes) -> ast.Module:
    try:
        return ast.parse(content, path)
    except (SyntaxError, ValueError):  # a module that is imported under a condition only: its text counts
        return ast.Module([ast.Expr(ast.Constant(content))], [])


def _fingerprint(tree: ast.Module) -> str:
    return _hash(_pinned(_WithoutTexts().visit(tree)))


def _hash(content) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


def _pinned(node):
    """A syntax tree as lists, the same in every version of Python: without what is empty."""
    if isinstance(node, ast.AST):
        fields = [[name, _pinned(value)] for name, value in ast.iter_fields(node) if name not in ("kind", "ctx")]
        return [type(node).__name__, *(field for field in fields if field[1] not in ([], "None"))]
    return [_pinned(one) for one in node] if isinstance(node, list) else repr(node)


def _without_constants(tree: ast.Module, constants: set[str]) -> ast.Module:
    """`tree` without the assignments of constants, as `settings_from_constants` reads them, and limits of the rules."""
    dropped = []
    for node in assignments(tree):
        names, stored = constants & set(constants_in(node)), set(_defined_by(node))
        pair = (node.targets[0] if isinstance(node, ast.Assign) else None, node.value)
        if names and stored == names:
            dropped.append(node)
        elif names and all(isinstance(side, ast.Tuple) for side in pair):  # EPOCHS, lower = 40, 1
            elements = list(zip(*(side.elts for side in pair), strict=False))
            node.value.elts = [value for name, value in elements if getattr(name, "id", None) not in names]
        elif stored == {"own_rules"} and isinstance(node.value, ast.Dict):
            node.value.values = [_standard_of(rule) for rule in node.value.values]
    return _Without(dropped).visit(tree)


def _standard_of(rule: ast.expr) -> ast.expr:
    """`own(4, whole(1, 20), changes_recipe=True)` without the limits: these only decide what is refused."""
    if isinstance(rule, ast.Call) and _name_of(rule.func) == "own":
        return ast.Call(rule.func, rule.args[:1], [word for word in rule.keywords if word.arg != "rule"])
    return rule


def _name_of(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


class _Without(ast.NodeTransformer):
    def __init__(self, nodes: list[ast.stmt]):
        self.nodes = set(nodes)

    def visit(self, node):
        return None if node in self.nodes else super().visit(node)


class _WithoutTexts(ast.NodeTransformer):
    def visit_Expr(self, node):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Pass()  # a docstring
        return self.generic_visit(node)

    def visit_Call(self, node):
        if _name_of(node.func) in TEXTS:
            node.args = [_without_text(argument) for argument in node.args]
        return self.generic_visit(node)


def _without_text(node: ast.expr) -> ast.expr:
    """A message without its words; what else is handed over stays: `torch.log(x)` is called `log`, too."""
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return ast.Constant("")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return ast.BinOp(_without_text(node.left), node.op, _without_text(node.right))
    if isinstance(node, ast.IfExp):
        return ast.IfExp(node.test, _without_text(node.body), _without_text(node.orelse))
    return node
