"""Mode 3 of `evaluate_hardware.py`: a chip's calibration, as qiskit-ibm-runtime remembers it.

A circuit is transpiled once for the chip. Its outcomes are exact probabilities under the chip's gate and readout
errors; shots are drawn from them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from qcifar.errors import InputError
from qcifar.hardware import with_qiskit
from qcifar.hardware.engine import NoisyCircuit
from qcifar.hardware.evaluate import (
    Evaluation,
    draws,
    mitigations,
    noisy_probabilities,
    refuse_too_wide,
    scores_of,
    values_from,
)
from qcifar.hardware.gates import Portable, portable
from qcifar.hardware.hybrid import Circuit
from qcifar.hardware.noise import NoiseModel
from qcifar.streams import stream

CHECKED = 10  # images that Aer samples too: it builds each one's circuit anew
CHECK_SHOTS = 4000
CHECK_FAILS = 1e-6  # p below which no chance explains the difference


@dataclass(frozen=True)
class OnChip:
    """A circuit of the run, transpiled for a chip."""

    circuit: Circuit
    there: Portable
    made: object  # the transpiled `QuantumCircuit`
    chosen: dict  # see `with_qiskit.transpiled`

    def under(self, noise: NoiseModel) -> Callable[[torch.Tensor], torch.Tensor]:
        """From angles (K, n) to outcome probabilities (K, 2^n) float64, readout errors included."""
        symbols = sorted(self.made.parameters, key=lambda parameter: parameter.name)
        noisy = NoisyCircuit.from_qiskit(self.made, noise, inputs=symbols)

        def probabilities(angles):
            columns = torch.from_numpy(with_qiskit.in_order(self.made, self.there, self.there.values(angles)))
            return noisy_probabilities(noisy, columns, with_qiskit.active_qubits(self.made), self.circuit.name)

        return probabilities


@dataclass(frozen=True)
class Chip:
    """A chip with the run's circuits on it."""

    name: str
    backend: object
    parts: tuple[OnChip, ...]


def chip_of(ev: Evaluation, name: str) -> Chip:
    """The run's circuits transpiled for a chip; nothing is computed yet.

    Raises:
        InputError: no such chip, one that is too small, or a circuit that does not fit into memory as a density matrix.
    """
    backend, parts = with_qiskit.chip_class(name)(), []
    for circuit in ev.hybrid.circuits:
        there = portable(circuit.function, circuit.n_qubits)
        made, chosen = with_qiskit.transpiled(there, backend)
        refuse_too_wide(with_qiskit.active_qubits(made), f"{name}, {circuit.name}")
        parts.append(OnChip(circuit, there, made, chosen))
    return Chip(name, backend, tuple(parts))


def on_chip(ev: Evaluation, chip: Chip, shots: list[int], check: str) -> Iterator[dict]:
    """Exact, and with each number of shots."""
    start, noise = time.perf_counter(), NoiseModel.from_qiskit(chip.backend)
    runners = [one.under(noise) for one in chip.parts]
    found = [run(one.circuit.angles) for run, one in zip(runners, chip.parts, strict=True)]
    details = [{"circuit": one.circuit.name, **one.chosen} for one in chip.parts]
    if check == "aer":
        for one, probabilities, detail in zip(chip.parts, found, details, strict=True):
            detail["aer"] = check_with_aer(ev, one, chip.backend, probabilities)
    taught = [run(one.circuit.calibration) for run, one in zip(runners, chip.parts, strict=True) if ev.mitigate]
    for count in [0, *(s for s in shots if s)]:
        repeats, mitigated = [], []
        both = zip(draws(ev, found, count, chip.name), draws(ev, taught, count, f"{chip.name}, training"), strict=True)
        for tested, trained in both:
            repeats.append([values_from(one.circuit, each) for one, each in zip(chip.parts, tested, strict=True)])
            mitigated.append(
                [
                    mitigations(one.circuit, each, calibration, noise.confusions(one.chosen["layout"]))
                    for one, each, calibration in zip(chip.parts, tested, trained, strict=False)  # none to mitigate by
                ]
            )
        more = {"mitigated": scores_of(ev, mitigated)} if ev.mitigate else {}
        seconds = time.perf_counter() - start
        yield ev.entry("fake", chip.name, count, repeats, details=details, seconds=seconds, **more)


def check_with_aer(ev: Evaluation, one: OnChip, backend, found: torch.Tensor) -> dict:
    """How far Aer's samples of the first images are from our probabilities.

    Returns:
        Pearson's chi-square over all cells that expect 5 or more, its degrees of freedom and p.
    """
    columns = one.there.values(one.circuit.angles[:CHECKED])
    # a seed of its own, so that the checks of several runs and chips are independent of each other
    seed = stream(ev.seed, "aer", ev.run, backend.name, one.circuit.name).integers(2**31)
    counts = with_qiskit.aer_counts(one.made, one.there, columns, backend, CHECK_SHOTS, int(seed))
    expected = CHECK_SHOTS * found[: len(counts)].numpy()
    common = expected >= 5
    rest = np.where(common, 0, expected).sum(1), np.where(common, 0, counts).sum(1)  # one more cell of each image
    observed, wanted = (
        np.append(counts[common], rest[1][rest[0] >= 5]),
        np.append(expected[common], rest[0][rest[0] >= 5]),
    )
    square, free = float(((observed - wanted) ** 2 / wanted).sum()), int(len(wanted) - len(counts))
    p = float(stats.chi2.sf(square, free))
    if p < CHECK_FAILS:
        raise InputError(
            f"Aer's samples of {one.circuit.name} differ from our probabilities: chi-square {square:.0f} on {free} "
            f"degrees of freedom, p {p:.1e}; nothing is reported. Please report it, with the chip and the run's "
            f"config.json"
        )
    return {
        "images": len(counts), "shots": CHECK_SHOTS, "chi_square": square, "degrees_of_freedom": free,
        "p": p,
    }  # fmt: skip
