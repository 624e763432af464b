"""A plan in a TOML file: which scripts, which constants, which seeds, and what is decided before the first run.

A plan is checked whole, from the texts of the scripts, before anything runs. Whatever is wrong in it is one line that
begins with its place: file, table and line.
"""

import contextlib
import hashlib
import itertools
import math
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcifar import config
from qcifar.config import as_constants, flag, variant_of
from qcifar.decided import (
    BASELINE,
    MARGIN,
    MOST_JOBS,
    OUTCOME,
    SHORT,
    read_margin,
    read_member,
    read_outcome,
    read_seeds,
    read_twin,
)
from qcifar.declared import ScriptText, read_script
from qcifar.errors import InputError, did_you_mean

KEYS = {
    "": ("title", "run_dir", "decided", "common", "runs"),
    "decided": ("outcome", "margin", "seeds", "family", "twins", "extends"),
}
ELSEWHERE = {  # constants that a plan does not set as such
    "SEED": "seeds stand under [decided]: seeds = \"0-5\"",
    "RUN_DIR": "it stands at the top of the plan: run_dir = \"runs/NAME\"",
    "RESUME": "a plan always goes on with what is there; delete a run's folder to start it over",
}  # fmt: skip


# Constants that may differ between runs that are compared, or that have an effect on some machines only.
LOOSE = (
    "SEED", "DEVICE", "PRECISION", "RUN_DIR", "DATA_DIR", "CHECKPOINT_MINUTES", "RESUME", "ACCEPT_CODE",
    "CUDA_GRAPHS", "SYNC_BATCHNORM",
)  # fmt: skip
CHECKS = ("off", "jitter", "planted")  # values of CONTROL: the answer is known, so no question may pay for them
RECIPE = tuple(name for name in config.RULES if name not in LOOSE)


@dataclass(frozen=True)
class Job:
    """One run: a script with its flags.

    Attributes:
        script: path of the file, as the command names it.
        folder: of the run, relative to RUN_DIR, with /.
        flags: the script's command line.
        constants: of the script as it will run, by name.
    """

    script: str
    experiment: str
    variant: str
    seed: int
    folder: str
    flags: tuple[str, ...]
    constants: dict[str, Any] = field(hash=False)

    @property
    def command(self) -> list[str]:
        return ["python", self.script, *self.flags]


@dataclass(frozen=True)
class Plan:
    """A checked plan.

    Attributes:
        family: the comparisons with the baseline that count together, as (experiment, variant).
        checks: of family "all", those that test the bench and not a circuit, which are a family of their own.
        twins: those with another experiment or variant, which count with them: experiment and variant of both.
    """

    name: str
    title: str
    text: str
    run_dir: Path
    outcome: str
    margin: float
    seeds: tuple[int, ...]
    family: tuple[tuple[str, str], ...]
    checks: tuple[tuple[str, str], ...]
    twins: tuple[tuple[str, str, str, str], ...]
    extends: str | None
    jobs: tuple[Job, ...]
    notes: tuple[str, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


class Places:
    """Says where in a TOML file something stands."""

    def __init__(self, path: Path, text: str):
        self.path, self.lines = path, text.splitlines()

    def line(self, table: str, number: int, key: str | None) -> int | None:
        """Number of the line with `key` (or the head) of the `number`-th table of that name; None if not found."""
        here, count = table == "", 0
        for place, line in enumerate(self.lines, 1):
            if head := re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]\]?", line):
                here = head[1] == table and count == number
                count += head[1] == table
                if here and key is None:
                    return place
            elif here and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
                return place
        return None

    def __call__(self, table: str, key: str | None = None, number: int = 0) -> str:
        where = f"[[runs]] {number + 1}" if table == "runs" else f"[{table}]" if table else ""
        line = self.line(table, number, key)
        return ", ".join(filter(None, [str(self.path), where, f"line {line}" if line else ""]))


@contextlib.contextmanager
def at(place: str):
    """Put the place in front of the message of an `InputError`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def refuse_unknown(place: str, what: str, given: str, known) -> None:
    """Raise `InputError` unless `given` is one of `known`."""
    if given not in known:
        hint = did_you_mean(given, known, "known: " + ", ".join(known))
        raise InputError(f"{place}: unknown {what} {given}; {hint}")


def read_plan(path: Path, home: Path, run_dir: str = "") -> Plan:
    """The plan in the TOML file `path`.

    Args:
        home: where the scripts lie.
        run_dir: overrides that of the plan, unless empty.

    Raises:
        InputError: with the place in the file, whatever is wrong.
    """
    return check_plan(path, _read(path), home, run_dir)


def check_plan(path: Path, text: str, home: Path, run_dir: str = "") -> Plan:
    """`read_plan` of a file that holds `text`, or is to hold it."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    where = Places(path, text)
    if not re.fullmatch(r"[\w-]+", path.stem):
        raise InputError(f"{path}: a plan's file is named by letters, digits, - and _; its name is the plan's name")
    for key in content:
        refuse_unknown(where("", key), "key", key, KEYS[""])
    for key, kind in (("title", str), ("run_dir", str), ("decided", dict), ("common", dict), ("runs", list)):
        if key in content and (not isinstance(content[key], kind) or (kind is str and not content[key].strip())):
            raise InputError(f"{where('', key)}: {key}: expected {_named(kind)}, got {content[key]!r}")
    decided = content.get("decided")
    if not decided:
        raise InputError(f"{path}: no [decided] with outcome, margin, seeds and family: they are fixed before any run")
    for key in decided:
        refuse_unknown(where("decided", key), "key", key, KEYS["decided"])
    seeds = _seeds(where, decided)
    run_dir = run_dir or content.get("run_dir", "./runs")
    jobs, names, numbers = _jobs(where, content, seeds, run_dir, home)
    _refuse_one_folder_twice(path, jobs)
    _refuse_two_recipes(where, jobs[: len(numbers)], numbers)
    family, checks = _family(where, decided, jobs, names)
    return Plan(
        name=path.stem,
        title=content.get("title", path.stem),
        text=text,
        run_dir=Path(run_dir),
        outcome=_outcome(where, decided),
        margin=_margin(where, decided),
        seeds=seeds,
        family=family,
        checks=checks,
        twins=_twins(where, decided, jobs, names),
        extends=_extends(where, decided, path.stem),
        jobs=tuple(jobs),
        notes=tuple(_notes(jobs, decided)),
    )


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        found = ", ".join(sorted(map(str, Path("studies").glob("*.toml")))) or "none in studies/"
        raise InputError(f"{path}: no such plan; plans here: {found}") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); expected a plan, such as studies/example.toml"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8; save it as such") from None


def _named(kind: type) -> str:
    return {str: "a text", dict: "a table", list: "tables, each under [[runs]]"}[kind]


def _seeds(where: Places, decided: dict) -> tuple[int, ...]:
    if "seeds" not in decided:
        raise InputError(f'{where("decided")}: no seeds; their number is part of the plan: seeds = "0-5"')
    with at(where("decided", "seeds")):
        return read_seeds(decided["seeds"])


def _outcome(where: Places, decided: dict) -> str:
    with at(where("decided", "outcome")):
        return read_outcome(decided.get("outcome", OUTCOME))


def _margin(where: Places, decided: dict) -> float:
    with at(where("decided", "margin")):
        return read_margin(decided.get("margin", MARGIN))


def _extends(where: Places, decided: dict, name: str) -> str | None:
    extends = decided.get("extends")
    if extends is not None and (
        not isinstance(extends, str) or not re.fullmatch(r"[\w-]+", extends) or extends == name
    ):
        raise InputError(f"{where('decided', 'extends')}: extends: expected another plan's name, got {extends!r}")
    return extends


def _jobs(where: Places, content: dict, seeds, run_dir: str, home: Path) -> tuple[list[Job], dict[str, str], list[int]]:
    """The jobs, seed by seed; script's name in the plan -> experiment; number of the [[runs]] of one seed's jobs."""
    runs = content.get("runs")
    if not runs:
        raise InputError(f'{where.path}: no [[runs]]: expected one for each script, with script = "baseline" or so')
    texts = []
    for number, run in enumerate(runs):
        if not isinstance(run, dict) or not isinstance(run.get("script"), str):
            raise InputError(f'{where("runs", None, number)}: expected script = "{" or ".join(SHORT)}" or a file name')
        texts.append(script_text(where("runs", "script", number), run["script"], home))
    common = content.get("common", {})
    _check_common(where, common, runs, texts)
    kinds = []
    for number, (run, text) in enumerate(zip(runs, texts, strict=True)):
        own = {name: value for name, value in run.items() if name != "script"}
        for name, value in own.items():
            _check_constant(where("runs", name, number), name, value, text)
        given = {name: value if isinstance(value, list) else [value] for name, value in (common | own).items()}
        if math.prod(map(len, given.values())) * len(seeds) > MOST_JOBS:
            raise InputError(f"{where('runs', None, number)}: a grid of more than {MOST_JOBS:,} runs")
        kinds += [(number, dict(zip(given, values, strict=True))) for values in itertools.product(*given.values())]
    by_kind = [make_jobs(texts[number], constants, seeds, run_dir, home) for number, constants in kinds]
    jobs = [job for same_seed in zip(*by_kind, strict=True) for job in same_seed]
    names = {run["script"]: text.experiment for run, text in zip(runs, texts, strict=True)}
    return jobs, names, [number for number, _ in kinds]


def script_text(place: str, name: str, home: Path) -> ScriptText:
    """The script that a plan calls `name`: a short name, or a file beside sweep.py or where the user is."""
    file = SHORT.get(name, name)
    found = [folder / file for folder in (home, Path()) if (folder / file).is_file()]
    if not found:
        known = [*SHORT, *(path.name for path in home.glob("*.py"))]
        hint = did_you_mean(name, known, f"expected {', '.join(SHORT)} or the name of a file in {home}")
        raise InputError(f"{place}: unknown script {name}; {hint}")
    with at(place):
        text = read_script(found[0])
        if text.experiment is None:
            raise InputError(f'{name} is not an experiment: it has no call open_run(__file__, cfg, "its_name", …)')
    return text


def _check_common(where: Places, common: dict, runs: list[dict], texts: list[ScriptText]) -> None:
    for name, value in common.items():
        place = where("common", name)
        having = [run["script"] for run, text in zip(runs, texts, strict=True) if name in text.rules()]
        if 0 < len(having) < len(runs) and name not in ELSEWHERE:
            lacking = next(run["script"] for run in runs if run["script"] not in having)
            raise InputError(
                f"{place}: {name} is not a constant of all scripts ({lacking} has none); put it under the [[runs]] "
                f"with script = {' and '.join(repr(script) for script in dict.fromkeys(having))}"
            )
        for text in texts:
            _check_constant(place, name, value, text)


def _check_constant(place: str, name: str, value, text: ScriptText) -> None:
    """Raise `InputError` unless `name` is a constant of the script that may have `value`, or each of a list."""
    if name in ELSEWHERE:
        raise InputError(f"{place}: {name} cannot be set here: {ELSEWHERE[name]}")
    rules = text.rules()
    refuse_unknown(place, f"constant of {text.path.name}:", name, rules)
    if value == []:
        raise InputError(f"{place}: {name}: an empty list; expected values to vary")
    values = value if isinstance(value, list) else [value]
    for one in values:
        with at(place):
            config.check(name, one, rules[name])
    if len(set(map(repr, values))) < len(values):
        raise InputError(f"{place}: {name}: a value is given twice in {value}")


def constant_flags(constants: dict[str, Any]) -> list[str]:
    """`{"EPOCHS": 5, "ALIGN_MAPS": False}` -> `--epochs 5 --no-align-maps`."""
    flags = []
    for name, value in constants.items():
        if isinstance(value, bool):
            flags.append(flag(name) if value else "--no-" + flag(name)[2:])
        elif str(value).startswith("-"):  # else argparse takes it for a flag
            flags.append(f"{flag(name)}={value}")
        else:
            flags += [flag(name), str(value)]
    return flags


def make_jobs(text: ScriptText, constants: dict[str, Any], seeds, run_dir: str, home: Path) -> list[Job]:
    """The runs of a script with these constants, one for each seed; their folders as the script will make them."""
    script = text.path.relative_to(home) if text.path.is_relative_to(home) else text.path.resolve()
    settings = text.settings(constant_flags(constants | {"SEED": seeds[0], "RUN_DIR": run_dir}))
    variant, jobs = variant_of(settings, text.own_rules), []
    for seed in seeds:
        flags = constant_flags(constants | {"SEED": seed, "RUN_DIR": run_dir})
        folder = "/".join(filter(None, [text.experiment, variant, f"seed{seed}"]))
        known = as_constants(settings) | {"SEED": seed}
        jobs.append(Job(str(script), text.experiment, variant, seed, folder, tuple(flags), known))
    return jobs


def _refuse_one_folder_twice(path: Path, jobs: list[Job]) -> None:
    seen: dict[str, Job] = {}
    for job in jobs:
        if (other := seen.setdefault(job.folder, job)) is not job:
            names = [name for name in job.constants if job.constants[name] != other.constants.get(name)]
            why = (
                f"they differ in {', '.join(names)} only, which the folder's name does not show: make a plan for each "
                f"value, with a run_dir of its own"
                if names
                else "two [[runs]] say the same; delete one"
            )
            if other.script != job.script:
                why = f"{other.script} and {job.script} give their experiments the same name"
            raise InputError(f"{path}: two jobs would lie in {job.folder}: {why}")


def _refuse_two_recipes(where: Places, kinds: list[Job], numbers: list[int]) -> None:
    """Raise `InputError` for runs that would never be paired. `kinds` are one seed's jobs, `numbers` their [[runs]]."""
    first = next((job for job in kinds if job.experiment == BASELINE), kinds[0])
    for job, number in zip(kinds, numbers, strict=True):
        for name in RECIPE:
            mine, its = job.constants.get(name), first.constants.get(name)
            if mine != its:
                raise InputError(
                    f"{where('runs', name, number)}: {name} is {mine!r} for {job.experiment} and {its!r} for "
                    f"{first.experiment}: it belongs to the recipe, and runs of two recipes are not paired; set it "
                    f"under [common], or make a plan for each value, with a run_dir of its own"
                )


def _family(
    where: Places, decided: dict, jobs: list[Job], names: dict[str, str]
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]:
    """The comparisons that are meant, all of the plan with the baseline or those named; and of all, the checks."""
    made = list(dict.fromkeys((job.experiment, job.variant) for job in jobs if job.experiment != BASELINE))
    given = decided.get("family", "all")
    if given == "all":
        controls = {(job.experiment, job.variant): job.constants.get("CONTROL") for job in jobs}
        return (
            tuple(one for one in made if controls[one] not in CHECKS),
            tuple(one for one in made if controls[one] in CHECKS),
        )
    place = where("decided", "family")
    if not isinstance(given, list) or not given or not all(isinstance(member, str) for member in given):
        raise InputError(f'{place}: family: expected "all" or a list of experiments and variants, got {given!r}')
    with at(f"{place}: family"):
        return tuple(dict.fromkeys(one for member in given for one in read_member(member, made, names))), ()


def _twins(
    where: Places, decided: dict, jobs: list[Job], names: dict[str, str]
) -> tuple[tuple[str, str, str, str], ...]:
    """The comparisons that are meant beside those with the baseline."""
    given, place = decided.get("twins", []), where("decided", "twins")
    if not isinstance(given, list):
        raise InputError(f'{place}: twins: expected a list such as ["head vs head control=fourier"], got {given!r}')
    made = list(dict.fromkeys((job.experiment, job.variant) for job in jobs))
    with at(f"{place}: twins"):
        found = tuple(read_twin(twin, made, names) for twin in given)
    for one in found:
        if BASELINE in (one[0], one[2]):
            raise InputError(f"{place}: twins: comparisons with the baseline stand in family")
    return tuple(dict.fromkeys(found))


def _notes(jobs: list[Job], decided: dict) -> list[str]:
    """What is allowed and easily not meant."""
    notes = []
    if BASELINE not in {job.experiment for job in jobs} and "extends" not in decided:
        notes.append("this plan makes no baseline; the comparison needs one of the same recipe in the run directory")
    kinds = {(job.experiment, job.variant): job.constants for job in jobs}
    differing = [
        name
        for name in ("PRECISION", "CUDA_GRAPHS", "SYNC_BATCHNORM")
        if len({repr(constants.get(name)) for constants in kinds.values()}) > 1
    ]
    if differing:
        notes.append(f"runs differ in {', '.join(differing)}: where that has an effect, they will not be paired")
    return notes
