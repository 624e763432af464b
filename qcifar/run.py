"""The folder of one run: what was asked for, what came out, and the refusal to mix the two."""

import contextlib
import hashlib
import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from DLfunctions import evaluate
from qcifar import distributed
from qcifar.augment import Augmentation
from qcifar.config import as_constants, flag
from qcifar.errors import InputError, Interrupted, describe
from qcifar.files import make_folder, read_json, write_json, write_npz
from qcifar.models import count_parameters

# Constants that may change between a start and a restart: they cannot change a number.
NEUTRAL = {"RUN_DIR", "DATA_DIR", "CHECKPOINT_MINUTES", "RESUME", "DEVICE", "PRECISION"}
# Entries of the identity in which two runs that are compared may differ: the experiment itself, and the seed.
OWN = {
    "SEED", "N_QUBITS", "QUANTUM_DEVICE", "CIRCUITS", "QUANTUM_DEPTH", "QUANTUM_IMAGE_SIZE", "ALIGN_MAPS",
    "MAP_SCALING", "EXTRA_CHANNEL_INIT", "N_LAYERS", "EPOCHS_WARMUP", "SCHEDULE", "ALPHA_START", "ANGLE_SCALING",
    "DIFF_METHOD", "circuits",
}  # fmt: skip
PACKAGES = ("torch", "torchvision", "pennylane", "pennylane-lightning", "numpy", "scikit-learn", "pillow")


class Run:
    """`runs/<experiment>/seed<SEED>/` and the identity of what runs in it.

    Args:
        folder: where everything goes.
        config: content of config.json; its "identity" is what every file in the folder depends on.
        resume: False: `begin` deletes what an earlier run left.
    """

    def __init__(self, folder: Path, config: dict, resume: bool):
        self.folder, self.config, self.resume = folder, config, resume
        self.experiment, self.identity = config["experiment"], config["identity"]
        self.config_path, self.metrics_path = folder / "config.json", folder / "metrics.csv"
        self.result_path, self.predictions_path = folder / "result.json", folder / "predictions.npz"
        self.last_path, self.best_path, self.log_path = folder / "last.pt", folder / "best.pt", folder / "log.txt"
        self.dataset = self.identity["DATASET"]
        self.mark = "SYNTHETIC DATA  " if self.dataset == "synthetic" else ""  # goes before every number shown

    @property
    def finished(self) -> bool:
        return self.resume and distributed.from_first(self.result_path.exists())

    def refuse_other_settings(self) -> None:
        """Raise `InputError` if the folder holds work that was done with another identity."""
        distributed.on_first(self._refuse_other_settings)

    def _refuse_other_settings(self) -> None:
        if not self.resume or not self.config_path.exists():
            return
        if not self.last_path.exists() and not self.result_path.exists():
            return  # stopped before anything was trained
        before = read_json(self.config_path).get("identity", {})
        changed = [
            f"{name} {before.get(name, 'absent')} -> {self.identity.get(name, 'absent')}"
            for name in {**before, **self.identity}
            if before.get(name, "absent") != self.identity.get(name, "absent")
        ]
        if changed:
            raise InputError(
                f"{self.folder} holds a run with other settings: {', '.join(changed)}; use another {flag('RUN_DIR')} "
                f"or {flag('SEED')}, or --no-resume to delete it and start over"
            )

    def begin(self) -> None:
        """Make the folder and its config.json. Until then, nothing of the run is on disk."""
        make_folder(self.folder)
        paths = [
            self.result_path,
            self.last_path,
            self.best_path,
            self.metrics_path,
            self.predictions_path,
            self.log_path,
        ]
        if not self.resume and distributed.rank() == 0:
            for path in paths:
                path.unlink(missing_ok=True)
        if distributed.rank() == 0:
            for leftover in self.folder.glob("*.partial"):  # of a process that was killed while writing
                leftover.unlink(missing_ok=True)
        if not distributed.from_first(self.last_path.exists()):
            write_json(self.config_path, self.config)
        images, how = self.config["images"], f"{self.config['device']}; {self.identity['precision']}"
        self.log(
            f"{self.folder}: {images['train']} training, {images['val']} validation and {images['test']} test images "
            f"of {self.dataset} at {self.identity['IMG_SIZE']} px; {how}"
        )

    def log(self, text: str) -> None:
        """Print `text` above any bar and append it to log.txt, marked where the data is synthetic."""
        distributed.say(self.mark + text)
        self._append(self.mark + text)

    def _append(self, text: str) -> None:
        if distributed.rank() > 0:
            return
        try:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self.log_path}: {error.strerror}") from None

    @contextlib.contextmanager
    def why_it_ended(self):
        """What ends the block early stands in log.txt, too, in one line; the screen shows it when the script ends.

        Raises:
            InputError: the GPU's memory is full.
        """
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            reason = str(error) if isinstance(error, InputError | Interrupted) else describe(error)
            # In a circuit, too, whose errors are shown as ours.
            full = isinstance(error.__cause__ if isinstance(error, InputError) else error, torch.OutOfMemoryError)
            if full:
                reason = ". ".join(reason.split(". ")[:2])  # without the advice on torch's allocator
                reason += "; --accumulate 2 or more takes a step's images in parts, --batch-size takes fewer"
            with contextlib.suppress(InputError):  # a log that cannot be written must not hide the reason
                self._append(" ".join(reason.split()))
            if full:
                raise InputError(reason) from error
            raise

    def show_result(self) -> dict:
        """Print and return the stored result of a finished run."""
        result = read_json(self.result_path)
        distributed.say(f"{self.folder} is finished; nothing to do (--no-resume starts it over)")
        distributed.say(self.mark + describe_result(result))
        return result


def open_run(cfg, experiment: str, device: torch.device, precision: str, parts, **details) -> Run:
    """Look at the folder of a run; nothing is written before training begins.

    Args:
        cfg: the settings; those in `NEUTRAL` may differ from an earlier start.
        device, precision: as resolved by `set_up_torch`.
        parts: `qcifar.recipe.Parts`; their fingerprints belong to the run's identity.
        details: what else the numbers depend on, for example the fingerprint of a circuit.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    constants = as_constants(cfg)
    identity = {name: value for name, value in constants.items() if name not in NEUTRAL}
    identity |= {"device": device.type, "precision": precision, "processes": distributed.world_size()}
    if device.type == "cuda":  # another model rounds differently
        identity["gpu"] = ", ".join(dict.fromkeys(distributed.each(torch.cuda.get_device_name(device))))
    if distributed.world_size() == 1:
        identity.pop("SYNC_BATCHNORM")  # has no effect there
    if not cfg.cuda_graphs:
        identity.pop("CUDA_GRAPHS")  # as in runs from before there was the constant
    identity |= {"dataset_fingerprint": parts.data.fingerprint, "split_fingerprint": parts.split.fingerprint}
    identity |= {"augmentation": repr(Augmentation(cfg.img_size))}
    identity |= {name: version(name) for name in ("torch", "torchvision", "pennylane")}
    if Path(cfg.weights).is_file():
        identity["weights_sha256"] = hashlib.sha256(Path(cfg.weights).read_bytes()).hexdigest()
    identity |= details
    config = {
        "experiment": experiment,
        "constants": constants,
        "identity": identity,
        "images": {"train": len(parts.train.index), "val": len(parts.val.index), "test": len(parts.test.index)},
        "device": _describe_device(device),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }
    run = Run(Path(cfg.run_dir) / experiment / f"seed{cfg.seed}", config, cfg.resume)
    run.refuse_other_settings()
    return run


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:  # Linux; platform.processor() says x86_64 or nothing there
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU, {model}, {torch.get_num_threads()} threads"


def git_commit() -> str:
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
    with run.why_it_ended():
        scores, logits, labels = evaluate(model, loader, criterion, autocast, f"{run.mark}test")
        write_npz(run.predictions_path, index=index, label=labels, logits=logits, dataset=np.array(run.dataset))
    best = _best_row(history, cfg.select_by)
    seconds = sum(row["seconds"] for row in history)
    images = sum(row["images"] for row in history)
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
        "quantum_device": None,
        "train_seconds": seconds,
        "images_per_second": images / seconds,
        "peak_host_mb": distributed.largest(round(peak_host_mb()))[0],
        "peak_device_mb": _peak_device_mb(loader.images.device),
        "img_size": cfg.img_size,
        "precision": run.identity["precision"],
        "processes": distributed.world_size(),
        "recipe": recipe_fingerprint(run.identity),
        "weights": cfg.weights,
        "train_images": run.config["images"]["train"],
        "test_images": len(labels),
        "alpha": None,
    } | extra
    write_json(run.result_path, result)  # last: its presence says that the run is finished
    run.log(describe_result(result))
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


def recipe_fingerprint(identity: dict) -> str:
    """Six hex digits of what the three experiments share; runs are comparable if theirs are equal.

    A schedule that restarts in the middle is another recipe than the one that all three share.
    """
    shared = {name: value for name, value in identity.items() if name not in OWN}
    if identity.get("SCHEDULE", "shared") != "shared":
        shared["SCHEDULE"] = identity["SCHEDULE"]
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:6]


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
