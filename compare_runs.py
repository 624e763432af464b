"""One table of all finished runs.

    python compare_runs.py
    python compare_runs.py runs/demo        # or another run directory, an experiment's folder, single runs

Reads result.json in runs/<experiment>/seed<SEED>/ and runs/<experiment>/<variant>/seed<SEED>/; names the runs
that are not finished. A variant says which of an experiment's own constants are not at their standard values.
Accuracies are in percent; runs on the synthetic data set are marked.
"""

from pathlib import Path

from qcifar.config import settings_from_constants
from qcifar.errors import InputError, run_script
from qcifar.files import read_json

RUN_DIR = "./runs"  # where the run folders lie, if no folder is given

# heading, how a result gives the cell
columns = {
    "experiment": lambda r: r["experiment"],
    "variant": lambda r: r["variant"],
    "seed": lambda r: f"{r['seed']}",
    "epochs": lambda r: f"{r['epochs']}",
    "test top-1": lambda r: f"{100 * r['test_top1']:.2f}",
    "val top-1": lambda r: f"{100 * r['val_top1']:.2f}",
    "alpha": lambda r: "" if r["alpha"] is None else f"{r['alpha']:.3g}",
    "parameters": lambda r: f"{r['params_total']:,}",
    "circuit weights": lambda r: {None: "", 0: "fixed"}.get(r["params_quantum"], f"{r['params_quantum']}"),
    "images/s": lambda r: f"{r['images_per_second']:.0f}",
    "test n": lambda r: f"{r['test_images']:,}",
    "precision": lambda r: r["precision"],
    "px": lambda r: f"{r['img_size']}",
    "train images": lambda r: f"{r['train_images']:,}",
    "start": lambda r: Path(r["weights"]).name,
    "recipe": lambda r: r["recipe"],
    "data": lambda r: "SYNTHETIC" if r["dataset"] == "synthetic" else r["dataset"],
}


def find_runs(tops: list[Path]) -> tuple[list[dict], list[str]]:
    """Results of the finished runs below `tops`, by experiment, variant and seed; a line for each of the others."""
    results, left_out = [], []
    for folder in dict.fromkeys(path for top in tops for path in run_folders(top)):
        if not (folder / "result.json").exists():
            left_out.append(f"not finished: {folder}")
            continue
        try:
            results.append(read_result(folder / "result.json"))
        except InputError as error:
            left_out.append(f"left out: {error}")
    return sorted(results, key=lambda r: (r["dataset"], r["experiment"], r["variant"], r["seed"])), left_out


def run_folders(top: Path) -> list[Path]:
    """The run folders in a run directory, an experiment or a variant, or `top` itself if it is one."""
    if not top.is_dir():
        raise InputError(f"no folder {top}: expected runs of the three scripts; name another, or use --run-dir")
    if (top / "config.json").exists():
        return [top]
    depths = ("seed*", "*/seed*", "*/*/seed*")
    return sorted(path for depth in depths for path in top.glob(depth) if path.is_dir())


def read_result(path: Path) -> dict:
    """A result.json that can fill the table, or an `InputError` that says what it lacks."""
    result = read_json(path)
    try:
        for cell in columns.values():
            cell(result)
        for name, kind in {"dataset": str, "experiment": str, "variant": str, "seed": int}.items():
            if not isinstance(result[name], kind):
                raise TypeError(f"{name} is {result[name]!r}")
        for name in ("test_top1", "val_top1"):
            if not 0 <= result[name] <= 1:  # also NaN
                raise ValueError(f"{name} is {result[name]!r}, expected a number from 0 to 1")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a result of these scripts ({error!r}); move it away") from None
    return result


def table(results: list[dict]) -> str:
    """The results as aligned text, one line each; text columns to the left, numbers to the right."""
    rows = [list(columns)] + [[cell(result) for cell in columns.values()] for result in results]
    widths = [max(len(row[k]) for row in rows) for k in range(len(columns))]
    left = {"experiment", "variant", "start", "data", "precision", "recipe"}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in left else cell.rjust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def main(argv=None):
    folders = ("folders", "*", "run directories, experiments or runs; none means RUN_DIR")
    cfg = settings_from_constants(globals(), argv, arguments=(folders,))
    tops = [Path(folder) for folder in cfg.folders or [cfg.run_dir]]
    results, left_out = find_runs(tops)
    for line in left_out:
        print(line)
    if not results:
        where = ", ".join(map(str, tops))
        raise InputError(f"no finished run in {where}: run one of the three scripts, or name another folder")
    print(table(results))
    for result in results:
        if result.get("branch_on") is False:
            name = " ".join(filter(None, (result["experiment"], result["variant"])))
            print(f"branch off: {name} seed {result['seed']} was tested in phase A, where it is the baseline")
    if len({result["recipe"] for result in results}) > 1:
        print("recipe: runs with another code differ in more than the experiment and the seed; see their config.json")
    if any(result["dataset"] == "synthetic" for result in results):
        print("SYNTHETIC: made from a seed to try the scripts out; says nothing about CIFAR-100")


if __name__ == "__main__":
    run_script(main)
