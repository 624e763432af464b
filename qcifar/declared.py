"""What an experiment's script says of itself, read from its text: nothing of it is imported or run."""

import argparse
import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcifar import config
from qcifar.config import Rule, settings_from_constants
from qcifar.errors import InputError


@dataclass(frozen=True)
class ScriptText:
    """Constants and rules of a script.

    Attributes:
        content: what `settings_from_constants` takes for the script's globals: `__file__`, `__doc__`, constants.
        own_rules: of the constants that the script has beside the recipe's.
        arguments: of a verb, see `settings_from_constants`.
        experiment: name of its folder in RUN_DIR, from its call of `open_run`; None where that is no literal.
        early: whether it imports `qcifar.flags`, which checks its flags before torch is loaded.
    """

    content: dict[str, Any]
    own_rules: dict[str, Rule]
    arguments: tuple
    experiment: str | None
    early: bool

    @property
    def path(self) -> Path:
        return Path(self.content["__file__"])

    def rules(self) -> dict[str, Rule]:
        """The rule of each constant that the script has."""
        known = config.RULES | self.own_rules
        return {name: known[name] for name in self.content if name in known}

    def settings(self, argv: list[str]) -> argparse.Namespace:
        """What the script's `main` would make of `argv`. Raises `InputError` for what it would refuse."""
        return settings_from_constants(self.content, argv, self.own_rules, self.arguments)


def read_script(path: Path) -> ScriptText:
    """Constants, rules and experiment of the script in `path`.

    Raises:
        InputError: no such file, not Python, or no script with `own_rules` and constants as plain literals.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read as Python ({error})") from None
    content = {"__file__": str(path), "__doc__": ast.get_docstring(tree), "own_rules": None}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            known = vars(config) if name == "own_rules" else {"__builtins__": {}}
            if name not in ("own_rules", "arguments") and not name.isupper():
                continue
            try:
                content[name] = eval(compile(ast.Expression(node.value), path, "eval"), dict(known))
            except Exception:
                raise InputError(
                    f"{path.name}: {name} in line {node.lineno} is no plain literal; it can be read only by running it"
                ) from None
    rules, arguments = content.pop("own_rules"), content.pop("arguments", ())
    if rules is None:
        raise InputError(f"{path.name} is no experiment: it has no own_rules (docs/extending.md shows one)")
    early = any(isinstance(node, ast.Import) and node.names[0].name == "qcifar.flags" for node in tree.body)
    return ScriptText(content, rules, arguments, _experiment_of(tree), early)


def _experiment_of(tree: ast.Module) -> str | None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open_run":
            given = node.args[2] if len(node.args) > 2 else None
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                return given.value
    return None
