"""CIFAR-100 and a synthetic stand-in as uint8 tensors, and the one split that every script uses."""

import hashlib
import pickle
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.functional import interpolate
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import calculate_md5

from qcifar import distributed
from qcifar.errors import InputError
from qcifar.files import read_npz, write_npz
from qcifar.streams import stream

CLASSES = 100
SYNTHETIC_TRAIN_PER_CLASS = 40
SYNTHETIC_TEST_PER_CLASS = 10


class Dataset(NamedTuple):
    """Images (n, 3, 32, 32) uint8 and labels (n,) int64 of both published parts."""

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    fingerprint: str  # of every pixel and label, in order


class Split(NamedTuple):
    """Places in the published training part; disjoint, together all of it."""

    train: np.ndarray  # (n_train,) int64
    val: np.ndarray  # (n_val,) int64
    fingerprint: str


def fingerprint(*arrays: np.ndarray) -> str:
    """First 16 hex digits of the SHA-256 of the arrays' shapes, types and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def load_dataset(name: str, data_dir: str | Path) -> Dataset:
    """Load "cifar100" from `data_dir` (downloaded if absent) or make "synthetic".

    Raises:
        InputError: the files are missing and cannot be downloaded, or differ from the published ones.
    """
    with distributed.first_alone():
        parts = _synthetic(seed=0) if name == "synthetic" else _cifar100(Path(data_dir))
    return Dataset(name, *parts, fingerprint(*(part.numpy() for part in parts)))


def at_hand(name: str, data_dir: Path | str) -> bool:
    """Whether the test images of a data set can be had without downloading anything."""
    return name == "synthetic" or (Path(data_dir) / CIFAR100.base_folder / "test").is_file()


def _cifar100(root: Path) -> tuple[torch.Tensor, ...]:
    folder = root / CIFAR100.base_folder
    known = CIFAR100.train_list + CIFAR100.test_list + [[CIFAR100.meta["filename"], CIFAR100.meta["md5"]]]
    found = [(folder / file, md5) for file, md5 in known if (folder / file).is_file()]
    for path, md5 in found:  # before anything is unpickled
        got = calculate_md5(str(path))
        if got != md5:
            raise InputError(
                f"{path} is damaged or not CIFAR-100: expected md5 {md5}, got {got}; delete it and run again"
            )
    try:
        train = CIFAR100(str(root), train=True, download=len(found) < len(known))
        test = CIFAR100(str(root), train=False)
    except (OSError, RuntimeError, EOFError, HTTPException, pickle.UnpicklingError) as error:
        where = "https://www.cs.toronto.edu/~kriz/cifar.html"
        raise InputError(
            f"no complete CIFAR-100 in {folder} and it could not be downloaded ({error}). Put the files "
            f"train, test and meta of cifar-100-python.tar.gz ({where}) there, name another folder "
            f"with --data-dir, or try the scripts without it: --dataset synthetic"
        ) from None
    tensors = []
    for part in (train, test):
        tensors.append(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous())
        tensors.append(torch.tensor(part.targets, dtype=torch.int64))
    return tuple(tensors)


def _synthetic(seed: int) -> tuple[torch.Tensor, ...]:
    """A learnable set: each class is a smooth colour pattern plus a grating, shifted, dimmed and noisy."""
    rng = stream(seed, "synthetic")
    smooth = torch.from_numpy(rng.normal(size=(CLASSES, 3, 4, 4)))
    patterns = 45 * interpolate(smooth, (32, 32), mode="bilinear").numpy()  # (100, 3, 32, 32)
    x = np.arange(32) * 2 * np.pi / 32
    waves = rng.integers(0, 5, size=(CLASSES, 2, 1, 1, 1))
    patterns += 25 * np.sin(waves[:, 0] * x[:, None] + waves[:, 1] * x[None, :])
    parts = []
    for per_class in (SYNTHETIC_TRAIN_PER_CLASS, SYNTHETIC_TEST_PER_CLASS):
        labels = rng.permutation(np.repeat(np.arange(CLASSES), per_class))
        n = len(labels)
        rows = (np.arange(32) + rng.integers(-3, 4, size=(n, 1))) % 32
        columns = (np.arange(32) + rng.integers(-3, 4, size=(n, 1))) % 32
        images = patterns[labels[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (n, 32, 32, 3)
        images = images * rng.uniform(0.6, 1.2, size=(n, 1, 1, 1)) + rng.normal(128, 20, size=images.shape)
        parts.append(torch.from_numpy(images.clip(0, 255).astype(np.uint8)).permute(0, 3, 1, 2).contiguous())
        parts.append(torch.from_numpy(labels.astype(np.int64)))
    return tuple(parts)


def load_split(path: Path, data: Dataset, seed: int, val_fraction: float) -> Split:
    """The stratified split stored in `path`; made there on first use, validated ever after.

    Args:
        path: npz with `train_idx` and `val_idx`, and with the data set, seed and fraction it was made for.
        seed: random state of scikit-learn's stratified `train_test_split`.
        val_fraction: share of the training part that validates, in (0, 1).

    Raises:
        InputError: no stratified split of that size exists, or what is found is not this split.
    """
    if not distributed.from_first(path.exists()):
        _create_split(path, data, seed, val_fraction)
    return _validated_split(path, data, seed, val_fraction)


def _create_split(path: Path, data: Dataset, seed: int, val_fraction: float) -> None:
    from sklearn.model_selection import train_test_split  # here, since it takes a second to import and runs once

    labels = data.train_labels.numpy()
    try:
        train, val = train_test_split(
            np.arange(len(labels)), test_size=val_fraction, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise InputError(
            f"VAL_FRACTION {val_fraction}: no stratified split of {len(labels)} images ({error})"
        ) from None
    write_npz(
        path,
        train_idx=train.astype(np.int64),
        val_idx=val.astype(np.int64),
        dataset=np.array(data.fingerprint),
        split_seed=np.array(seed),
        val_fraction=np.array(val_fraction),
    )


def _validated_split(path: Path, data: Dataset, seed: int, val_fraction: float) -> Split:
    stored = read_npz(path, ("train_idx", "val_idx"))
    train, val = stored["train_idx"], stored["val_idx"]
    n = len(data.train_labels)

    def refuse(what: str, expected, got):
        raise InputError(
            f"split file {path}: {what}: expected {expected}, got {got}; "
            f"use another --run-dir, or delete the file to make a new split"
        )

    for name, index in (("train_idx", train), ("val_idx", val)):
        if index.ndim != 1 or index.dtype.kind not in "iu":
            refuse(name, "a list of whole numbers", f"{index.dtype} {index.shape}")
        if len(index) == 0 or index.min() < 0 or index.max() >= n:
            span = f"{index.min()} to {index.max()}" if len(index) else "an empty list"
            refuse(name, f"places from 0 to {n - 1}", span)
    both = np.concatenate([train, val])
    if len(np.unique(both)) != len(both):
        refuse("train_idx and val_idx", "every image once", f"{len(both) - len(np.unique(both))} repeated")
    if len(both) != n:
        refuse("train_idx and val_idx", f"all {n} images", f"{len(both)}")
    wanted = {"dataset": data.fingerprint, "split_seed": seed, "val_fraction": val_fraction}
    for key, value in wanted.items():  # a bare published split has indices only
        if key in stored and stored[key].tolist() != value:
            refuse(key, f"{value}" + (f" ({data.name})" if key == "dataset" else ""), stored[key].tolist())
    if abs(len(val) - val_fraction * n) > 1:
        refuse("val_idx", f"{val_fraction:g} of {n} images", f"{len(val)}")
    classes = data.train_labels.numpy()
    got = np.bincount(classes[val], minlength=CLASSES) - val_fraction * np.bincount(classes, minlength=CLASSES)
    if np.abs(got).max() >= 1:
        refuse(
            "val_idx",
            f"{val_fraction:g} of every class",
            f"{np.abs(got).max():.0f} images off in class {np.abs(got).argmax()}",
        )
    train, val = train.astype(np.int64), val.astype(np.int64)
    return Split(train, val, fingerprint(train, val))


def first_after_shuffle(index: np.ndarray, limit: int, seed: int, purpose: str) -> np.ndarray:
    """The first `limit` entries of `index` after a seeded shuffle; all of it, in order, where `limit` is 0."""
    if limit == 0 or limit >= len(index):
        return index
    return index[stream(seed, "limit", purpose).permutation(len(index))[:limit]]
