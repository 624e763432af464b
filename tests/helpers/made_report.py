"""What `compare_runs.py` hands to the page, for made-up runs."""

from pathlib import Path

import numpy as np

from qcifar.comparison.pairs import group_runs, pair_groups
from qcifar.comparison.runs import Report, find_runs
from qcifar.comparison.summary import class_rows, comparisons, secondary_rows
from qcifar.decided import BASELINE
from tests.helpers.made_runs import CHANNELS, HEAD, write_run

MADE = {
    "time": "2026-01-02 03:04 UTC", "commit": "0123abc", "commits_of_runs": ["4567def"],
    "hardware": ["made up, 1 thread"],
}  # fmt: skip
PLAN = {
    "name": "first", "title": "What the branches do", "stored": "2026-01-01T00:00:00+00:00", "sha256": "ab" * 32,
    "text": 'title = "What the branches do"\n', "git_commit": "89abcde", "outcome": "test_top1", "margin": 0.5,
    "family": [{"experiment": CHANNELS, "variant": ""}], "extends": None, "earlier": [], "as_planned": False,
    "deviations": ["Seed 5 of the head is missing."],
}  # fmt: skip


def write_runs(run_dir: Path, seeds: int = 6, images: int = 200, epochs: int = 4, variants: int = 1) -> None:
    """A baseline, the channels, and the head in `variants` variants."""
    kinds = [(BASELINE, "", 0.83), (CHANNELS, "", 0.833)]
    kinds += [(HEAD, "" if k == 0 else f"n_layers={k + 2}", 0.828 + 0.001 * k) for k in range(variants)]
    for experiment, variant, top1 in kinds:
        for seed in range(seeds):
            noise = 0.003 * np.sin(7 * seed) + 0.003 * np.sin(5 * seed + len(experiment + variant) + top1 * 999)
            write_run(run_dir, experiment, seed, variant, top1 + noise, images, epochs)


def make_report(run_dir: Path | list[Path], plan: dict | None = PLAN, across_recipes=False, **fields) -> Report:
    """The report of the runs below one folder or several.

    Args:
        fields: those of `Report`, or entries of its summary that are to be different.
    """
    folders = run_dir if isinstance(run_dir, list) else [run_dir]
    runs, left_out = find_runs(folders)
    groups = group_runs(runs)
    pairs, alone = pair_groups(groups, across_recipes=across_recipes)
    summary = {
        "made": MADE, "run_dirs": [str(folder) for folder in folders], "against": BASELINE,
        "across_recipes": across_recipes, "family": "all comparisons", "plan": plan,
        "comparisons": comparisons(pairs, [], 0.5), "secondary": secondary_rows(pairs), "classes": class_rows(pairs),
        "left_out": left_out + alone, "notes": [],
    }  # fmt: skip
    summary |= {name: fields.pop(name) for name in list(fields) if name in summary}
    shown = [group for pair in pairs for group in (pair.base, pair.group)] or groups
    return Report(summary, tuple(shown), **fields)
