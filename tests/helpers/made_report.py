"""What `compare_runs.py` hands to the page, for made-up runs: numbers of the right shape only."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from qcifar.comparison.outcomes import CLASS_NAMES, SUPERCLASS_NAMES, SUPERCLASS_OF
from qcifar.comparison.runs import BASELINE, Circuit, Group, Report, find_runs
from tests.helpers.made_runs import CHANNELS, HEAD, write_run

MADE = {"time": "2026-01-02T03:04:05+00:00", "commit": "0123abc", "hardware": ["made up, 1 thread"]}
PLAN = {
    "name": "first", "title": "What the branches do", "stored": "2026-01-01T00:00:00+00:00", "sha256": "ab" * 32,
    "as_planned": False, "deviations": ["Seed 5 of the head is missing."], "margin": 0.5, "outcome": "test_top1",
    "text": 'title = "What the branches do"\n',
}  # fmt: skip


def write_runs(run_dir: Path, seeds: int = 6, images: int = 200, epochs: int = 4, variants: int = 1) -> None:
    """A baseline, the channels, and the head in `variants` variants."""
    kinds = [(BASELINE, "", 0.83), (CHANNELS, "", 0.833)]
    kinds += [(HEAD, "" if k == 0 else f"n_layers={k + 2}", 0.828 + 0.001 * k) for k in range(variants)]
    for experiment, variant, top1 in kinds:
        for seed in range(seeds):
            noise = 0.003 * np.sin(7 * seed) + 0.003 * np.sin(5 * seed + len(experiment + variant) + top1 * 999)
            write_run(run_dir, experiment, seed, variant, top1 + noise, images, epochs)


def make_report(run_dir: Path, plan: dict | None = PLAN, **fields) -> Report:
    """The report of the runs below `run_dir`; `fields` are those of `Report`, or change entries of its summary."""
    runs, left_out = find_runs([run_dir])
    keys = dict.fromkeys((run.dataset, run.experiment, run.variant, run.recipe) for run in runs)
    groups = [Group(tuple(r for r in runs if (r.dataset, r.experiment, r.variant, r.recipe) == key)) for key in keys]
    groups.sort(key=lambda group: group.first.experiment != BASELINE)
    baseline = groups[0] if groups and groups[0].first.experiment == BASELINE else None
    others = [group for group in groups if group.first.experiment != BASELINE and baseline]
    summary = {
        "made": MADE, "run_dirs": [str(run_dir)], "against": BASELINE, "across_recipes": False,
        "family": "Holm over all comparisons.", "plan": plan,
        "comparisons": [make_comparison(group, baseline) for group in others],
        "secondary": [row for group in others for row in _secondary(group)],
        "classes": [row for group in others for row in _classes(group, baseline)],
        "left_out": left_out, "notes": [],
    }  # fmt: skip
    summary |= {name: fields.pop(name) for name in list(fields) if name in summary}
    return Report(summary, tuple(groups), run_dir / "data", **fields)


def make_comparison(group: Group, baseline: Group, **changes) -> dict:
    """One entry of summary.json's `comparisons`."""
    mine, theirs = ({run.seed: run for run in one.runs} for one in (group, baseline))
    seeds = sorted(set(mine) & set(theirs))
    differences = np.array([mine[seed].top1 - theirs[seed].top1 for seed in seeds])
    mean, low, high = float(differences.mean()), *_interval(differences)
    several, result = len(seeds) > 1, group.first.result
    p = float(stats.ttest_1samp(differences, 0).pvalue) if several else None
    return {
        "experiment": group.first.experiment, "variant": group.first.variant, "control": group.first.control,
        "baseline": BASELINE, "recipe": group.first.recipe, "dataset": group.first.dataset, "seeds": seeds,
        "n_seeds": len(seeds), "test_images": result["test_images"],
        "mean": float(np.mean([mine[seed].top1 for seed in seeds])),
        "mean_baseline": float(np.mean([theirs[seed].top1 for seed in seeds])), "difference": mean,
        "interval_seeds": [low, high] if several else None,
        "interval_seeds_images": [mean - 1.3 * (mean - low), mean + 1.3 * (high - mean)] if several else None,
        "p_sign_flip": 0.0625 if several else None, "p_t": p, "p_holm": p, "p_equivalence": p, "margin": 0.5,
        "mcnemar": {str(seed): {"fixed": 12, "broken": 9, "p": 0.66} for seed in seeds},
        "detectable": 0.45 if several else None, "rules_out_gain_above": high if several else None,
        "rules_out_loss_above": -low if several else None,
        "verdict": "better" if several and low > 0 else "worse" if several and high < 0 else "undecided",
        "why": f"The mean difference is {mean:+.2f} points over {len(seeds)} seeds."
        if several else "One seed: says nothing about other seeds.",
        "planted": False, "exploratory": False, "alpha_off": False,
    } | changes  # fmt: skip


def _interval(differences: np.ndarray) -> tuple[float, float]:
    if len(differences) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    return float(differences.mean() - half), float(differences.mean() + half)


def _secondary(group: Group) -> list[dict]:
    row = {"experiment": group.first.experiment, "variant": group.first.variant, "p_t": 0.2, "p_holm": 0.6}
    numbers = {"mean": 96.1, "mean_baseline": 96.0, "difference": 0.1, "interval_seeds": [-0.2, 0.4]}
    return [row | numbers | {"outcome": "top5", "unit": "%"}, row | numbers | {"outcome": "nll", "unit": "nats"}]


def _classes(group: Group, baseline: Group) -> list[dict]:
    """Real differences of the two groups' predictions, where there are some."""
    rows = []
    try:
        both = [(m.predictions, t.predictions) for m, t in zip(group.runs, baseline.runs, strict=True)]
    except (ValueError, OSError):
        return rows
    gains = np.stack([m.correct.astype(float) - t.correct for m, t in both])  # (S, I)
    label = both[0][0].label
    for kind, names, of in (("superclass", SUPERCLASS_NAMES, SUPERCLASS_OF[label]), ("class", CLASS_NAMES, label)):
        for k, name in enumerate(names):
            by_seed = 100 * gains[:, of == k].mean(1)
            low, high = _interval(by_seed)
            rows.append({
                "experiment": group.first.experiment, "variant": group.first.variant, "kind": kind, "name": name,
                "difference": float(by_seed.mean()), "interval_seeds": [low, high] if len(both) > 1 else None,
                "p_holm": 0.7,
            })  # fmt: skip
    return rows


def make_circuit() -> Circuit:
    figure = Figure(figsize=(3, 1))
    figure.add_subplot().text(0.1, 0.5, "RX — CNOT", color="black")
    return Circuit("edge circuit of cifar100_quantum_channels, 4 qubits, depth 1", figure)
