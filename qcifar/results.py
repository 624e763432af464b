"""What result.json must hold: one description, for whoever shows or compares finished runs."""

import hashlib
import json
import math
from pathlib import Path

from qcifar.errors import InputError
from qcifar.files import read_json

# Entries that are read by others than the run itself, and what each must be.
NEEDED = {
    "experiment": str, "variant": str, "control": str | None, "dataset": str, "recipe": str, "identity": str,
    "seed": int, "epochs": int, "best_epoch": int, "val_top1": float, "val_f1": float, "val_loss": float,
    "test_top1": float, "test_top5": float, "test_f1": float, "test_loss": float,
    "params_total": int, "params_quantum": int | None, "train_seconds": float, "images_per_second": float,
    "img_size": int, "precision": str, "weights": str, "train_images": int, "test_images": int, "alpha": float | None,
    "selected_by": str, "model_name": str, "stem": str, "processes": int, "accepted_code": bool,
    "quantum_device": str | None, "branch_on": bool | None,
}  # fmt: skip
# What brings result.json and predictions.npz of a finished run back.
TEST_AGAIN = "the run's command then tests its best epoch again (or trains it again, where its checkpoints are gone)"
REMEDY = f"move it away; {TEST_AGAIN}"  # of a result.json that cannot be read
SHARES = ("test_top1", "test_top5", "test_f1", "val_top1", "val_f1")  # from 0 to 1
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def fingerprint_of(result: dict) -> str:
    """Which training a result.json is of: two of the same run differ at least in their seconds."""
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()[:16]


def read_result(path: Path) -> dict:
    """The result.json of a finished run. Raises `InputError` where it is none."""
    result = read_json(path, REMEDY)
    refuse_no_result(result, path)
    return result


def refuse_no_result(result: dict, path) -> None:
    """Raise `InputError` unless `result`, the content of `path`, has all entries in `NEEDED`, each of its kind."""
    for name, kind in NEEDED.items():
        kinds = getattr(kind, "__args__", (kind,))
        expected, value = " or ".join(NAMES[one] for one in kinds), result.get(name)
        fits = name in result and any(type(value) in ((int, float) if one is float else (one,)) for one in kinds)
        if fits and isinstance(value, int | float):  # also NaN and infinity, which Python's JSON reader takes
            high = 1 if name in SHARES else result["epochs"] if name == "best_epoch" else math.inf
            expected += f" from 0{f' to {high}' if high < math.inf else ''}"
            fits = 0 <= value <= high and math.isfinite(value)
        if not fits:
            raise InputError(
                f"{path} is not a result of this test bench: {name}: expected {expected}, "
                f"got {repr(value) if name in result else 'nothing'}; --no-resume starts the run over"
            )
