"""PennyLane's gates and channels as steps on a Pauli vector: rotations by an angle, and small transfer matrices."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pennylane as qml
import torch

from qcifar.compiler import NotCompilable
from qcifar.compiler.record import IGNORED, pauli_words
from qcifar.errors import InputError
from qcifar.hardware.noise import Channel, NoiseModel
from qcifar.hardware.pauli import transfer_of

Value = torch.Tensor | np.ndarray

# name -> (Pauli word on the gate's wires, number of its parameter, factor) of each rotation, the first one first;
# the rotations are exp(-i angle/2 P)
ROTATIONS = {
    "RX": [("X", 0, 1.0)],
    "RY": [("Y", 0, 1.0)],
    "RZ": [("Z", 0, 1.0)],
    "PhaseShift": [("Z", 0, 1.0)],
    "U1": [("Z", 0, 1.0)],
    "Rot": [("Z", 0, 1.0), ("Y", 1, 1.0), ("Z", 2, 1.0)],
    "IsingXX": [("XX", 0, 1.0)],
    "IsingYY": [("YY", 0, 1.0)],
    "IsingZZ": [("ZZ", 0, 1.0)],
    "CRX": [("IX", 0, 0.5), ("ZX", 0, -0.5)],  # |1><1| = (1 - Z) / 2
    "CRY": [("IY", 0, 0.5), ("ZY", 0, -0.5)],
    "CRZ": [("IZ", 0, 0.5), ("ZZ", 0, -0.5)],
    "ControlledPhaseShift": [("ZI", 0, 0.5), ("IZ", 0, 0.5), ("ZZ", 0, -0.5)],
}
FIXED = {"PauliX", "PauliY", "PauliZ", "Hadamard", "S", "T", "SX", "CNOT", "CZ", "CY", "CH", "SWAP", "ISWAP", "ECR",
         "Toffoli", "CSWAP", "CCZ"}  # fmt: skip
WIDEST = 3  # qubits of a transfer matrix


@dataclass(frozen=True)
class Step:
    """A rotation exp(-i value/2 P), or a transfer matrix.

    Attributes:
        wires: places of its qubits.
        word: letters of P on these, all of X, Y, Z; None: `value` is a transfer matrix.
        value: angle () or (B,), in radians; or (4^k, 4^k) or (B, 4^k, 4^k).
        name: equal for equal fixed `value`s; None where it may be any.
    """

    wires: tuple[int, ...]
    word: str | None
    value: Value
    name: tuple | None = None

    @property
    def moving(self) -> bool:
        """Whether it differs between the images of a batch."""
        return self.value.ndim > (2 if self.word is None else 0)


class Tape:
    """One quantum function under a noise model: what happens for given arguments, and what is measured.

    Args:
        function: of (inputs (B, n), ...) with its measurements returned, on the wires 0 to n_qubits - 1.
        noise: what happens around its gates.
    """

    def __init__(self, function: Callable, n_qubits: int, noise: NoiseModel | None):
        self.function, self.noise = function, noise
        self.n = self.read = n_qubits

    def __call__(self, arguments) -> tuple[list[Step], list[list[tuple[float, dict[int, str]]]]]:
        """Steps and observables, as the compiler's `pauli_words` has them; `function` is called anew each time.

        Raises:
            InputError: an operation or a measurement that the engine does not take.
        """
        with torch.enable_grad() if torch.is_grad_enabled() else torch.no_grad():
            tape = qml.tape.make_qscript(self.function)(*arguments)
        outside = set(tape.wires) - set(range(self.n))
        if outside:
            raise InputError(f"the circuit uses wires {sorted(outside, key=str)}; expected 0 to {self.n - 1}")
        gates = tape.operations if self.noise is None else self._around(tape.operations)
        steps = [step for gate in gates for step in lowered(gate)]
        steps += self._before(tape.measurements)
        return steps, [_words(measurement) for measurement in tape.measurements]

    def _around(self, operations) -> Iterator:
        for op in operations:
            silent = op.name in IGNORED and op.name != "Identity"
            if not silent and not self.noise.keeps(op) and op.has_decomposition:
                yield from self._around(op.decomposition())
            else:
                yield from [op] if silent else self.noise.around(op)

    def _before(self, measurements) -> list[Step]:
        """Readout channels: the same for every measurement of a wire, so that outcomes have a probability."""
        if self.noise is None:
            return []
        by_wire: dict[int, list] = {}
        for measurement in measurements:
            found = [step for op in self.noise.before(measurement) for step in lowered(op)]
            if any(len(step.wires) > 1 or step.word is not None for step in found):
                raise InputError("noise: a readout channel on several qubits at once, or a gate; expected channels")
            for wire in measurement.wires:
                mine = [step for step in found if step.wires == (wire,)]
                before = by_wire.setdefault(wire, mine)
                same = len(before) == len(mine) and all(
                    np.allclose(a.value, b.value) for a, b in zip(before, mine, strict=True)
                )
                if not same:
                    raise InputError(f"noise: measurements of wire {wire} have different readout channels")
        return [step for mine in by_wire.values() for step in mine]


def _words(measurement) -> list[tuple[float, dict[int, str]]]:
    try:
        return pauli_words(measurement, {wire: wire for wire in measurement.wires})
    except NotCompilable as reason:
        shown = " ".join(str(reason).split())
        raise InputError(f"{shown} has no noisy value here; expected qml.expval of Pauli words") from None


def lowered(op) -> Iterator[Step]:
    """The steps of a gate, of a channel, or of a `Channel`.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(op, Channel):
        yield Step(op.wires, None, op.transfer, ("channel", op.transfer.tobytes()))
    elif op.name in IGNORED:
        return
    elif op.name in ROTATIONS or op.name in ("MultiRZ", "PauliRot"):
        yield from _rotations(op)
    elif op.name in FIXED:
        yield Step(tuple(op.wires), None, _fixed(op.name, len(op.wires)), (op.name,))
    elif isinstance(op, qml.operation.Channel) and len(op.wires) <= WIDEST:
        yield Step(tuple(op.wires), None, *_channel(op))
    elif op.has_decomposition and (op.batch_size is not None or len(op.wires) > WIDEST or not op.has_matrix):
        for part in op.decomposition():
            yield from lowered(part)
    elif op.has_matrix and len(op.wires) <= WIDEST:
        yield Step(tuple(op.wires), None, transfer_of(torch.as_tensor(op.matrix())[..., None, :, :]))
    else:
        raise InputError(f"the operation {op.name} on {len(op.wires)} qubits has no noisy form here")


def _rotations(op) -> Iterator[Step]:
    if op.name in ROTATIONS:
        parts = ROTATIONS[op.name]
    else:
        parts = [(op.hyperparameters.get("pauli_word", "Z" * len(op.wires)), 0, 1.0)]
    for word, number, factor in parts:
        angle = op.data[number]
        angle = angle if isinstance(angle, torch.Tensor) else torch.tensor(angle, dtype=torch.float64)
        angle = angle.reshape(()) if angle.numel() == 1 else angle
        places = [place for place, letter in enumerate(word) if letter != "I"]
        if places:
            wires = tuple(op.wires[place] for place in places)
            yield Step(wires, "".join(word[place] for place in places), angle if factor == 1.0 else factor * angle)


@functools.cache
def _fixed(name: str, qubits: int) -> np.ndarray:
    gate = getattr(qml, name)(wires=range(qubits) if qubits > 1 else 0)
    return transfer_of(torch.as_tensor(qml.matrix(gate, wire_order=range(qubits)))[None]).numpy()


def _channel(op) -> tuple[Value, tuple | None]:
    if any(isinstance(value, torch.Tensor) for value in op.data):
        return transfer_of(torch.stack([torch.as_tensor(kraus) + 0j for kraus in op.kraus_matrices()])), None
    key = op.name, tuple(np.asarray(value).tobytes() for value in op.data), repr(op.hyperparameters)
    if key not in _CHANNELS:
        if len(_CHANNELS) >= 4096:
            _CHANNELS.clear()
        _CHANNELS[key] = transfer_of(torch.as_tensor(np.array(op.kraus_matrices()))).numpy()
    return _CHANNELS[key], ("channel", *key)


_CHANNELS: dict[tuple, np.ndarray] = {}  # what was computed before, since most circuits have few different ones
