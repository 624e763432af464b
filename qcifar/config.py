"""Constants at the top of a script become command-line flags, and both are checked by one table.

A script writes `EPOCHS = 40  # passes over the training split`; `settings_from_constants` gives
`--epochs 5` with the comment as its help text, and refuses what cannot be run before anything loads.

`RULES` has the constants that every experiment shares, which are those of the baseline: the recipe. A script
gives the rules of its own constants itself; a run that changes one of these is another variant of the
experiment under the same recipe.
"""

import argparse
import ast
import difflib
import hashlib
import itertools
import math
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from qcifar.errors import InputError, did_you_mean, end_of_imports

SAID_OF_SWITCHES = ("true", "false", "yes", "no", "on", "off", "0", "1")  # by people, after a flag that is a switch
LARGEST = 10**9  # of any whole number: beyond it, nothing here could run
LONGEST_VARIANT = 200  # characters; file systems allow 255 bytes for a name


class Rule(NamedTuple):
    """What a constant may be: how a flag's text is read, which values pass, and how that is said."""

    read: Callable[[str], Any]
    accepts: Callable[[Any], bool]
    expected: str
    standard: Any = None  # of an experiment's own constant: the value whose run needs no variant in its folder's name
    changes_recipe: bool = False  # whether any other value makes runs incomparable with those of other experiments
    canonical: Callable[[Any], Any] = lambda value: value


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(low: int, high: int | None = None) -> Rule:
    span = f"of at least {low}" if high is None else f"from {low} to {high}"
    highest = LARGEST if high is None else high
    return Rule(int, lambda v: _is_int(v) and low <= v <= highest, f"a whole number {span}")


def real(low: float, high: float = math.inf, *, open_low=False, open_high=False) -> Rule:
    def accepts(v):
        if isinstance(v, bool) or not isinstance(v, (int, float)) or not abs(v) <= sys.float_info.max:  # 10**400, too
            return False
        return (v > low if open_low else v >= low) and (v < high if open_high else v <= high)

    left = f"{'above' if open_low else 'from'} {low:g}"
    right = "" if high == math.inf else f" {'and below' if open_high else 'to'} {high:g}"
    return Rule(float, accepts, f"a number {left}{right}")


def one_of(*choices: str) -> Rule:
    return Rule(str, lambda v: v in choices, "one of " + ", ".join(choices))


def text(expected: str = "a text that is not empty") -> Rule:
    return Rule(str, lambda v: isinstance(v, str) and v.strip() != "" and "\0" not in v, expected)  # no path has NUL


def own(standard: Any, rule: Rule, *, changes_recipe: bool = False) -> Rule:
    """The rule of an experiment's own constant, with the constant's standard value."""
    if not isinstance(rule, Rule):
        raise InputError(f"own_rules: expected own(standard value, rule), whose rule may be whole(1), got {rule!r}")
    return rule._replace(standard=standard, changes_recipe=changes_recipe)


# Channels of noise -> largest strength. A bit that is read wrongly more often than rightly is one with another name.
NOISE = {
    "depolarizing": 1.0, "two_qubit_depolarizing": 1.0, "amplitude_damping": 1.0, "phase_damping": 1.0, "readout": 0.5,
}  # fmt: skip
_NOISE_FORM = f"none, or name=number with commas between them, of {', '.join(NOISE)}"


def noise_strengths(given: str) -> dict[str, float]:
    """`depolarizing=0.01,readout=0.02` -> {"depolarizing": 0.01, "readout": 0.02}; "none" -> {}.

    Raises:
        ValueError: it is nothing like that, in words.
    """
    strengths: dict[str, float] = {}
    for part in () if given.strip() == "none" else given.split(","):
        name, _, value = (text.strip() for text in part.partition("="))
        if name not in NOISE:
            raise ValueError(f"unknown noise {name!r}; {did_you_mean(name, NOISE, _NOISE_FORM)}")
        try:
            strength = float(value)
        except ValueError:
            strength = math.nan
        if not 0 <= strength <= NOISE[name]:
            why = "; at 0.5 an outcome says nothing of its qubit" if name == "readout" and strength <= 1 else ""
            raise ValueError(f"expected {name}=<number from 0 to {NOISE[name]:g}>, got {value!r}{why}")
        if name in strengths:
            raise ValueError(f"{name} is given twice")
        strengths[name] = strength + 0.0  # no -0
    return strengths


def canonical_noise(given: str) -> str:
    """The one text of all those that say the same noise: sorted, shortest numbers, nothing without effect.

    >>> canonical_noise("readout=0.020, depolarizing=1e-2,phase_damping=0")
    'depolarizing=0.01,readout=0.02'
    """
    strengths = noise_strengths(given)
    if strengths.get("two_qubit_depolarizing") == strengths.get("depolarizing", 0.0):
        strengths.pop("two_qubit_depolarizing", None)  # what it is anyway; other than that, 0 has an effect
    kept = {name: value for name, value in strengths.items() if value or name == "two_qubit_depolarizing"}
    return ",".join(f"{name}={repr(kept[name]).removesuffix('.0')}" for name in sorted(kept)) or "none"


def noise() -> Rule:
    def accepts(v):
        try:
            return isinstance(v, str) and bool(noise_strengths(v)) == (v != "none")
        except ValueError:
            return False

    spans = ", from 0 to 1 (readout: to 0.5, where an outcome says nothing of its qubit)"
    return Rule(str, accepts, _NOISE_FORM + spans, canonical=canonical_noise)


SWITCH = Rule(bool, lambda v: isinstance(v, bool), "True or False")

# The constants of the baseline, which every experiment has.
RULES: dict[str, Rule] = {
    # run
    "SEED": whole(0, 2**32 - 1),
    "DEVICE": text("auto, cpu, cuda or cuda:<number>"),
    "PRECISION": one_of("auto", "fp32", "tf32", "bf16"),
    "RUN_DIR": text("a folder"),
    "CHECKPOINT_MINUTES": real(0),
    "RESUME": SWITCH,
    "ACCEPT_CODE": SWITCH,
    "COMPILE": SWITCH,
    "CUDA_GRAPHS": SWITCH,
    # data
    "DATASET": one_of("cifar100", "synthetic"),
    "DATA_DIR": text("a folder"),
    "SPLIT_SEED": whole(0, 2**32 - 1),
    "VAL_FRACTION": real(0, 1, open_low=True, open_high=True),
    "IMG_SIZE": whole(16, 1024),
    "TRAIN_LIMIT": Rule(int, lambda v: _is_int(v) and (v == 0 or v >= 2), "0 (all) or a whole number of at least 2"),
    "EVAL_LIMIT": whole(0),
    # model
    "MODEL_NAME": text("the name of one of torchvision's classification networks"),
    "STEM": one_of("imagenet", "cifar"),
    "WEIGHTS": text("imagenet, none or the path of a state dict"),
    # optimizer
    "EPOCHS": whole(1),
    "BATCH_SIZE": whole(2),
    "MAX_LR": real(0, open_low=True),
    "WEIGHT_DECAY": real(0),
    "LABEL_SMOOTHING": real(0, 1, open_high=True),
    "SELECT_BY": one_of("f1", "top1", "loss"),
    "ACCUMULATE": whole(1),
    "SYNC_BATCHNORM": SWITCH,
}


class _Parser(argparse.ArgumentParser):
    rules: dict[str, Rule]

    def parse_args(self, args=None, namespace=None):
        """As argparse's, but for `--resume False`, which would be a flag and something else."""
        args = sys.argv[1:] if args is None else args
        for before, value in itertools.pairwise(args):
            action = self._option_string_actions.get(before)
            if isinstance(action, argparse.BooleanOptionalAction) and value.lower() in SAID_OF_SWITCHES:
                raise InputError(_takes_no_value(action, value))
        return super().parse_args(args, namespace)

    def error(self, message):  # argparse prints the usage of 30 flags; one line is enough
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if unknown and message.startswith("unrecognized"):
            given = unknown[0].split("=")[0]
            message = f"unexpected argument {given}; --help shows what is expected"
            if given.startswith("-"):
                hint = did_you_mean(given, self._option_string_actions, "--help lists the flags")
                message = f"unknown flag {given}; {hint}"
        known = self._option_string_actions.get(message.removeprefix("argument ").split(":")[0].split("/")[0])
        if isinstance(known, argparse.BooleanOptionalAction) and "explicit argument" in message:
            message = _takes_no_value(known, message.split("'")[1])
        elif known is not None:  # a value that is missing, or that argparse took for a flag
            name = known.dest.upper()
            message = f"{name} ({flag(name)}): {message.split(': ', 1)[1]}: {self.rules[name].expected}"
        raise InputError(message)


def _takes_no_value(switch: argparse.Action, value: str) -> str:
    return f"{switch.dest.upper()}: {' / '.join(switch.option_strings)} takes no value, got {value!r}"


def _constants_of(script: Path) -> dict[str, str]:
    """Names of the uppercase assignments of a script outside its functions, in order, with their line's comment."""
    try:
        with script.open("rb") as file:  # in the encoding that the file names, as Python reads it
            tokens = list(tokenize.tokenize(file.readline))
        tree = ast.parse(script.read_bytes())
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{script.name} cannot be read as Python ({error}); save it as UTF-8") from None
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return {name: comments.get(node.end_lineno, "") for node in assignments(tree) for name in constants_in(node)}


def constants_in(node: ast.stmt) -> list[str]:
    """Names of the constants that an assignment gives a value, also to several at once."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return [name.id for name in names if name.id.isupper() and isinstance(name.ctx, ast.Store)]


def assignments(node: ast.AST) -> Iterator[ast.Assign | ast.AnnAssign | ast.AugAssign]:
    """Assignments of a module outside its functions, also those inside an `if` or a `try`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Assign | ast.AnnAssign | ast.AugAssign):
            yield child
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.expr):
            yield from assignments(child)


def flag(name: str) -> str:
    """`MAX_LR` -> `--max-lr`."""
    return "--" + name.lower().replace("_", "-")


def check(name: str, value, rule: Rule) -> None:
    """Raise `InputError` unless `value` is one that the constant `name` may have."""
    if not rule.accepts(value):
        infinite = isinstance(value, float) and not math.isfinite(value)
        expected = rule.expected.replace("a number", "a finite number") if infinite else rule.expected
        raise InputError(f"{name} ({flag(name)}): expected {expected}, got {_shown(value)}")


def _shown(value) -> str:
    if isinstance(value, int) and value.bit_length() > 100:
        return f"a number of {value.bit_length()} bits"
    try:
        return repr(value)
    except ValueError:  # such a number in a list
        return f"a {type(value).__name__}"


def _as_plain(value):
    """Python's own type for what people write as well: a path, a number of NumPy's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return value


def _reader(name: str, rule: Rule):
    def read(given: str):
        try:
            return rule.read(given)
        except ValueError:
            raise InputError(f"{name} ({flag(name)}): expected {rule.expected}, got {given!r}") from None

    return read


def _refuse_wrong_rules(script: Path, own_rules: Any, experiment: bool) -> None:
    """Raise `InputError` unless `own_rules` gives names rules, and those of an experiment have standard values."""
    if not isinstance(own_rules, dict):
        raise InputError(f"{script.name}: own_rules: expected {{NAME: own(standard value, rule)}}, got {own_rules!r}")
    for name, rule in own_rules.items():
        if not isinstance(name, str) or not isinstance(rule, Rule):
            raise InputError(f"{script.name}: own_rules, {name!r}: expected own(standard value, rule), got {rule!r}")
        if not experiment:
            continue
        if name in RULES:
            raise InputError(f"{script.name}: own_rules: {name} belongs to the recipe, which all experiments share")
        if not rule.accepts(rule.standard):
            raise InputError(
                f"{script.name}: own_rules, {name}: expected own(standard value, rule), where the standard value is "
                f"{rule.expected}, got {'none' if rule.standard is None else repr(rule.standard)}"
            )


def _refuse_missing(script: Path, constants, own_rules: dict[str, Rule] | None, experiment: bool) -> None:
    """Raise `InputError` for a constant that was deleted; verbs and benchmarks have few of the shared ones."""
    shared = RULES if experiment else {}
    missing = [name for name in (*shared, *(own_rules or {})) if name not in constants]
    wrong = [name for name in constants if name not in RULES and name not in (own_rules or {})]
    for name in missing:
        if not difflib.get_close_matches(name, wrong, n=1):  # else it is misspelt, which is said below
            raise InputError(f"{script.name}: the constant {name} is missing; put it back at the top of the script")


def settings_from_constants(
    module_globals: dict[str, Any],
    argv: list[str] | None = None,
    own_rules: dict[str, Rule] | None = None,
    arguments: tuple[tuple[str, str | None, str], ...] = (),
) -> argparse.Namespace:
    """Turn a script's constants into settings, changed by the flags in `argv`.

    Args:
        module_globals: `globals()` of the script; it is read, never written.
        argv: the command line without the program's name; None takes that of this process.
        own_rules: rules of the constants that the script has beside those in `RULES`.
        arguments: of a verb that takes something without a flag, in order: name, how many (None for one, or "?",
            "*", "+") and help.

    Returns:
        Namespace with one lowercase attribute for each constant: `EPOCHS` -> `.epochs`; and one for each argument.

    Raises:
        InputError: an unknown flag, a wrong type, a value that its rule does not accept.
    """
    end_of_imports()  # where a script calls its main without run_script
    script = Path(module_globals["__file__"])
    constants = _constants_of(script)
    experiment = 2 * sum(name in constants for name in RULES) > len(RULES)
    _refuse_wrong_rules(script, module_globals.get("own_rules", {}) if own_rules is None else own_rules, experiment)
    constants = {name: comment for name, comment in constants.items() if name in module_globals}
    rules = RULES | (own_rules or {})
    parser = _Parser(
        prog=script.name,
        description=module_globals["__doc__"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.rules = rules
    _refuse_missing(script, constants, own_rules, experiment)
    for name, comment in constants.items():
        if name not in rules:
            otherwise = "give it one in own_rules, or a name in lower case if it is not a setting"
            hint = did_you_mean(name, rules.keys() - constants.keys(), otherwise)
            raise InputError(f"{script.name}: the constant {name} has no rule; {hint}")
        default = _as_plain(module_globals[name])
        check(name, default, rules[name])
        kind = (
            {"action": argparse.BooleanOptionalAction}
            if rules[name].read is bool
            else {"type": _reader(name, rules[name]), "metavar": "X"}
        )
        described = f"{comment} (default {default})".strip().replace("%", "%%")
        parser.add_argument(flag(name), dest=name.lower(), default=default, help=described, **kind)
    for name, count, meaning in arguments:
        parser.add_argument(name, nargs=count, help=meaning.replace("%", "%%"))
    settings = parser.parse_args(argv)
    for name in constants:
        check(name, given := getattr(settings, name.lower()), rules[name])
        setattr(settings, name.lower(), rules[name].canonical(given))
    return settings


def as_constants(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings under the constants' names, in the script's order: `.epochs` -> `EPOCHS`."""
    return {name.upper(): value for name, value in vars(settings).items()}


def variant_of(settings: argparse.Namespace, own_rules: dict[str, Rule]) -> str:
    """`n_qubits=8,n_layers=6`: the experiment's own constants that are not at their standard values; "" if all are.

    It becomes the name of a folder: what a folder's name cannot hold is replaced, and a long one ends in a hash.
    """
    given = {name.lower(): getattr(settings, name.lower()) for name in own_rules}
    changed = [f"{name}={given[name]}" for name in given if given[name] != own_rules[name.upper()].standard]
    full = ",".join(changed)
    variant = re.sub(r"[^\w.,=+-]", "_", full)
    if len(variant) > LONGEST_VARIANT:
        variant = f"{variant[: LONGEST_VARIANT - 9]},{hashlib.sha256(full.encode()).hexdigest()[:8]}"
    return variant
