"""A quantum function as the few gates that every toolchain knows, with angles that follow from the inputs.

A circuit goes to a device once, with parameters; the images are an array of numbers beside it. So each angle is kept as
a polynomial of the inputs. An angle that is none becomes a parameter of its own, whose numbers PennyLane
computes for each image.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pennylane as qml
import torch

from qcifar.errors import InputError, describe
from qcifar.quantum.layer import circuit_name

# PennyLane's name -> that of OpenQASM's standard gates and of Qiskit's methods, with the same order of parameters.
NAMES = {
    "RX": "rx", "RY": "ry", "RZ": "rz", "PhaseShift": "p", "U1": "p", "Hadamard": "h", "PauliX": "x", "PauliY": "y",
    "PauliZ": "z", "S": "s", "T": "t", "SX": "sx", "Adjoint(S)": "sdg", "Adjoint(T)": "tdg", "CNOT": "cx", "CZ": "cz",
    "CY": "cy", "SWAP": "swap", "CRX": "crx", "CRY": "cry", "CRZ": "crz", "ControlledPhaseShift": "cp",
    "Toffoli": "ccx", "CSWAP": "cswap",
}  # fmt: skip
WITHOUT_EFFECT = {"Identity", "GlobalPhase", "Barrier", "Snapshot"}  # on any outcome
POINTS = 200  # at which an angle is compared with its polynomial
EXACT = 1e-10  # radians: largest difference there


@dataclass(frozen=True)
class Expression:
    """const + sum of coefficient * product of parameters, radians."""

    const: float
    terms: tuple[tuple[tuple[int, ...], float], ...] = ()  # (numbers of one or two parameters, coefficient)

    def of(self, parameters):
        """Its value, where `parameters` are numbers, columns of numbers or a toolchain's symbols."""
        total = self.const
        for factors, coefficient in self.terms:
            product = coefficient
            for number in factors:
                product = parameters[number] * product
            total = product + total
        return total


@dataclass(frozen=True)
class Gate:
    name: str  # as OpenQASM has it
    wires: tuple[int, ...]
    angles: tuple[Expression, ...]


@dataclass(frozen=True)
class Portable:
    """A circuit that can be written down anywhere; it ends with every qubit measured along Z."""

    name: str
    n_qubits: int
    n_inputs: int
    parameters: tuple[str, ...]
    gates: tuple[Gate, ...]
    outputs: tuple[tuple[tuple[float, tuple[int, ...]], ...], ...]  # for each value: (coefficient, qubits of Z)
    others: Callable[[torch.Tensor], torch.Tensor] | None  # angles (B, n) -> those parameters that are not an input

    def values(self, angles: torch.Tensor) -> np.ndarray:
        """(B, parameters) float64 for angles (B, n_inputs): one row for each image."""
        angles = angles.double()
        columns = [angles[:, int(name[1:])] for name in self.parameters if name[0] == "x"]
        more = [] if self.others is None else list(self.others(angles).unbind(1))
        empty = angles.new_zeros(len(angles), 0)
        return (torch.stack(columns + more, dim=1) if columns or more else empty).numpy()

    def signs(self) -> np.ndarray:
        """See `signs_of`."""
        return _signs(self.outputs, self.n_qubits)


def signs_of(function: Callable, n_qubits: int) -> np.ndarray:
    """(2^n_qubits, outputs): values of `function` are probabilities @ signs; qubit 0 is the most significant bit."""
    tape = _tape(function, torch.zeros(2, n_qubits, dtype=torch.float64))
    return _signs(_measured(function, tape)[1], n_qubits)


def _signs(outputs, n_qubits: int) -> np.ndarray:
    states = np.arange(2**n_qubits)
    bits = [1.0 - 2.0 * ((states >> (n_qubits - 1 - wire)) & 1) for wire in range(n_qubits)]
    ones = np.ones(len(states))

    def column(words):
        return sum(c * np.prod([ones, *(bits[wire] for wire in wires)], axis=0) for c, wires in words)

    return np.stack([column(words) for words in outputs], axis=1)


def portable(function: Callable, n_inputs: int, degree: int = 1) -> Portable:
    """`function` of angles (B, n_inputs) as portable gates.

    Args:
        degree: 1: an angle is linear in the inputs or a parameter of its own, which is what services take; 2: it may
            hold products of two inputs, which is what a reader wants.

    Raises:
        InputError: it holds an operation or a measurement that has no counterpart on a device, or values that need
            more than one way of measuring.
    """
    generator = torch.Generator().manual_seed(0)
    points = 2 * torch.randn(POINTS, n_inputs, generator=generator, dtype=torch.float64)
    tape = _tape(function, points)
    flat, (letters, words) = _read(function, tape), _measured(function, tape)
    names, gates, free = [f"x{i:02d}" for i in range(n_inputs)], [], []
    for name, wires, angles in flat:
        expressions = []
        for angle in angles:
            found = _expression(angle, points, degree)
            if found is None:
                found = Expression(0.0, (((n_inputs + len(free),), 1.0),))
                free.append((len(gates), len(expressions)))
            expressions.append(found)
        gates.append(Gate(name, wires, tuple(expressions)))
    turns = {"X": ("h",), "Y": ("sdg", "h")}  # after them, Z is what the letter was
    for wire, letter in sorted(letters.items()):
        gates += [Gate(name, (wire,), ()) for name in turns.get(letter, ())]
    terms = [factors for gate in gates for angle in gate.angles for factors, _ in angle.terms]
    used = sorted({number for factors in terms for number in factors})
    place = {number: k for k, number in enumerate(used)}
    names = [names[number] if number < n_inputs else f"g{number - n_inputs:02d}" for number in used]
    gates = [Gate(gate.name, gate.wires, tuple(_renumbered(angle, place) for angle in gate.angles)) for gate in gates]

    def others(angles):
        flat = _read(function, _tape(function, angles))
        return torch.stack([flat[gate][2][k].expand(len(angles)) for gate, k in free], dim=1)

    n_qubits = max([n_inputs, *(wire + 1 for gate in gates for wire in gate.wires)])
    return Portable(
        circuit_name(function), n_qubits, n_inputs, tuple(names), tuple(gates), words, others if free else None
    )


def along_z(function: Callable, n_inputs: int, *shapes: tuple[int, ...]) -> Callable:
    """`function` followed by the gates after which all its values are read along Z; itself where they are.

    These gates are part of what a device executes, and as noisy as the others.

    Args:
        shapes: of the arguments after the angles, such as weights.

    Raises:
        InputError: values that one way of measuring does not give.
    """
    given = torch.zeros(2, n_inputs, dtype=torch.float64), *(torch.zeros(s, dtype=torch.float64) for s in shapes)
    letters, _ = _measured(function, _tape(function, *given))
    if set(letters.values()) <= {"Z"}:
        return function

    def turned(*arguments):
        tape = qml.tape.make_qscript(function)(*arguments)
        for operation in tape.operations:
            qml.apply(operation)
        for wire, letter in letters.items():
            if letter == "Y":
                qml.adjoint(qml.S(wire))
            if letter != "Z":
                qml.Hadamard(wire)
        sentences = [measurement.obs.pauli_rep for measurement in tape.measurements]
        along = [{qml.pauli.PauliWord(dict.fromkeys(word, "Z")): c for word, c in s.items()} for s in sentences]
        return [
            qml.expval(qml.pauli.PauliSentence(sentence).operation(wire_order=range(n_inputs))) for sentence in along
        ]

    turned.__name__ = circuit_name(function)
    return turned


def _renumbered(angle: Expression, place: dict[int, int]) -> Expression:
    return Expression(angle.const, tuple((tuple(place[k] for k in factors), c) for factors, c in angle.terms))


def _tape(function, *points):
    try:
        return qml.tape.make_qscript(function)(*points)
    except Exception as error:  # somebody's circuit
        raise InputError(f"the circuit {circuit_name(function)} cannot be built: {describe(error)}") from error


def _read(function, tape) -> list[tuple[str, tuple[int, ...], list[torch.Tensor]]]:
    """Gates of a tape, with their angles (B,) or ()."""
    flat: list[tuple[str, tuple[int, ...], list[torch.Tensor]]] = []
    for operation in tape.operations:
        _flatten(operation, flat, function)
    return flat


def _measured(function, tape):
    """wire -> letter that is measured; and for each output its words (coefficient, wires)."""
    letters: dict[int, str] = {}
    words = []
    for measurement in tape.measurements:
        sentence = getattr(getattr(measurement, "obs", None), "pauli_rep", None)
        if not isinstance(measurement, qml.measurements.ExpectationMP) or sentence is None:
            raise InputError(
                f"the circuit {circuit_name(function)}: {measurement}: expected expectation values of Pauli words"
            )
        for word in sentence:
            for wire, letter in word.items():
                if letters.setdefault(wire, letter) != letter:
                    raise InputError(
                        f"the circuit {circuit_name(function)}: wire {wire} is read along {letters[wire]} and "
                        f"{letter}; expected values that one way of measuring gives: each way is a circuit of its own"
                    )
        words.append(tuple((float(np.real(c)), tuple(word)) for word, c in sentence.items()))
    return letters, tuple(words)


def _flatten(operation, flat, function) -> None:
    if operation.name in WITHOUT_EFFECT:
        return
    wires = operation.wires.tolist()
    if not all(isinstance(wire, int) and wire >= 0 for wire in wires):
        raise InputError(f"the circuit {circuit_name(function)}: expected wires 0, 1, 2, ..., got {wires}")
    if operation.name in NAMES:
        angles = [torch.as_tensor(value, dtype=torch.float64).detach() for value in operation.data]
        flat.append((NAMES[operation.name], tuple(wires), angles))
    elif operation.has_decomposition and not isinstance(operation, qml.operation.Channel):
        with qml.QueuingManager.stop_recording():
            parts = operation.decomposition()
        for part in parts:
            _flatten(part, flat, function)
    else:
        raise InputError(
            f"the circuit {circuit_name(function)}: {operation.name} cannot be sent to a device or exported"
        )


def _expression(angle: torch.Tensor, points: torch.Tensor, degree: int) -> Expression | None:
    """`angle` at the points as a polynomial of this degree; None if it is none."""
    if angle.numel() == 1:
        return Expression(angle.item())
    n = points.shape[1]
    factors = [(i,) for i in range(n)] + list(itertools.combinations_with_replacement(range(n), 2))
    # Half of the points fit the coefficients , all of them check.
    if degree == 1 or len(factors) + 1 > POINTS // 2:
        factors = factors[:n]
    columns = torch.stack([torch.ones(POINTS, dtype=torch.float64), *(points[:, f].prod(1) for f in factors)], dim=1)
    half = slice(0, POINTS // 2)
    found = torch.linalg.lstsq(columns[half], angle[half, None]).solution[:, 0]
    found = torch.where(found.abs() < 1e-12, 0.0, found)
    # 0.7 as 0.7: a fit leaves the last digits to rounding.
    found = torch.tensor([float(f"{value:.12g}") for value in found.tolist()], dtype=torch.float64)
    if not bool(((columns @ found) - angle).abs().max() <= EXACT):
        return None
    terms = tuple((f, value) for f, value in zip(factors, found[1:].tolist(), strict=True) if value)
    return Expression(found[0].item(), terms)
