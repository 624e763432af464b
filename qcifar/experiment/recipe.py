"""The training recipe that all experiments share: images, loaders, placement, optimizer, schedule."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from qcifar import distributed
from qcifar.data.augment import Augmentation
from qcifar.data.cifar import Dataset, Split, first_after_shuffle, load_dataset, load_split
from qcifar.data.loader import EvalLoader, ExtraChannels, TrainLoader
from qcifar.device import free_memory
from qcifar.errors import InputError
from qcifar.experiment.folder import Run
from qcifar.experiment.models import activation_bytes, on_device, refuse_unknown_network

SPLIT_FILE = Path("cifar100_baseline_det") / "split_idx_cifar100.npz"


class Part(NamedTuple):
    """The images that train, validate or test, on the training device."""

    images: torch.Tensor  # (n, 3, 32, 32) uint8
    labels: torch.Tensor  # (n,) int64
    index: np.ndarray  # (n,) place of each in the published file


class Parts(NamedTuple):
    data: Dataset
    split: Split
    train: Part
    val: Part
    test: Part


def no_facts(logits: np.ndarray) -> dict:
    """An experiment without entries of its own in result.json."""
    return {}


@dataclass(frozen=True)
class Prepared:
    """What `prepare` of a script returns: everything that is trained and tested, before its first step."""

    run: Run
    parts: Parts
    model: nn.Module
    train_loader: TrainLoader
    val_loader: EvalLoader
    test_loader: EvalLoader
    criterion: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: "torch.optim.lr_scheduler.OneCycleLR | OneCyclePerPhase"
    autocast: torch.autocast
    on_epoch_start: Callable[[int], None] | None = None  # see `DLfunctions.train_model`
    on_epoch_end: Callable[[int, dict], None] | None = None
    # (n, 3, 32, 32) uint8 -> their further input channels: for images that are in none of the parts
    extra_channels: Callable[[torch.Tensor], ExtraChannels] | None = None
    facts: Callable[[np.ndarray], dict] = no_facts  # test logits -> the experiment's own entries of result.json


def load_parts(cfg, device: torch.device) -> Parts:
    """Data set and split as the constants say, limited and moved to `device`.

    Raises:
        InputError: more images to train on than there are; see also `refuse_unknown_network`,
            `refuse_uneven`, `refuse_graphs`, `load_dataset` and `load_split`.
    """
    refuse_unknown_network(cfg.model_name, cfg.stem)
    refuse_uneven(cfg.batch_size, cfg.accumulate)
    refuse_graphs(cfg, device)
    data = load_dataset(cfg.dataset, cfg.data_dir)
    split = load_split(Path(cfg.run_dir) / SPLIT_FILE, data, cfg.split_seed, cfg.val_fraction)

    if cfg.train_limit > len(split.train):
        raise InputError(
            f"TRAIN_LIMIT (--train-limit): expected at most the {len(split.train)} images of the training split "
            f"(VAL_FRACTION {cfg.val_fraction}), got {cfg.train_limit}; 0 takes all"
        )

    def part(name, images, labels, index, limit):
        index = first_after_shuffle(index, limit, cfg.split_seed, name)
        return Part(images[index].to(device), labels[index].to(device), index)

    train_set = data.train_images, data.train_labels
    test_set = data.test_images, data.test_labels
    return Parts(
        data,
        split,
        part("train", *train_set, split.train, cfg.train_limit),
        part("val", *train_set, split.val, cfg.eval_limit),
        part("test", *test_set, np.arange(len(data.test_labels)), cfg.eval_limit),
    )


def make_loaders(
    parts: Parts, cfg, extra: Callable[[str], ExtraChannels] | None = None
) -> tuple[TrainLoader, EvalLoader, EvalLoader]:
    """Loaders of the training, validation and test images.

    Args:
        extra: "train", "val" or "test" -> what makes that part's further input channels.

    Raises:
        InputError: see `refuse_uneven`.
    """
    channels = extra or (lambda name: None)
    refuse_uneven(min(cfg.batch_size, len(parts.train.index)), cfg.accumulate)
    train = TrainLoader(
        parts.train.images,
        parts.train.labels,
        cfg.batch_size,
        Augmentation(cfg.img_size),
        cfg.seed,
        channels("train"),
    )
    val, test = (
        EvalLoader(part.images, part.labels, cfg.batch_size, cfg.img_size, channels(name))
        for name, part in (("val", parts.val), ("test", parts.test))
    )
    return train, val, test


def refuse_uneven(batch: int, accumulate: int) -> None:
    """Raise `InputError` unless a step's images divide evenly into processes and micro-batches of two or more."""
    parts = accumulate * distributed.world_size()
    if batch % parts or batch // parts < 2:
        raise InputError(
            f"BATCH_SIZE (--batch-size): {batch} images a step on {distributed.world_size()} process(es) with "
            f"ACCUMULATE {accumulate}: expected a multiple of {parts} and at least {2 * parts}"
        )


def refuse_graphs(cfg, device: torch.device) -> None:
    """Raise `InputError` for CUDA_GRAPHS where nothing would be replayed, or gradients of a step share its memory."""
    processes = distributed.world_size()
    if cfg.cuda_graphs and not (cfg.compile and device.type == "cuda" and cfg.accumulate == processes == 1):
        raise InputError(
            f"CUDA_GRAPHS (--cuda-graphs): expected COMPILE (--compile), one process on a GPU and ACCUMULATE 1, "
            f"got COMPILE {cfg.compile}, {processes} process(es) on {device.type}, ACCUMULATE {cfg.accumulate}"
        )


def refuse_too_large(model: nn.Module, device: torch.device, cfg, parts: Parts) -> None:
    """Raise `InputError` where a step would certainly need more memory than there is: what the backward pass keeps.

    The batch is counted with at most the images that there are, in bfloat16 where that may be.
    """
    images = min(cfg.batch_size, len(parts.train.index)) // (cfg.accumulate * distributed.world_size())
    narrow = 2 if device.type == "cuda" and cfg.precision in ("auto", "bf16") else 1
    needed, free = images * activation_bytes(model, cfg.img_size) // narrow, free_memory(device)
    if free is not None and needed > free:
        raise InputError(
            f"a step on {images} images of {cfg.img_size} pixels needs {needed / 2**30:.1f} GB for the backward pass "
            f"alone, {free / 2**30:.1f} GB are free on {device}; --accumulate takes a step's images in parts, "
            f"--batch-size takes fewer, --img-size smaller ones"
        )


def place(model: nn.Module, device: torch.device, cfg, parts: Parts) -> nn.Module:
    """`model` on `device`, in the memory format that is fastest there, as the constants say.

    Raises:
        InputError: a step on images of `parts` would need more memory than there is.
    """
    refuse_too_large(model, device, cfg, parts)
    model = on_device(model, device)
    if cfg.sync_batchnorm:
        model = distributed.synchronise_batchnorm(model, device)
    if cfg.compile:
        # dynamic: else a run that goes on would use other kernels than one that was not stopped
        model.compile(dynamic=False, mode="reduce-overhead" if cfg.cuda_graphs else None)
    return model


def make_optimizer(model: nn.Module, max_lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over all parameters; those without a gradient (frozen ones) are left alone, undecayed."""
    return torch.optim.AdamW(model.parameters(), lr=max_lr, weight_decay=weight_decay, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, max_lr: float, *steps: int):
    """OneCycle with torch's defaults (30 % rise, cosine, β₁ 0.95 to 0.85), stepped after every batch.

    Args:
        steps: number of batches of the cycle; or of several, each of which begins with a new optimizer, as
            in the published head. Those of 0 batches are left out.
    """
    steps = [count for count in steps if count]
    if len(steps) == 1:
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=max_lr, total_steps=steps[0])
    return OneCyclePerPhase(optimizer, max_lr, steps)


class OneCyclePerPhase:
    """A OneCycle for each phase of training, each with a new optimizer: moments and step counts are cleared.

    Stepped after every batch like a torch schedule; its state is the number of steps taken.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, max_lr: float, steps: list[int]):
        self.optimizer, self.max_lr = optimizer, max_lr
        self.begins = dict(zip(itertools.accumulate([0, *steps[:-1]]), steps, strict=True))  # after which step: length
        self.taken = 0
        self._begin_cycle()

    def _begin_cycle(self) -> None:
        self.cycle = make_schedule(self.optimizer, self.max_lr, self.begins[self.taken])

    def step(self) -> None:
        self.taken += 1
        if self.taken in self.begins:
            self.optimizer.state.clear()
            self._begin_cycle()
        else:
            self.cycle.step()

    def state_dict(self) -> dict:
        return {"taken": self.taken, "cycle": self.cycle.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        begin = max(first for first in self.begins if first <= state["taken"])
        length, taken = self.begins[begin], state["taken"] - begin
        if (state["cycle"]["total_steps"], state["cycle"]["last_epoch"]) != (length, taken):
            raise ValueError(f"expected step {taken} of a cycle of {length}")
        self.taken = state["taken"]
        self.cycle.load_state_dict(state["cycle"])
