"""What a plan decides before the first run, as its text says it: for who makes the runs, and for who compares them."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from qcifar import config
from qcifar.errors import InputError
from qcifar.files import read_json

BASELINE = "cifar100_baseline_det"  # the experiment that the others are compared with
OUTCOME = "test_top1"  # the only one that a verdict is made from; top-5, macro F1 and others are secondary
MARGIN = 0.5  # percentage points, where a plan names none
MOST_JOBS = 100_000
SHORT = {
    "baseline": "cifar100_baseline.py",
    "channels": "cifar100_quantum_channels.py",
    "head": "cifar100_hybrid_Qhead.py",
}
EXPERIMENT = {"baseline": BASELINE, "channels": "cifar100_quantum_channels", "head": "cifar100_hybrid_qhead"}


def seal(stored: dict) -> str:
    """Hash of all other entries of a stored plan: who edits one by accident or in passing is told."""
    others = {name: value for name, value in stored.items() if name != "seal"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def read_states(path: Path) -> dict[str, dict]:
    """plans/<name>.state.json: how each run of a plan ended, by folder; empty where there is no such file."""
    states = read_json(path) if path.exists() else {}
    for folder, state in states.items():
        if not isinstance(state, dict):
            raise InputError(f"{path}: expected an object for {folder}, got {state!r}; move it away")
    return states


def read_outcome(given) -> str:
    """Raises `InputError` for another outcome than `OUTCOME`."""
    if given != OUTCOME:
        raise InputError(
            f"outcome: expected {OUTCOME}, got {given!r}: a verdict is made from test top-1; top-5 and macro F1 are "
            f"reported as secondary outcomes, whatever the plan"
        )
    return given


def read_margin(given) -> float:
    """Raises `InputError` for what is not a number of percentage points above 0."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 < given < math.inf:
        raise InputError(f"margin: expected percentage points above 0, got {given!r}")
    return float(given)


def read_seeds(given) -> tuple[int, ...]:
    """Seeds from "0-5", "0,2,4-6" or a list of numbers. Raises `InputError`."""
    expected = 'expected whole numbers from 0 on, as "0-5", "0,2,4" or [0, 1, 2]'
    if isinstance(given, str):
        seeds = []
        for part in filter(None, given.replace(" ", "").split(",")):
            span = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
            if not span:
                raise InputError(f"seeds: {expected}, got {given!r}")
            first, last = int(span[1]), int(span[2] or span[1])
            if last < first or last - first >= MOST_JOBS:
                raise InputError(f"seeds: {expected}, got {part!r}: from {first} to {last}")
            seeds += range(first, last + 1)
    else:
        seeds = given
    rule = config.RULES["SEED"]
    if not isinstance(seeds, list) or not all(rule.accepts(seed) for seed in seeds):
        raise InputError(f"seeds: {expected}, got {given!r}")
    if not seeds:
        raise InputError(f"seeds: {expected}, got none")
    if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1} if len(seeds) < 10_000 else ()):
        raise InputError(f"seeds: {', '.join(map(str, twice))} given twice; each seed is one run")
    return tuple(seeds)


def read_member(member: str, made: Sequence[tuple[str, str]], names: dict[str, str]) -> list[tuple[str, str]]:
    """The (experiment, variant) that "head" or "head n_layers=4" means; one without a variant means all of them.

    Args:
        made: what the plan makes.
        names: script, as the plan names it -> experiment.

    Raises:
        InputError: the plan makes nothing of that name.
    """
    name, _, variant = member.partition(" ")
    experiment = names.get(name, name)
    meant = [(e, v) for e, v in made if e == experiment and variant in ("", v)]
    if not meant:
        known = ", ".join(" ".join(filter(None, pair)) for pair in made) or "nothing but the baseline"
        raise InputError(f"no job makes {member!r}; the plan makes {known}")
    return meant


def read_twin(twin: str, made: Sequence[tuple[str, str]], names: dict[str, str]) -> tuple[str, str, str, str]:
    """("head control=fourier vs head" names one run each) -> experiment and variant of both.

    Here a name without a variant means the one at the standard values, if the plan makes that one.

    Raises:
        InputError: as `read_member`, or a name that means several.
    """
    sides = [side.strip() for side in twin.split(" vs ")] if isinstance(twin, str) else []
    if len(sides) != 2 or not all(sides):
        raise InputError(f'expected "head vs head control=fourier" or so, got {twin!r}')
    found = []
    for side in sides:
        meant = read_member(side, made, names)
        exact = [pair for pair in meant if pair[1] == side.partition(" ")[2]] or meant
        if len(exact) > 1:
            which = ", ".join(variant for _, variant in exact)
            raise InputError(f'{side!r} means {len(exact)} variants ({which}); name one: "{side} {exact[0][1]}"')
        found += exact
    if found[0] == found[1]:
        raise InputError(f"{twin!r} compares runs with themselves")
    return found[0] + found[1]
