"""A wrong flag is refused before torch is loaded: `import qcifar.flags` is the first import of an experiment.

It does something only in such a script that was started as a program, not where a verb imports one: it reads the
constants and their rules (and a verb's `arguments`) from the script's text and checks the command line. What it cannot
read there is left to `main`, which checks everything again.
"""

import ast
import sys
from pathlib import Path

from qcifar import config
from qcifar.errors import status_of


def check_command_line(script: Path, argv: list[str]) -> None:
    """Refuse what `settings_from_constants` will refuse in the script's `main`, without running the script."""
    content = {"__file__": str(script), "__doc__": None}
    try:
        tree = ast.parse(script.read_bytes())
        if not any(isinstance(node, ast.Import) and node.names[0].name == __name__ for node in tree.body):
            return
        content["__doc__"] = ast.get_docstring(tree)
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                known = vars(config) if name == "own_rules" else {"__builtins__": {}}
                content[name] = eval(compile(ast.Expression(node.value), script, "eval"), dict(known))
        rules, arguments = content.pop("own_rules"), content.pop("arguments", ())
    except Exception:  # no experiment, or something else than literals
        return
    config.settings_from_constants(content, argv, rules, arguments)


def _check_what_was_started() -> None:
    started = getattr(sys.modules["__main__"], "__file__", None)
    if started and (status := status_of(lambda: check_command_line(Path(started), sys.argv[1:]))):
        sys.exit(status)


_check_what_was_started()
