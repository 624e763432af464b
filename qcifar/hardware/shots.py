"""Finite numbers of shots: outcomes drawn from probabilities, values and standard errors from outcomes."""

import numpy as np
import torch

from qcifar.errors import InputError

ROUNDING = 1e-4  # by which probabilities may miss 0 and a sum of 1


def sample(probabilities: torch.Tensor, shots: int, generator: np.random.Generator) -> torch.Tensor:
    """Frequencies (B, 2^n) of `shots` outcomes for each row; 0 shots: the probabilities themselves.

    They are drawn on the CPU in double precision, so that a seed gives the same outcomes everywhere.

    Args:
        probabilities: (B, 2^n) on any device.
        generator: NumPy's, from `qcifar.streams.stream(seed, "shots", ...)`.

    Raises:
        InputError: rows that are not probabilities.
    """
    if shots == 0:
        return probabilities
    exact = probabilities.detach().cpu().double().numpy()
    if not (exact.min() > -ROUNDING and np.abs(exact.sum(1) - 1).max() < ROUNDING):  # also catches NaN
        raise InputError(
            f"outcomes have no probabilities: from {exact.min():.3g} on, sums from {exact.sum(1).min():.6g} "
            f"to {exact.sum(1).max():.6g}"
        )
    exact = exact.clip(0)
    counts = generator.multinomial(shots, exact / exact.sum(1, keepdims=True))
    return torch.from_numpy(counts / shots).to(probabilities)


def signs(wires: tuple[int, ...], n: int) -> np.ndarray:
    """(2^n,) product of the signs that outcomes give `wires`: +1 for 0 and -1 for 1."""
    bits = (np.arange(2**n)[:, None] >> (n - 1 - np.array(wires, dtype=int))) & 1
    return 1.0 - 2.0 * (bits.sum(1) % 2)


def expvals_from(frequencies: torch.Tensor, words: list[tuple[int, ...]]) -> torch.Tensor:
    """(B, outputs) from frequencies (B, 2^n): mean of the product of signs of the wires in each of `words`."""
    n = frequencies.shape[1].bit_length() - 1
    table = np.stack([signs(tuple(wires), n) for wires in words], axis=1)
    return frequencies @ torch.from_numpy(table).to(frequencies)


def standard_errors(values: torch.Tensor, shots: int) -> torch.Tensor:
    """Of means of signs: sqrt((1 - value^2) / (shots - 1)), like `values`; zeros for 0 shots, NaN for one."""
    if shots == 0:
        return torch.zeros_like(values)
    if shots == 1:
        return torch.full_like(values, torch.nan)
    return ((1 - values.square()).clamp(min=0) / (shots - 1)).sqrt()


def means(frequencies: torch.Tensor, terms, outputs: int, shots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sums of products of signs that share their outcomes, and the variances of these means, (B, outputs).

    Args:
        terms: [(output, coefficient, wires)], as `readout.grouped` has them.
    """
    n = frequencies.shape[1].bit_length() - 1
    table = np.zeros((2**n, outputs))
    for output, coefficient, wires in terms:
        table[:, output] += coefficient * signs(wires, n)
    values = torch.from_numpy(table).to(frequencies)
    mean = frequencies @ values
    spread = (frequencies @ values.square() - mean.square()).clamp(min=0)
    return mean, spread / (shots - 1) if shots > 1 else torch.full_like(spread, torch.nan)
