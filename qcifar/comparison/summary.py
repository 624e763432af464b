"""The content of summary.json and summary.csv, from pairs of runs."""

import csv
import io
from itertools import compress

import numpy as np

from qcifar.comparison.outcomes import CLASS_NAMES, SUPERCLASS_NAMES, SUPERCLASS_OF
from qcifar.comparison.pairs import Paired
from qcifar.comparison.plan import Plan, in_checks, in_family, missing_members, planned_seeds
from qcifar.comparison.runs import DEPENDENCE, Group
from qcifar.comparison.verdict import class_differences, compare, decide, epochs_to, secondary, with_holm
from qcifar.decided import BASELINE

THRESHOLD = 0.9  # of the baseline's best validation top-1, for the epochs to a threshold


def comparisons(pairs: list[Paired], plans: list[Plan], margin: float) -> list[dict]:
    """One decided entry for each pair, as DESIGN.md lists them.

    Args:
        plans: those stored in the run directories; their families are corrected together, all else over everything.
        margin: of equivalence, in points.
    """
    entries = []
    for pair in pairs:
        run, base = pair.group.first, pair.base.first
        planned = planned_seeds(plans, run, base.name)
        entries.append(
            {
                "experiment": run.experiment,
                "variant": run.variant,
                "control": run.control,
                "baseline": base.name,
                "recipe": run.recipe,
                "dataset": run.dataset,
                "planted": "planted" in (run.control, base.control),
                "exploratory": bool(plans) and not planned,
                "planned_seeds": len(planned) or None,
                "twin": bool(planned) and base.name != BASELINE,
                "across_recipes": pair.across,
                "branch_off_seeds": pair.group.branch_off_seeds,
                "branch_off_seeds_baseline": pair.base.branch_off_seeds,
                "dependence": dependence(pair.group),
                **compare(*pair.correct(), pair.group.seeds, margin),
            }
        )
    compared = [(pair.group.first, pair.base.name) for pair in pairs]
    inside = [not plans or in_family(plans, run, against) for run, against in compared]
    checks = [in_checks(plans, run, against) for run, against in compared]
    others = [not check for check in checks]
    missing = {part: len(missing_members(plans, compared, part)) for part in ("family", "checks")}
    questions = iter(decide(list(compress(entries, others)), list(compress(inside, others)), missing["family"]))
    apart = iter(decide(list(compress(entries, checks)), [True] * sum(checks), missing["checks"]))
    decided = [next(apart if check else questions) | {"check": check} for check in checks]
    return [entry | {"why": f"{interim(entry)} {entry['why']}".strip()} for entry in decided]


def interim(entry: dict) -> str:
    """What stands before a verdict that was made before all planned seeds were there: it may yet change."""
    wanted = entry["planned_seeds"]
    return f"Interim: {entry['n_seeds']} of {wanted} planned seeds." if wanted and entry["n_seeds"] < wanted else ""


def dependence(group: Group) -> dict | None:
    """How much the trained networks lean on their quantum part: the means of `dependence` over the runs that have it.

    Returns:
        `seeds`; `top1`, `top1_without`, `top1_shuffled` and `top1_constant` (None if a run is older than it) in
        percent; `fixed` and `broken` images. None without any.
    """
    known = [(run.seed, run.result["dependence"]) for run in group.runs if run.result.get("dependence")]
    if not known:
        return None
    means: dict[str, float | None] = {}
    for name in DEPENDENCE:
        values = [found.get(name) for _, found in known]
        unit = 100 if name.startswith("top1") else 1
        means[name] = None if None in values else unit * float(np.mean(values))
    return {"seeds": [seed for seed, _ in known], **means}


def secondary_rows(pairs: list[Paired]) -> list[dict]:
    """Secondary outcomes of all pairs, corrected together."""
    rows = []
    for pair in pairs:
        best = np.mean([max(row["val_top1"] for row in run.history) for run in pair.base.runs])
        ours, theirs = (
            [
                run.predictions.outcomes
                | {"epochs_to_threshold": epochs_to([row["val_top1"] for row in run.history], THRESHOLD * best)}
                for run in group.runs
            ]
            for group in (pair.group, pair.base)
        )
        rows += [_named(pair) | row for row in secondary(ours, theirs, _identical(pair))]
    return with_holm(rows)


def _identical(pair: Paired) -> bool:
    """Whether both say the same of each image in all seeds, with the same probability."""
    both = [
        (mine.predictions, theirs.predictions) for mine, theirs in zip(pair.group.runs, pair.base.runs, strict=True)
    ]
    return all(
        np.array_equal(mine.predicted, theirs.predicted)
        and np.array_equal(mine.true_probability, theirs.true_probability)
        for mine, theirs in both
    )


def class_rows(pairs: list[Paired]) -> list[dict]:
    """Differences in each class and superclass of CIFAR-100; Holm over the classes of one comparison."""
    rows = []
    for pair in pairs:
        if pair.group.first.dataset != "cifar100":
            continue
        labels, correct = pair.group.first.predictions.label, pair.correct()
        for kind, numbers, names in (
            ("class", labels, CLASS_NAMES),
            ("superclass", SUPERCLASS_OF[labels], SUPERCLASS_NAMES),
        ):
            rows += [_named(pair) | {"kind": kind, **row} for row in class_differences(*correct, numbers, names)]
    return rows


def _named(pair: Paired) -> dict:
    run = pair.group.first
    return {
        "experiment": run.experiment,
        "variant": run.variant,
        "recipe": run.recipe,
        "dataset": run.dataset,
        "baseline": pair.base.name,
    }


def csv_of(entries: list[dict]) -> str:
    """The comparisons as CSV, one line each; what has several values is cut into columns or left to summary.json."""
    lines = []
    for entry in entries:
        line = {}
        for name, value in entry.items():
            if name in ("interval_seeds", "interval_seeds_images"):
                line |= {f"{name}_{end}": value[k] if value else None for k, end in enumerate(("low", "high"))}
            elif name == "seeds":
                line[name] = " ".join(map(str, value))
            elif not isinstance(value, list | dict):
                line[name] = value
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for line in lines for name in line)))
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
