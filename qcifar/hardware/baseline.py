"""The baseline's run of the same seed and recipe, where it lies in the same run directory."""

from pathlib import Path

import numpy as np

from qcifar.decided import BASELINE
from qcifar.errors import InputError
from qcifar.experiment.finished import FinishedRun
from qcifar.files import read_json, read_npz


def baseline_right(run: FinishedRun, index: np.ndarray) -> tuple[np.ndarray | None, str]:
    """(K,) bool: which of the images `index` the baseline has right; or None, and why there is no such run."""
    parts = [run.config["experiment"], *filter(None, [run.config["variant"]])]
    lies = run.folder.resolve()
    if len(lies.parents) <= len(parts):
        return None, "the run does not lie in a run directory, where the baseline's would be"
    name = f"{BASELINE}/{lies.name}"
    folder: Path = lies.parents[len(parts)] / BASELINE / lies.name
    try:
        result = read_json(folder / "result.json")
        stored = read_npz(folder / "predictions.npz", ("index", "label", "logits"))
    except InputError:
        return None, f"no finished run {name} in the same run directory"
    other = [one for one in ("dataset", "recipe", "seed") if result.get(one) != run.result.get(one)]
    if other:
        return None, f"the run {name} has another {' and another '.join(other)}"
    if len(stored["index"]) < len(index) or not np.array_equal(stored["index"][: len(index)], index):
        return None, f"the run {name} was tested on other images"
    return (stored["logits"].argmax(1) == stored["label"])[: len(index)], ""
