"""Exact noisy expectation values and outcome probabilities of a batch, as real Pauli vectors in torch.

    noisy = NoisyCircuit(circuit, 4, NoiseModel.uniform(depolarizing=0.01, readout=0.02))
    values = noisy(inputs, weights)  # (B, outputs), differentiable

A density matrix of n qubits is 4^n real numbers for each image, and every gate and channel a linear map of them
(`pauli.py`). PennyLane stays the definition of the circuit: the function is called anew each time, its gates and
channels are lowered (`lower.py`), and what is the same for all images acts on the observables (`evolve.py`).
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from qcifar.device import free_memory
from qcifar.errors import InputError
from qcifar.hardware import shots as counting
from qcifar.hardware.evolve import Constants, applied, fused, product, qubit, split
from qcifar.hardware.lower import Tape
from qcifar.hardware.noise import NoiseModel
from qcifar.hardware.readout import Outcomes, Words, grouped

CHUNK_NUMBERS = 2**21  # of the Pauli vectors of the images that are computed at once
OBSERVABLE_NUMBERS = 2**25  # of observables on their way back through the circuit, at most
COPIES = 4  # of a Pauli vector that a step needs at once


def density_bytes(n_qubits: int, batch: int, dtype: torch.dtype = torch.float64) -> int:
    """Bytes of `batch` density matrices on `n_qubits` qubits as Pauli vectors: 4^n real numbers each."""
    return batch * 4**n_qubits * dtype.itemsize


class NoisyCircuit(nn.Module):
    """A quantum function under noise: (inputs (B, n), weights, ...) -> what it returns, (B, outputs), exactly.

    Channels that the function applies itself count as well. Differentiable in all arguments, and in what the
    function takes from outside. `.to(...)` moves it; arguments are moved to its device and type. The module has no
    state and no parameters.

    Args:
        circuit: quantum function on the wires 0 to n_qubits - 1 that returns expectation values of Pauli words, or
            sums of these.
        noise: None = only the channels of the function itself.
        dtype: torch.float64 or torch.float32.

    Raises:
        InputError: not one image fits into the memory; from a call: an operation without a noisy form.
    """

    def __init__(
        self, circuit: Callable, n_qubits: int, noise: NoiseModel | None = None, dtype=torch.float64, device="cpu"
    ):
        super().__init__()
        self._set_up(Tape(circuit, n_qubits, noise), list(range(n_qubits)), noise, dtype, device)
        self.func = circuit

    def _set_up(self, source, wires, noise, dtype, device) -> None:
        self.source, self.n, self.noise = source, source.n, noise
        self.ran_on = "exact density matrices" + (f", noise {noise}" if noise is not None else "")
        self.confusions = [np.eye(2) if noise is None else noise.confusion(wire) for wire in wires]
        self.register_buffer("place", torch.zeros(1, dtype=dtype, device=device), persistent=False)
        self._constants = Constants(self.place.device, dtype)
        refuse_too_wide(self.n, dtype, device)

    @classmethod
    def from_qiskit(cls, circuit, noise=None, inputs=(), weights=(), dtype=torch.float64, device="cpu"):
        """A transpiled `QuantumCircuit` on its active qubits.

        Args:
            circuit: with measurements into classical bits at its end: classical bit i is wire i.
            noise: from `NoiseModel.from_qiskit`.
            inputs, weights: its parameters, in the order of the columns of the arguments `inputs` (B, n) and, flat,
                `weights`. Leave `weights` out where they are bound.

        Raises:
            InputError: an operation, or an angle, that has no noisy form here.
        """
        from qcifar.hardware.transpiled import Transpiled

        self = cls.__new__(cls)
        nn.Module.__init__(self)
        source = Transpiled(circuit, noise, inputs, weights)
        self._set_up(source, source.qubits, noise, dtype, device)
        return self

    @property
    def constants(self) -> Constants:
        if (self._constants.device, self._constants.dtype) != (self.place.device, self.place.dtype):
            self._constants = Constants(self.place.device, self.place.dtype)
        return self._constants

    def forward(self, *arguments) -> torch.Tensor:
        return self.expvals(*arguments)

    @torch.compiler.disable  # torch.compile cannot look into PennyLane
    def expvals(self, *arguments: torch.Tensor) -> torch.Tensor:
        """(B, outputs): what the circuit returns, readout errors included; differentiable."""
        steps, observables = self.source(self._given(arguments))
        return self._run(steps, Words(observables, self.confusions), len(arguments[0]))

    @torch.compiler.disable
    def probabilities(self, *arguments: torch.Tensor, basis: str | None = None) -> torch.Tensor:
        """(B, 2^n) of all outcomes, wire 0 the most significant bit, readout errors included.

        Args:
            basis: letter for each wire along which it is read, "I" where it is not; all along Z by default. Active
                qubits that a transpiled circuit does not measure are not read.
        """
        steps, _ = self.source(self._given(arguments))
        return self._run(steps, Outcomes(basis or self._along_z(), self.confusions), len(arguments[0]))

    @torch.compiler.disable
    def sampled(self, shots: int, generator: np.random.Generator, *arguments) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and their standard errors, (B, outputs) each, from `shots` outcomes of each image.

        Words that can be read along the same axes share their outcomes; each further set of axes takes `shots` more.

        Args:
            shots: 0 = exact, with errors 0.
            generator: from `qcifar.streams.stream`.
        """
        steps, observables = self.source(self._given(arguments))
        images = len(arguments[0])
        if shots == 0:
            values = self._run(steps, Words(observables, self.confusions), images)
            return values, torch.zeros_like(values)
        parts = []
        for basis, terms in grouped(observables, self._along_z()):
            probabilities = self._run(steps, Outcomes(basis, self.confusions), images)
            frequencies = counting.sample(probabilities, shots, generator)
            parts.append(counting.means(frequencies, terms, len(observables), shots))
        values, variances = (torch.stack(each).sum(0) for each in zip(*parts, strict=True))
        return values, variances.sqrt()

    def _along_z(self) -> str:
        return "Z" * self.source.read + "I" * (self.n - self.source.read)

    def _given(self, arguments) -> list[torch.Tensor]:
        return [torch.as_tensor(argument).to(self.place) for argument in arguments]

    # ---- the steps, with as few columns as possible at any time

    def _run(self, steps, readout, images: int) -> torch.Tensor:
        with torch.autocast(self.place.device.type, enabled=False):  # its matrix products are exact
            return self._run_exactly(steps, readout, images)

    def _run_exactly(self, steps, readout, images: int) -> torch.Tensor:
        constants = self.constants
        alone, middle, end = split(fused(steps, self.n, constants), self.n)
        qubits = [qubit(each, constants) for each in alone]
        self._check_memory(steps, len(middle), len(end), images, readout.columns)
        size = readout.columns * 4**self.n
        if size <= OBSERVABLE_NUMBERS and (not middle or not end or readout.columns <= 4 * images):
            observables = readout.dense(constants)
            for step in reversed(end):
                observables = applied(step, observables, self.n, constants, back=True)
        else:
            observables, middle = None, middle + end
        width = 4**self.n if middle or observables is None else readout.columns * 4 ** (self.n // 2)
        size = max(1, CHUNK_NUMBERS // width)
        parts = [readout.dense(constants)[0, :, None].expand(-1, 0)] if images == 0 else []
        for start in range(0, images, size):
            rows = slice(start, min(start + size, images))
            chunk = [each if each.shape[-1] == 1 else each[:, rows] for each in qubits]
            part = self._chunk(chunk, middle, observables, readout, rows)  # one column where nothing moves
            parts.append(part.expand(-1, rows.stop - start))
        return torch.cat(parts, dim=1).mT

    def _chunk(self, qubits, middle, observables, readout, rows) -> torch.Tensor:
        """(outputs, B or 1) of the images `rows`."""
        constants = self.constants
        if not middle and observables is not None:
            return contracted(observables, qubits)
        state = product(qubits)
        for step in middle:
            if step.moving:
                step = type(step)(step.wires, step.word, step.value[rows], step.name)
            state = applied(step, state, self.n, constants)
        return readout.apply(state, constants) if observables is None else observables.mT @ state

    def check_memory(self, *arguments: torch.Tensor) -> None:
        """Raise `InputError` where `expvals` of these arguments, and to learn by it, would need too much memory."""
        with torch.enable_grad():
            steps, observables = self.source(self._given(arguments))
            _, middle, end = split(fused(steps, self.n, self.constants), self.n)
            self._check_memory(steps, len(middle), len(end), len(arguments[0]), len(observables))

    def _check_memory(self, steps, middle: int, end: int, images: int, columns: int) -> None:
        learns = torch.is_grad_enabled() and any(step.value.requires_grad for step in steps if _is_tensor(step))
        chunk = min(images, max(1, CHUNK_NUMBERS // 4**self.n)) if middle else 0
        kept = images * middle + columns * end if learns else 0  # Pauli vectors and observables, for the way back
        needed = density_bytes(self.n, (chunk + columns) * COPIES + kept, self.place.dtype)
        if needed > 2**28:  # asking takes longer than a small circuit
            what = f"{images} images" + (f", {middle + end} steps to learn by" if kept else "")
            _refuse_too_large(self.n, needed, what, self.place.device)


def refuse_too_wide(n_qubits: int, dtype=torch.float64, device="cpu") -> None:
    """Raise `InputError`, with the bytes, where not one image's density matrix fits into the memory."""
    _refuse_too_large(n_qubits, density_bytes(n_qubits, COPIES, dtype), "one image", torch.device(device))


def _refuse_too_large(n_qubits: int, needed: int, what: str, device: torch.device) -> None:
    free = free_memory(device)
    if free is not None and needed > free:
        raise InputError(
            f"exact noise on {n_qubits} qubits needs {needed:,} bytes ({what}), {free:,} are free; "
            f"use fewer qubits or images at once, or a device with shots"
        )


def _is_tensor(step) -> bool:
    return isinstance(step.value, torch.Tensor)


def contracted(observables: torch.Tensor, qubits: list[torch.Tensor]) -> torch.Tensor:
    """(m, B) values of observables (4^n, m) in a product of qubits (4, B), which is never written out."""
    half = math.ceil(len(qubits) / 2)
    left, right = product(qubits[:half]), product(qubits[half:]) if qubits[half:] else None
    if right is None:
        return observables.mT @ left
    m = observables.shape[-1]
    grid = observables.view(len(left), len(right), m).permute(2, 0, 1).reshape(m * len(left), len(right))
    return ((grid @ right).view(m, len(left), -1) * left).sum(1)
