"""Corrections of measured values; each is reported beside the unmitigated number, never instead of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from qcifar.errors import InputError


def invert_readout(frequencies: torch.Tensor, confusions: Sequence[np.ndarray]) -> torch.Tensor:
    """Frequencies (B, 2^n) as they would be without readout errors; some may become negative.

    The sampling error grows: by 1 / (1 - 2 readout) for each qubit of a word.

    Args:
        confusions: (2, 2) of each wire, see `NoiseModel.confusion`.

    Raises:
        InputError: outcomes that say nothing of a qubit, as at a readout error of 1/2.
    """
    values = frequencies.double()
    for place, confusion in enumerate(confusions):
        if abs(np.linalg.det(confusion)) < 1e-6:
            raise InputError(f"readout errors of qubit {place} cannot be inverted: its outcomes say nothing of it")
        inverse = torch.from_numpy(np.linalg.inv(confusion)).to(values)
        grid = values.view(len(values), 2**place, 2, -1)
        values = torch.einsum("ij,bljr->blir", inverse, grid).reshape(values.shape)
    return values.to(frequencies)


@dataclass(frozen=True)
class Rescale:
    """ideal = slope * noisy + offset for each output, fitted by least squares on training images."""

    slope: torch.Tensor  # (outputs,)
    offset: torch.Tensor  # (outputs,)

    @classmethod
    def fit(cls, noisy: torch.Tensor, ideal: torch.Tensor) -> "Rescale":
        """From values (images, outputs) of the same training images, noisy and ideal.

        An output that does not vary keeps its slope, 1, and is shifted only.

        Raises:
            InputError: fewer than three images.
        """
        if len(noisy) < 3 or noisy.shape != ideal.shape:
            raise InputError(
                f"a rescale needs values of three or more images, noisy and ideal, got {tuple(noisy.shape)} "
                f"and {tuple(ideal.shape)}"
            )
        x, y = noisy.double(), ideal.double()
        spread = x.var(0, correction=0)
        together = ((x - x.mean(0)) * (y - y.mean(0))).mean(0)
        slope = torch.where(spread > 1e-12, together / spread.clamp(min=1e-12), 1.0)
        return cls(slope.to(noisy), (y.mean(0) - slope * x.mean(0)).to(noisy))

    def __call__(self, noisy: torch.Tensor) -> torch.Tensor:
        """(B, outputs) -> (B, outputs)."""
        return self.slope * noisy + self.offset


def extrapolate(values: torch.Tensor, scales: Sequence[float]) -> torch.Tensor:
    """(B, outputs) at zero noise, on the straight line nearest to values (scales, B, outputs) at noise `scales`.

    Linear only: a fitted exponential is far off where a value hardly changes.

    Raises:
        InputError: fewer than two different scales.
    """
    x = torch.tensor(scales, dtype=torch.float64)
    if len(values) != len(x) or len(set(scales)) < 2:
        raise InputError(f"an extrapolation needs values at two or more different scales, got {list(scales)}")
    weights = 1 / len(x) - x.mean() * (x - x.mean()) / (x - x.mean()).square().sum()  # of the line's value at 0
    return torch.tensordot(weights.to(values), values, dims=1)
