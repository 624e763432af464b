"""What came out of a plan, small enough to be committed: the report, and what each run said of each test image.

    python sweep.py studies/core.toml
    python studies/publish.py studies/core.toml
    python studies/publish.py studies/published.toml --across-recipes

Runs compare_runs.py on the plan's run directory and writes studies/<name>/: plan.json (as it was stored before the
first run), summary.json, summary.csv, index.html and figures/ (SVG), runs.csv (one line a run), predictions.npz (top-1
and the true class's probability of each run on each image, see qcifar/comparison/packed.py) and, if some of the runs
were tested by evaluate_hardware.py, hardware.csv (one line a run, setting and mitigation). No checkpoints, no logits.
"""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import compare_runs
from qcifar.comparison.packed import write_packed
from qcifar.comparison.pairs import with_predictions
from qcifar.comparison.plan import planned_only, read_plans
from qcifar.comparison.runs import FinishedRun, find_runs
from qcifar.config import SWITCH, Rule, own, settings_from_constants
from qcifar.decided import BASELINE
from qcifar.errors import InputError, run_script
from qcifar.files import make_folder, read_json, write_csv, write_json
from qcifar.sweep.plan import read_plan

RUN_DIR = ""  # where the runs lie; empty: as the plan says
DATA_DIR = "./none"  # holds cifar-100-python/, for pictures of test images in the report; they make it large
ACROSS_RECIPES = False  # True compares runs of different recipes, too, and marks them

own_rules = {
    "RUN_DIR": own("", Rule(str, lambda v: isinstance(v, str), "a folder")),
    "ACROSS_RECIPES": own(False, SWITCH),
}
home = Path(__file__).resolve().parents[1]
of_result = (
    "test_top1", "test_top5", "test_f1", "val_top1", "best_epoch", "epochs", "params_total", "params_quantum", "alpha",
    "train_seconds", "images_per_second",
)  # fmt: skip


def line_of(run: FinishedRun) -> dict:
    """What runs.csv says of a run."""
    line = {"experiment": run.experiment, "variant": run.variant, "seed": run.seed, "recipe": run.recipe}
    line |= {"weights": run.config["identity"].get("WEIGHTS")}  # none, or the hash of the start
    line |= {name: run.result.get(name) for name in of_result}
    line["branch_share"] = run.history[-1].get("branch_share")
    line |= {f"dependence_{name}": value for name, value in (run.result.get("dependence") or {}).items()}
    return line | {name: run.config.get(name) for name in ("git_commit", "device")}


def lines_of_hardware(run: FinishedRun) -> list[dict]:
    """What hardware.csv says of a run; nothing of one that evaluate_hardware.py has not tested."""
    path, lines = run.folder / "hardware" / "results.json", []
    for entry in read_json(path)["entries"] if path.exists() else []:
        for how, scores in [("", entry["scores"]), *entry["mitigated"].items()]:
            line = {"experiment": run.experiment, "variant": run.variant, "seed": run.seed}
            line |= {name: entry[name] for name in ("mode", "setting", "shots", "images")} | {"mitigated": how}
            line |= {"top1": scores["top1"]}
            line |= {name: scores["against_ideal"][name] for name in ("difference", "fixed", "broken")}
            line |= {name: scores[name] for name in ("rms_values", "rms_logits", "rms_logits_ideal")}
            lines.append(line | {name: entry[name] for name in ("commit", "time")})
    return lines


def main(argv=None) -> int:
    cfg = settings_from_constants(
        globals(), argv, own_rules, (("plan", None, "the plan's file, for example studies/core.toml"),)
    )
    plan = read_plan(Path(cfg.plan), home, cfg.run_dir)
    top, folder = plan.run_dir, Path(cfg.plan).with_suffix("")
    if not (top / "plans" / f"{plan.name}.json").exists():
        raise InputError(f"{top} holds no plan {plan.name}: python sweep.py {cfg.plan} makes its runs")
    flags = [str(top), "--against", BASELINE, "--data-dir", cfg.data_dir]
    flags += ["--across-recipes"] if cfg.across_recipes else []
    status = compare_runs.main(flags)
    runs, _ = planned_only(find_runs([top])[0], read_plans([top]))
    runs, _ = with_predictions(runs)
    make_folder(folder / "figures")
    for name in ("summary.json", "summary.csv", "index.html"):
        shutil.copyfile(top / "report" / name, folder / name)
    for path in (folder / "figures").glob("*.svg"):
        path.unlink()  # of an earlier report
    for path in sorted((top / "report" / "figures").glob("*.svg")):
        shutil.copyfile(path, folder / "figures" / path.name)
    write_json(folder / "plan.json", read_json(top / "plans" / f"{plan.name}.json"))
    write_csv(folder / "runs.csv", [line_of(run) for run in runs])
    if hardware := [line for run in runs for line in lines_of_hardware(run)]:
        write_csv(folder / "hardware.csv", hardware)
    write_packed(folder / "predictions.npz", runs)
    print(f"{folder}: {len(runs)} runs, {sum(path.stat().st_size for path in folder.rglob('*.*')) / 1e6:.1f} MB")
    return status


if __name__ == "__main__":
    run_script(main)
