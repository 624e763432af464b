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
    added = [run for run in runs if run.name in seeds and run.seed not in seeds[run.name]]
    reason = "this seed is in no stored plan; a new plan that extends the old one adds seeds"
    return [run for run in runs if run not in added], [{"folder": str(r.folder), "reason": reason} for r in added]


def deviations(plan: Plan, runs: list[FinishedRun], names: list[str], margin: float) -> list[str]:
    """What was done otherwise than planned, in sentences.

    Args:
        runs: those that are compared.
        names: of the groups that are compared with the baseline.
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
    added = [name for name in names if name not in plan.seeds]
    if added:
        said.append(f"Added after the plan, and so exploratory: {', '.join(added)}.")
    if plan["extends"]:
        said.append(f"This plan extends {plan['extends']}, whose runs had been seen when it was made.")
    return said
