"""Does training under noise help under noise? The heads of a study, as evaluate_hardware.py found them, paired by seed.

    python sweep.py studies/noise.toml --keep best
    for run in runs/noise/cifar100_hybrid_qhead/*/seed*; do
        python evaluate_hardware.py $run --noise depolarizing=0.05
    done
    python studies/under_noise.py runs/noise studies/noise/under_noise.json

Compares test top-1 of heads that were trained under a noise with that of heads trained with ideal circuits, all tested
under that noise: the plan's margin, Student's interval over its seeds, a verdict as compare_runs.py makes it
(docs/statistics.md), corrected over all noises. The same with ideal circuits at test time is corrected over everything.
Prints the sentences; the second argument, if given, is a file for all numbers (JSON). Exit status 3: one is undecided.
"""

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qcifar.comparison.plan import Plan, read_plans
from qcifar.comparison.verdict import compare_accuracies, decide
from qcifar.config import canonical_noise, settings_from_constants
from qcifar.errors import InputError, run_script
from qcifar.files import read_json, write_json

own_rules = {}
arguments = (
    ("folder", None, "run directory of the study, for example runs/noise"),
    ("output", "?", "JSON file for all numbers"),
)
Tested = dict[str, float]  # noise -> test top-1 in percent
Heads = dict[str, dict[int, dict[str, Tested]]]  # constants but the noise -> seed -> noise in training


def main(argv=None) -> int:
    cfg = settings_from_constants(globals(), argv, own_rules, arguments)
    plan = plan_of(Path(cfg.folder))
    heads, images = evaluated(Path(cfg.folder), plan)
    entries = verdicts(heads, images, plan["margin"])
    for entry in entries:
        tested = "with ideal circuits" if entry["tested"] == "none" else f"under {entry['tested']}"
        kind = f"{entry['constants']}, " if len(heads) > 1 else ""
        print(
            f"{kind}tested {tested}: trained with ideal circuits {entry['mean_baseline']:.2f} %, under "
            f"{entry['trained']} {entry['mean']:.2f} %; {entry['difference']:+.2f} points, {entry['verdict']}. "
            f"{entry['why']}"
        )
    if cfg.output:
        write_json(Path(cfg.output), {"plan": plan["sha256"], "comparisons": entries})
    return 3 if any(entry["verdict"] == "undecided" for entry in entries) else 0


def plan_of(folder: Path) -> Plan:
    """The one plan that is stored in a run directory."""
    plans = read_plans([folder])
    if len(plans) != 1:
        raise InputError(f"{folder}: expected a run directory with one stored plan, as runs/noise, got {len(plans)}")
    return plans[0]


def evaluated(folder: Path, plan: Plan) -> tuple[Heads, int]:
    """Test top-1 of all the heads that were planned, and on how many images.

    Raises:
        InputError: the plan varies no noise; a head was not evaluated under one of its noises, or on fewer images.
    """
    jobs = [job for job in plan["jobs"] if "QUANTUM_NOISE" in (job.get("constants") or {})]
    noises = {canonical_noise(job["constants"]["QUANTUM_NOISE"]) for job in jobs} | {"none"}
    if len(noises) < 2:
        raise InputError(f"{plan.path}: expected heads with QUANTUM_NOISE none and others, see studies/noise.toml")
    found = {job["folder"]: scores_of(folder / job["folder"]) for job in jobs}
    images = max((number for scores in found.values() for _, number in scores), default=0)
    heads: Heads = defaultdict(lambda: defaultdict(dict))
    for job in jobs:
        missing = sorted(noises - {noise for noise, number in found[job["folder"]] if number == images})
        if missing:
            run = folder / job["folder"]
            asked = next((noise for noise in missing if noise != "none"), missing[0])
            whole = f" on all {images} images" if images else ""
            raise InputError(
                f"{run}: not evaluated under {asked}{whole}; every planned head must be, first "
                f"python evaluate_hardware.py {run} --noise {asked}"
            )
        kind = {name: value for name, value in job["constants"].items() if name != "QUANTUM_NOISE"}
        tested = {noise: found[job["folder"]][noise, images] for noise in noises}
        heads[str(kind)][job["seed"]][canonical_noise(job["constants"]["QUANTUM_NOISE"])] = tested
    return heads, images


def scores_of(run: Path) -> dict[tuple[str, int], float]:
    """(noise, images) -> top-1 in percent, of all that evaluate_hardware.py found exactly; nothing if it never ran."""
    path = run / "hardware" / "results.json"
    entries = read_json(path)["entries"] if path.exists() else []
    scores = {}
    for entry in entries:
        if entry["mode"] in ("ideal", "noise"):
            channels = ",".join(f"{name}={strength}" for name, strength in (entry["channels"] or {}).items())
            scores[canonical_noise(channels or "none"), entry["images"]] = 100 * entry["scores"]["top1"]
    return scores


def verdicts(heads: Heads, images: int, margin: float) -> list[dict]:
    """All entries of `compared` with their verdicts; the family are those tested under the noise of the training."""
    entries = [entry for kind in sorted(heads) for entry in compared(kind, heads[kind], images, margin)]
    return decide(entries, [entry["tested"] == entry["trained"] for entry in entries])


def compared(kind: str, seeds: dict[int, dict[str, Tested]], images: int, margin: float) -> list[dict]:
    """For each noise in training two entries of `qcifar.comparison.verdict`: tested under it, and without."""
    entries = []
    for noise in sorted({trained for one in seeds.values() for trained in one} - {"none"}):
        pairs = {seed: one for seed, one in sorted(seeds.items()) if {noise, "none"} <= one.keys()}
        for tested in (noise, "none"):
            ours, theirs = ([one[trained][tested] for one in pairs.values()] for trained in (noise, "none"))
            entry = compare_accuracies(ours, theirs, list(pairs), images, margin)
            entries.append(entry | {"constants": kind, "trained": noise, "tested": tested})
    return entries


if __name__ == "__main__":
    run_script(main)
