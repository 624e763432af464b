"""The folder of one run: what was asked for, what came out, and the refusal to mix the two."""

import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from DLfunctions import evaluate
from qcifar.augment import Augmentation
from qcifar.config import as_constants, flag
from qcifar.errors import InputError
from qcifar.files import make_folder, read_json, write_json, write_npz
from qcifar.models import count_parameters

# Constants that may change between a start and a restart: they cannot change a number.
NEUTRAL = {"RUN_DIR", "DATA_DIR", "CHECKPOINT_MINUTES", "RESUME", "DEVICE", "PRECISION"}
PACKAGES = ("torch", "torchvision", "pennylane", "pennylane-lightning", "numpy", "scikit-learn", "pillow")
FILES = ("config.json", "metrics.csv", "result.json", "predictions.npz", "last.pt", "best.pt", "log.txt")


class Run:
    """`runs/<experiment>/seed<SEED>/` and the identity of what runs in it."""

    def __init__(self, folder: Path, experiment: str, identity: dict):
        self.folder, self.experiment, self.identity = folder, experiment, identity
        self.config_path, self.metrics_path = folder / "config.json", folder / "metrics.csv"
        self.result_path, self.predictions_path = folder / "result.json", folder / "predictions.npz"
        self.last_path, self.best_path, self.log_path = folder / "last.pt", folder / "best.pt", folder / "log.txt"

        self.dataset = identity["DATASET"]
        self.mark = "SYNTHETIC DATA  " if self.dataset == "synthetic" else ""  # goes before every number shown

    @property
    def finished(self) -> bool:
        return self.result_path.exists()

    def log(self, text: str) -> None:
        """Print `text` above any bar and append it to log.txt, marked where the data is synthetic."""
        text = self.mark + text
        tqdm.write(text)
        try:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self.log_path}: {error.strerror}") from None

    def show_result(self) -> None:
        """Print the stored result of a finished run."""
        tqdm.write(f"{self.folder} is finished; nothing to do (--no-resume starts it over)")
        tqdm.write(self.mark + describe_result(read_json(self.result_path)))


def open_run(cfg, experiment: str, device: torch.device, precision: str, parts, **details) -> Run:
    """Make or reopen the folder of a run.

    Args:
        cfg: the settings; those in `NEUTRAL` may differ from an earlier start.
        device, precision: as resolved by `set_up_torch`.
        parts: `qcifar.recipe.Parts`; their fingerprints belong to the run's identity.
        details: what else the numbers depend on, for example the fingerprint of a circuit.

    Raises:
        InputError: the folder holds a run with other settings, or cannot be written.
    """
    constants = as_constants(cfg)
    identity = {name: value for name, value in constants.items() if name not in NEUTRAL}
    identity |= {"device": device.type, "precision": precision}
    identity |= {"dataset_fingerprint": parts.data.fingerprint, "split_fingerprint": parts.split.fingerprint}
    identity |= details
    run = Run(Path(cfg.run_dir) / experiment / f"seed{cfg.seed}", experiment, identity)
    make_folder(run.folder)
    if not cfg.resume:
        for name in FILES:
            (run.folder / name).unlink(missing_ok=True)
    if run.config_path.exists():
        _refuse_other_settings(run)
    else:
        _write_config(run, cfg, device, parts)
    if not run.finished:
        run.log(
            f"{run.folder}: {len(parts.train.index)} training, {len(parts.val.index)} validation and "
            f"{len(parts.test.index)} test images of {cfg.dataset} at {cfg.img_size} px, "
            f"{_describe_device(device)}, {precision}"
        )
    return run


def _write_config(run: Run, cfg, device: torch.device, parts) -> None:
    write_json(
        run.config_path,
        {
            "experiment": run.experiment,
            "constants": as_constants(cfg),
            "identity": run.identity,
            "augmentation": asdict(Augmentation(cfg.img_size)),
            "images": {"train": len(parts.train.index), "val": len(parts.val.index), "test": len(parts.test.index)},
            "device": _describe_device(device),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in PACKAGES},
            "git_commit": _git_commit(),
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        },
    )


def _refuse_other_settings(run: Run) -> None:
    before = read_json(run.config_path).get("identity", {})
    changed = [
        f"{name} {before.get(name, 'absent')} -> {run.identity.get(name, 'absent')}"
        for name in {**before, **run.identity}
        if before.get(name, "absent") != run.identity.get(name, "absent")
    ]
    if changed:
        raise InputError(
            f"{run.folder} holds a run with other settings: {', '.join(changed)}; use another {flag('RUN_DIR')} "
            f"or {flag('SEED')}, or --no-resume to delete it and start over"
        )


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {platform.processor() or platform.machine()}"


def _git_commit() -> str:
    """Commit of this repository, "+" where tracked files differ from it, "unknown" outside one."""
    root = Path(__file__).resolve().parent
    try:
        commit, changes = (
            subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
            for command in (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "-uno"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if changes else "")


def report(run: Run, cfg, model: nn.Module, loader, index, criterion, autocast, history, **extra) -> dict:
    """Score the chosen model on the test set, once, and write predictions.npz and result.json.

    Args:
        loader, index: the test images and their places (n,) in the published test file.
        history: rows of metrics.csv.
        extra: further entries, for example `params_quantum` and `alpha`.

    Returns:
        The content of result.json; accuracies are in [0, 1].
    """
    scores, logits, labels = evaluate(model, loader, criterion, autocast, f"{run.mark}test")
    write_npz(run.predictions_path, index=index, label=labels, logits=logits, dataset=np.array(run.dataset))
    best = _best_row(history, cfg.select_by)
    seconds = sum(row["seconds"] for row in history)
    images = sum(row["seconds"] * row["images_per_second"] for row in history)
    result = {
        "experiment": run.experiment,
        "control": "none",
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
        "params_total": count_parameters(model),
        "params_quantum": 0,
        "train_seconds": seconds,
        "images_per_second": images / seconds,
        "img_size": cfg.img_size,
        "weights": cfg.weights,
        "train_images": len(history) and round(images / len(history)),
        "test_images": len(labels),
        "alpha": None,
    } | extra
    write_json(run.result_path, result)  # last: its presence says that the run is finished
    run.log(describe_result(result))
    return result


def _best_row(history: list[dict], select_by: str) -> dict:
    """The first row with the best validation score, as `train_model` selects."""
    if select_by == "loss":
        return min(history, key=lambda row: row["val_loss"])
    return max(history, key=lambda row: row[f"val_{select_by}"])


def describe_result(result: dict) -> str:
    """One line: where, how good, how fast."""
    return (
        f"{result['experiment']} seed {result['seed']}: test top1 {result['test_top1']:.4f} "
        f"top5 {result['test_top5']:.4f} f1 {result['test_f1']:.4f} (n = {result['test_images']}), "
        f"val top1 {result['val_top1']:.4f} at epoch {result['best_epoch']} of {result['epochs']}, "
        f"{result['images_per_second']:.0f} img/s"
    )
