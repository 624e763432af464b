"""Batches from images that live on the training device: a batch is an index, not a worker process.

The order of the images and their augmentation are functions of (seed, epoch, step), so a loader has
no state and can begin anywhere.
"""

import functools
import math
from collections.abc import Callable, Iterator

import torch

from qcifar import distributed
from qcifar.data.augment import (
    Augmentation,
    PlacedParameters,
    augment,
    crop_resize,
    draw_parameters,
    evaluation_matrices,
    normalise,
    upload,
)
from qcifar.streams import stream

# (places in the loader's images (B,), rows (B or 1, S, 32), columns (B or 1, S, 32)) -> (B, P, S, S):
# further input channels, handed the same interpolation matrices as the image.
ExtraChannels = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def made_ahead(batches: Iterator[tuple[torch.Tensor, ...]], device: torch.device) -> Iterator[tuple[torch.Tensor, ...]]:
    """The same batches; on a GPU each is queued on a side stream before the one ahead of it is handed out.

    So the kernels that make it run beside those of the step. Nothing waits on the host: the step's stream
    waits for the side stream on the device, and the memory of a batch is not reused before its step is done.
    """
    if device.type != "cuda":
        yield from batches
        return
    side, main = _side_stream(device), torch.cuda.current_stream(device)
    side.wait_stream(main)  # the images themselves may still be on their way
    ready = None
    while True:
        with torch.cuda.stream(side):
            upcoming = next(batches, None)
            event = side.record_event()
        if ready is not None:
            yield ready
        if upcoming is None:
            return
        main.wait_event(event)
        for tensor in upcoming:
            tensor.record_stream(main)
        ready = upcoming


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all epochs: torch keeps the memory of each stream apart, and what one has freed no other gets."""
    return torch.cuda.Stream(device)


class TrainLoader:
    """Shuffled, augmented batches of equal size.

    Args:
        images: (n, 3, 32, 32) uint8 on the device that trains.
        labels: (n,) int64, likewise.
        batch_size: images a step; all of them where there are fewer. Since every epoch shuffles anew,
            the n mod batch_size images left over at its end are others each time; they are skipped.
        recipe: the augmentation.
        seed: of the order and the augmentation.
        extra: further input channels, or None.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int,
        recipe: Augmentation,
        seed: int,
        extra: ExtraChannels | None = None,
    ):
        self.images, self.labels = images, labels
        self.batch_size = min(batch_size, len(images))
        self.recipe, self.seed, self.extra = recipe, seed, extra

    def __len__(self) -> int:
        """Steps in an epoch."""
        return len(self.images) // self.batch_size

    def order(self, epoch: int) -> torch.Tensor:
        """(steps, batch_size) places in `images`: which images each step of `epoch` sees."""
        order = stream(self.seed, "order", epoch).permutation(len(self.images))
        return torch.from_numpy(order[: len(self) * self.batch_size]).view(len(self), self.batch_size)

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (x (B, 3 + P, S, S) float32, labels (B,)) from `first_step` to the end of `epoch`.

        Of several processes each gets its slice: B is batch_size / processes. On a GPU the next batch is
        made on a stream of its own, while the step on the current one runs.
        """
        yield from made_ahead(self._batches(epoch, first_step), self.images.device)

    def _batches(self, epoch: int, first_step: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        mine = distributed.my_slice(self.batch_size)
        order = upload(self.order(epoch)[:, mine].contiguous(), self.images.device)
        for step in range(first_step, len(self)):
            index = order[step]
            drawn = draw_parameters(stream(self.seed, "augment", epoch, step), self.batch_size, self.recipe)
            placed = PlacedParameters(drawn.of(mine), self.images.device)
            matrices = placed.matrices(self.recipe.img_size)
            x = augment(self.images[index], placed, matrices, self.recipe)
            if self.extra is not None:
                x = torch.cat([x, self.extra(index, *matrices)], dim=1)
            yield x, self.labels[index]


class EvalLoader:
    """All images in order, Resize(1.15 S) and CenterCrop(S), not augmented. Arguments as in `TrainLoader`."""

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch_size: int,
        img_size: int,
        extra: ExtraChannels | None = None,
    ):
        self.images, self.labels, self.batch_size, self.extra = images, labels, batch_size, extra
        self.matrices = evaluation_matrices(img_size, images.device)

    def __len__(self) -> int:
        return math.ceil(len(self.images) / self.batch_size)

    def batches(self, first: int = 0, every: int = 1) -> Iterator[tuple[torch.Tensor, slice]]:
        """Yield (x (B, 3 + P, S, S) float32, places of its B images) of each `every`-th batch from number `first` on.

        The batches themselves do not depend on how many processes share them, and so neither do the logits.
        The last one may be smaller.
        """
        for start in range(first * self.batch_size, len(self.images), every * self.batch_size):
            places = slice(start, min(start + self.batch_size, len(self.images)))
            x = normalise(crop_resize(self.images[places], *self.matrices))
            if self.extra is not None:
                index = torch.arange(places.start, places.stop, device=self.images.device)
                x = torch.cat([x, self.extra(index, *self.matrices)], dim=1)
            yield x, places
