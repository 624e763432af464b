"""A wrong flag is refused before torch is loaded: `import qcifar.flags` is the first import of an experiment.

It does something only in a script that was started as a program: it reads the constants and their rules from the
script's text and checks the command line. What it cannot read there is left to `main`, which checks everything again.
"""

import ast
import sys
from pathlib import Path
from typing import Any

from qcifar import config
from qcifar.errors import InputError, status_of


def check_command_line(script: Path, argv: list[str]) -> None:
    """Refuse what `settings_from_constants` will refuse in the script's `main`, without running the script."""
    try:
        tree = ast.parse(script.read_bytes())
        content = {"__file__": str(script), "__doc__": ast.get_docstring(tree)} | _constants_and_rules(script, tree)
    except InputError:  # of `own`, which would end in a traceback where the script itself calls it
        raise
    except Exception:  # no experiment, or something else than literals
        return
    config.settings_from_constants(content, argv, content.get("own_rules"))


def _constants_and_rules(script: Path, tree: ast.Module) -> dict[str, Any]:
    """The constants of a script and its own_rules. Raises `ValueError` if they cannot be told from its text."""
    content = {}
    for node in config.assignments(tree):
        names = config.constants_in(node)
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        rules = isinstance(target, ast.Name) and target.id == "own_rules"
        if not names and not rules:
            continue
        simple = isinstance(target, ast.Name) and not isinstance(node, ast.AugAssign) and node in tree.body
        if not simple or node.value is None or target.id in content or len(names) > 1:  # as in `if True: EPOCHS = 3`
            raise ValueError(ast.unparse(node))
        known = dict(vars(config)) if rules else {"__builtins__": {}}
        content[target.id] = eval(compile(ast.Expression(node.value), script, "eval"), known)
    used = any(isinstance(node, ast.Name) and node.id == "own_rules" for node in ast.walk(tree))
    if "own_rules" not in content and not used:
        raise ValueError("no experiment")
    if "own_rules" not in content:
        raise InputError(f"{script.name}: own_rules is missing; own_rules = {{}} says that no constant is its own")
    return content


def _check_what_was_started() -> None:
    started = getattr(sys.modules["__main__"], "__file__", None)
    if started and (status := status_of(lambda: check_command_line(Path(started), sys.argv[1:]))):
        sys.exit(status)


_check_what_was_started()
