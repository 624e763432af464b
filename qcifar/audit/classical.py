"""How classical the map from inputs to outputs is where it is used: regressions, and the rank of the outputs."""

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR100

from qcifar.data.cifar import at_hand, load_dataset
from qcifar.errors import InputError
from qcifar.files import read_npz
from qcifar.quantum.descriptors import input_angles
from qcifar.streams import stream

from .gates import Circuit


@dataclass(frozen=True)
class Regressions:
    """Of the outputs on the inputs, fitted on one half of the rows, judged on the other."""

    inputs: str  # where they come from
    rows: int
    linear: list[float | None]  # R^2 for each output; None for an output that is constant
    quadratic: list[float | None]
    effective_rank: float  # participation ratio of the outputs' covariance: from 1 to the number of outputs
    input_rank: float  # the same of the inputs


def regressions(source: str, inputs: torch.Tensor, outputs: torch.Tensor) -> Regressions:
    """Args: inputs (rows, n) and the circuit's outputs (rows, outputs) for them."""
    x, y = inputs.double().numpy(), outputs.double().numpy()
    pairs = itertools.combinations_with_replacement(range(x.shape[1]), 2)
    flat = np.column_stack([np.ones(len(x)), x])
    curved = np.column_stack([flat, *(x[:, i] * x[:, j] for i, j in pairs)])
    return Regressions(
        source, len(x), _explained(flat, y), _explained(curved, y), participation_ratio(y), participation_ratio(x)
    )


def _explained(columns: np.ndarray, y: np.ndarray) -> list[float | None]:
    """R^2 for each column of y on the second half of the rows, of a least-squares fit on the first half."""
    half = len(y) // 2
    fitted = np.linalg.lstsq(columns[:half], y[:half], rcond=None)[0]
    left, whole = ((y[half:] - other) ** 2 for other in (columns[half:] @ fitted, y[half:].mean(0)))
    varies = whole.mean(0) > 1e-18
    return [
        float(1 - rest / total) if v else None for rest, total, v in zip(left.sum(0), whole.sum(0), varies, strict=True)
    ]


def participation_ratio(y: np.ndarray) -> float:
    """(sum of eigenvalues)^2 / sum of their squares, of the covariance of the rows of y; 0 where nothing varies."""
    strengths = np.linalg.eigvalsh(np.atleast_2d(np.cov(y.T))).clip(min=0)
    return float(strengths.sum() ** 2 / (strengths**2).sum()) if strengths.sum() > 1e-18 else 0.0


def audit_inputs(
    circuit: Circuit, angles: str, data_dir: str, image_size: int, rows: int, seed: int
) -> tuple[str, torch.Tensor]:
    """Inputs (rows, n) of the kind that the circuit gets, and where they come from.

    Args:
        angles: "auto": for a circuit without weights the cell angles of test images, for one with weights
            pi tanh(z) of standard normal z, as the head makes them of features; or the path of an npz with
            `inputs` (rows, n), such as a descriptor cache.
        data_dir: holds cifar-100-python; without it, the synthetic images are taken.
    """
    generator = stream(seed, "audit", "inputs")
    if angles != "auto":
        stored = read_npz(Path(angles), ("inputs",))["inputs"]
        if stored.ndim != 2 or stored.shape[1] != circuit.n_inputs or stored.dtype.kind not in "fiu" or len(stored) < 4:
            raise InputError(
                f"ANGLES (--angles) {angles}: expected inputs (at least 4, {circuit.n_inputs}), "
                f"got {stored.dtype} {stored.shape}"
            )
        if not np.isfinite(stored).all():
            raise InputError(f"ANGLES (--angles) {angles}: expected finite numbers in inputs, got NaN or infinity")
        stored = stored[generator.permutation(len(stored))[:rows]]
        return f"{len(stored)} rows of {Path(angles).name}", torch.from_numpy(stored).double()
    if circuit.weight_shape is not None:
        z = torch.from_numpy(generator.standard_normal((rows, circuit.n_inputs)))
        return f"{rows} times pi tanh(z), z standard normal", torch.pi * torch.tanh(z)
    name, images = image_set(data_dir)
    chosen = images[torch.from_numpy(generator.permutation(len(images))[:rows])]
    return f"cell angles of {len(chosen)} {name} images", input_angles(chosen, circuit.n_inputs, image_size)


@functools.lru_cache(maxsize=1)
def image_set(data_dir: str) -> tuple[str, torch.Tensor]:
    """Name of the set and its test images (n, 3, 32, 32) uint8: CIFAR-100 if its files lie in `data_dir`."""
    if at_hand("cifar100", data_dir):
        try:
            found = CIFAR100(data_dir, train=False, download=False)  # checks the files' md5
        except (OSError, RuntimeError) as error:
            raise InputError(f"{data_dir} is damaged or not CIFAR-100 ({error}); delete it, or --data-dir") from None
        return "CIFAR-100 test", torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return "SYNTHETIC test", load_dataset("synthetic", data_dir).test_images
