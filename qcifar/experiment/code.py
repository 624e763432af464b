"""Fingerprints of the code that determines a run's numbers, so that an edit is noticed.

Of each file its syntax tree counts: not comments, formatting, docstrings or the texts of messages; of a script not
the values of its constants either, which are compared by themselves.
"""

import ast
import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What every experiment is made with; what only circuits need counts for the experiments that import it.
SHARED = (
    "DLfunctions.py", "qcifar/streams.py", "qcifar/device.py", "qcifar/distributed.py", "qcifar/data/*.py",
    "qcifar/experiment/models.py", "qcifar/experiment/weights.py", "qcifar/experiment/recipe.py",
)  # fmt: skip
CIRCUITS = ("qcifar/compiler/*.py", "qcifar/quantum/*.py")
TEXTS = {"InputError", "Interrupted", "ValueError", "TypeError", "NotCompilable", "note", "say", "log", "refuse"}


def shared_code() -> dict[str, str]:
    """{file: fingerprint} of the code that all experiments share."""
    return _fingerprints(SHARED)


def own_code(script: Path, constants: dict) -> dict[str, str]:
    """{file: fingerprint} of a script without its constants and, if it imports them, of the circuits' files."""
    tree = _tree(script)
    tree.body = [node for node in tree.body if not _assigns_one_of(node, constants)]
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    circuits = any(name.startswith(("qcifar.quantum", "qcifar.compiler")) for name in imported)
    return {script.name: _fingerprint(tree)} | (_fingerprints(CIRCUITS) if circuits else {})


def _fingerprints(patterns) -> dict[str, str]:
    files = sorted(path for pattern in patterns for path in ROOT.glob(pattern))
    return {str(path.relative_to(ROOT)): _fingerprint(_tree(path)) for path in files}


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), path)


def _fingerprint(tree: ast.Module) -> str:
    return hashlib.sha256(ast.unparse(_WithoutTexts().visit(tree)).encode()).hexdigest()[:12]


def _assigns_one_of(node: ast.stmt, names) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names


class _WithoutTexts(ast.NodeTransformer):
    def visit_Expr(self, node):
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Pass()  # a docstring
        return self.generic_visit(node)

    def visit_Call(self, node):
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if name in TEXTS:
            node.args, node.keywords = [], []
        return self.generic_visit(node)
