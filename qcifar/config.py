"""Constants at the top of a script become command-line flags, and both are checked by one table.

A script writes `EPOCHS = 40  # passes over the training split`; `settings_from_constants` gives
`--epochs 5` with the comment as its help text, and refuses what cannot be run before anything loads.
"""

import argparse
import ast
import difflib
import io
import math
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from qcifar.errors import InputError


class Rule(NamedTuple):
    """What a constant may be: how a flag's text is read, which values pass, and how that is said."""

    read: Callable[[str], Any]
    accepts: Callable[[Any], bool]
    expected: str


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(low: int, high: float = math.inf) -> Rule:
    span = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
    return Rule(int, lambda v: _is_int(v) and low <= v <= high, f"a whole number {span}")


def real(low: float, high: float = math.inf, *, open_low=False, open_high=False) -> Rule:
    def accepts(v):
        if isinstance(v, bool) or not isinstance(v, (int, float)) or not math.isfinite(v):
            return False
        return (v > low if open_low else v >= low) and (v < high if open_high else v <= high)

    left = f"{'above' if open_low else 'from'} {low:g}"
    right = "" if high == math.inf else f" {'and below' if open_high else 'to'} {high:g}"
    return Rule(float, accepts, f"a number {left}{right}")


def one_of(*choices: str) -> Rule:
    return Rule(str, lambda v: v in choices, "one of " + ", ".join(choices))


def text(expected: str = "a text that is not empty") -> Rule:
    return Rule(str, lambda v: isinstance(v, str) and v.strip() != "", expected)


SWITCH = Rule(bool, lambda v: isinstance(v, bool), "True or False")

# One range per constant, whichever script it stands in.
RULES: dict[str, Rule] = {
    # run
    "SEED": whole(0, 2**32 - 1),
    "DEVICE": text("auto, cpu, cuda or cuda:<number>"),
    "PRECISION": one_of("auto", "fp32", "tf32", "bf16"),
    "RUN_DIR": text("a folder"),
    "CHECKPOINT_MINUTES": real(0),
    "RESUME": SWITCH,
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
    "MODEL_NAME": one_of("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
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
    # quantum
    "N_QUBITS": whole(1, 20),
    "QUANTUM_DEVICE": text("fast or the name of a PennyLane device"),
    "CIRCUITS": one_of("default", "published"),
    "QUANTUM_DEPTH": whole(1),
    "QUANTUM_IMAGE_SIZE": whole(2, 1024),
    "ALIGN_MAPS": SWITCH,
    "MAP_SCALING": one_of("fixed", "minmax"),
    "EXTRA_CHANNEL_INIT": one_of("zero", "mean"),
    "N_LAYERS": whole(1),
    "EPOCHS_WARMUP": whole(0),
    "SCHEDULE": one_of("shared", "per_phase"),
    "ALPHA_START": real(0, 1, open_low=True, open_high=True),
    "ANGLE_SCALING": one_of("tanh", "none"),
    "DIFF_METHOD": one_of("backprop", "adjoint", "parameter-shift", "best"),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message):  # argparse prints the usage of 30 flags; one line is enough
        unknown = message.removeprefix("unrecognized arguments: ").split()
        if unknown and message.startswith("unrecognized"):
            given = unknown[0].split("=")[0]
            near = difflib.get_close_matches(given, self._option_string_actions, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists the flags"
            message = f"unknown flag {given}; {hint}"
        known = self._option_string_actions.get(message.removeprefix("argument ").split(":")[0].split("/")[0])
        if known is not None:  # a value that is missing, or that argparse took for a flag
            name = known.dest.upper()
            message = f"{name} ({flag(name)}): {message.split(': ', 1)[1]}: {RULES[name].expected}"
        raise InputError(message)


def _constants_of(source: str) -> dict[str, str]:
    """Names of the top-level uppercase assignments of a script, in order, with their line's comment."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if name.isupper():
                found[name] = comments.get(node.end_lineno, "")
    return found


def flag(name: str) -> str:
    """`MAX_LR` -> `--max-lr`."""
    return "--" + name.lower().replace("_", "-")


def check(name: str, value) -> None:
    """Raise `InputError` unless `value` is one that the constant `name` may have."""
    if name not in RULES:
        raise InputError(f"the constant {name} has no range; add one to RULES in qcifar/config.py")
    rule = RULES[name]
    if not rule.accepts(value):
        raise InputError(f"{name} ({flag(name)}): expected {rule.expected}, got {value!r}")


def _reader(name: str):
    def read(given: str):
        try:
            return RULES[name].read(given)
        except ValueError:
            raise InputError(f"{name} ({flag(name)}): expected {RULES[name].expected}, got {given!r}") from None

    return read


def settings_from_constants(module_globals: dict[str, Any], argv: list[str]) -> argparse.Namespace:
    """Turn a script's constants into settings, changed by the flags in `argv`.

    Args:
        module_globals: `globals()` of the script; it is read, never written.
        argv: the command line without the program's name.

    Returns:
        Namespace with one lowercase attribute for each constant: `EPOCHS` -> `.epochs`.

    Raises:
        InputError: an unknown flag, a wrong type, a value outside the range in `RULES`.
    """
    source = Path(module_globals["__file__"]).read_text(encoding="utf-8")
    constants = _constants_of(source)
    parser = _Parser(
        prog=Path(module_globals["__file__"]).name,
        description=module_globals["__doc__"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for name, comment in constants.items():
        default = module_globals[name]
        check(name, default)
        kind = (
            {"action": argparse.BooleanOptionalAction}
            if RULES[name] is SWITCH
            else {"type": _reader(name), "metavar": "X"}
        )
        described = f"{comment} (default {default})".strip().replace("%", "%%")
        parser.add_argument(flag(name), dest=name.lower(), default=default, help=described, **kind)
    settings = parser.parse_args(argv)
    for name in constants:
        check(name, getattr(settings, name.lower()))
    return settings


def as_constants(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings under the constants' names, in the script's order: `.epochs` -> `EPOCHS`."""
    return {name.upper(): value for name, value in vars(settings).items()}
