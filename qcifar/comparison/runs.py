"""Finished runs as the comparison needs them: read, checked, and left out by name where they are not whole."""

import csv
import functools
import hashlib
import math
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qcifar.comparison.outcomes import outcomes_of
from qcifar.errors import InputError, count
from qcifar.files import read_json, read_npz
from qcifar.results import TEST_AGAIN, read_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEPENDENCE = {  # largest value
    "top1": 1, "top1_without": 1, "top1_shuffled": 1, "top1_constant": 1, "fixed": math.inf, "broken": math.inf,
}  # fmt: skip
LATER = ("top1_constant",)  # older runs lack it
OFF_ON_PURPOSE = ("off", "jitter")  # controls that test the branch off
UNREPEATED = ("train_seconds", "images_per_second", "peak_host_mb", "peak_device_mb")  # differ when a run is repeated
KINDS = {str: "a text", dict: "an object", list: "a list"}
_copies: dict[tuple[str, bytes], np.ndarray] = {}


@dataclass(frozen=True)
class Predictions:
    """What one run says of each test image; the logits themselves are not kept."""

    index: np.ndarray  # (I,) place of each image in the published file
    label: np.ndarray  # (I,)
    predicted: np.ndarray  # (I,) the class with the largest logit
    true_probability: np.ndarray  # (I,) float32: softmax probability of the true class
    outcomes: dict[str, float]  # of the run on these images, see `qcifar.comparison.outcomes`

    @property
    def correct(self) -> np.ndarray:
        """(I,) bool."""
        return self.predicted == self.label

    def of_the_same_images(self, other: "Predictions") -> bool:
        """Whether both are of the same images in the same order."""
        return np.array_equal(self.index, other.index) and np.array_equal(self.label, other.label)


@dataclass(frozen=True)
class FinishedRun:
    folder: Path
    result: dict  # result.json
    config: dict  # config.json

    @property
    def experiment(self) -> str:
        return self.result["experiment"]

    @property
    def variant(self) -> str:
        return self.result["variant"]

    @property
    def name(self) -> str:
        """Experiment and variant."""
        return f"{self.experiment} {self.variant}".strip()

    @property
    def control(self) -> str | None:
        return self.result["control"]

    @property
    def seed(self) -> int:
        return self.result["seed"]

    @property
    def recipe(self) -> str:
        return self.result["recipe"]

    @property
    def dataset(self) -> str:
        return self.result["dataset"]

    @property
    def top1(self) -> float:
        """Test top-1, percent."""
        return 100 * self.result["test_top1"]

    @functools.cached_property
    def run_dirs(self) -> frozenset[str]:
        """Where it lies, see `run_dirs_of`; all links followed."""
        return frozenset(os.path.realpath(path) for path in run_dirs_of(self.folder))

    @functools.cached_property
    def history(self) -> list[dict]:
        """Rows of metrics.csv; numbers where a cell is one."""
        return read_metrics(self.folder / "metrics.csv")

    @functools.cached_property
    def predictions(self) -> Predictions:
        return read_predictions(self.folder / "predictions.npz", self.result)


def find_runs(folders: list[Path]) -> tuple[list[FinishedRun], list[dict]]:
    """The finished runs in `folders` and below.

    Args:
        folders: run directories, experiments, variants or single runs. Of the run directories inside, those that have
            a plan are left out, and all of them where the folder has runs of its own.

    Returns:
        The runs by experiment, variant and seed; and {"folder", "reason"} for each that is left out.

    Raises:
        InputError: one of `folders` does not exist.
    """
    found, left_out, apart = [], [], Counter()
    asked = {path for top in folders for one in _both(top) for path in (one, *one.parents)}
    inside: dict[Path, Path | None] = {}  # folder of an experiment or a variant -> what `_apart` says of its runs
    paths = dict.fromkeys(path for top in folders for path in _run_folders(top))
    finished = [path for path in paths if (path / "result.json").exists()]
    filled = {one for path in finished for one in run_dirs_of(path)} & asked  # with finished runs, of those asked for
    for folder in paths:
        if folder.parent not in inside:
            inside[folder.parent] = _apart(folder, asked, filled)
        if its := inside[folder.parent]:
            apart[its] += 1
            continue
        try:
            found.append(read_run(folder))
        except InputError as error:
            left_out.append({"folder": str(folder), "reason": str(error)})
    for its, number in apart.items():
        whose = "with a plan of their own" if any((its / "plans").glob("*.json")) else "of another run directory"
        reason = f"{count(number, 'run')} {whose}: python compare_runs.py {its} compares them"
        left_out.append({"folder": str(its), "reason": reason})
    kept, doubles = _without_doubles(found)
    return sorted(kept, key=lambda run: (run.dataset, run.experiment, run.variant, run.seed)), left_out + doubles


def _run_folders(top: Path) -> list[Path]:
    if not top.is_dir():
        raise InputError(f"no folder {top}: expected runs of the three scripts; name their folder, or use --run-dir")
    if (top / "config.json").exists():
        return [top]
    depths = [f"{'*/' * depth}seed*" for depth in range(4)]  # of an experiment, ..., a folder of run directories
    return sorted(path for depth in depths for path in top.glob(depth) if path.is_dir())


def _both(path: Path) -> tuple[Path, Path]:
    """Where it lies as it is named, and where with all links followed."""
    return Path(os.path.abspath(path)), Path(os.path.realpath(path))


def run_dirs_of(folder: Path) -> tuple[Path, ...]:
    """The run directory of a run's folder, <experiment>/[<name=value variant>/]seed<k>; two, if a link leads there."""
    found = (one.parents[2 if "=" in one.parent.name else 1] for one in _both(folder) if len(one.parents) > 2)
    return tuple(dict.fromkeys(found))


def planned_dir(folder: Path) -> Path | None:
    """The run directory of a run's folder if plans are stored there, absolute."""
    return next((path for path in run_dirs_of(folder) if any((path / "plans").glob("*.json"))), None)


def _apart(folder: Path, asked: set[Path], filled: set[Path]) -> Path | None:
    """The run directory of a run that was found on the way down, if its runs are to be compared by themselves.

    They are if it has plans: what was decided for one run directory says nothing of all that lies around it. And they
    are if it lies in another run directory that was asked for and has runs of its own.

    Args:
        asked: the folders that are compared, and all that they lie in.
        filled: those of them that are run directories with finished runs.
    """
    its = planned_dir(folder)
    if its is None and any(set(one.parents) & filled for one in run_dirs_of(folder)):
        its = run_dirs_of(folder)[0]
    if its is None or its in asked or Path(os.path.realpath(its)) in asked:
        return None
    return next((path for path in folder.parents if os.path.abspath(path) == str(its)), its)


def read_run(folder: Path) -> FinishedRun:
    """One finished run, or an `InputError` that says what is not whole about it."""
    if not (folder / "result.json").exists():
        raise InputError("not finished")
    result, config = read_result(folder / "result.json"), read_json(folder / "config.json")
    for name, kind in {"identity": dict, "constants": dict, "own": list, "recipe": str}.items():
        if not isinstance(config.get(name), kind):
            raise InputError(f"config.json: expected {KINDS[kind]} for {name}, got {config.get(name)!r}; run it again")
    for name in ("experiment", "variant", "recipe"):
        if config.get(name) != result[name]:
            raise InputError(f"{name} is {result[name]!r} in result.json and {config.get(name)!r} in config.json")
    _refuse_no_dependence(result.get("dependence"))
    return FinishedRun(folder, result, config)


def _refuse_no_dependence(found) -> None:
    """Raise `InputError` unless `found` is None, or what `qcifar.quantum.dependence.scores_of` gives."""
    numbers = dict.fromkeys(LATER, 0) | found if isinstance(found, dict) else {}
    whole = all(
        type(value := numbers.get(name)) in (int, float) and 0 <= value <= high and math.isfinite(value)
        for name, high in DEPENDENCE.items()
    )
    if found is not None and not whole:
        expected = f"null or numbers {', '.join(name for name in DEPENDENCE if name not in LATER)}"
        raise InputError(f"result.json: expected {expected} for dependence, got {found!r}; run it again")


def _without_doubles(runs: list[FinishedRun]) -> tuple[list[FinishedRun], list[dict]]:
    """One run for each experiment, variant, recipe and seed; if two of them differ, both are left out."""
    groups: dict[tuple, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault((run.dataset, run.recipe, run.experiment, run.variant, run.seed), []).append(run)
    kept, left_out = [], []
    for first, *others in groups.values():
        alike = all(_numbers_of(other) == _numbers_of(first) for other in others)
        if alike:
            kept.append(first)
        for run in others if alike else [first, *others] if others else []:
            reason = f"the same run as {first.folder}" if alike else _how_it_differs(run, [first, *others])
            left_out.append({"folder": str(run.folder), "reason": reason})
    return kept, left_out


def _how_it_differs(run: FinishedRun, namesakes: list[FinishedRun]) -> str:
    ours = _numbers_of(run)
    twin = next(other for other in namesakes if _numbers_of(other) != ours)
    theirs = _numbers_of(twin)
    what = next(name for name in [*ours, *theirs] if ours.get(name, KINDS) != theirs.get(name, KINDS))
    return (
        f"{what} is {ours.get(what)} here and {theirs.get(what)} in {twin.folder}, which has the same experiment, "
        f"variant, recipe and seed; name the run directory that is meant"
    )


def _numbers_of(run: FinishedRun) -> dict:
    """Entries of result.json that come back when a run is repeated."""
    return {name: value for name, value in run.result.items() if name not in UNREPEATED}


def read_metrics(path: Path) -> list[dict]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [{name: _number(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error, AttributeError, TypeError) as error:
        raise InputError(f"cannot read {path} ({error})") from None
    if not rows or "epoch" not in rows[0]:
        raise InputError(f"{path}: expected one row for each epoch, got none")
    for k, row in enumerate(rows, 1):
        for name, high in (("epoch", math.inf), ("val_top1", 1)):
            value = row.get(name)
            if not isinstance(value, float) or not math.isfinite(value) or not 0 <= value <= high:
                to = f" to {high}" if high < math.inf else ""
                raise InputError(f"{path}, row {k}: expected a number from 0{to} for {name}, got {value!r}")
    return rows


def _number(cell: str):
    try:
        return float(cell)
    except (TypeError, ValueError):
        return cell


def read_predictions(path: Path, result: dict) -> Predictions:
    """predictions.npz, or an `InputError` where it is not what result.json was made from."""
    remedy = f"move it and {path.with_name('result.json')} away; {TEST_AGAIN}"
    file = read_npz(path, ("index", "label", "logits"), remedy)
    index, label, logits = file["index"], file["label"], file["logits"]
    whole = logits.ndim == 2 and len(logits) > 0 and index.shape == label.shape == logits.shape[:1]
    if not whole or index.dtype.kind != "i" or label.dtype.kind != "i" or logits.dtype.kind != "f":
        shapes = f"index {index.shape} {index.dtype}, label {label.shape} {label.dtype}, logits {logits.shape}"
        raise InputError(f"{path}: expected n whole numbers index and label, and logits (n, classes), got {shapes}")
    if not np.isfinite(logits).all() or label.min() < 0 or label.max() >= logits.shape[1]:
        raise InputError(f"{path}: expected finite logits, and labels from 0 to {logits.shape[1] - 1}")
    if len(index) != result["test_images"]:
        raise InputError(f"{path}: {len(index)} images, result.json says {result['test_images']}")
    predicted = logits.argmax(1).astype(np.int16)
    top1 = (predicted == label).mean()
    if abs(top1 - result["test_top1"]) > 1e-6:
        raise InputError(f"{path}: {top1:.4%} of these are right, result.json says {result['test_top1']:.4%}")
    shifted = logits - logits.max(1, keepdims=True)
    true = np.take_along_axis(shifted, label[:, None], 1)[:, 0]
    true_probability = np.exp(true - np.log(np.exp(shifted).sum(1)))
    outcomes = outcomes_of(logits, label)
    return Predictions(_one_copy(index), _one_copy(label), predicted, true_probability, outcomes)


def _one_copy(array: np.ndarray) -> np.ndarray:
    """Runs on the same images share one array of them: thousands of runs fit into memory."""
    return _copies.setdefault((array.dtype.str, hashlib.sha256(array.tobytes()).digest()), array)


@dataclass(frozen=True)
class Group:
    """Runs of one experiment, variant, recipe and data set, one for each seed."""

    runs: tuple[FinishedRun, ...]  # by seed; at least one

    @property
    def name(self) -> str:
        """Experiment and variant."""
        return self.runs[0].name

    @property
    def first(self) -> FinishedRun:
        return self.runs[0]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def branch_off_seeds(self) -> list[int]:
        """Seeds whose tested weights have the branch off, though the control has one."""
        if self.first.control in OFF_ON_PURPOSE:
            return []
        return [run.seed for run in self.runs if run.result.get("branch_on") is False]


@dataclass(frozen=True)
class Circuit:
    """One circuit of the runs, drawn."""

    title: str  # whose it is, and with how many qubits and layers
    figure: "Figure"  # as `qml.draw_mpl` gives it


@dataclass(frozen=True)
class Report:
    """What `compare_runs.py` found; all that the page shows."""

    summary: dict  # content of summary.json
    groups: tuple[Group, ...]  # those that others are compared with first
    images: dict[str, np.ndarray] = field(default_factory=dict)  # data set: its test images (n, 32, 32, 3) uint8
    circuits: tuple[Circuit, ...] = ()
