"""Circuits that Qiskit transpiled, and noise models of Qiskit Aer, as steps on Pauli vectors of the active qubits."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from qcifar.errors import InputError, describe
from qcifar.hardware.lower import WIDEST, Step, lowered
from qcifar.hardware.noise import FromQiskit
from qcifar.hardware.pauli import reversed_qubits, words

MISSING = "needs Qiskit; install it by: pip install -r requirements-hardware.txt"
# name -> (Pauli word on the gate's qubits, number of its parameter, factor), the first rotation first
ROTATIONS = {
    "rx": [("X", 0, 1.0)],
    "ry": [("Y", 0, 1.0)],
    "rz": [("Z", 0, 1.0)],
    "p": [("Z", 0, 1.0)],
    "u1": [("Z", 0, 1.0)],
    "u": [("Z", 2, 1.0), ("Y", 0, 1.0), ("Z", 1, 1.0)],
    "u3": [("Z", 2, 1.0), ("Y", 0, 1.0), ("Z", 1, 1.0)],
    "rxx": [("XX", 0, 1.0)],
    "ryy": [("YY", 0, 1.0)],
    "rzz": [("ZZ", 0, 1.0)],
    "rzx": [("ZX", 0, 1.0)],
    "crx": [("IX", 0, 0.5), ("ZX", 0, -0.5)],
    "cry": [("IY", 0, 0.5), ("ZY", 0, -0.5)],
    "crz": [("IZ", 0, 0.5), ("ZZ", 0, -0.5)],
    "cp": [("ZI", 0, 0.5), ("IZ", 0, 0.5), ("ZZ", 0, -0.5)],
}
SILENT = {"barrier", "measure"}


def read_noise(model) -> tuple[dict, dict, Callable]:
    """What `FromQiskit` takes, of an Aer noise model or of a backend: gates, readout errors, how to read an error."""
    try:
        from qiskit_aer.noise import NoiseModel
    except ImportError:
        raise InputError(f"noise of Qiskit {MISSING}") from None
    if not isinstance(model, NoiseModel):
        try:
            model = NoiseModel.from_backend(model)
        except Exception as error:  # of somebody's backend
            raise InputError(f"expected a noise model of Qiskit Aer, or a backend: {describe(error)}") from None
    # Aer has no public way to look into a noise model but to_dict, which has no channels
    gates = {(name, None): error for name, error in model._default_quantum_errors.items()}
    for name, by_qubits in model._local_quantum_errors.items():
        gates |= {(name, tuple(qubits)): error for qubits, error in by_qubits.items()}
    readout = {} if model._default_readout_error is None else {None: model._default_readout_error}
    for qubits, error in model._local_readout_errors.items():
        if len(qubits) > 1:
            raise InputError(f"noise: readout errors on several qubits at once, {list(qubits)}, are not taken")
        readout[qubits[0]] = error
    return gates, {qubit: np.asarray(error.probabilities).T for qubit, error in readout.items()}, _transfer_of_error


def _transfer_of_error(error) -> np.ndarray:
    from qiskit.quantum_info import SuperOp

    return _from_superop(SuperOp(error).data)


def _from_superop(superop: np.ndarray) -> np.ndarray:
    """Transfer matrix of Qiskit's superoperator, which acts on the columns of rho one below the other.

    It is taken as it is, also where a chip's calibration makes it slightly unphysical.
    """
    size = round(len(superop) ** 0.5)
    paulis = words(size.bit_length() - 1).numpy()  # (4^k, 2^k, 2^k)
    columns = paulis.transpose(0, 2, 1).reshape(len(paulis), -1)  # those of each word, one below the other
    return reversed_qubits((columns.conj() @ superop @ columns.T).real / size)


class _Gate:
    """What a noise model looks at: a name, and qubits of the chip."""

    def __init__(self, name: str, wires: tuple[int, ...]):
        self.name, self.wires = name, wires


class Transpiled:
    """A `QuantumCircuit` under a noise model: steps for given parameters.

    Args:
        circuit: with measurements at its end. Classical bit i is wire i; active qubits that are not measured follow.
        inputs, weights: its parameters in the order of the arguments' columns.

    Attributes:
        n: active qubits.
        read: measured qubits, the first of them.
        qubits: numbers of the active qubits on the chip, by wire.
    """

    def __init__(self, circuit, noise: FromQiskit | None, inputs: Sequence, weights: Sequence):
        self.noise = noise
        found = [(part.operation, tuple(circuit.find_bit(q).index for q in part.qubits), part) for part in circuit.data]
        bits = [(circuit.find_bit(part.clbits[0]).index, wires[0]) for op, wires, part in found if op.name == "measure"]
        measured = dict(bits)
        if not bits or sorted(measured) != list(range(len(bits))):
            raise InputError(f"{circuit.name}: expected each classical bit to be measured once, at the end")
        active = {wire for op, wires, _ in found if op.name not in ("barrier", "delay") for wire in wires}
        first = [measured[bit] for bit in range(len(bits))]
        self.qubits = first + sorted(active - set(first))
        self.n, self.read = len(self.qubits), len(first)
        self.place = {qubit: wire for wire, qubit in enumerate(self.qubits)}
        self.columns = {each: k for k, each in enumerate([*inputs, *weights])}
        self.n_inputs = len(list(inputs))
        self.rows: list[tuple[np.ndarray, float]] = []  # of each angle: factors of the parameters, constant
        self.parts: list[Step | tuple] = []
        finished: set[int] = set()
        for op, wires, _ in found:
            if finished & set(wires) and op.name != "barrier":
                raise InputError(f"{circuit.name}: {op.name} after a measurement of the same qubit is not taken")
            finished |= set(wires) if op.name == "measure" else set()
            self._add(op, wires)

    def __call__(self, arguments) -> tuple[list[Step], list]:
        """Steps, and the observables: Z of each measured qubit."""
        angles, moving = self._angles(arguments)
        steps = []
        for part in self.parts:
            if isinstance(part, Step):
                steps.append(part)
                continue
            wires, word, row, factor = part
            angle = angles[:, row] if moving[row] else angles[0, row]
            steps.append(Step(wires, word, angle * factor))
        return steps, [[(1.0, {wire: "Z"})] for wire in range(self.read)]

    def _angles(self, arguments) -> tuple[torch.Tensor, list[bool]]:
        """(B, angles), and which of them differ between images; a column that is the same for all does not."""
        inputs = arguments[0]
        still = torch.zeros(self.n_inputs, dtype=torch.bool)
        if not inputs.requires_grad and len(inputs):
            still = (inputs == inputs[:1]).all(0).cpu()
        given = [inputs, *(weights.reshape(1, -1).expand(len(inputs), -1) for weights in arguments[1:])]
        values = torch.cat(given, dim=1)
        if values.shape[1] != len(self.columns):
            raise InputError(f"expected {len(self.columns)} parameters in all, got {values.shape[1]}")
        factors = np.array([row for row, _ in self.rows]).reshape(len(self.rows), len(self.columns))
        constants = torch.tensor([constant for _, constant in self.rows], dtype=torch.float64).to(values)
        angles = values @ torch.from_numpy(factors).to(values).T + constants
        moves = (factors[:, : self.n_inputs] != 0) & ~still.numpy()
        return angles, moves.any(1).tolist()

    def _add(self, op, qubits: tuple[int, ...]) -> None:
        if op.name in SILENT:
            return
        wires = tuple(self.place[qubit] for qubit in qubits if qubit in self.place)
        if op.name == "delay":
            raise InputError("a circuit with delays is not taken: transpile it without scheduling")
        if op.name in ROTATIONS:
            rows = [self._row(parameter) for parameter in op.params]
            for word, number, factor in ROTATIONS[op.name]:
                on = [place for place, letter in enumerate(word) if letter != "I"]
                letters = "".join(word[place] for place in on)
                self.parts.append((tuple(wires[place] for place in on), letters, rows[number], factor))
        elif op.name != "id":
            self.parts.append(Step(wires, None, _transfer(op), _name(op)))
        for gate in [] if self.noise is None else self.noise.around(_Gate(op.name, qubits))[1:]:
            gate = type(gate)(tuple(self.place[qubit] for qubit in gate.wires), gate.transfer)
            self.parts += lowered(gate)

    def _row(self, parameter) -> int:
        """Number of the angle that an entry of `params` is."""
        factors, constant = np.zeros(len(self.columns)), parameter
        for each in getattr(parameter, "parameters", ()):
            if each not in self.columns:
                raise InputError(f"the circuit's parameter {each.name} is not among inputs and weights")
            slope = parameter.gradient(each)
            if getattr(slope, "parameters", ()):
                raise InputError(f"the angle {parameter} is not linear in {each.name}; give each angle a parameter")
            factors[self.columns[each]] = float(slope)
        if getattr(parameter, "parameters", ()):
            constant = parameter.bind(dict.fromkeys(parameter.parameters, 0.0))
        self.rows.append((factors, float(constant)))
        return len(self.rows) - 1


def _name(op) -> tuple | None:
    return (op.name,) if not op.params else None


def _transfer(op) -> np.ndarray:
    """Transfer matrix of a gate, or of a channel or a reset, with the first qubit first."""
    from qiskit.quantum_info import SuperOp

    if op.num_qubits > WIDEST:
        raise InputError(f"the operation {op.name} on {op.num_qubits} qubits is not taken; transpile to a basis")
    try:
        return _from_superop(SuperOp(op).data)
    except Exception as error:  # a gate with free parameters, or something that is not a channel
        raise InputError(f"the operation {op.name} has no noisy form here: {describe(error)}") from None
