"""A circuit as its gates: which there are, how their angles follow from inputs and weights, what is read out.

`read_gates` calls the quantum function and keeps what PennyLane recorded. Nothing is assumed of the function: that
angles are linear in inputs and weights is derived by autograd and checked at other points, and what is not linear is
computed by calling the function.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pennylane as qml
import torch

from qcifar.compiler.gates import PRIMITIVES
from qcifar.compiler.record import IGNORED
from qcifar.errors import InputError, describe

MAX_QUBITS = 16  # 1 MB for each state
IMAGES = 7  # while a circuit is read: a number that is hardly a side of its weights


class LeftOut(Exception):
    """A part of the audit is not done; the message says why."""


class Unreadable(LeftOut):
    """The circuit is more than a fixed list of unitary gates and expectation values; the message says what it has."""


@dataclass(frozen=True)
class Circuit:
    """A quantum function of angles (B, n_inputs), or of these and weights, and what it is called with."""

    name: str
    function: Callable
    n_inputs: int
    weight_shape: tuple[int, ...] | None = None
    layers: int = 1
    note: str = ""  # what was assumed
    resized: Callable[[int, int], "Circuit"] | None = field(default=None, compare=False)  # (qubits, layers) -> another

    @property
    def n_weights(self) -> int:
        return 0 if self.weight_shape is None else int(torch.Size(self.weight_shape).numel())

    def call(self, inputs: torch.Tensor, weights: torch.Tensor | None) -> qml.tape.QuantumScript:
        """What the function records for inputs (B, n) and one set of weights, flat."""
        arguments = [inputs] if weights is None else [inputs, weights.reshape(self.weight_shape)]
        return qml.tape.make_qscript(self.function)(*arguments)


@dataclass(frozen=True)
class Gate:
    """One gate; its angles are numbers `first` to `first + count - 1` of all angles."""

    name: str
    wires: tuple[int, ...]
    first: int
    count: int
    matrix: torch.Tensor | None = None  # (2^k, 2^k) of a gate without angles

    @property
    def angles(self) -> range:
        return range(self.first, self.first + self.count)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.wires))})"


@dataclass(frozen=True)
class Gates:
    """The gates of a circuit. All angles together: angle = by_input @ inputs + by_weight @ weights + constant."""

    circuit: Circuit
    labels: list  # the wires' own names, by place
    gates: list[Gate]
    by_input: torch.Tensor  # (A, n), rows of zeros where an angle is not linear
    by_weight: torch.Tensor  # (A, W)
    constant: torch.Tensor  # (A,)
    linear: torch.Tensor  # (A,) bool
    observables: list[tuple[torch.Tensor, tuple[int, ...]]]  # for each output: matrix, wires
    dtype: torch.dtype  # of the arguments that the function takes

    @property
    def n_wires(self) -> int:
        return len(self.labels)

    @property
    def owner(self) -> list[int]:
        """The gate that each angle belongs to."""
        return [place for place, gate in enumerate(self.gates) for _ in gate.angles]

    def angles(self, inputs: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        """Angles (B, A) for inputs (B, n) and weights (B, W), float64; differentiable."""
        found = inputs @ self.by_input.mT + self.constant
        if weights is not None:
            found = found + weights @ self.by_weight.mT
        if bool(self.linear.all()):
            return found
        return torch.where(self.linear, found, self._called(inputs, weights))

    def _called(self, inputs, weights) -> torch.Tensor:
        """All angles, by calling the function: once where all images have the same weights, else for each."""
        if weights is None or bool((weights == weights[0]).all()):
            return self._of_tape(inputs, None if weights is None else weights[0])
        return torch.cat([self._of_tape(x[None], w) for x, w in zip(inputs, weights, strict=True)])

    def _of_tape(self, inputs, weights) -> torch.Tensor:
        tape = self.circuit.call(inputs.to(self.dtype), None if weights is None else weights.to(self.dtype))
        gates, parameters, _ = _listed(tape)
        if [(gate.name, gate.wires) for gate in gates] != [(gate.name, gate.wires) for gate in self.gates]:
            raise Unreadable("which gates there are depends on the values of inputs or weights")
        columns = [_tensor(p).double().expand(len(inputs)) for p in parameters]
        return torch.stack(columns, dim=1) if columns else inputs.new_zeros(len(inputs), 0)


def read_gates(circuit: Circuit) -> Gates:
    """The gates of `circuit`.

    Raises:
        Unreadable: it cannot be read so, and only its values can be had.
    """
    try:
        return _read(circuit, torch.float64)
    except Unreadable:
        raise
    except RuntimeError:  # for example a product with a float32 matrix, which takes float32 only
        try:
            return _read(circuit, torch.float32)
        except RuntimeError as error:
            raise Unreadable(f"its angles cannot be computed ({describe(error)})") from error
    except Exception as error:  # somebody's function
        raise Unreadable(f"its gates cannot be read ({describe(error)})") from error


def _read(circuit: Circuit, dtype: torch.dtype) -> Gates:
    (inputs, weights), *others = (points(circuit, IMAGES, seed, dtype) for seed in range(4))
    one = None if weights is None else weights[0].requires_grad_()
    tape = circuit.call(inputs.requires_grad_(), one)
    gates, parameters, labels = _listed(tape)
    rows = [_row(_tensor(p), inputs, one) for p in parameters]
    by_input, by_weight, constant = (
        torch.stack([row[k] for row in rows]).double() if rows else torch.zeros(0, size, dtype=torch.float64)
        for k, size in enumerate((circuit.n_inputs, circuit.n_weights, 1))
    )
    observables = [_observable(measurement, labels) for measurement in tape.measurements]
    every = torch.ones(len(rows), dtype=torch.bool)
    found = Gates(circuit, labels, gates, by_input, by_weight, constant.view(-1), every, observables, dtype)
    wrong = torch.zeros(len(rows), dtype=torch.bool)
    with torch.no_grad():
        for x, w in ((inputs, weights), *others):  # the first with the weights of `tape`, in all rows
            w = None if w is None else w[:1].expand(len(x), -1)
            predicted, actual = found.angles(x.double(), None if w is None else w.double()), found._called(x, w)
            error = (predicted - actual).abs() / (1 + actual.abs())
            wrong |= ~(error < 1e3 * torch.finfo(dtype).eps).all(0)
    by_input, by_weight = (rows.masked_fill(wrong[:, None], 0.0) for rows in (by_input, by_weight))
    constant = found.constant.masked_fill(wrong, 0.0)
    return Gates(circuit, labels, gates, by_input, by_weight, constant, ~wrong, observables, dtype)


def points(circuit: Circuit, count: int, seed: int, dtype: torch.dtype = torch.float64, spread: bool = True):
    """Random inputs (count, n) and weights (count, W), from -pi to pi; None for the weights where there are none.

    Args:
        spread: False gives all points the same weights.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs, weights = (
        torch.pi * (2 * torch.rand(count, columns, generator=generator, dtype=torch.float64) - 1)
        for columns in (circuit.n_inputs, circuit.n_weights)
    )
    if circuit.weight_shape is None:
        return inputs.to(dtype), None
    return inputs.to(dtype), (weights if spread else weights[:1].expand(count, -1)).to(dtype)


def _tensor(parameter) -> torch.Tensor:
    """A gate's parameter; one that is a plain number is not rounded to single precision."""
    return parameter if isinstance(parameter, torch.Tensor) else torch.as_tensor(parameter, dtype=torch.float64)


def _one_an_image(value: torch.Tensor, images: int) -> bool:
    return value.ndim == 0 or (value.ndim == 1 and len(value) in (1, images))


def refuse_angles_in_rows(circuit: Circuit) -> None:
    """Raise `InputError` where a gate gets a row of angles for each image: its weights have another shape.

    What else may be wrong with the circuit is not looked at.
    """
    inputs, weights = points(circuit, IMAGES, 0)
    try:
        _, parameters, _ = _listed(circuit.call(inputs, None if weights is None else weights[0]))
    except Exception:  # what cannot be read is not refused
        return
    for value in map(_tensor, parameters):
        if not _one_an_image(value, IMAGES):
            raise InputError(
                f"the circuit {circuit.name} with weights {circuit.weight_shape}: expected one angle for each of "
                f"{IMAGES} images in every gate, got a tensor {tuple(value.shape)}"
            )


def _row(value: torch.Tensor, inputs: torch.Tensor, weights: torch.Tensor | None):
    """Derivatives of the first image's angle by its inputs and the weights, and its value where these are zero."""
    if not _one_an_image(value, len(inputs)):
        raise Unreadable(f"it has an angle of shape {tuple(value.shape)}")
    first, leaves = value.reshape(-1)[0], [inputs] if weights is None else [inputs, weights]
    found = torch.autograd.grad(first, leaves, retain_graph=True, allow_unused=True) if first.requires_grad else ()
    found = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found or [None] * 2, leaves, strict=False)]
    by_input, by_weight = found[0][0], found[1] if len(found) > 1 else inputs.new_zeros(0)
    rest = first.detach().double() - by_input.double() @ inputs[0].detach().double()
    if weights is not None:
        rest = rest - by_weight.double() @ weights.detach().double()
    return by_input, by_weight, rest.view(1)


def _listed(tape) -> tuple[list[Gate], list, list]:
    """Gates, their parameters in order, and the wires' names in the order of their places."""
    labels = sorted(tape.wires.tolist(), key=lambda wire: (str(type(wire)), wire))
    if len(labels) > MAX_QUBITS:
        raise Unreadable(f"it has {len(labels)} qubits, more than {MAX_QUBITS}")
    place = {label: k for k, label in enumerate(labels)}
    gates, parameters = [], []

    def add(op):
        wires = tuple(place[wire] for wire in op.wires)
        if op.name in IGNORED:
            return
        if op.name in PRIMITIVES:
            matrix = None if op.data else torch.as_tensor(op.matrix(), dtype=torch.complex128)
            gates.append(Gate(op.name, wires, len(parameters), len(op.data), matrix))
            parameters.extend(op.data)
        elif op.has_decomposition:
            for part in op.decomposition():
                add(part)
        elif op.has_matrix and not any(getattr(value, "requires_grad", False) for value in op.data):
            gates.append(Gate(op.name, wires, len(parameters), 0, torch.as_tensor(op.matrix(), dtype=torch.complex128)))
        else:
            raise Unreadable(f"it has the operation {op.name}")

    for op in tape.operations:
        add(op)
    return gates, parameters, labels


def _observable(measurement, labels) -> tuple[torch.Tensor, tuple[int, ...]]:
    observable = getattr(measurement, "obs", None)
    if not isinstance(measurement, qml.measurements.ExpectationMP) or observable is None:
        raise Unreadable(f"it has the measurement {measurement}")
    wires = [label for label in labels if label in observable.wires]
    matrix = qml.matrix(observable, wire_order=wires) if wires else torch.ones(1, 1)
    if any(getattr(value, "requires_grad", False) for value in getattr(observable, "data", ())):
        raise Unreadable(f"it has the measurement {measurement}, which follows from the arguments")
    return torch.as_tensor(matrix).to(torch.complex128), tuple(labels.index(label) for label in wires)
