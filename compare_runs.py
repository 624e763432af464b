"""What finished runs say: each experiment against the baseline, paired by seed, with a verdict.

    python compare_runs.py
    python compare_runs.py runs/px32                 # another run directory, an experiment's folder, single runs
    python compare_runs.py --details                 # every run, every test, and why the verdict is what it is
    python compare_runs.py --against "cifar100_hybrid_qhead control=fourier"   # instead of the baseline

Runs in a run directory with a stored plan are compared by themselves, under that plan: name their directory.
Writes report/ into the run directory: index.html (one page, needs no network), summary.json, summary.csv, summary.tex
and figures/; with --against into report_against_<experiment>_<variant>/ instead. docs/statistics.md says how a verdict
is made. Exit status: 0 if every comparison of the plan (without a plan: every comparison) has all its seeds and is
decided, 3 if not (the last line says so), 2 for bad input.
"""

import contextlib
import difflib
import time
from itertools import compress
from pathlib import Path

import numpy as np

from qcifar.comparison.page import write_report
from qcifar.comparison.pairs import Paired, group_runs, pair_groups, with_predictions
from qcifar.comparison.plan import Plan, describe_plan, missing_members, planned_only, read_plans, twins_of
from qcifar.comparison.runs import Circuit, FinishedRun, Group, Report, find_runs, planned_dir
from qcifar.comparison.screen import details, notes, table, table_of_runs
from qcifar.comparison.summary import class_rows, comparisons, csv_of, interim, secondary_rows
from qcifar.config import SWITCH, own, real, settings_from_constants, text
from qcifar.data.cifar import at_hand, load_dataset
from qcifar.decided import BASELINE, EXPERIMENT
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
    runs, left_out = find_runs(tops)
    one_of_each = {run.folder.parent: run.folder for run in runs}.values()
    plans = read_plans([*tops, *filter(None, map(planned_dir, one_of_each))])
    margin = cfg.margin or (plans[-1]["margin"] if plans else 0.5)
    if not runs:
        say_left_out(left_out)
        where = ", ".join(map(str, tops))
        raise InputError(f"no finished run in {where}: run one of the three scripts, or name another folder")
    cfg.against = full_name_of(cfg.against, runs)
    runs, added = planned_only(runs, plans)
    runs, damaged = with_predictions(runs)
    groups = group_runs(runs)
    pairs, alone = pair_groups(groups, cfg.against, cfg.across_recipes)
    twins = twin_pairs(groups, plans, cfg)
    left_out += [{"folder": str(run.folder), "reason": reason} for run, reason in added] + damaged + alone
    say_left_out(left_out)
    if cfg.details:
        print(table_of_runs(runs) + "\n")
    if not pairs:
        print(f"nothing to compare: no run of {cfg.against} and of another experiment with the same seed and recipe")
        print(status_3(["no comparison"]))
        return 3

    entries = comparisons(pairs + twins, plans, margin)
    exploratory = [full_name(entry) for entry in entries if entry["exploratory"]]
    plan = describe_plan(plans, runs, exploratory, margin, [run for run, _ in added])
    for against in dict.fromkeys(entry["baseline"] for entry in entries):
        same = [entry["baseline"] == against for entry in entries]
        print(table(list(compress(entries, same)), list(compress(pairs + twins, same))))
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
            "secondary": secondary_rows(pairs + twins),
            "classes": class_rows(pairs),
            "left_out": left_out,
            "notes": notes(entries, plan),
        }
        folder = (tops[0] if not (tops[0] / "config.json").exists() else Path(cfg.run_dir)) / report_name(cfg.against)
        write_all(summary, pairs + twins, folder, test_images(pairs, Path(cfg.data_dir)))
        print(f"report: {folder / 'index.html'}")
    pending = not_decided(entries, pairs + twins, plans, cfg.against)
    if pending:
        print(status_3(pending))
    return 3 if pending else 0


def status_3(pending: list[str]) -> str:
    """The shell may show the exit status as a failure, so the last line says what it stands for."""
    return f"exit status 3: not everything is decided ({', '.join(pending)}); this is a result, not an error"


def full_name(entry: dict) -> str:
    """Experiment and variant, and what they are compared with where that is not the baseline."""
    name = f"{entry['experiment']} {entry['variant']}".strip()
    return name if entry["baseline"] == BASELINE else f"{name} against {entry['baseline']}"


def report_name(against: str) -> str:
    """Folder of a report; one with another than the baseline shall not replace the one that a plan asks for."""
    return "report" if against == BASELINE else f"report_against_{against.replace(' ', '_')}"


def full_name_of(against: str, runs: list[FinishedRun]) -> str:
    """Experiment and variant of an --against, which may have the experiment's name as plans or the table have it.

    Raises:
        InputError: no run has it; without runs of the baseline there is just no pair.
    """
    names = {run.name: None for run in runs}
    experiment, _, variant = against.partition(" ")
    experiment = EXPERIMENT.get(experiment, experiment)
    known = {run.experiment.removeprefix("cifar100_"): run.experiment for run in runs}
    against = f"{known.get(experiment, experiment)} {variant}".strip()
    if against not in names and against != BASELINE:
        near = difflib.get_close_matches(against, names, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
        raise InputError(f"AGAINST (--against): no finished run of {against!r}; {hint}")
    return against


def twin_pairs(groups: list[Group], plans: list[Plan], cfg) -> list[Paired]:
    """The planned comparisons with another than the baseline; they stand beside those with the baseline."""
    if cfg.against != BASELINE:
        return []
    return [
        pair
        for against, some in twins_of(groups, plans).items()
        for pair in pair_groups(some, against, cfg.across_recipes)[0]
    ]


def not_decided(entries: list[dict], pairs: list[Paired], plans: list[Plan], against: str) -> list[str]:
    """How many comparisons of the plans are not decided, by why; without a plan, of all comparisons. Empty: none.

    A comparison that lacks seeds is not decided, whatever its verdict: who stops when it pleases is wrong too often.
    """
    compared = [(pair.group.first, pair.base.name) for pair in pairs]
    every = [one for part in ("family", "checks") for one in missing_members(plans, compared, part)]
    missing = [one for one in every if against in (BASELINE, one[1])]
    decisive = [entry for entry in entries if not entry["exploratory"]] or entries
    early = [entry for entry in decisive if interim(entry)]
    undecided = [entry for entry in decisive if entry["verdict"] == "undecided" and entry not in early]
    numbers = {"undecided": len(undecided), "interim": len(early), "planned without any run": len(missing)}
    return [f"{number} {what}" for what, number in numbers.items() if number]


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
    names = {pair.group.first.dataset for pair in pairs}
    return {
        name: load_dataset(name, data_dir).test_images.permute(0, 2, 3, 1).numpy()
        for name in sorted(names)
        if at_hand(name, data_dir)
    }


def drawn_circuits(pairs: list[Paired]) -> tuple[Circuit, ...]:
    """The circuits of the runs as their scripts have them now, unless they were edited since; the first few."""
    # Here, since PennyLane takes seconds to import and a table needs none of it.
    from qcifar.audit.plots import circuit_figure
    from qcifar.audit.source import Sizes, circuits_that_ran

    known: dict[tuple[Path, Sizes, str | None], set[str]] = {}  # how circuits are made: fingerprints of those that ran
    for run in [pair.group.first for pair in pairs][:circuits_looked_at]:
        if fingerprints := run.config["identity"].get("circuits"):
            with contextlib.suppress(InputError):  # no script here opens such runs
                made = ROOT / f"{script_of(run)}.py", Sizes.of_run(run.config["constants"]), run.control
                known.setdefault(made, set()).update(fingerprints)
    found: dict[str, Circuit] = {}
    for (script, sizes, control), fingerprints in known.items():
        with contextlib.suppress(InputError):  # it makes none of these sizes now
            for circuit in circuits_that_ran(script, sizes, fingerprints, control):
                weights = circuit.weight_shape
                title = f"{circuit.name}, {circuit.n_inputs} qubits" + (f", weights {weights}" if weights else "")
                if title not in found:
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
