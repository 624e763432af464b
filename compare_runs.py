"""What finished runs say: each experiment against the baseline, paired by seed, with a verdict.

    python compare_runs.py
    python compare_runs.py runs/px32                 # another run directory, an experiment's folder, single runs
    python compare_runs.py --details                 # every run, every test, and why the verdict is what it is
    python compare_runs.py --against "cifar100_hybrid_qhead control=fourier"   # instead of the baseline

Writes report/ into the run directory: index.html (one page, needs no network), summary.json, summary.csv, summary.tex
and figures/. docs/statistics.md says how a verdict is made. Exit status: 0 if every comparison of the plan (without
a plan: every comparison) is decided, 3 if some are undecided, 2 for bad input.
"""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from qcifar.comparison.page import write_report
from qcifar.comparison.pairs import Paired, group_runs, pair_groups, with_predictions
from qcifar.comparison.plan import describe_plan, planned_only, read_plans
from qcifar.comparison.runs import BASELINE, Circuit, FinishedRun, Report, find_runs
from qcifar.comparison.screen import details, notes, table, table_of_runs
from qcifar.comparison.summary import class_rows, comparisons, csv_of, secondary_rows
from qcifar.config import SWITCH, own, real, settings_from_constants, text
from qcifar.data.cifar import load_dataset
from qcifar.errors import InputError, run_script
from qcifar.experiment.code import ROOT
from qcifar.experiment.finished import script_of
from qcifar.experiment.identity import git_commit
from qcifar.files import write_json, write_whole

RUN_DIR = "./runs"  # where the run folders lie, if no folder is given
AGAINST = BASELINE  # what the others are compared with: "experiment" or "experiment variant"
MARGIN = 0.0  # of equivalence, percentage points of test top-1; 0 = that of the stored plan, else 0.5
ACROSS_RECIPES = False  # True compares runs of different recipes, too, and marks them
DETAILS = False  # True shows every run and every test
REPORT = True  # False writes nothing
DATA_DIR = "./data"  # holds cifar-100-python/, for the report's pictures

own_rules = {
    "AGAINST": own(BASELINE, text("the name of an experiment, or of an experiment and a variant")),
    "MARGIN": own(0.0, real(0)),
    "ACROSS_RECIPES": own(False, SWITCH),
    "DETAILS": own(False, SWITCH),
    "REPORT": own(True, SWITCH),
}
shown_at_most = 20  # of the runs that are left out
circuits_looked_at = 8  # experiments and variants whose circuits are drawn, if they differ


def main(argv=None) -> int:
    folders = ("folders", "*", "run directories, experiments or runs; none means RUN_DIR")
    cfg = settings_from_constants(globals(), argv, own_rules, (folders,))
    tops = [Path(folder) for folder in cfg.folders or [cfg.run_dir]]
    plans = read_plans(tops)
    margin = cfg.margin or (plans[-1]["margin"] if plans else 0.5)

    runs, left_out = find_runs(tops)
    if not runs:
        say_left_out(left_out)
        where = ", ".join(map(str, tops))
        raise InputError(f"no finished run in {where}: run one of the three scripts, or name another folder")
    runs, added = planned_only(runs, plans)
    runs, damaged = with_predictions(runs)
    pairs, alone = pair_groups(group_runs(runs), cfg.against, cfg.across_recipes)
    left_out += added + damaged + alone
    say_left_out(left_out)
    if cfg.details:
        print(table_of_runs(runs) + "\n")
    if not pairs:
        print(f"nothing to compare: no run of {cfg.against} and of another experiment with the same seed and recipe")
        return 3

    entries = comparisons(pairs, plans, margin)
    names = [pair.group.name for pair in pairs]
    plan = describe_plan(plans, runs, names, margin)
    print(table(entries, pairs))
    for sentence in notes(entries, plan):
        print(sentence)
    if cfg.details:
        print(details(entries))
    if cfg.report:
        summary = {
            "made": made(runs),
            "run_dirs": [str(top) for top in tops],
            "against": cfg.against,
            "across_recipes": cfg.across_recipes,
            "family": "the comparisons of the plan" if plans else f"all {len(entries)} comparisons",
            "plan": plan,
            "comparisons": entries,
            "secondary": secondary_rows(pairs),
            "classes": class_rows(pairs),
            "left_out": left_out,
            "notes": notes(entries, plan),
        }
        folder = (tops[0] if not (tops[0] / "config.json").exists() else Path(cfg.run_dir)) / "report"
        write_all(summary, pairs, folder, test_images(pairs, Path(cfg.data_dir)))
        print(f"report: {folder / 'index.html'}")
    decisive = [entry for entry in entries if not entry["exploratory"]] or entries
    return 3 if any(entry["verdict"] == "undecided" for entry in decisive) else 0


def say_left_out(left_out: list[dict]) -> None:
    for one in left_out[:shown_at_most]:
        print(f"left out: {one['folder']}: {one['reason']}")
    if len(left_out) > shown_at_most:
        print(f"left out: {len(left_out) - shown_at_most} more, see summary.json")


def made(runs: list[FinishedRun]) -> dict:
    """When, from which code and on what the runs were made."""
    return {
        "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": git_commit(),
        "commits_of_runs": sorted({str(run.config.get("git_commit")) for run in runs}),
        "hardware": sorted({str(run.config.get("device")) for run in runs}),
    }


def test_images(pairs: list[Paired], data_dir: Path) -> dict[str, np.ndarray]:
    """{data set: (n, 32, 32, 3) uint8} of the data sets that are at hand; nothing is downloaded."""
    there = {"cifar100": (data_dir / "cifar-100-python" / "test").exists(), "synthetic": True}
    names = {pair.group.first.dataset for pair in pairs}
    return {
        name: load_dataset(name, data_dir).test_images.permute(0, 2, 3, 1).numpy()
        for name in sorted(names)
        if there.get(name)
    }


def drawn_circuits(pairs: list[Paired]) -> tuple[Circuit, ...]:
    """The circuits of the runs as their scripts have them now, unless they were edited since; the first few."""
    # Here, since PennyLane takes seconds to import and a table needs none of it.
    from qcifar.audit.plots import circuit_figure
    from qcifar.audit.source import Sizes, circuits_of, fingerprint_of

    known: dict[tuple[str, Sizes], set[str]] = {}  # where circuits are made: fingerprints of those that ran
    for run in [pair.group.first for pair in pairs][:circuits_looked_at]:
        constants, fingerprints = run.config["constants"], run.config["identity"].get("circuits")
        with contextlib.suppress(InputError):  # no script here opens such runs
            script = ROOT / f"{script_of(run)}.py"
            sizes = Sizes(*(constants.get(name, 0) for name in ("N_QUBITS", "N_LAYERS", "QUANTUM_DEPTH")))
            sizes = replace(sizes, circuits=constants.get("CIRCUITS", "file"))
            for maker in ("make_circuit", "make_circuits") if fingerprints else ():
                known.setdefault((f"{script}:{maker}", sizes), set()).update(fingerprints)
    found: dict[str, Circuit] = {}
    for (target, sizes), fingerprints in known.items():
        with contextlib.suppress(InputError):  # a script has one of the two makers, or neither
            for circuit in circuits_of(target, sizes):
                weights = circuit.weight_shape
                title = f"{circuit.name}, {circuit.n_inputs} qubits" + (f", weights {weights}" if weights else "")
                if title not in found and fingerprint_of(circuit) in fingerprints:
                    found[title] = Circuit(title, circuit_figure(circuit))
    return tuple(found.values())


def write_all(summary: dict, pairs: list[Paired], folder: Path, images: dict[str, np.ndarray]) -> None:
    """summary.json, summary.csv, and the page with its figures and summary.tex."""
    write_json(folder / "summary.json", summary)
    write_whole(folder / "summary.csv", lambda file: file.write(csv_of(summary["comparisons"]).encode()))
    groups = list({id(group): group for pair in pairs for group in (pair.base, pair.group)}.values())
    write_report(Report(summary, tuple(groups), images, drawn_circuits(pairs)), folder)


if __name__ == "__main__":
    run_script(main)
