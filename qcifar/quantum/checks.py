"""Checks of a circuit before a run: its fingerprint, that images do not mix, that it agrees with PennyLane, learns."""

import functools
import hashlib
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pennylane as qml
import torch
from torch import nn

from qcifar import distributed
from qcifar.compiler import CompiledCircuit
from qcifar.compiler.circuit import FUSE_QUBITS
from qcifar.device import free_memory
from qcifar.errors import InputError, describe
from qcifar.quantum.layer import QuantumLayer, circuit_name, stack_values

INDEXING = "angles are (B, n_qubits), so qubit i takes angles[..., i]"  # what circuits get wrong most
MANY_ANGLES = 2000  # from here on, compiling takes seconds, which the user is told
AMPLITUDES = 2**22  # of all states of a batch at once, while a circuit is checked: 64 MB in complex128
WORK = 2**25  # amplitudes times gates of such a batch: seconds on default.qubit


def circuit_fingerprint(circuit: Callable, *shapes: tuple[int, ...]) -> str:
    """First 12 hex digits of the SHA-256 of the tape that `circuit` records on fixed inputs.

    Circuits that differ in a gate, a wire, an angle or what they measure have different fingerprints, so
    editing one is noticed wherever it is used. (What differs only at other inputs, a branch for example, is not seen.)

    Args:
        shapes: of the circuit's arguments, each filled with fixed generic numbers.

    Raises:
        InputError: the circuit cannot be built.
    """
    probes = [torch.from_numpy(np.sin(1.0 + np.arange(np.prod(shape))).reshape(shape)) for shape in shapes]
    try:
        try:
            tape = qml.tape.make_qscript(circuit)(*probes)
        except RuntimeError:  # for example a product with a float32 matrix, which takes float32 only, as in training
            tape = qml.tape.make_qscript(circuit)(*(probe.float() for probe in probes))
    except Exception as error:
        hint = f"; {INDEXING}" if isinstance(error, IndexError) else ""
        raise InputError(
            f"the circuit {circuit_name(circuit)} cannot be built: {_told(error)}; it was called with "
            f"{_shapes(probes)}{hint}"
        ) from error
    parts = []
    for op in tape.operations:
        angles = [np.round(_as_array(p), 9).tolist() for p in op.data]
        on = getattr(op, "meas_val", None)  # of a gate that follows from mid-circuit measurements
        condition = None if on is None else ([m.meas_uid for m in on.measurements], on.branches)
        parts.append((op.name, op.wires.tolist(), angles, repr(op.hyperparameters), condition))
    for measurement in tape.measurements:
        matrices = [np.round(_as_array(p), 9).tolist() for p in getattr(measurement.obs, "data", ())]
        parts.append((repr(measurement), matrices))  # repr shortens large matrices
    text = repr(parts)
    for number, op in enumerate(op for op in tape.operations if isinstance(op, qml.ops.MidMeasure)):
        text = text.replace(op.meas_uid, f"measurement {number}")  # drawn anew each time
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _told(error: Exception) -> str:
    """An error of somebody's circuit, with the last line of their own code that led to it."""
    here = Path(__file__).parents[1]
    own = [
        step
        for step in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in step.filename and here not in Path(step.filename).parents
    ]
    return describe(error) + (f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else "")


def _as_array(parameter) -> np.ndarray:
    tensor = parameter.detach().cpu() if isinstance(parameter, torch.Tensor) else parameter
    return np.asarray(tensor, dtype=np.complex128)


def refuse_other_form(circuit: Callable, n_qubits: int, weight_shape: tuple[int, ...] | None) -> None:
    """Raise `InputError` for what is not a quantum function of (angles[, weights]) that returns expectation values."""
    name, function = circuit_name(circuit), circuit
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, qml.QNode):
        raise InputError(
            f"the circuit {name} is a QNode; take the @qml.qnode line away: QUANTUM_DEVICE (--quantum-device) says "
            f"where the function runs"
        )
    example = "[qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]"
    arguments = _probes(2, n_qubits, weight_shape)
    try:
        with qml.queuing.AnnotatedQueue():
            returned = circuit(*arguments)
    except Exception as error:
        hint = f"; {INDEXING}" if isinstance(error, IndexError) else ""
        raise InputError(
            f"the circuit {name} on {n_qubits} qubits failed: {_told(error)}; it was called with "
            f"{_shapes(arguments)}{hint}"
        ) from error
    listed = list(returned) if isinstance(returned, (list, tuple)) else [returned]
    wrong = [one for one in listed if not isinstance(one, qml.measurements.ExpectationMP)]
    if wrong or not listed:
        got = "nothing" if not listed or returned is None else f"a {type(wrong[0]).__name__}"
        raise InputError(f"the circuit {name}: expected a list of expectation values, such as {example}, got {got}")
    for one in listed:
        bound = _bound(one.obs)
        if bound is not None and bound > 1 + 1e-6:
            raise InputError(
                f"the circuit {name}: expected values from -1 to 1, as of Pauli words, got {one}, which may be "
                f"{bound:.3g}; divide by that"
            )


def _bound(observable) -> float | None:
    """Largest magnitude that an expectation value can have, or a bound of it; None if it follows from tensors."""
    sentence = getattr(observable, "pauli_rep", None)
    if sentence is None:
        values = observable.eigvals() if observable is not None and observable.has_matrix else np.zeros(0)
    else:
        values = list(sentence.values())
    if any(isinstance(value, torch.Tensor) for value in values) or not len(values):
        return None
    magnitudes = np.abs(np.asarray(values, dtype=np.complex128))
    return float(magnitudes.max() if sentence is None else magnitudes.sum())


def trained_outside(circuit: Callable, n_qubits: int, weight_shape: tuple[int, ...]) -> list[nn.Parameter]:
    """Trainable tensors that `circuit` takes from outside its arguments, in the order of their use.

    Those of a module are left out where the circuit is a method of it: they are that module's.

    Raises:
        InputError: one of them is not an `nn.Parameter`, so that nothing would train it.
    """
    with torch.enable_grad():
        tape = qml.tape.make_qscript(circuit)(*_probes(2, n_qubits, weight_shape))
    found: dict[int, torch.Tensor] = {}
    for value in tape.get_parameters(trainable_only=False):
        if isinstance(value, torch.Tensor) and value.requires_grad:
            found |= {id(leaf): leaf for leaf in _leaves(value)}
    function = circuit
    while isinstance(function, functools.partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    own = {id(parameter) for parameter in owner.parameters()} if isinstance(owner, nn.Module) else set()
    outside = [leaf for place, leaf in found.items() if place not in own]
    for leaf in outside:
        if not isinstance(leaf, nn.Parameter):
            raise InputError(
                f"the circuit {circuit_name(circuit)} takes a trainable tensor {tuple(leaf.shape)} from outside "
                f"its arguments; expected an nn.Parameter, which the optimizer gets"
            )
    return outside


def _leaves(value: torch.Tensor) -> list[torch.Tensor]:
    """The trainable tensors that a tensor was computed from."""
    if value.grad_fn is None:
        return [value]
    leaves, seen, waiting = [], set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaves += [node.variable] if hasattr(node, "variable") else []
        waiting += [before for before, _ in reversed(node.next_functions)]
    return leaves


def count_measurements(circuit: Callable, n_qubits: int, weight_shape: tuple[int, ...] | None) -> int:
    """How often `circuit` measures a qubit before its end."""
    tape = qml.tape.make_qscript(circuit)(*_probes(2, n_qubits, weight_shape))
    return sum(isinstance(op, qml.ops.MidMeasure) for op in tape.operations)


def refuse_too_wide(
    circuit: Callable, n_qubits: int, weight_shape: tuple[int, ...] | None, images: int, learns: bool, measured: int
) -> None:
    """Raise `InputError` where default.qubit would need more memory than there is, with the numbers.

    It holds a state of 2^n amplitudes in complex128 for each image; to learn by backprop, one after each gate.

    Args:
        measured: mid-circuit measurements, each of which takes a further qubit.
    """
    tape = qml.tape.make_qscript(circuit)(*_probes(2, n_qubits, weight_shape))
    gates = _count_gates(tape.operations)
    needed, free = images * 2 ** (n_qubits + measured) * 16 * (gates if learns else 2), free_memory(torch.device("cpu"))
    what = f"{images} images, {gates} gates" + (f", {measured} measurements" if measured else "")
    if free is not None and needed > free:
        raise InputError(
            f"the circuit {circuit_name(circuit)} on {n_qubits} qubits needs {needed / 2**30:.1f} GB on default.qubit "
            f"({what}), {free / 2**30:.1f} GB are free; use fewer qubits or images a step"
        )


def refuse_too_deep(circuit: Callable, n_qubits: int, weight_shape: tuple[int, ...] | None, images: int) -> None:
    """Raise `InputError` where a compiled circuit needs more memory than there is; name what takes long.

    It keeps a state of 2^n real and imaginary parts in float32 for each image and, to learn, for each layer of
    rotations (up to 6 qubits fewer), and constants of as many rows for each angle, once in float32 and once in float64.
    """
    tape = qml.tape.make_qscript(circuit)(*_probes(2, n_qubits, weight_shape))
    turns, angles = _count_turns(tape.operations)
    layers = max(turns.values(), default=0) if n_qubits > FUSE_QUBITS and weight_shape is not None else 1
    needed, free = 2**n_qubits * (8 * images * layers + 12 * angles), free_memory(torch.device("cpu"))
    name = circuit_name(circuit)
    if free is not None and needed > free:
        raise InputError(
            f"the circuit {name} on {n_qubits} qubits needs {needed / 2**30:.1f} GB compiled ({images} images, "
            f"{layers} layers of rotations), {free / 2**30:.1f} GB are free; use fewer qubits, layers or images a step"
        )
    if angles > MANY_ANGLES:
        distributed.say(f"{name}: {angles} angles, which take about {angles * 2e-3:.0f} s to compile and to check")


def _count_turns(operations) -> tuple[dict, int]:
    """For each wire how many rotations turn it, and the number of all angles."""
    turns: dict = {}
    angles = 0
    for op in operations:
        angles += len(op.data)
        for wire in op.wires if op.data else ():
            more = 1 if op.has_matrix or not op.has_decomposition else 0
            turns[wire] = turns.get(wire, 0) + more
        if not (op.has_matrix or not op.has_decomposition):
            inner, more = _count_turns(op.decomposition())
            angles += more - len(op.data)
            turns |= {wire: turns.get(wire, 0) + count for wire, count in inner.items()}
    return turns, angles


def _count_gates(operations) -> int:
    """As default.qubit runs them: what has a matrix is one gate."""
    whole = [op.has_matrix or not op.has_decomposition for op in operations]  # a measurement has none of both
    return sum(1 if one else _count_gates(op.decomposition()) for op, one in zip(operations, whole, strict=True))


def _probes(images: int, n_qubits: int, weight_shape: tuple[int, ...] | None) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(images, n_qubits, generator=generator)
    return [inputs] + ([] if weight_shape is None else [torch.rand(weight_shape, generator=generator)])


def _shapes(arguments) -> str:
    names = ("angles", "weights")
    return " and ".join(f"{name} {tuple(a.shape)}" for name, a in zip(names, arguments, strict=False))


def refuse_mixing(runner: Callable, n_qubits: int, weight_shape: tuple[int, ...] | None, images: int = 4) -> None:
    """Raise `InputError` for a circuit that draws random numbers, or whose values for an image follow from others.

    Such a circuit gives an image other logits in another batch, so no score of it means anything.

    Args:
        images: size of the batches that will be used; fewer are tried where the states would fill the memory, or the
            circuit is so deep that they would take minutes.
    """
    function = getattr(runner, "func", None)
    tape = None if function is None else qml.tape.make_qscript(function)(*_probes(2, n_qubits, weight_shape))
    gates = 1 if tape is None else max(1, _count_gates(tape.operations))
    images = min(images, AMPLITUDES >> n_qubits, (WORK >> n_qubits) // gates)
    half, *more = _probes(max(2, images // 2), n_qubits, weight_shape)
    inputs = torch.cat((half, -0.7 * half))  # both signs in every column, for what branches at 0
    name = circuit_name(runner)
    with torch.no_grad():
        try:
            together, again = (stack_values(runner(inputs, *more), len(inputs)) for _ in range(2))
            alone = torch.cat([stack_values(runner(row[None], *more), 1) for row in inputs[:2]])
            halves = torch.cat([stack_values(runner(part, *more), len(part)) for part in inputs.chunk(2)])
        except Exception as error:  # somebody's circuit, for example with a wire that the device does not have
            raise InputError(
                f"the circuit {name} on {n_qubits} qubits failed: {describe(error)}; it was called with "
                f"{_shapes((inputs, *more))}; {INDEXING}"
            ) from error
    if not torch.allclose(together, again, atol=1e-5, equal_nan=True):
        raise InputError(
            f"the circuit {name} gives other values for the same arguments; it must not draw random numbers"
        )
    for parts in (alone, halves):
        if not torch.allclose(together[: len(parts)], parts, atol=1e-5, equal_nan=True):
            raise InputError(
                f"the circuit {name}: an image's values change with the other images of its batch; {INDEXING}; "
                f"nothing may follow from other images or from their number, as by angles.mean(0), if angles[0, 0] > 0 "
                f"or len(angles)"
            )


def compare_with_pennylane(
    circuit: CompiledCircuit, function: Callable, n_wires: int, tolerance: float | None = None, gradients: bool = True
) -> float:
    """Largest difference of values (and gradients) from `default.qubit` in float64, on random inputs.

    Gradients are of a weighted sum of the values, and count relative to the largest of theirs where that is above 1.

    Args:
        tolerance: the largest difference that is allowed; by default what rounding explains, see `rounding`.
        gradients: whether they are compared, too: where they are used.

    Raises:
        ArithmeticError: the difference is larger than `tolerance`.
    """
    generator = torch.Generator().manual_seed(1)
    shapes = [(4, circuit.n_inputs)] + ([circuit.weight_shape] if circuit.weight_shape is not None else [])
    exact = [torch.randn(shape, generator=generator, dtype=torch.float64).to(circuit.traced_in) for shape in shapes]
    node = qml.QNode(function, qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    if tolerance is None:
        precision = torch.float32 if circuit.rounded else circuit.signs_z.dtype
        tolerance = rounding(qml.tape.make_qscript(function)(*exact), n_wires, precision)
    results = []
    for run, arguments in (
        (lambda *a: stack_values(node(*a), len(exact[0])), [value.clone().requires_grad_() for value in exact]),
        (circuit, [value.clone().to(circuit.signs_z).requires_grad_() for value in exact]),
    ):
        values = run(*arguments)
        results.append([values])
        if gradients:
            ramp = torch.arange(1.0, values.shape[-1] + 1, dtype=values.dtype, device=values.device)
            total = (values * ramp).sum() + sum(0.0 * argument.sum() for argument in arguments)  # some have no effect
            results[-1] += torch.autograd.grad(total, arguments)
    differences = []
    for theirs, ours in zip(*results, strict=True):
        theirs, ours = theirs.detach().cpu().double(), ours.detach().cpu().double()
        difference = (ours - theirs).abs() / theirs.nan_to_num().abs().max().clamp(min=1.0)
        difference[theirs.isnan() & ours.isnan()] = 0.0  # angles that random inputs do not have
        differences.append(difference.max())
    worst = torch.stack(differences).max().item()  # NaN if there is one
    if not worst <= tolerance:
        raise ArithmeticError(f"differs from default.qubit by {worst:.2e}, expected at most {tolerance:.1e}")
    return worst


def rounding(tape, n_wires: int, precision: torch.dtype) -> float:
    """Difference of expectation values and their gradients that rounding explains, by width, depth and precision.

    Errors of gates add up like a random walk, those of an angle grow with it, and sums over amplitudes in pairs add
    one for each qubit: c eps n sqrt(gates) (1 + largest angle), where c = 30 leaves a factor of about 10.
    """
    sizes = [float(p.detach().abs().max()) if isinstance(p, torch.Tensor) else float(np.abs(p).max())
             for p in tape.get_parameters(trainable_only=False)]  # fmt: skip
    largest = max((size for size in sizes if np.isfinite(size)), default=0.0)
    return 30 * torch.finfo(precision).eps * n_wires * max(1, _count_gates(tape.operations)) ** 0.5 * (1 + largest)


def check_layer(layer: QuantumLayer, n_qubits: int, device: torch.device, note: Callable[[str], None] = print) -> None:
    """Run `layer` forward and backward on two inputs.

    Args:
        note: told in one line if neither inputs nor weights have an effect, or only one of them has.

    Raises:
        InputError: it cannot be trained.
    """
    probe = torch.linspace(-1.0, 2.0, 2 * n_qubits, device=device).view(2, -1)  # not zeros, which some would divide by
    values, name = layer(probe.requires_grad_()), circuit_name(layer.runner)
    if values.shape != (2, n_qubits):
        raise InputError(
            f"the circuit {name}: expected a list of N_QUBITS = {n_qubits} expectation values, got {values.shape[-1]}"
        )
    if not bool((values.abs() <= 1 + 1e-6).all()):  # also catches NaN
        raise InputError(
            f"the circuit {name}: expected values from -1 to 1, as of Pauli words, got {values.abs().max().item():.3g}"
        )
    learns = {"angles": probe} | ({"weights": layer.weights} if layer.weights.requires_grad else {})
    gradients: list[torch.Tensor | None] = [None] * len(learns)
    method = getattr(getattr(layer.runner, "qnode", layer.runner), "diff_method", "backprop")
    instead = "" if method == "backprop" else ", or --diff-method backprop"
    if values.requires_grad:
        try:
            ramp = torch.linspace(0.5, 1.5, n_qubits, device=device)
            gradients = torch.autograd.grad((values * ramp).sum(), list(learns.values()), allow_unused=True)
        except Exception as error:
            raise InputError(f"the circuit {name} has no gradient: {describe(error)}") from error
    for what, gradient in zip(learns, gradients, strict=True):
        if gradient is None or not gradient.any():
            note(f"warning: the circuit {name} does not learn by its {what}: no gradient reaches them")
        elif not bool(gradient.isfinite().all()):
            raise InputError(
                f"the circuit {name}: the gradient by its {what} is not finite for {int((~gradient.isfinite()).sum())} "
                f"of {gradient.numel()} of them, and training would stop there; use another embedding{instead}"
            )
