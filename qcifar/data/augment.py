"""The training augmentation and the evaluation crop on whole batches, on the device that trains.

What torchvision computes image by image (RandomResizedCrop, flip, RandAugment, Normalize,
RandomErasing; Resize and CenterCrop) is computed here for a batch at once:

* parameters are drawn per image on the CPU, from a stream of their own (`draw_parameters`);
* crop and resize are two small interpolation matrices per image, the flip folded into one of them;
* RandAugment sorts the batch by (operation, sign), since its magnitude is fixed, and calls
  torchvision's own v2 kernel once for each group.

Results are torchvision's to within one grey level. They cannot be equal to the last bit: torchvision
resizes uint8 in fixed point and rounds after each of the two passes, we round once after both.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

MEAN = (0.485, 0.456, 0.406)  # ImageNet, per RGB channel, of values in [0, 1]
STD = (0.229, 0.224, 0.225)
SOURCE = 32  # side of a CIFAR image in pixels
MAGNITUDE_BINS = 31  # torchvision's RandAugment default

# RandAugment's operations in torchvision's order, and whether the magnitude's sign is drawn.
OPERATIONS = {
    "Identity": False,
    "ShearX": True,
    "ShearY": True,
    "TranslateX": True,
    "TranslateY": True,
    "Rotate": True,
    "Brightness": True,
    "Color": True,
    "Contrast": True,
    "Sharpness": True,
    "Posterize": False,
    "Solarize": False,
    "AutoContrast": False,
    "Equalize": False,
}
NAMES = tuple(OPERATIONS)
SIGNED = np.array(list(OPERATIONS.values()))


@dataclass(frozen=True)
class Augmentation:
    """The published training augmentation; lengths are relative, magnitudes are RandAugment's."""

    img_size: int  # side of the network's input in pixels
    crop_scale: tuple[float, float] = (0.6, 1.0)  # share of the image's area
    crop_ratio: tuple[float, float] = (0.75, 1.33)  # width / height
    flip_p: float = 0.5
    num_ops: int = 2
    magnitude: int = 7  # of 0..30
    erase_p: float = 0.25
    erase_scale: tuple[float, float] = (0.02, 0.08)
    erase_ratio: tuple[float, float] = (0.3, 3.3)


class Parameters(NamedTuple):
    """What was drawn for a batch of B images."""

    crop: np.ndarray  # (4, B) int64: top, left, height, width in source pixels
    flip: np.ndarray  # (B,) bool
    operation: np.ndarray  # (num_ops, B) int64: place in NAMES
    sign: np.ndarray  # (num_ops, B) int64: +1 or -1, always +1 where the operation has no sign
    erase: np.ndarray  # (4, B) int64: top, left, height, width in output pixels; zeros: nothing erased

    def of(self, images: slice) -> "Parameters":
        """Those of some of the images."""
        return Parameters(*(drawn[..., images] for drawn in self))


def draw_parameters(rng: np.random.Generator, batch: int, recipe: Augmentation) -> Parameters:
    """Draw what torchvision's transforms would draw, with the same distributions, for `batch` images."""
    crop = _draw_crop(rng, batch, recipe.crop_scale, recipe.crop_ratio)
    flip = rng.random(batch) < recipe.flip_p
    operation = rng.integers(len(NAMES), size=(recipe.num_ops, batch))
    sign = np.where(SIGNED[operation] & (rng.random((recipe.num_ops, batch)) <= 0.5), -1, 1)
    erase = _draw_erase(rng, batch, recipe)
    return Parameters(crop, flip, operation, sign, erase)


def _draw_boxes(rng, batch, side, scale, ratio, fits):
    """Boxes of random area and log-uniform aspect: the first of ten tries that fits, as torchvision does.

    Returns (height, width, found, u) with `u` (2, batch) uniform numbers that place the box.
    """
    area = side * side * rng.uniform(*scale, size=(10, batch))
    aspect = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), size=(10, batch)))
    places = rng.random((2, batch))
    long, short = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
    fit = fits(long, short)
    first = fit.argmax(axis=0)[None]
    take = [np.take_along_axis(a, first, 0)[0].astype(np.int64) for a in (long, short)]
    return *take, fit.any(axis=0), places


def _draw_crop(rng, batch, scale, ratio) -> np.ndarray:
    """RandomResizedCrop.get_params; the fallback after ten misses is the central crop of legal aspect."""
    width, height, found, u = _draw_boxes(
        rng, batch, SOURCE, scale, ratio, lambda w, h: (w > 0) & (w <= SOURCE) & (h > 0) & (h <= SOURCE)
    )
    fallback_w, fallback_h = SOURCE, SOURCE  # a square image has aspect 1
    if ratio[0] > 1:
        fallback_h = round(SOURCE / ratio[0])
    elif ratio[1] < 1:
        fallback_w = round(SOURCE * ratio[1])
    width, height = np.where(found, width, fallback_w), np.where(found, height, fallback_h)
    top = np.where(found, (u[0] * (SOURCE - height + 1)).astype(np.int64), (SOURCE - height) // 2)
    left = np.where(found, (u[1] * (SOURCE - width + 1)).astype(np.int64), (SOURCE - width) // 2)
    return np.stack([top, left, height, width])


def _draw_erase(rng, batch, recipe: Augmentation) -> np.ndarray:
    """RandomErasing.get_params, with nothing erased in a share 1 - p of the images or after ten misses."""
    side = recipe.img_size
    height, width, found, u = _draw_boxes(
        rng, batch, side, recipe.erase_scale, recipe.erase_ratio, lambda h, w: (h < side) & (w < side)
    )
    wanted = (rng.random(batch) < recipe.erase_p) & found
    top, left = (u[0] * (side - height + 1)).astype(np.int64), (u[1] * (side - width + 1)).astype(np.int64)
    return np.stack([top, left, height, width]) * wanted


def interpolation_matrix(start, length, size: int, flip=None, source: int = SOURCE) -> torch.Tensor:
    """Weights that resize `length` pixels from `start` on to `size` pixels: antialiased bilinear.

    The triangle filter of PIL and of torch's `interpolate(antialias=True)`, which is plain bilinear
    with clamped edges when it enlarges.

    Args:
        start, length: (B,) first pixel and number of pixels, along one axis of the source.
        size: number of output pixels.
        flip: (B,) bool, output reversed where true.
        source: number of pixels of the whole source axis.

    Returns:
        (B, size, source) float32; rows sum to 1.
    """
    start, length = start.to(torch.float32)[:, None], length.to(torch.float32)[:, None]
    scale = length / size  # source pixels per output pixel
    out = torch.arange(size, device=start.device, dtype=torch.float32)[None]
    if flip is not None:
        out = torch.where(flip[:, None], size - 1 - out, out)
    centre = start + (out + 0.5) * scale  # (B, size)
    pixel = torch.arange(source, device=start.device, dtype=torch.float32) + 0.5
    distance = (pixel - centre[..., None]).abs() / scale.clamp(min=1.0)[..., None]  # (B, size, source)
    inside = (pixel > start[..., None]) & (pixel < (start + length)[..., None])
    weights = (1.0 - distance).clamp(min=0.0) * inside
    return weights / weights.sum(-1, keepdim=True)


def resample(planes: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Crop, resize and flip: (B, C, 32, 32) float with (B or 1, S, 32) matrices -> (B, C, S, S)."""
    return rows[:, None] @ (planes @ columns[:, None].mT)


def evaluation_matrices(img_size: int, device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns, each (1, S, 32), of Resize(int(1.15 S)) followed by CenterCrop(S)."""
    resized = int(1.15 * img_size)
    first = round((resized - img_size) / 2.0)
    whole = torch.tensor([0], device=device), torch.tensor([SOURCE], device=device)
    matrix = interpolation_matrix(*whole, resized)[:, first : first + img_size]
    return matrix, matrix


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, S, S) -> float32, ImageNet mean 0 and standard deviation 1."""
    mean, std = _mean_and_std(images.device)
    return images.to(torch.float32).div_(255).sub_(mean).div_(std)


@functools.cache
def _mean_and_std(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Once for a device, because the host waits for such a copy."""
    return tuple(torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))


def crop_resize(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, 32, 32) -> uint8 (B, 3, S, S), rounded as torchvision rounds."""
    return resample(images.to(torch.float32), rows, columns).round_().clamp_(0, 255).to(torch.uint8)


def upload(host: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on `device`, without waiting for the copy."""
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


class PlacedParameters:
    """`Parameters` on the device, in one transfer, with the order in which RandAugment walks the batch."""

    def __init__(self, parameters: Parameters, device: torch.device):
        self.groups = []  # for each operation step: [(name, sign, number of images)]
        gathers, order_before = [], np.arange(parameters.flip.size)
        for operation, sign in zip(parameters.operation, parameters.sign, strict=True):
            order = np.lexsort((sign, operation))
            keys, counts = np.unique(np.stack([operation, sign])[:, order], axis=1, return_counts=True)
            self.groups.append([(NAMES[k], s, n) for (k, s), n in zip(keys.T.tolist(), counts.tolist(), strict=True)])
            gathers.append(np.argsort(order_before)[order])  # from the last step's order straight to this one's
            order_before = order
        gathers.append(np.argsort(order_before))  # back to the batch's own order
        packed = np.concatenate([parameters.crop, parameters.erase, parameters.flip[None], np.stack(gathers)])
        placed = upload(torch.from_numpy(packed.astype(np.int64)), device)
        self.crop, self.erase, self.flip, self.gathers = placed[:4], placed[4:8], placed[8].bool(), placed[9:]

    def matrices(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows and columns, each (B, size, 32), of the crop with its flip."""
        top, left, height, width = self.crop
        return interpolation_matrix(top, height, size), interpolation_matrix(left, width, size, self.flip)


def augment(images: torch.Tensor, parameters: PlacedParameters, matrices, recipe: Augmentation) -> torch.Tensor:
    """Source images (B, 3, 32, 32) uint8 -> network input (B, 3, S, S) float32, normalised."""
    images = crop_resize(images, *matrices)
    for gather, groups in zip(parameters.gathers[:-1], parameters.groups, strict=True):
        parts = images.index_select(0, gather).split([count for _, _, count in groups])
        images = torch.cat(
            [
                apply_operation(part, name, sign, recipe.magnitude)
                for part, (name, sign, _) in zip(parts, groups, strict=True)
            ]
        )
    images = images.index_select(0, parameters.gathers[-1])
    return erase(normalise(images), parameters.erase)


def erase(images: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Set the (4, B) boxes (top, left, height, width) of images (B, C, S, S) to 0, in place."""
    top, left, height, width = boxes.view(4, -1, 1, 1, 1)
    line = torch.arange(images.shape[-1], device=images.device)
    in_rows = (line.view(-1, 1) >= top) & (line.view(-1, 1) < top + height)
    in_columns = (line >= left) & (line < left + width)
    return images.masked_fill_(in_rows & in_columns, 0.0)


@functools.cache
def operation_magnitude(name: str, magnitude: int, size: int) -> float:
    """RandAugment's strength of an operation at `magnitude` of 0..30: torchvision's table, to the bit."""
    highest = {"Shear": 0.3, "Translate": 150.0 / 331.0 * size, "Rotate": 30.0}
    if name == "Posterize":
        bits = 8 - torch.arange(MAGNITUDE_BINS) / ((MAGNITUDE_BINS - 1) / 4)
        return int(bits.round()[magnitude])
    if name == "Solarize":
        return float(torch.linspace(1.0, 0.0, MAGNITUDE_BINS)[magnitude])
    return float(torch.linspace(0.0, highest.get(name.rstrip("XY"), 0.9), MAGNITUDE_BINS)[magnitude])


def apply_operation(images: torch.Tensor, name: str, sign: int, magnitude: int) -> torch.Tensor:
    """One RandAugment operation on uint8 images (B, 3, S, S), by torchvision's v2 kernel or as it moves pixels."""
    m = sign * operation_magnitude(name, magnitude, images.shape[-1])
    match name:
        case "Identity":
            return images
        case "ShearX" | "ShearY" | "TranslateX" | "TranslateY" | "Rotate":
            return move_pixels(images, *pixel_sources(name, m, images.shape[-1], images.device))
        case "Brightness":
            return F.adjust_brightness(images, 1.0 + m)
        case "Color":
            return F.adjust_saturation(images, 1.0 + m)
        case "Contrast":
            return F.adjust_contrast(images, 1.0 + m)
        case "Sharpness":
            return sharpen(images, 1.0 + m)
        case "Posterize":
            return F.posterize(images, int(m))
        case "Solarize":
            return F.solarize(images, 255 * m)
        case "AutoContrast":
            return F.autocontrast(images)
        case "Equalize":
            return equalize(images)
    raise ValueError(f"no RandAugment operation {name!r}")


@functools.cache
def pixel_sources(name: str, m: float, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a geometric operation of strength `m` takes each pixel from: (S * S,) places, and whether from outside.

    Found by torchvision's own kernel, which gets an image of places: nearest neighbour, as RandAugment has
    it, moves pixels without changing them. Once for a device, because torchvision copies its matrix there
    each time and the host waits for that.
    """
    places = torch.arange(1, size * size + 1, dtype=torch.float32).view(1, 1, size, size)  # exact below 2^24
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    degrees = math.degrees(math.atan(m))
    match name:
        case "ShearX":
            moved = F.affine(places, **still | {"shear": [degrees, 0.0]}, center=[0, 0])
        case "ShearY":
            moved = F.affine(places, **still | {"shear": [0.0, degrees]}, center=[0, 0])
        case "TranslateX":
            moved = F.affine(places, **still | {"translate": [int(m), 0]})
        case "TranslateY":
            moved = F.affine(places, **still | {"translate": [0, int(m)]})
        case "Rotate":
            moved = F.rotate(places, angle=m)
    moved = moved.flatten().round().long()
    return (moved - 1).clamp(min=0).to(device), (moved == 0).to(device)


def move_pixels(images: torch.Tensor, source: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
    """Images (B, C, S, S) with pixel p taken from `source[p]`, and 0 where `outside`."""
    moved = images.flatten(-2).index_select(-1, source).masked_fill_(outside, 0)
    return moved.view_as(images)


def sharpen(images: torch.Tensor, factor: float) -> torch.Tensor:
    """torchvision's `adjust_sharpness` of uint8 images (B, C, S, S), without its copy to the device each time.

    The inside of an image is blended with its 3 x 3 mean in which the centre counts five times.
    """
    kernel = _sharpness_kernel(images.device).expand(images.shape[1], 1, 3, 3)
    sharp = images.to(torch.float32)
    blurred = torch.nn.functional.conv2d(sharp, kernel, groups=images.shape[1]).round_()
    inside = sharp[..., 1:-1, 1:-1]
    inside.add_(blurred.sub_(inside), alpha=1.0 - factor)
    return sharp.clamp_(0, 255).to(torch.uint8)


@functools.cache
def _sharpness_kernel(device: torch.device) -> torch.Tensor:
    return (torch.tensor([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13.0).to(device)


def equalize(images: torch.Tensor) -> torch.Tensor:
    """Histogram equalisation, equal to torchvision's `equalize` on uint8 (B, C, S, S).

    torchvision counts with `scatter_add_`, which has no deterministic CUDA kernel. Sorting gives the
    same cumulative histogram: the number of pixels <= g is where g would be inserted.
    """
    flat = images.flatten(-2)  # (B, C, P)
    levels = torch.arange(256, device=images.device, dtype=torch.uint8).expand(*flat.shape[:-1], 256).contiguous()
    below = torch.searchsorted(flat.sort(dim=-1).values, levels, right=True)  # (B, C, 256) cumulative histogram
    pixels = flat.shape[-1]
    # Pixels at the brightest level present do not count in the step; a flat image stays as it is.
    last = torch.where(below < pixels, below, 0).amax(-1, keepdim=True)
    step = last.div(255, rounding_mode="floor")
    before = torch.nn.functional.pad(below, (1, 0))[..., :-1]  # pixels darker than g
    table = (before + step // 2).div(step.clamp(min=1), rounding_mode="floor").clamp(0, 255)
    table = torch.where(step > 0, table, levels.long()).to(torch.uint8)
    return table.gather(-1, flat.long()).view_as(images)
