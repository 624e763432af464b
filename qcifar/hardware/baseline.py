"""The baseline's run of the same seed and recipe, where it lies in the same run directory."""

from pathlib import Path

import numpy as np

from qcifar.decided import BASELINE
from qcifar.errors import InputError
from qcifar.experiment.finished import FinishedRun
from qcifar.files import read_json, read_npz


def baseline_right(run: FinishedRun, index: np.ndarray) -> np.ndarray | None:
    """(K,) bool: which of the images `index` the baseline has right; None if there is no such run to compare with."""
    parts = [run.config["experiment"], *filter(None, [run.config["variant"]])]
    lies = run.folder.resolve()
    if len(lies.parents) <= len(parts):
        return None
    folder: Path = lies.parents[len(parts)] / BASELINE / lies.name
    try:
        result = read_json(folder / "result.json")
        stored = read_npz(folder / "predictions.npz", ("index", "label", "logits"))
    except InputError:
        return None
    same = all(result.get(name) == run.result.get(name) for name in ("dataset", "recipe", "seed"))
    if not same or len(stored["index"]) < len(index) or not np.array_equal(stored["index"][: len(index)], index):
        return None
    return (stored["logits"].argmax(1) == stored["label"])[: len(index)]
