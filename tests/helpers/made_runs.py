"""Run folders as the scripts write them, without training: what a run scores is chosen, not learned."""

import csv
import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from qcifar.experiment.identity import WITHOUT_EFFECT
from qcifar.streams import stream

CLASSES = 100
BASELINE, CHANNELS, HEAD = "cifar100_baseline_det", "cifar100_quantum_channels", "cifar100_hybrid_qhead"
RECIPE = {
    "COMPILE": False, "DATASET": "cifar100", "SPLIT_SEED": 42, "VAL_FRACTION": 0.2, "IMG_SIZE": 32, "TRAIN_LIMIT": 0,
    "EVAL_LIMIT": 0, "MODEL_NAME": "resnet34", "STEM": "imagenet", "WEIGHTS": "imagenet", "EPOCHS": 40,
    "BATCH_SIZE": 128, "MAX_LR": 0.0007, "WEIGHT_DECAY": 0.0001, "LABEL_SMOOTHING": 0.05, "SELECT_BY": "f1",
    "ACCUMULATE": 1,
}  # fmt: skip
NEUTRAL = {
    "DEVICE": "auto", "PRECISION": "auto", "CHECKPOINT_MINUTES": 5.0, "RESUME": True, "ACCEPT_CODE": False,
    "CUDA_GRAPHS": False, "DATA_DIR": "./data", "SYNC_BATCHNORM": True,
}  # fmt: skip
OWN = {  # constants that only the experiment has, at their standard values
    BASELINE: {},
    CHANNELS: {
        "CONTROL": "quantum",
        "N_QUBITS": 4, "QUANTUM_DEVICE": "fast", "CIRCUITS": "default", "QUANTUM_DEPTH": 1, "QUANTUM_IMAGE_SIZE": 28,
        "ALIGN_MAPS": True, "MAP_SCALING": "fixed", "EXTRA_CHANNEL_INIT": "zero",
        "CIRCUIT_SEED": 0, "PLANT": 0.05,
    },
    HEAD: {
        "CONTROL": "quantum",
        "N_QUBITS": 4, "QUANTUM_DEVICE": "fast", "N_LAYERS": 2, "EPOCHS_WARMUP": 5, "SCHEDULE": "shared",
        "ALPHA_START": 0.1, "ANGLE_SCALING": "tanh", "DIFF_METHOD": "backprop",
        "QUANTUM_NOISE": "none", "SHOTS": 0,
        "CIRCUIT_SEED": 0, "PLANT": 0.05,
    },
}  # fmt: skip
IDENTITY = {  # beside the constants
    "device": "cuda", "precision": "bf16", "processes": 1, "gpu": "made up", "dataset_fingerprint": "53aab1b04d5a1a0e",
    "split_fingerprint": "a44b35a023bae9ae", "augmentation": "Augmentation(img_size=32)", "torch": "2.11.0",
    "torchvision": "0.26.0", "pennylane": "0.45.1", "numpy": "2.4.6", "scikit-learn": "1.9.1",
    "code": {"DLfunctions.py": "4451b33c170c", "qcifar/data/augment.py": "423109704fd9"},
}  # fmt: skip
CIRCUITS = {CHANNELS: ["5d1b1c0f7a11", "9b0c3c52ad07"], HEAD: ["640aab97239c"]}
OF_CIRCUITS = ("quantum", "product", "frozen", "shuffled")  # values of CONTROL with which a circuit runs


def write_run(
    run_dir: Path,
    experiment: str,
    seed: int,
    variant: str = "",
    top1: float = 0.83,
    images: int = 200,
    epochs: int = 3,
    constants: dict | None = None,
    labels: np.ndarray | None = None,
    **changes,
) -> Path:
    """Write config.json, metrics.csv, predictions.npz and result.json of one finished run.

    Which images are right is the same for all runs but for noise of the seed and of the experiment, so paired runs
    agree on most images, as real ones do.

    Args:
        experiment, variant, seed: which run. A variant of "name=value,..." sets the constants that it names.
        top1: share of the test images that are right; rounded to a whole number of them.
        images: of the test set.
        constants: constants that differ from `RECIPE` and `OWN`; they enter the recipe code as in a real run.
        labels: (images,) true classes; made up if not given.
        changes: entries of result.json that are to be different; those that config.json has, too, change there.

    Returns:
        The run folder, `run_dir`/<experiment>/[<variant>/]seed<SEED>.
    """
    own = dict(OWN.get(experiment, {}))
    for part in filter(None, variant.split(",")):
        name, _, value = part.partition("=")
        own[name.upper()] = _value(value)
    given = RECIPE | own | {"EPOCHS": epochs} | (constants or {})
    given |= {"DATASET": changes["dataset"]} if "dataset" in changes else {}
    labels = make_labels(images) if labels is None else np.asarray(labels, np.int64)
    logits = make_logits(labels, round(top1 * images), seed, f"{experiment} {variant}")
    folder = Path(run_dir, experiment, variant, f"seed{seed}")
    folder.mkdir(parents=True)
    config = _config(run_dir, experiment, variant, seed, given, own, changes.get("precision", IDENTITY["precision"]))
    config |= {"images": {"train": 40_000, "val": 10_000, "test": images}}
    config |= {name: changes[name] for name in ("recipe", "variant", "experiment") if name in changes}
    history = make_history(
        f"{experiment} {variant} {seed}", epochs, top1, given["DATASET"], own if experiment == HEAD else None
    )
    result = make_result(config, history, logits, labels) | changes
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    with (folder / "predictions.npz").open("wb") as file:
        np.savez(file, index=np.arange(images), label=labels, logits=logits, dataset=np.array(given["DATASET"]))
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    return folder


def _value(text: str):
    try:
        return json.loads(text)
    except ValueError:
        return text


def _config(run_dir, experiment: str, variant: str, seed: int, given: dict, own: dict, precision: str) -> dict:
    """config.json, as `qcifar.experiment.folder` writes it."""
    numbers = {name: value for name, value in given.items() if WITHOUT_EFFECT.get(name, ...) != value}
    identity = {"SEED": seed, **numbers, **IDENTITY, "precision": precision}
    identity |= {"own_code": {f"{experiment}.py": "d012c29c637a"}}
    names = ["SEED", *own, "own_code"]
    if experiment in CIRCUITS:
        identity |= {"circuits": CIRCUITS[experiment]}
        names.append("circuits")
    names.append("pennylane-lightning")  # the identity has it where lightning runs the circuits
    shared = {name: value for name, value in identity.items() if name not in names}
    code = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:6]
    return {
        "experiment": experiment, "variant": variant,
        "constants": {"SEED": seed, "RUN_DIR": str(run_dir), **NEUTRAL, **given}, "identity": identity, "own": names,
        "recipe": code, "device": "made up", "python": "3.11.7", "versions": {"torch": "2.11.0"},
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
    }  # fmt: skip


@functools.cache
def make_labels(images: int) -> np.ndarray:
    """(images,) equally many of each class, shuffled."""
    return stream(0, "made labels").permutation(np.arange(images) % CLASSES)


@functools.cache
def _difficulty(images: int) -> np.ndarray:
    return stream(0, "difficulty").normal(size=images)


def make_logits(labels: np.ndarray, right: int, seed: int, name: str) -> np.ndarray:
    """(I, 100) float32 of which `right` have the label as their largest."""
    n = len(labels)
    rng = stream(seed, "made run", name)
    ease = _difficulty(n) + 0.35 * stream(seed, "made seed").normal(size=n) + 0.25 * rng.normal(size=n)
    logits = rng.standard_normal((n, CLASSES), dtype=np.float32)
    order = np.argsort(-ease)
    answer = labels.copy()
    answer[order[right:]] = (labels[order[right:]] + 1 + (order[right:] + seed) % 3) % CLASSES  # a few likely mistakes
    logits[np.arange(n), labels] += 3
    logits[np.arange(n), answer] = logits.max(1) + rng.exponential(2, n).astype(np.float32) + 0.01
    return logits


def make_history(name: str, epochs: int, top1: float, dataset: str, head: dict | None) -> list[dict]:
    """Rows of metrics.csv that rise to `top1`; α where `head` gives the constants of one."""
    rng, rows = stream(0, "made history", name), []
    seconds = 20 + rng.uniform(0, 2) + 6 * (head is not None)
    for epoch in range(1, epochs + 1):
        share = top1 * (1 - np.exp(-4 * epoch / epochs)) / (1 - np.exp(-4)) + 0.004 * rng.normal()
        share = float(np.clip(share, 0, 1))
        row = {
            "epoch": epoch, "train_loss": 4.6 * (1 - share) + 0.3, "train_top1": share * 0.9,
            "val_loss": 4.6 * (1 - share) + 0.5, "val_top1": share, "val_top5": share**0.3, "val_f1": share,
            "lr": 7e-4 * np.sin(np.pi * epoch / (epochs + 1)), "seconds": seconds + rng.normal(), "images": 40_000,
            "images_per_second": 2_000.0, "dataset": dataset,
        }  # fmt: skip
        if head is not None:
            on = epoch > head["EPOCHS_WARMUP"]
            row["alpha"] = head["ALPHA_START"] * (1 + 0.5 * epoch / epochs + 0.02 * rng.normal()) if on else 2.06e-09
            row |= {"branch_share": 0.02 * on, "circuit_gradient": 0.01 * on}
        rows.append(row)
    return rows


def make_result(config: dict, history: list[dict], logits: np.ndarray, labels: np.ndarray) -> dict:
    """result.json, as `qcifar.experiment.result` makes it."""
    given, best = config["constants"], max(history, key=lambda row: row["val_f1"])
    seconds, quantum = sum(row["seconds"] for row in history), config["experiment"] in CIRCUITS
    ranks = (logits > logits[np.arange(len(labels)), labels][:, None]).sum(1)
    return {
        "experiment": config["experiment"], "variant": config["variant"],
        "control": given.get("CONTROL", "quantum" if quantum else None),
        "dataset": given["DATASET"], "seed": given["SEED"], "epochs": given["EPOCHS"], "best_epoch": best["epoch"],
        "selected_by": given["SELECT_BY"], "val_top1": best["val_top1"], "val_f1": best["val_f1"],
        "val_loss": best["val_loss"], "test_top1": float((ranks == 0).mean()), "test_top5": float((ranks < 5).mean()),
        "test_f1": float((ranks == 0).mean()), "test_loss": 0.9, "params_total": 21_335_972,
        "params_quantum": {HEAD: 24, CHANNELS: 0}.get(config["experiment"]),
        "quantum_device": "fast" if quantum and given.get("CONTROL", "quantum") in OF_CIRCUITS else None,
        "train_seconds": seconds, "images_per_second": sum(row["images"] for row in history) / seconds,
        "peak_host_mb": 1500, "peak_device_mb": 3000, "model_name": given["MODEL_NAME"], "stem": given["STEM"],
        "img_size": given["IMG_SIZE"], "precision": config["identity"]["precision"], "processes": 1,
        "recipe": config["recipe"], "accepted_code": False, "weights": given["WEIGHTS"],
        "train_images": config["images"]["train"], "test_images": len(labels), "alpha": history[-1].get("alpha"),
        "branch_on": best["epoch"] > given["EPOCHS_WARMUP"] if config["experiment"] == HEAD else None,
        "dependence": None, "identity": "made up",
    }  # fmt: skip
