"""result.json and predictions.npz, from the scores of the chosen model on the test set."""

import sys
from pathlib import Path

import numpy as np
import torch

from qcifar import distributed
from qcifar.experiment.folder import describe_result
from qcifar.experiment.identity import identity_code
from qcifar.experiment.models import count_parameters
from qcifar.experiment.recipe import Prepared
from qcifar.files import write_json, write_npz


def report(prepared: Prepared, cfg, history: list[dict], scores: dict, logits: np.ndarray, labels: np.ndarray) -> dict:
    """Write predictions.npz and then result.json, whose presence says that the run is finished.

    Args:
        history: rows of metrics.csv.
        scores, logits, labels: of the test set, from `DLfunctions.evaluate`.

    Returns:
        The content of result.json; accuracies are in [0, 1].
    """
    run, index = prepared.run, prepared.parts.test.index
    run.refuse_if_gone()
    write_npz(run.predictions_path, index=index, label=labels, logits=logits, dataset=np.array(run.dataset))
    best = _best_row(history, cfg.select_by)
    seconds = sum(row["seconds"] for row in history)
    images = sum(row["images"] for row in history)
    result = {
        "experiment": run.experiment,
        "variant": run.variant,
        "control": None,
        "dataset": cfg.dataset,
        "seed": cfg.seed,
        "epochs": cfg.epochs,
        "best_epoch": best["epoch"],
        "selected_by": cfg.select_by,
        "val_top1": best["val_top1"],
        "val_f1": best["val_f1"],
        "val_loss": best["val_loss"],
        "test_top1": scores["top1"],
        "test_top5": scores["top5"],
        "test_f1": scores["f1"],
        "test_loss": scores["loss"],
        "params_total": count_parameters(prepared.model),
        "params_quantum": None,
        "quantum_device": None,
        "train_seconds": seconds,
        "images_per_second": images / seconds,
        "peak_host_mb": distributed.largest(round(peak_host_mb()))[0],
        "peak_device_mb": _peak_device_mb(prepared.test_loader.images.device),
        "model_name": cfg.model_name,
        "stem": cfg.stem,
        "img_size": cfg.img_size,
        "precision": run.identity["precision"],
        "processes": distributed.world_size(),
        "recipe": run.config["recipe"],
        "identity": identity_code(run.identity),
        "accepted_code": bool(run.config.get("accepted_code")),
        "weights": cfg.weights,
        "train_images": run.config["images"]["train"],
        "test_images": len(labels),
        "alpha": None,
        "branch_on": None,
        "dependence": None,
    } | prepared.facts(logits)
    run.refuse_if_gone()
    write_json(run.result_path, result)
    run.log(describe_result(result))
    run.give_back()
    return result


def peak_host_mb() -> float:
    """Most main memory that this process has held at once, in MB (2^20 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux; its ru_maxrss may be that of the process which started this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _peak_device_mb(device: torch.device) -> int | None:
    """Most GPU memory that torch has held at once on one process's GPU, in MB; None on a CPU."""
    if device.type != "cuda":
        return None
    return distributed.largest(torch.cuda.max_memory_reserved(device) >> 20)[0]


def _best_row(history: list[dict], select_by: str) -> dict:
    """The first row with the best validation score, as `train_model` selects."""
    if select_by == "loss":
        return min(history, key=lambda row: row["val_loss"])
    return max(history, key=lambda row: row[f"val_{select_by}"])
