"""From paired runs to an entry of summary.json's `comparisons`, with its verdict and the sentence that says why.

docs/statistics.md states the rule. Results that do not exist are None; all values can be written as JSON.
"""

from collections.abc import Sequence

import numpy as np

from qcifar.comparison.outcomes import by_class
from qcifar.comparison.statistics import (
    crossed_interval,
    detectable,
    equivalence,
    holm,
    mcnemar,
    no_spread,
    not_below,
    same_spread,
    sign_flip,
    t_columns,
    t_interval,
    t_test,
)

LEVEL = 0.05
POPULATION = "other seeds on these test images"
FEWEST_FOR_SIGN_FLIP = 6  # 2/2^6 = 0.031
# secondary outcome: (unit, by what the outcome of a run is multiplied)
SECONDARY = {
    "top5": ("points", 100),
    "f1": ("points", 100),
    "nll": ("nats", 1),
    "brier": ("", 1),
    "ece": ("points", 100),
    "epochs_to_threshold": ("epochs", 1),
}


def compare(correct: np.ndarray, correct_baseline: np.ndarray, seeds: Sequence[int], margin: float) -> dict:
    """The numbers of one comparison; `decide` adds what depends on the others.

    Args:
        correct, correct_baseline: (S, I) bool, whether each run has each test image right; rows are paired by seed.
        seeds: (S,) in the order of the rows.
        margin: points, positive, decided beforehand.

    Returns:
        The keys of DESIGN.md from `seeds` to `rules_out_loss_above`, less `p_holm` and `detectable`; and
        `differences`, one for each seed, in points, and `identical`, whether all answers are right in the same images.
    """
    correct, correct_baseline = np.asarray(correct, bool), np.asarray(correct_baseline, bool)
    if correct.shape != correct_baseline.shape or correct.ndim != 2 or len(seeds) != len(correct):
        raise ValueError(f"expected (seeds, images) twice, got {correct.shape}, {correct_baseline.shape}, {len(seeds)}")
    images = correct.shape[1]
    entry = compare_accuracies(100 * correct.mean(1), 100 * correct_baseline.mean(1), seeds, images, margin)
    crossed = crossed_interval(correct.astype(np.int8) - correct_baseline)
    pairs = [mcnemar(run, baseline) for run, baseline in zip(correct, correct_baseline, strict=True)]
    entry |= {
        "interval_seeds_images": list(crossed) if crossed else None,
        "mcnemar": [{"seed": int(seed), **pair._asdict()} for seed, pair in zip(seeds, pairs, strict=True)],
        "identical": bool((correct == correct_baseline).all()),
    }
    if not any(entry["differences"]) and not entry["identical"]:  # equal by chance: their spread is unknown, not zero
        by_spread = ("interval_seeds", "p_t", "p_equivalence", "rules_out_gain_above", "rules_out_loss_above")
        entry |= dict.fromkeys(by_spread)
    return entry


def compare_accuracies(
    accuracies: np.ndarray, baseline: np.ndarray, seeds: Sequence[int], images: int, margin: float
) -> dict:
    """`compare` for runs without predictions: (S,) accuracies in percent, on `images` test images."""
    accuracies, baseline = np.asarray(accuracies, np.float64), np.asarray(baseline, np.float64)
    differences = accuracies - baseline
    if no_spread(differences) and abs(differences).max() <= 1e-9:
        differences = np.zeros_like(differences)
    interval = t_interval(differences)
    return {
        "seeds": [int(seed) for seed in seeds],
        "n_seeds": len(seeds),
        "test_images": int(images),
        "mean": float(accuracies.mean()),
        "mean_baseline": float(baseline.mean()),
        "difference": float(differences.mean()),
        "differences": differences.tolist(),
        "interval_seeds": list(interval) if interval else None,
        "interval_seeds_images": None,
        "p_sign_flip": sign_flip(differences),
        "p_t": t_test(differences),
        "p_equivalence": equivalence(differences, margin),
        "margin": float(margin),
        "mcnemar": None,
        "rules_out_gain_above": max(interval.high, 0.0) if interval else None,
        "rules_out_loss_above": max(-interval.low, 0.0) if interval else None,
        "identical": bool((differences == 0).all()),
    }


def decide(entries: Sequence[dict], family: Sequence[bool], missing: int = 0) -> list[dict]:
    """The entries with `p_holm`, `detectable`, `verdict` and `why`.

    Args:
        entries: from `compare`.
        family: whether each belongs to the family decided beforehand, over which Holm corrects. What was added
            afterwards is corrected over all entries, the family among them.
        missing: comparisons of the family that have no run at all; they count in it.
    """
    p = [entry["p_t"] for entry in entries]
    inside = [value for value, belongs in zip(p, family, strict=True) if belongs] + [None] * missing
    corrected, corrected_all = iter(holm(inside)), holm(p + [None] * missing)
    decided = []
    for entry, belongs, of_all in zip(entries, family, corrected_all, strict=False):
        size = len(inside) if belongs else len(p) + missing
        new = entry | {
            "p_holm": next(corrected) if belongs else of_all,
            "detectable": detectable(entry["differences"], LEVEL / size),
        }
        decided.append(new | {"verdict": _verdict(new), "why": _why(new, size)})
    return decided


def _verdict(entry: dict) -> str:
    if entry["interval_seeds"] is None:  # one seed, or no spread
        return "undecided"
    if entry["p_holm"] < LEVEL:
        return "better" if entry["difference"] > 0 else "worse"
    if entry["p_equivalence"] < LEVEL:
        return "equivalent"
    return "not worse" if not_below(entry["differences"], entry["margin"]) < LEVEL else "undecided"


def _why(entry: dict, comparisons: int) -> str:
    """One to four short sentences in numbers."""
    n, margin, interval = entry["n_seeds"], entry["margin"], entry["interval_seeds"]
    if n == 1:
        return "One seed: says nothing about other seeds."
    if entry["identical"]:
        what = "right and wrong on the same images" if entry["mcnemar"] else "the same accuracy"
        return f"Identical: {what} in all {n} seeds."
    if interval is None:
        return f"The difference is {_signed(entry['difference'])} in each of {n} seeds: no spread to judge it by."
    verdict, shown = _verdict(entry), _p(entry["p_holm"])
    if comparisons > 1:
        alone = f"{_p(entry['p_t'])} alone, " if entry["p_t"] < LEVEL <= entry["p_holm"] else ""
        shown = f"{alone}{shown} after Holm over {comparisons}"
    whom = f"{_brackets(interval)} for {POPULATION}"
    gain, loss = entry["rules_out_gain_above"], entry["rules_out_loss_above"]
    ruled_out = f"Rules out {_above('gain', gain)} and {_above('loss', loss)}"
    could = f"{n} seeds could have shown a difference of {_short(entry['detectable'])}."
    if verdict in ("better", "worse"):
        said = [
            f"{verdict.capitalize()}{_size(entry, verdict)}: {_signed(entry['difference'])} points, {whom}, {shown}."
        ]
        said += _reservations(entry)
    elif verdict == "equivalent":
        once = _brackets(t_interval(entry["differences"], 1 - 2 * LEVEL))
        said = [f"Within ±{margin:g} points for {POPULATION}: 90 % interval {once}, {_p(entry['p_equivalence'])}."]
        said += [f"{ruled_out} (95 %)."]
    elif verdict == "not worse":
        bound = t_interval(entry["differences"], 1 - 2 * LEVEL).low
        said = [f"Not worse by {margin:g} points for {POPULATION}: one-sided 95 % bound {_signed(bound)}."]
        said += [f"Not shown to be better ({shown}) nor equivalent; {could}"]
    else:
        said = [f"{whom}, {shown}. {ruled_out}; {could}"]
    if n < FEWEST_FOR_SIGN_FLIP:
        said.append(f"{n} seeds cannot reach p < 0.05 by the sign-flip test.")
    return " ".join(said)


def _size(entry: dict, verdict: str) -> str:
    """What a significant difference is beside the margin."""
    margin = f"the margin of {entry['margin']:g} points"
    if entry["p_equivalence"] < LEVEL:
        return f", but by less than {margin}"
    low, high = entry["interval_seeds"]
    surely = low if verdict == "better" else -high
    return f", by more than {margin}" if surely > entry["margin"] else ""


def _reservations(entry: dict) -> list[str]:
    """What a sceptic would add to a significant difference."""
    said, both = [], entry["interval_seeds_images"]
    if both and both[0] <= 0 <= both[1]:
        said.append(f"Not shown for other images: {_brackets(both)} for other seeds and other images.")
    if entry["n_seeds"] >= FEWEST_FOR_SIGN_FLIP and entry["p_sign_flip"] >= LEVEL:
        said.append(f"The sign-flip test does not confirm it ({_p(entry['p_sign_flip'])}).")
    return said


def _above(what: str, points: float) -> str:
    return f"a {what} above {points:.2f} points" if points >= 0.005 else f"any {what}"


def _brackets(interval) -> str:
    return "[" + ", ".join(_signed(end) for end in interval) + "]"


def _signed(points: float) -> str:
    return f"{points:+.2f}" if abs(points) >= 0.005 else "0.00"


def _short(points: float) -> str:
    """Two decimals; of large numbers none."""
    return f"{points:.2f}" if points < 100 else f"{points:.0f}"


def _p(p: float) -> str:
    if p < 0.001:
        return "p < 0.001"
    return f"p {p:.3f}" if p < 0.1 else f"p {p:.2f}"


def secondary(outcomes: Sequence[dict], baseline: Sequence[dict], identical: bool) -> list[dict]:
    """Rows of the secondary outcomes of one comparison, and of the spread of top-1 over seeds.

    Args:
        outcomes, baseline: of each run, paired by seed: "top1" and any of `SECONDARY`, as `outcomes_of` gives them;
            "epochs_to_threshold" from `epochs_to`. One that a run lacks, or that is None there, is compared in no seed.
        identical: whether the runs give the same answers in all seeds. If not, outcomes that are equal in all seeds
            are so by chance, and have no interval and no p.

    Returns:
        `outcome`, `unit`, `mean`, `mean_baseline`, `difference`, `interval_seeds`, `p_t` of each, for `with_holm`. Of
        the spread, mean is the standard deviation of top-1 and p is that of Pitman and Morgan.
    """
    rows = []
    for name, (unit, factor) in SECONDARY.items():
        pairs = [(run.get(name), other.get(name)) for run, other in zip(outcomes, baseline, strict=True)]
        row = dict.fromkeys(("mean", "mean_baseline", "difference", "interval_seeds", "p_t"))
        if not any(None in pair for pair in pairs):
            values, others = factor * np.array(pairs, np.float64).T
            interval = t_interval(values - others, identical=identical)
            row |= {"mean": float(values.mean()), "mean_baseline": float(others.mean()),
                    "difference": float((values - others).mean()), "p_t": t_test(values - others, identical),
                    "interval_seeds": list(interval) if interval else None}  # fmt: skip
        rows.append({"outcome": name, "unit": unit, **row})
    top1, other = (100 * np.array([run["top1"] for run in runs]) for runs in (outcomes, baseline))
    row = dict.fromkeys(("mean", "mean_baseline", "difference", "interval_seeds", "p_t"))
    if len(top1) > 1:
        mean, mean_baseline = float(top1.std(ddof=1)), float(other.std(ddof=1))
        row |= {"mean": mean, "mean_baseline": mean_baseline, "difference": mean - mean_baseline}
        row["p_t"] = same_spread(top1, other)
    return [*rows, {"outcome": "spread", "unit": "points", **row}]


def with_holm(rows: Sequence[dict]) -> list[dict]:
    """The rows with `p_holm`: Holm over all of them, the family of the secondary outcomes of all comparisons."""
    corrected = holm([row["p_t"] for row in rows])
    return [row | {"p_holm": p} for row, p in zip(rows, corrected, strict=True)]


def epochs_to(curve: Sequence[float], threshold: float) -> int | None:
    """The first epoch (from 1) at which a learning curve reaches `threshold`; None where it never does."""
    reached = np.flatnonzero(np.asarray(curve, np.float64) >= threshold)
    return int(reached[0]) + 1 if len(reached) else None


def class_differences(
    correct: np.ndarray, correct_baseline: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> list[dict]:
    """Differences of accuracy in each class, Holm over the classes.

    Args:
        correct, correct_baseline: (S, I) bool, as in `compare`.
        labels: (I,) class, or superclass, of each image.
        names: of the classes.

    Returns:
        `name`, `difference` (points), `interval_seeds` (other seeds, these images), `p_t` and `p_holm` for each;
        None in a class without images, and where the seeds have no spread, unless all its answers are identical.
    """
    change = np.asarray(correct, np.int8) - np.asarray(correct_baseline, np.int8)  # (S, I)
    differences = 100 * by_class(change, labels, len(names))  # (S, C)
    there = ~np.isnan(differences[0])
    low, high, p = np.full((3, len(names)), np.nan)
    identical = by_class(change != 0, labels, len(names)).max(0)[there] == 0
    low[there], high[there], p[there] = t_columns(differences[:, there], identical=identical)
    rows = []
    for k, name in enumerate(names):
        known = not np.isnan(low[k])
        rows.append(
            {
                "name": name,
                "difference": float(differences[:, k].mean()) if there[k] else None,
                "interval_seeds": [float(low[k]), float(high[k])] if known else None,
                "p_t": float(p[k]) if known else None,
            }
        )
    return with_holm(rows)
