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
        experiment: name of its folder in RUN_DIR, see `experiment_of`; None where it cannot be read.
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


class NotDeclared(InputError):
    """The file is not an experiment, or its constants can be told only by running it."""


def read_script(path: Path) -> ScriptText:
    """Constants, rules and experiment of the script in `path`.

    Raises:
        NotDeclared: no such file, not Python, or no script with `own_rules` and constants as plain literals.
        InputError: its rules are none.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except OSError as error:
        raise NotDeclared(f"{path} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        raise NotDeclared(f"{path} cannot be read as Python ({error})") from None
    content = {"__file__": str(path), "__doc__": ast.get_docstring(tree)}
    for node in config.assignments(tree):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        special = isinstance(target, ast.Name) and target.id in ("own_rules", "arguments")
        names = config.constants_in(node)
        if not names and not special:
            continue
        simple = isinstance(target, ast.Name) and not isinstance(node, ast.AugAssign) and node in tree.body
        known = dict(vars(config)) if special else {"__builtins__": {}}
        try:
            if not simple or node.value is None or target.id in content or len(names) > 1:  # `if True: EPOCHS = 3`
                raise ValueError
            content[target.id] = eval(compile(ast.Expression(node.value), path, "eval"), known)
        except InputError:  # of `own`
            raise
        except Exception:
            shown = names[0] if names else target.id
            raise NotDeclared(
                f"{path.name}: {shown} in line {node.lineno} is not a plain literal; it can be read only by running it"
            ) from None
    early = any(isinstance(node, ast.Import) and node.names[0].name == "qcifar.flags" for node in tree.body)
    if "own_rules" not in content:
        used = any(isinstance(node, ast.Name) and node.id == "own_rules" for node in ast.walk(tree))
        if early and used:
            raise InputError(f"{path.name}: own_rules is missing; own_rules = {{}} says that no constant is its own")
        raise NotDeclared(f"{path.name} is not an experiment: it has no own_rules (docs/extending.md shows one)")
    rules, arguments = content["own_rules"], content.pop("arguments", ())
    return ScriptText(content, rules, arguments, experiment_of(tree), early)


def experiment_of(tree: ast.Module) -> str | None:
    """The name that a script hands to `open_run`: a literal there, or a variable that is given one literal and no more.

    What is written in the file counts, not what it would do: a name that is bound in any other way is not known.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "open_run" and len(node.args) > 2:
            given = node.args[2]
            values = _values_of(given.id, tree) if isinstance(given, ast.Name) else [given]
            if len(values) == 1 and isinstance(values[0], ast.Constant) and isinstance(values[0].value, str):
                return values[0].value
    return None


def _values_of(name: str, tree: ast.Module) -> list[ast.expr | None]:
    """What a name stands for, once for each place in the file that binds it; None where that is no plain assignment."""
    plain = {}  # the bound name's node: its value
    for node in ast.walk(tree):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            plain.update(pairs)
    bound = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    parameters = [node for node in ast.walk(tree) if isinstance(node, ast.arg) and node.arg == name]
    return [plain.get(node) for node in bound if node.id == name] + [None] * len(parameters)
