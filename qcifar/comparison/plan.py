"""What was decided before the first run, as `sweep.py` stored it, and what was done otherwise."""

import hashlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from qcifar.comparison.runs import FinishedRun, Group
from qcifar.comparison.words import listed
from qcifar.decided import (
    BASELINE,
    MARGIN,
    OUTCOME,
    SHORT,
    read_margin,
    read_member,
    read_outcome,
    read_seeds,
    read_states,
    read_twin,
    seal,
)
from qcifar.errors import InputError, count
from qcifar.experiment.identity import NEUTRAL
from qcifar.files import read_json

NEEDED = {
    "name": str, "title": str, "stored": str, "sha256": str, "text": str, "outcome": str, "margin": int | float,
    "seeds": list, "family": list, "jobs": list,
}  # fmt: skip
NEEDED_IN = {
    "jobs": {"experiment": str, "variant": str, "seed": int, "folder": str},
    "family": {"experiment": str, "variant": str},
    "checks": {"experiment": str, "variant": str},
}
LOOSE = {"SEED", *NEUTRAL} - {"PRECISION"}  # constants that a run may have otherwise than planned


@dataclass(frozen=True)
class Plan:
    path: Path  # plans/<name>.json in the run directory that the plan is of
    content: dict
    ended: dict  # of plans/<name>.state.json: how each job ended

    def __getitem__(self, name: str):
        return self.content.get(name)

    def holds(self, run: FinishedRun) -> bool:
        """Whether a run lies in the plan's run directory; it says nothing of others."""
        return os.path.realpath(self.path.parent.parent) in run.run_dirs

    @property
    def seeds(self) -> dict[str, list[int]]:
        """Planned seeds of each "experiment variant"."""
        found: dict[str, list[int]] = {}
        for job in self.content["jobs"]:
            found.setdefault(_name(job), []).append(job["seed"])
        return found

    @property
    def family(self) -> list[tuple[str, str]]:
        """The comparisons that are corrected together: name, and what it is compared with."""
        return [(_name(one), one.get("against", BASELINE)) for one in self.content["family"]]

    @property
    def checks(self) -> list[tuple[str, str]]:
        """Those that test the bench (off, jitter, planted), corrected apart; of older plans they are in the family."""
        return [(_name(one), BASELINE) for one in self.content.get("checks", [])]


def _name(one: dict) -> str:
    return f"{one['experiment']} {one['variant']}".strip()


def read_plans(run_dirs: list[Path]) -> list[Plan]:
    """The plans stored in run directories, in the order in which they were made.

    Raises:
        InputError: one is not whole, or was edited.
    """
    plans, different = [], {os.path.realpath(top): top for top in reversed(run_dirs)}.values()
    for path in sorted(path for top in different for path in (top / "plans").glob("*.json")):
        if path.name.endswith((".state.json", ".slurm.json")):
            continue
        content = read_json(path)
        _refuse_no_plan(path, content)
        _refuse_edited(path, content)
        plans.append(Plan(path, content, read_states(path.with_suffix(".state.json"))))
    return sorted(plans, key=lambda plan: plan["stored"])


def _refuse_no_plan(path: Path, content: dict) -> None:
    for name, kind in NEEDED.items():
        if not isinstance(content.get(name), kind):
            raise InputError(f"{path}: expected a stored plan with {name}, got {content.get(name)!r}; move it away")
    for name, kind in {"existing": list, "constants": dict, "checks": list}.items():
        if name in content and not isinstance(content[name], kind):
            raise InputError(f"{path}: expected a stored plan with {name}, got {content[name]!r}; move it away")
    for part, needed in NEEDED_IN.items():
        for one in content.get(part, []):
            if not isinstance(one, dict) or not all(type(one.get(name)) is kind for name, kind in needed.items()):
                raise InputError(
                    f"{path}: expected {listed(list(needed))} in each of {part}, got {one!r}; move it away"
                )


def _refuse_edited(path: Path, content: dict) -> None:
    """Raise `InputError` unless the plan says what its text says, and is as it was stored."""
    remedy = "a stored plan does not change: put the file back as it was, or move it away and do without a plan"
    if hashlib.sha256(content["text"].encode()).hexdigest() != content["sha256"]:
        raise InputError(f"{path}: its text is not the one that was stored (sha256 differs); {remedy}")
    try:
        read_outcome(content["outcome"])
        read_margin(content["margin"])
        expected = _decided(content)
    except (InputError, tomllib.TOMLDecodeError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: {error}") from None
    family = [(one["experiment"], one["variant"], one.get("against", BASELINE)) for one in content["family"]]
    found = {name: content.get(name) for name in expected} | {"family": sorted(family, key=str)}
    for name, value in expected.items():
        if found[name] != value:
            raise InputError(f"{path}: {name} is {found[name]!r}, and the plan's text says {value!r}; {remedy}")
    for name, seeds in Plan(path, content, {}).seeds.items():
        if sorted(seeds) != sorted(content["seeds"]):
            raise InputError(f"{path}: jobs of {name} have seeds {seeds}, decided were {content['seeds']}; {remedy}")
    if {"seal", "existing", "constants", "checks"} & content.keys() and content.get("seal") != seal(content):
        raise InputError(f"{path}: it was edited after it was stored (its seal differs); {remedy}")


def _decided(content: dict) -> dict:
    """What the text of a stored plan decides, as the plan has to hold it."""
    text = tomllib.loads(content["text"])
    decided = text.get("decided", {})
    every = list(dict.fromkeys((job["experiment"], job["variant"]) for job in content["jobs"]))
    made = [pair for pair in every if pair[0] != BASELINE]
    files = {Path(str(job.get("script"))).name: job["experiment"] for job in content["jobs"]}
    scripts = [run["script"] for run in text.get("runs", [])]
    names = {script: files.get(Path(SHORT.get(script, script)).name, script) for script in scripts}
    expected = {
        "outcome": decided.get("outcome", OUTCOME),
        "margin": decided.get("margin", MARGIN),
        "seeds": list(read_seeds(decided.get("seeds"))),
        "extends": decided.get("extends"),
    }
    family = decided.get("family", "all")
    if family == "all" and "seal" in content:  # what "all" means is up to who stored it, and the seal keeps that
        return expected
    meant = made if family == "all" else [one for member in family for one in read_member(member, made, names)]
    twins = [read_twin(twin, every, names) for twin in decided.get("twins", [])]
    against = [(*twin[:2], " ".join(filter(None, twin[2:]))) for twin in twins]
    return expected | {"family": sorted({*((*pair, BASELINE) for pair in meant), *against}, key=str)}


def planned_seeds(plans: list[Plan], run: FinishedRun, against: str = BASELINE) -> set[int]:
    """Seeds that were planned of the comparison of a run's group; none if no plan has it."""
    return {
        seed
        for plan in plans
        if plan.holds(run) and (against == BASELINE or (run.name, against) in plan.family)
        for seed in plan.seeds.get(run.name, ())
    }


def in_family(plans: list[Plan], run: FinishedRun, against: str) -> bool:
    """Whether a plan counts the comparison of a run's group with `against` among those corrected together."""
    return any(plan.holds(run) and (run.name, against) in plan.family for plan in plans)


def in_checks(plans: list[Plan], run: FinishedRun, against: str) -> bool:
    """Whether a plan has it among its checks, and none in its family."""
    found = any(plan.holds(run) and (run.name, against) in plan.checks for plan in plans)
    return found and not in_family(plans, run, against)


def missing_members(
    plans: list[Plan], compared: list[tuple[FinishedRun, str]], part: str = "family"
) -> list[tuple[str, str]]:
    """Comparisons of the families that are not among `compared`: (first run, what it is compared with) of each.

    Args:
        part: "family", or "checks".
    """
    wanted = {(plan.path.parent, *member): plan for plan in plans for member in getattr(plan, part)}
    there = {(plan.path.parent, run.name, against) for run, against in compared for plan in plans if plan.holds(run)}
    return [key[1:] for key in wanted if key not in there]


def twins_of(groups: list[Group], plans: list[Plan]) -> dict[str, list[Group]]:
    """Planned comparisons with another than the baseline: name of that one -> groups to compare with it, and itself."""
    found: dict[str, list[Group]] = {}
    for against in dict.fromkeys(one for plan in plans for _, one in plan.family if one != BASELINE):
        members = [group for group in groups if in_family(plans, group.first, against)]
        found[against] = [*members, *(group for group in groups if group.name == against)]
    return found


def planned_only(runs: list[FinishedRun], plans: list[Plan]) -> tuple[list[FinishedRun], list[tuple[FinishedRun, str]]]:
    """Without the seeds that were added to a planned experiment: more seeds until a verdict comes would void it.

    A run of another run directory would add its seed, too, where it has name and recipe of planned ones.

    Returns:
        The runs that count; and those that do not, each with the reason.
    """
    if not plans:
        return runs, []
    seeds = [(plan, plan.seeds) for plan in plans]
    wanted = [{seed for plan, of in seeds if plan.holds(run) for seed in of.get(run.name, ())} for run in runs]
    planned = {(run.name, run.recipe, run.dataset) for run, some in zip(runs, wanted, strict=True) if some}
    kept, left_out = [], []
    for run, some in zip(runs, wanted, strict=True):
        if some and run.seed not in some:
            reason = "this seed is in no stored plan; a new plan that extends the old one adds seeds"
        elif not some and run.experiment != BASELINE and (run.name, run.recipe, run.dataset) in planned:
            reason = "it would add its seed to those of a plan in another run directory; compare its own by itself"
        else:
            kept.append(run)
            continue
        left_out.append((run, reason))
    return kept, left_out


def deviations(
    plan: Plan, runs: list[FinishedRun], margin: float, added: list[FinishedRun] = ()
) -> tuple[list[str], list[str]]:
    """What was done otherwise than planned, in sentences; and what the plan does not record.

    Args:
        runs: those that are compared.
        margin: of equivalence, as used, in points.
        added: those that `planned_only` left out.
    """
    done = {(run.name, run.seed): run for run in runs if plan.holds(run)}
    said, unknown = [], []
    if margin != plan["margin"]:
        said.append(f"The margin is {margin:g} points instead of the planned {plan['margin']:g}.")
    if plan["existing"] is None:
        unknown.append(f"The plan {plan['name']} does not record which of its runs existed before it was stored.")
    elif plan["existing"]:
        folders = {one.get("folder") for one in plan["existing"] if isinstance(one, dict)}
        before = _by_name([job for job in plan["jobs"] if job["folder"] in folders])
        many, all_runs = len(plan["existing"]), count(len(plan["jobs"]), "run")
        said.append(f"{many} of {all_runs} existed before the plan {plan['name']} was stored: {before}.")
    if plan["constants"] is None:
        unknown.append(f"The plan {plan['name']} does not record the constants of its runs.")
    said += _otherwise(plan, done)
    missing: dict[str, list[str]] = {}
    for job in plan["jobs"]:
        if (_name(job), job["seed"]) not in done:
            state = plan.ended.get(job["folder"], {})
            why = f" ({state['state']}: {state.get('reason', '')})" if state.get("state") == "failed" else ""
            missing.setdefault(_name(job), []).append(f"{job['seed']}{why}")
    said += [f"Missing runs of {name}: seeds {', '.join(seeds)}." for name, seeds in missing.items()]
    more: dict[str, list[str]] = {}
    for run in added:
        if plan.holds(run) and run.name in plan.seeds:
            more.setdefault(run.name, []).append(f"{run.seed}")
    said += [f"Added afterwards, and left out: {name} seeds {', '.join(seeds)}." for name, seeds in more.items()]
    if plan["extends"]:
        said.append(f"This plan extends {plan['extends']}, whose runs had been seen when it was made.")
    return said, unknown


def _by_name(jobs: list[dict]) -> str:
    """`head seeds 0, 1; channels seeds 0`."""
    seeds: dict[str, list[str]] = {}
    for job in jobs:
        seeds.setdefault(_name(job), []).append(str(job["seed"]))
    return "; ".join(f"{name} seeds {', '.join(numbers)}" for name, numbers in seeds.items())


def _otherwise(plan: Plan, done: dict[tuple[str, int], FinishedRun]) -> list[str]:
    """Runs that were made with other constants than planned, or that failed in the sweep and are there all the same."""
    found: dict[str, list[dict]] = {}
    outside = []
    for job in plan["jobs"]:
        run = done.get((_name(job), job["seed"]))
        if run is None:
            continue
        wanted = {"threads": plan["threads"], **(plan["constants"] or {}), **(job.get("constants") or {})}
        got = {"threads": run.config["identity"].get("threads", plan["threads"]), **run.config["constants"]}
        for name, value in wanted.items():
            if name not in LOOSE and got.get(name) != value:
                found.setdefault(f"{name} {got.get(name)} instead of the planned {value}", []).append(job)
        if plan.ended.get(job["folder"], {}).get("state") == "failed":
            outside.append(job)
    said = [f"Runs made with {what}: {_by_name(jobs)}." for what, jobs in found.items()]
    return said + (
        [f"Runs that failed in the sweep and were made outside of it: {_by_name(outside)}."] if outside else []
    )


def describe_plan(
    plans: list[Plan], runs: list[FinishedRun], names: list[str], margin: float, added: list[FinishedRun] = ()
) -> dict | None:
    """What the report says of the last plan, and of those before it; None where there is none.

    Args:
        names: what is compared and exploratory.
        added: runs that `planned_only` left out.
    """
    if not plans:
        return None
    plan, said, unknown = plans[-1], [], []
    for one in plans:
        found = deviations(one, runs, margin, added)
        said, unknown = said + found[0], unknown + found[1]
    keys = (
        "name",
        "title",
        "stored",
        "sha256",
        "text",
        "git_commit",
        "outcome",
        "margin",
        "family",
        "checks",
        "extends",
    )
    others = [one["name"] for one in plans[:-1]]
    if names:
        said.append(f"Not in any plan, and so exploratory: {', '.join(dict.fromkeys(names))}.")
    said = list(dict.fromkeys(said))
    found = {"earlier": others, "as_planned": not said, "deviations": said, "not_recorded": unknown}
    return {key: plan[key] for key in keys} | found
