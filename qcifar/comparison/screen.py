"""What `compare_runs.py` prints: a short table, what must be said beside it, and on request every run and test."""

from collections import Counter
from pathlib import Path

import numpy as np

from qcifar.comparison.pairs import Paired
from qcifar.comparison.runs import FinishedRun, Group
from qcifar.comparison.series import plain
from qcifar.comparison.summary import interim
from qcifar.comparison.words import IN_PHASE_A, circuit_weights, seeds_in_short

WIDTH = 100  # columns
CELLS = "{:>3}  {:>13}  {:>24}  {}"  # n, top-1, difference, verdict
# heading of the table of runs: how a result gives the cell
RUNS = {
    "experiment": lambda r: "PLANTED " * (r["control"] == "planted") + r["experiment"].removeprefix("cifar100_"),
    "variant": lambda r: r["variant"],
    "seed": lambda r: f"{r['seed']}",
    "epochs": lambda r: f"{r['epochs']}",
    "test top-1": lambda r: f"{100 * r['test_top1']:.2f}",
    "val top-1": lambda r: f"{100 * r['val_top1']:.2f}",
    "alpha": lambda r: "" if r["alpha"] is None else f"{r['alpha']:.3g}",
    "parameters": lambda r: f"{r['params_total']:,}",
    "circuit weights": circuit_weights,
    "images/s": lambda r: f"{r['images_per_second']:.0f}",
    "test n": lambda r: f"{r['test_images']:,}",
    "precision": lambda r: r["precision"],
    "px": lambda r: f"{r['img_size']}",
    "train images": lambda r: f"{r['train_images']:,}",
    "start": lambda r: Path(r["weights"]).name,
    "recipe": lambda r: r["recipe"],
    "data": lambda r: "SYNTHETIC" if r["dataset"] == "synthetic" else r["dataset"],
}
TO_THE_LEFT = {"experiment", "variant", "start", "data", "precision", "recipe"}


def table(entries: list[dict], pairs: list[Paired]) -> str:
    """The comparisons in at most 100 columns: what is compared, n, top-1, difference with its interval, verdict."""
    # Pairs may have different seeds in common with one baseline: each set of seeds has its mean, and so its line.
    bases = {(*_recipe_of(pair.base), tuple(pair.base.seeds)): pair.base for pair in pairs}
    sets = Counter(_recipe_of(base) for base in bases.values())
    lines = [("experiment", CELLS.format("n", "test top-1", "difference [95 %, seeds]", "verdict"))]
    for base in bases.values():
        values = [run.top1 for run in base.runs]
        seeds = base.seeds if sets[_recipe_of(base)] > 1 else []
        lines.append((_label(_names(base, seeds)), CELLS.format(len(values), spread(values), "", "").rstrip()))
    both = sorted(zip(entries, pairs, strict=True), key=lambda one: (one[0]["planted"], one[0]["dataset"]))
    for entry, pair in both:
        values = [run.top1 for run in pair.group.runs]
        interval = entry["interval_seeds"]
        between = f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else ""
        shown = CELLS.format(
            entry["n_seeds"], spread(values), f"{entry['difference']:+.2f}{between}", verdict_of(entry)
        )
        lines.append((_label(entry), shown))
    narrow = WIDTH - max(len(cells) for _, cells in lines) - 2
    width = min(narrow, max(len(label) for label, _ in lines))
    # A long name has a line of its own.
    return "\n".join(
        f"{label:<{width}}  {cells}" if len(label) <= width else f"{label}\n{'':<{width}}  {cells}"
        for label, cells in lines
    )


def _recipe_of(group: Group) -> tuple[str, str]:
    return group.first.dataset, group.first.recipe


def _names(group: Group, seeds: list[int]) -> dict:
    run = group.first
    planted = run.control == "planted"
    names = {"experiment": run.experiment, "variant": run.variant, "control": run.control, "dataset": run.dataset}
    names |= {"branch_off_seeds": group.branch_off_seeds}
    return names | {"planted": planted, "only": f"seeds {seeds_in_short(seeds)}" if seeds else ""}


def _label(entry: dict) -> str:
    """Name and marks in at most 100 columns; the variant is cut where it is longer, a mark never."""
    marks = [
        "SYNTHETIC" if entry["dataset"] == "synthetic" else "",
        "PLANTED" if entry["planted"] else "",
        "across recipes" if entry.get("across_recipes") else "",
        "exploratory" if entry.get("exploratory") else "",
        "branch off" if entry["branch_off_seeds"] else "",
        entry.get("only", ""),
    ]
    said = ", ".join(filter(None, marks))
    said = f" ({said})" if said else ""
    return plain(name_of(entry), max(WIDTH - len(said), 20)) + said


def spread(values: list[float]) -> str:
    """`40.12 ± 0.31`: mean and standard deviation over seeds."""
    mean = float(np.mean(values))
    return f"{mean:.2f} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else f"{mean:.2f}"


def notes(entries: list[dict], plan: dict | None) -> list[str]:
    """What must be said beside the table, one sentence a line."""
    said = []
    if plan is not None:
        said.append(
            f"plan {plan['name']} of {plan['stored']}: " + ("as planned" if plan["as_planned"] else "deviations")
        )
        said += [f"  {sentence}" for sentence in (*plan["deviations"], *plan.get("not_recorded", ()))]
    if any(entry["dataset"] == "synthetic" for entry in entries):
        said.append("SYNTHETIC: made from a seed to try the scripts out; says nothing about CIFAR-100")
    if any(entry["planted"] for entry in entries):
        said.append("PLANTED: the class was given away on purpose, to see whether the bench finds it")
    if any(entry["across_recipes"] for entry in entries):
        said.append("across recipes: these differ from the baseline in more than the experiment; --details names it")
    off = _branch_off(entries)
    if off:
        said += [*off, f"  with SCHEDULE shared {IN_PHASE_A}"]
    return said


def _branch_off(entries: list[dict]) -> list[str]:
    """Which runs, also of those that others are compared with, were tested with the branch off."""
    found: dict[str, set[int]] = {}
    for entry in entries:
        for name, seeds in (
            (name_of(entry), entry["branch_off_seeds"]),
            (entry["baseline"].removeprefix("cifar100_"), entry["branch_off_seeds_baseline"]),
        ):
            found.setdefault(name, set()).update(seeds)
    return [
        f"branch off: {name}, seeds {seeds_in_short(list(seeds))}, was tested in phase A"
        for name, seeds in found.items()
        if seeds
    ]


def verdict_of(entry: dict) -> str:
    """The verdict, and whether planned seeds are still missing, so that it may yet change."""
    words = interim(entry).rstrip(".").lower()
    return f"{entry['verdict']} ({words})" if words else entry["verdict"]


def name_of(entry: dict) -> str:
    return f"{entry['experiment'].removeprefix('cifar100_')} {entry['variant']}".strip()


def details(entries: list[dict]) -> str:
    """Every test of every comparison, and why its verdict is what it is."""
    blocks = []
    for entry in sorted(entries, key=lambda one: one["planted"]):
        interval = entry["interval_seeds_images"]
        lines = [
            f"\n{_label(entry)} against {_reference(entry)}: {entry['verdict']}",
            f"  {entry['why']}",
            f"  seeds {', '.join(map(str, entry['seeds']))}; {entry['test_images']:,} test images",
            "  other seeds and other images of the kind: "
            + (f"[{interval[0]:+.2f}, {interval[1]:+.2f}] (95 %)" if interval else "no interval"),
            "  p: "
            + ", ".join(f"{name[2:].replace('_', '-')} {_p(entry[name])}" for name in entry if name[:2] == "p_"),
            f"  could have shown: {_points(entry['detectable'])} (80 % power); margin {_points(entry['margin'])}",
        ]
        if entry["mcnemar"]:
            lines.append(
                "  McNemar, each seed (images fixed, broken, p): "
                + "; ".join(
                    f"{one['seed']}: {one['fixed']}, {one['broken']}, {_p(one['p'])}" for one in entry["mcnemar"]
                )
            )
        if used := entry["dependence"]:
            mean = "" if used["top1_constant"] is None else f", at its mean {used['top1_constant']:.2f}"
            lines += [
                "  dependence on the branch (not what a network trained without it reaches), "
                f"n = {len(used['seeds'])}: top-1 {used['top1']:.2f},",
                f"    without its branch {used['top1_without']:.2f}, with the branch of another image "
                f"{used['top1_shuffled']:.2f}{mean}; {used['fixed']:.1f} images fixed, {used['broken']:.1f} broken",
            ]
        if entry["across_recipes"]:
            lines.append("  recipes differ in " + "; ".join(entry["across_recipes"]))
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def _reference(entry: dict) -> str:
    """What it is compared with, and whether that one's branch is off."""
    return entry["baseline"].removeprefix("cifar100_") + " (branch off)" * bool(entry["branch_off_seeds_baseline"])


def _p(p: float | None) -> str:
    return "none" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _points(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.2f} points"


def table_of_runs(runs: list[FinishedRun]) -> str:
    """One line for each run, planted ones last; text columns to the left, numbers to the right."""
    runs = sorted(runs, key=lambda run: run.control == "planted")
    rows = [list(RUNS)] + [[cell(run.result) for cell in RUNS.values()] for run in runs]
    widths = [max(len(row[k]) for row in rows) for k in range(len(RUNS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in TO_THE_LEFT else cell.rjust(width)
            for name, cell, width in zip(RUNS, row, widths, strict=True)
        ).rstrip()
        for row in rows
    )
