"""What was decided before the first run, as `sweep.py` stored it, and what was done otherwise."""

from dataclasses import dataclass
from pathlib import Path

from qcifar.comparison.runs import FinishedRun
from qcifar.errors import InputError
from qcifar.files import read_json

NEEDED = {
    "name": str, "title": str, "stored": str, "sha256": str, "text": str, "outcome": str, "margin": int | float,
    "family": list, "jobs": list,
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    content: dict  # of plans/<name>.json
    ended: dict  # of plans/<name>.state.json: how each job ended

    def __getitem__(self, name: str):
        return self.content.get(name)

    @property
    def seeds(self) -> dict[str, list[int]]:
        """Planned seeds of each "experiment variant"."""
        found: dict[str, list[int]] = {}
        for job in self.content["jobs"]:
            found.setdefault(f"{job['experiment']} {job['variant']}".strip(), []).append(job["seed"])
        return found

    @property
    def family(self) -> list[str]:
        """Names of the comparisons that are corrected together."""
        return [f"{one['experiment']} {one['variant']}".strip() for one in self.content["family"]]


def read_plans(run_dirs: list[Path]) -> list[Plan]:
    """The plans stored in run directories, in the order in which they were made."""
    plans = []
    for path in sorted(path for top in run_dirs for path in (top / "plans").glob("*.json")):
        if path.name.endswith(".state.json"):
            continue
        content = read_json(path)
        for name, kind in NEEDED.items():
            if not isinstance(content.get(name), kind):
                raise InputError(f"{path}: expected a stored plan with {name}, got {content.get(name)!r}; move it away")
        for part in ("jobs", "family"):
            for one in content[part]:
                if not isinstance(one, dict) or not {"experiment", "variant"} <= one.keys():
                    raise InputError(f"{path}: expected experiment and variant in each of {part}, got {one!r}")
        state = path.with_suffix(".state.json")
        plans.append(Plan(content, read_json(state) if state.exists() else {}))
    return sorted(plans, key=lambda plan: plan["stored"])


def planned_only(runs: list[FinishedRun], plans: list[Plan]) -> tuple[list[FinishedRun], list[dict]]:
    """Without the seeds that were added to a planned experiment: more seeds until a verdict comes would void it."""
    seeds: dict[str, set[int]] = {}
    for plan in plans:
        for name, planned in plan.seeds.items():
            seeds.setdefault(name, set()).update(planned)
    kept, added = [], []
    for run in runs:
        (kept if run.seed in seeds.get(run.name, {run.seed}) else added).append(run)
    reason = "this seed is in no stored plan; a new plan that extends the old one adds seeds"
    return kept, [{"folder": str(run.folder), "reason": reason} for run in added]


def deviations(plan: Plan, runs: list[FinishedRun], margin: float) -> list[str]:
    """What was done otherwise than planned, in sentences.

    Args:
        runs: those that are compared.
        margin: of equivalence, as used, in points.
    """
    done = {(run.name, run.seed) for run in runs}
    said = []
    if margin != plan["margin"]:
        said.append(f"The margin is {margin:g} points instead of the planned {plan['margin']:g}.")
    missing: dict[str, list[str]] = {}
    for job in plan["jobs"]:
        name = f"{job['experiment']} {job['variant']}".strip()
        if (name, job["seed"]) not in done:
            state = plan.ended.get(job.get("folder"), {})
            why = f" ({state['state']}: {state.get('reason', '')})" if state.get("state") == "failed" else ""
            missing.setdefault(name, []).append(f"{job['seed']}{why}")
    said += [f"Missing runs of {name}: seeds {', '.join(seeds)}." for name, seeds in missing.items()]
    if plan["extends"]:
        said.append(f"This plan extends {plan['extends']}, whose runs had been seen when it was made.")
    return said


def describe_plan(plans: list[Plan], runs: list[FinishedRun], names: list[str], margin: float) -> dict | None:
    """What the report says of the last plan, and of those before it; None where there is none."""
    if not plans:
        return None
    plan, said = plans[-1], []
    for one in plans:
        said += deviations(one, runs, margin)
    keys = ("name", "title", "stored", "sha256", "text", "git_commit", "outcome", "margin", "family", "extends")
    others = [one["name"] for one in plans[:-1]]
    planned = {name for one in plans for name in one.seeds}
    if added := [name for name in names if name not in planned]:
        said.append(f"Not in any plan, and so exploratory: {', '.join(added)}.")
    said = list(dict.fromkeys(said))
    return {key: plan[key] for key in keys} | {"earlier": others, "as_planned": not said, "deviations": said}
