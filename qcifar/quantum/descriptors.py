"""From images to circuit inputs, from circuit outputs to caches on disk, and from there to channels.

images (n, 3, 32, 32) uint8
  -> grey, resized, cell means, standardised, times pi/3    angles (n, N)      `input_angles`
  -> circuit, in chunks, cached as npz                      qvec   (n, N)      `cached_descriptors`
  -> grid of cells, enlarged, scaled                        map    (B, 1, S, S) `QuantumMaps`
"""

import hashlib
import importlib.metadata
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pennylane as qml
import torch
from torch.nn.functional import adaptive_avg_pool2d
from tqdm import tqdm

from qcifar import distributed
from qcifar.data.augment import SOURCE, interpolation_matrix, resample
from qcifar.data.cifar import fingerprint
from qcifar.errors import InputError, describe
from qcifar.files import one_at_a_time, read_npz, write_npz
from qcifar.quantum.layer import circuit_name, stack_values

ANGLE_SCALE = math.pi / 3  # radians per standard deviation
STD_FLOOR = 1e-6  # added to the standard deviation: an image of one grey gets angles 0
PREPROCESSING = f"L, bilinear, cell means, standardised per image (+{STD_FLOOR:g}), times {ANGLE_SCALE:.6f}"
AMPLITUDES_PER_CHUNK = 2**18  # 1 MB for each real part of the states: they stay in cache
IMAGES_PER_CHUNK = 512  # of the preprocessing, for the same reason
PILLOW_BITS = 22  # Pillow's fixed-point resampling weights


def grid_shape(n_qubits: int) -> tuple[int, int]:
    """(rows, columns) of the cells, one a qubit: as square as possible; 4 -> (2, 2), 6 -> (2, 3)."""
    rows = max(r for r in range(1, math.isqrt(n_qubits) + 1) if n_qubits % r == 0)
    return rows, n_qubits // rows


def refuse_small_image(n_qubits: int, image_size: int) -> None:
    """Raise `InputError` if the grey image has fewer pixels than cells along a side."""
    if image_size < max(grid_shape(n_qubits)):
        raise InputError(
            f"QUANTUM_IMAGE_SIZE (--quantum-image-size): {n_qubits} qubits are {grid_shape(n_qubits)} cells, "
            f"expected at least {max(grid_shape(n_qubits))} pixels, got {image_size}"
        )


def note_constant(kind: str, values: torch.Tensor, note: Callable[[str], None]) -> None:
    """Tell `note` in one line where descriptors (n, N) are the same for all images: their map says nothing."""
    if len(values) > 1 and not bool((values - values[:1]).abs().max() > 1e-6):
        note(f"warning: the {kind} descriptors are the same for all images: their circuit does not follow its angles")


def input_angles(images: torch.Tensor, n_qubits: int, image_size: int) -> torch.Tensor:
    """Angles for the descriptor circuits, for all images at once.

    Grey and resize equal Pillow's `convert("L").resize(..., BILINEAR)` to the bit. Several processes take
    chunks of images in turns, and call this together; each gets all angles.

    Args:
        images: (n, 3, 32, 32) uint8.
        n_qubits: number of cells, on the grid `grid_shape(n_qubits)`.
        image_size: side of the grey image in pixels.

    Returns:
        (n, n_qubits) float64 on the CPU, radians: cell means of an image, minus their mean, divided
        by their standard deviation, times pi/3.

    Raises:
        InputError: see `refuse_small_image`.
    """
    refuse_small_image(n_qubits, image_size)
    cells = torch.zeros(len(images), n_qubits, dtype=torch.float64)
    for chunk, means in _dealt_out(images.cpu().split(IMAGES_PER_CHUNK), cells.split(IMAGES_PER_CHUNK)):
        grey = grey_resized(chunk, image_size)
        means.copy_(adaptive_avg_pool2d(grey[:, None] / 255, grid_shape(n_qubits)).flatten(1))
    cells = distributed.sum_of(cells)  # each is zero on all processes but one: exact
    centred = cells - cells.mean(dim=1, keepdim=True)
    return centred / (cells.std(dim=1, correction=0, keepdim=True) + STD_FLOOR) * ANGLE_SCALE


def _dealt_out(*columns):
    """Those rows of `zip(*columns)` that are this process's, in turns."""
    return itertools.islice(zip(*columns, strict=True), distributed.rank(), None, distributed.world_size())


def grey_resized(images: torch.Tensor, size: int) -> torch.Tensor:
    """Pillow's grey, bilinearly resized image: (n, 3, H, W) uint8 -> (n, size, size) whole float64.

    ITU-R 601 luma and resampling in Pillow's own fixed point. Products of 8-bit pixels with 22-bit
    weights are exact in float64, so matrix products reproduce its integers.
    """
    red, green, blue = images.to(torch.int32).unbind(1)
    grey = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16  # (n, H, W)
    rows = _pillow_weights(grey.shape[1], size)  # (size, H)
    columns = _pillow_weights(grey.shape[2], size)  # (size, W)
    half, one = 1 << (PILLOW_BITS - 1), 1 << PILLOW_BITS
    across = ((grey.double() @ columns.mT + half) / one).floor().clamp(0, 255)  # columns first, as Pillow
    return ((rows @ across + half) / one).floor().clamp(0, 255)


def _pillow_weights(source: int, size: int) -> torch.Tensor:
    """(size, source) float64 whole numbers: triangle filter in units of 2^-22."""
    scale = source / size
    support = max(scale, 1.0)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    pixel = torch.arange(source, dtype=torch.float64) + 0.5
    weights = (1.0 - ((pixel - centre[:, None]) / support).abs()).clamp(min=0.0)
    weights = weights / weights.sum(1, keepdim=True)
    return (weights * (1 << PILLOW_BITS) + 0.5).floor()


def chunk_size(n_qubits: int) -> int:
    """Images that go through a circuit at once."""
    return max(1, AMPLITUDES_PER_CHUNK >> n_qubits)


@torch.inference_mode()
def run_circuit(qnode: Callable, angles: torch.Tensor, title: str) -> torch.Tensor:
    """Expectation values of `qnode` for every row of `angles`, by parameter broadcasting in chunks.

    Several processes take the chunks in turns; each gets all values.

    Args:
        qnode: (angles (B, N)) -> values (B, N), or N of shape (B,); see `qcifar.quantum.runner.make_runner`.
        angles: (n, N) float64.
        title: of the progress bar.

    Returns:
        (n, N) float64.

    Raises:
        InputError: the circuit raises, returns another shape or a value outside [-1, 1].
    """
    n, n_qubits = angles.shape
    if not bool(angles.isfinite().all()):
        bad = (~angles.isfinite()).any(dim=1).nonzero()[0].item()
        raise InputError(f"the circuit {circuit_name(qnode)} ({title}): the angles of image {bad} are not finite")
    size = chunk_size(n_qubits)
    results, started = torch.zeros_like(angles), time.monotonic()
    with tqdm(total=n, unit="img", leave=False, desc=title, disable=distributed.rank() > 0) as bar:
        chunks = angles.split(size)
        for number, chunk, result in _dealt_out(range(len(chunks)), chunks, results.split(size)):
            first = number * size
            where = f"the circuit {circuit_name(qnode)} on images {first} to {first + len(chunk) - 1} ({title})"
            try:
                values = stack_values(qnode(chunk), len(chunk))
            except Exception as error:  # somebody's circuit: name it, never put zeros in its place
                raise InputError(f"{where} failed: {describe(error)}") from error
            if values.shape != chunk.shape:
                raise InputError(f"{where}: expected values {tuple(chunk.shape)}, got {tuple(values.shape)}")
            refuse_wrong_values(values, chunk, first, where)
            result.copy_(values)
            if number < distributed.world_size():
                _say_if_long(title, (time.monotonic() - started) * len(chunks) / distributed.world_size())
            bar.update(min(len(chunk) * distributed.world_size(), n - first))
    return distributed.sum_of(results)


def refuse_wrong_values(values: torch.Tensor, angles: torch.Tensor, first: int, where: str) -> None:
    """Raise `InputError` for a value outside [-1, 1] or NaN, with the first image that has one and its angles."""
    wrong = (~(values.abs() <= 1 + 1e-6)).any(dim=1)  # also catches NaN
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        value = next(value for value in values[row].tolist() if not abs(value) <= 1 + 1e-6)
        raise InputError(
            f"{where}: expected values from -1 to 1, got {value:.6g} for image {first + row}, whose angles go from "
            f"{angles[row].min().item():.3g} to {angles[row].max().item():.3g}"
        )


def _say_if_long(title: str, seconds: float) -> None:
    """One line where the first chunk shows that all of them will take more than ten minutes."""
    if seconds > 600:
        distributed.say(f"{title}: about {seconds / 3600:.1f} hours; descriptors are computed once and then cached")


def descriptor_key(parameters: dict) -> str:
    """First 12 hex digits of the SHA-256 of all that the content of a cache depends on."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:12]


def cached_descriptors(
    folder: Path, part: str, kind: str, qnode: Callable, images: torch.Tensor, index: np.ndarray, parameters: dict
) -> torch.Tensor:
    """Descriptors of `images`, read from `<part>_q_<kind>_<key>.npz` in `folder` or computed and put there.

    Args:
        part: "train", "val" or "test".
        kind: "edge" or "tex".
        qnode: see `run_circuit`.
        images: (n, 3, 32, 32) uint8.
        index: (n,) place of each image in the published file.
        parameters: what the circuit, the preprocessing and their code were; the key is made of these, of
            PennyLane's version (and Lightning's, if it ran there), the part and the index. Needs "n_qubits" and
            "image_size".

    Returns:
        (n, n_qubits) float32.

    Raises:
        InputError: the circuit fails; the cache is damaged, of something else, or not finite.
    """
    parameters = parameters | {"part": part, "kind": kind, "index": fingerprint(index), "pennylane": qml.__version__}
    if parameters.get("device", "").startswith("lightning."):  # a simulator with releases of its own
        parameters["pennylane-lightning"] = importlib.metadata.version("pennylane-lightning")
    path = folder / f"{part}_q_{kind}_{descriptor_key(parameters)}.npz"
    if not distributed.from_first(path.exists()):
        with one_at_a_time(path):
            if not distributed.from_first(path.exists()):  # nor did another run make it in the meantime
                _write_descriptors(path, part, kind, qnode, images, index, parameters)
    return _validated_descriptors(path, index, parameters)


def _write_descriptors(path, part, kind, qnode, images, index, parameters) -> None:
    angles = input_angles(images, parameters["n_qubits"], parameters["image_size"])
    values = run_circuit(qnode, angles, f"{part} {kind}")
    qvec, inputs = values.to(torch.float32).numpy(), angles.to(torch.float32).numpy()
    write_npz(
        path,
        qvec=qvec,
        inputs=inputs,
        index=index,
        parameters=np.array(json.dumps(parameters, sort_keys=True)),
        checksum=np.array(_checksum(qvec, inputs)),
    )


def _checksum(*arrays: np.ndarray) -> str:
    """SHA-256 of the numbers: a file of the right form may hold others."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def _validated_descriptors(path: Path, index: np.ndarray, parameters: dict) -> torch.Tensor:
    stored = read_npz(path, ("qvec", "inputs", "index", "parameters", "checksum"))

    def refuse(what: str, expected, got):
        raise InputError(f"{path}: {what}: expected {expected}, got {got}; delete it and run again")

    try:
        found = json.loads(str(stored["parameters"]))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        refuse("parameters", "a JSON object", str(stored["parameters"])[:40])
    for name, value in parameters.items():
        if found.get(name) != value:
            refuse(name, value, found.get(name, "nothing"))
    shape = (len(index), parameters["n_qubits"])
    for name in ("qvec", "inputs"):
        if stored[name].shape != shape or stored[name].dtype != np.float32:
            refuse(name, f"float32 {shape}", f"{stored[name].dtype} {stored[name].shape}")
        if not np.isfinite(stored[name]).all():
            bad = int((~np.isfinite(stored[name])).any(axis=1).sum())
            refuse(name, "finite numbers", f"{bad} images with NaN or infinity")
    if np.abs(stored["qvec"]).max() > 1 + 1e-6:
        refuse("qvec", "values from -1 to 1", np.abs(stored["qvec"]).max())
    if not np.array_equal(stored["index"], index):
        refuse("index", "the images of this split", "others")
    if str(stored["checksum"]) != _checksum(stored["qvec"], stored["inputs"]):
        refuse("qvec and inputs", "the numbers that were computed", "others (their checksum differs)")
    return torch.from_numpy(stored["qvec"])


class QuantumMaps:
    """Input channels made of descriptors, one grid of cells each; an `ExtraChannels` for the loaders.

    Args:
        descriptors: one (n, n_qubits) tensor for each channel, on the training device.
        img_size: side S of the network's input in pixels.
        align: True: the map covers the 32 x 32 image and takes part in its crop and flip. False (as
            published): the map fills the network's input, whatever was done to the image.
        scaling: "fixed" keeps the values in [-1, 1]; "minmax" (as published) stretches each map to [0, 1].
    """

    def __init__(self, descriptors: list[torch.Tensor], img_size: int, align: bool, scaling: str):
        rows, columns = grid_shape(descriptors[0].shape[1])
        self.grids = torch.stack(descriptors, dim=1).unflatten(2, (rows, columns))  # (n, P, rows, columns)
        self.align, self.scaling = align, scaling
        side = SOURCE if align else img_size
        self.enlarge_rows, self.enlarge_columns = (
            interpolation_matrix(
                torch.tensor([0], device=self.grids.device),
                torch.tensor([cells], device=self.grids.device),
                side,
                source=cells,
            )
            for cells in (rows, columns)
        )

    def __call__(self, index: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """(B,) places and the image's matrices (B or 1, S, 32) -> maps (B, P, S, S)."""
        maps = resample(self.grids[index], self.enlarge_rows, self.enlarge_columns)  # (B, P, side, side)
        if self.scaling == "minmax":
            low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
            maps = (maps - low) / (high - low + STD_FLOOR)
        return resample(maps, rows, columns) if self.align else maps
