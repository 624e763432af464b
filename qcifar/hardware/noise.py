"""What goes wrong on a device: channels around each gate, and errors of the readout.

A model says of each gate what happens with it (`around`), and of the readout how often a qubit is read wrongly
(`confusion`). `qcifar/hardware/engine.py` computes with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import pennylane as qml

from qcifar.config import noise_strengths
from qcifar.errors import InputError

Readout = float | tuple[float, float]  # probability of reading wrongly: of any outcome, or of (0, 1)


@dataclass(frozen=True)
class Channel:
    """A channel by its transfer matrix (4^k, 4^k) on k wires; see `qcifar/hardware/pauli.py`."""

    wires: tuple
    transfer: np.ndarray


@dataclass(frozen=True)
class NoiseModel:
    """Channels around gates, and readout errors; made by one of the constructors below.

    Attributes:
        readout: probability that a measured qubit is read wrongly, or (of a 0, of a 1).
    """

    readout: Readout = 0.0

    @staticmethod
    def uniform(
        depolarizing: float = 0.0, two_qubit_depolarizing: float | None = None, amplitude_damping: float = 0.0,
        phase_damping: float = 0.0, readout: Readout = 0.0,
    ) -> "Uniform":  # fmt: skip
        """The same channels after every gate, on each of its qubits.

        Templates, and gates on three and more qubits, are taken apart first, so that a gate is one on one or two
        qubits as the circuit writes it: a `Rot` is one gate. The channels are PennyLane's, in this order:

        Args:
            depolarizing: p of `DepolarizingChannel`: X, Y or Z happens, each with probability p/3.
            two_qubit_depolarizing: the same after gates on two qubits, on each of the two; None = `depolarizing`.
            amplitude_damping: gamma of `AmplitudeDamping`.
            phase_damping: gamma of `PhaseDamping`.
            readout: see the class.

        Raises:
            InputError: a strength outside [0, 1].
        """
        return Uniform(readout, depolarizing, two_qubit_depolarizing, amplitude_damping, phase_damping)

    @staticmethod
    def parse(text: str) -> "Uniform | None":
        """`depolarizing=0.01,readout=0.02` -> `uniform(depolarizing=0.01, readout=0.02)`; "none" -> None.

        Raises:
            InputError: an unknown name, or a number outside [0, 1].
        """
        try:
            strengths = noise_strengths(text)
        except ValueError as error:
            raise InputError(f"noise {text!r}: {error}") from None
        return NoiseModel.uniform(**strengths) if strengths else None

    @staticmethod
    def from_pennylane(model: "qml.NoiseModel", readout: Readout = 0.0) -> "FromPennyLane":
        """A `qml.NoiseModel`: what it says of a gate happens as in `qml.noise.add_noise`.

        A gate that it does not name is decomposed as far as it takes to reach gates that it names (a model of RX, RY
        and RZ holds for a `Rot`, too, which `add_noise` leaves without noise); one that is made of no such gate stays
        whole and without noise. Its readout channels (`meas_map`) act on the qubits before the measurement.

        Args:
            readout: classical errors beside it, see the class.
        """
        return FromPennyLane(readout, model)

    @staticmethod
    def from_qiskit(model) -> "FromQiskit":
        """A noise model of Qiskit Aer, or the one of a backend, for `NoisyCircuit.from_qiskit`.

        Raises:
            InputError: Qiskit Aer is not installed, or an error of the model is not a channel on the gate's qubits.
        """
        from qcifar.hardware.transpiled import read_noise

        return FromQiskit(0.0, *read_noise(model))

    def __post_init__(self):
        for value in self.readout if isinstance(self.readout, tuple) else (self.readout,):
            _check("readout", value)

    def keeps(self, op) -> bool:
        """Whether `op` is a gate to this model, or must be decomposed first."""
        raise NotImplementedError

    def around(self, op) -> list:
        """`op` itself, with the operations and `Channel`s before and after it, in order."""
        raise NotImplementedError

    def before(self, measurement) -> list:
        """Operations and `Channel`s before a PennyLane measurement."""
        return []

    def confusion(self, wire) -> np.ndarray:
        """(2, 2): probability of reading the row's outcome where the column's is true."""
        wrong = self.readout if isinstance(self.readout, tuple) else (self.readout, self.readout)
        return np.array([[1 - wrong[0], wrong[1]], [wrong[0], 1 - wrong[1]]])

    def confusions(self, wires: Sequence) -> list[np.ndarray]:
        return [self.confusion(wire) for wire in wires]


@dataclass(frozen=True)
class Uniform(NoiseModel):
    """See `NoiseModel.uniform`."""

    depolarizing: float = 0.0
    two_qubit_depolarizing: float | None = None
    amplitude_damping: float = 0.0
    phase_damping: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        for name, value in self._strengths().items():
            if name != "readout":
                _check(name, value)

    def _strengths(self) -> dict:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in given.items() if value is not None}

    def __str__(self):
        """As `parse` reads it."""
        given = {name: value for name, value in self._strengths().items() if value or name.startswith("two")}
        shown = {name: "/".join(map(str, v)) if isinstance(v, tuple) else v for name, v in given.items()}
        return ",".join(f"{name}={value}" for name, value in shown.items()) or "none"

    def scaled(self, factor: float) -> "Uniform":
        """The same model with every strength times `factor`, readout errors left as they are.

        Raises:
            InputError: a strength becomes more than 1.
        """
        gates = {name: value * factor for name, value in self._strengths().items() if name != "readout"}
        return Uniform(self.readout, **gates)

    def keeps(self, op) -> bool:
        return len(op.wires) <= 2 and not type(op).__module__.startswith("pennylane.templates.")

    def around(self, op) -> list:
        if isinstance(op, qml.operation.Channel) or op.name == "Identity":
            return [op]
        p = self.depolarizing
        if len(op.wires) > 1 and self.two_qubit_depolarizing is not None:
            p = self.two_qubit_depolarizing
        one = phase_damping(self.phase_damping) @ amplitude_damping(self.amplitude_damping) @ depolarizing(p)
        if np.array_equal(one, np.eye(4)):
            return [op]
        return [op, *(Channel((wire,), one) for wire in op.wires)]


@dataclass(frozen=True)
class FromPennyLane(NoiseModel):
    """See `NoiseModel.from_pennylane`."""

    model: "qml.NoiseModel | None" = None
    reaches: dict = field(default_factory=dict, compare=False, repr=False)  # (name, wires) -> names something inside

    def __str__(self):
        return repr(self.model)

    def keeps(self, op) -> bool:
        if isinstance(op, qml.operation.Channel) or self._names(op):
            return True
        return not self._reaches(op) and not type(op).__module__.startswith("pennylane.templates.")

    def around(self, op) -> list:
        found = [op]
        for condition, noise in self.model.model_map.items():
            if not condition(op):
                continue
            more = qml.tape.make_qscript(noise)(op, **self.model.metadata).operations
            place = next((k for k, other in enumerate(more) if other is op or qml.equal(other, op)), None)
            found = [*found, *more] if place is None else [*more[:place], *found, *more[place + 1 :]]
        return found

    def before(self, measurement) -> list:
        found = []
        for condition, noise in self.model.meas_map.items():
            if condition(measurement):
                found += qml.tape.make_qscript(noise)(measurement, **self.model.metadata).operations
        return found

    def _names(self, op) -> bool:
        return any(condition(op) for condition in self.model.model_map)

    def _reaches(self, op) -> bool:
        """Whether a gate that the model names is in the decomposition of `op`."""
        key = op.name, tuple(op.wires)
        if key not in self.reaches:
            self.reaches[key] = False  # where a decomposition comes back to it
            if op.has_decomposition:
                self.reaches[key] = any(self._names(part) or self._reaches(part) for part in op.decomposition())
        return self.reaches[key]


@dataclass(frozen=True)
class FromQiskit(NoiseModel):
    """See `NoiseModel.from_qiskit`. Qubits are those of the chip.

    Attributes:
        gates: (name of the gate, its qubits, or None for all others) -> Aer's `QuantumError`.
        confused: qubit, or None for all others -> (2, 2), see `confusion`.
    """

    gates: dict = field(default_factory=dict, compare=False)
    confused: dict = field(default_factory=dict, compare=False)
    transfer: Callable | None = None  # from a `QuantumError` to its transfer matrix
    channels: dict = field(default_factory=dict, compare=False, repr=False)  # those of `gates` that were needed

    def __str__(self):
        return f"{len(self.gates)} gate errors, {len(self.confused)} readout errors from Qiskit"

    def around(self, op) -> list:
        key = op.name, tuple(op.wires)
        if key not in self.channels:  # read when it is needed: a chip has hundreds, which take half a minute
            error = self.gates.get(key, self.gates.get((op.name, None)))
            self.channels[key] = [] if error is None else [Channel(key[1], self.transfer(error))]
        return [op, *self.channels[key]]

    def confusion(self, wire) -> np.ndarray:
        return self.confused.get(wire, self.confused.get(None, np.eye(2)))


def depolarizing(p: float) -> np.ndarray:
    """Transfer matrix (4, 4) of PennyLane's `DepolarizingChannel`."""
    return np.diag([1.0, *[1 - 4 * p / 3] * 3])


def amplitude_damping(gamma: float) -> np.ndarray:
    """Transfer matrix (4, 4) of PennyLane's `AmplitudeDamping`."""
    keep = np.sqrt(1 - gamma)
    return np.array([[1, 0, 0, 0], [0, keep, 0, 0], [0, 0, keep, 0], [gamma, 0, 0, 1 - gamma]])


def phase_damping(gamma: float) -> np.ndarray:
    """Transfer matrix (4, 4) of PennyLane's `PhaseDamping`."""
    keep = np.sqrt(1 - gamma)
    return np.diag([1.0, keep, keep, 1.0])


def _check(name: str, value) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value <= 1:
        raise InputError(f"noise: {name}: expected a number from 0 to 1, got {value!r}")
