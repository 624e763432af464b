"""Checks of a circuit before a run: its fingerprint, that images do not mix, that it agrees with PennyLane, learns."""

import hashlib
from collections.abc import Callable

import numpy as np
import pennylane as qml
import torch

from qcifar.compiler import CompiledCircuit
from qcifar.errors import InputError, describe
from qcifar.quantum.layer import QuantumLayer, circuit_name, stack_values

INDEXING = "angles are (B, n_qubits), so qubit i takes angles[..., i]"  # what circuits get wrong most


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
        tape = qml.tape.make_qscript(circuit)(*probes)
    except Exception as error:
        hint = f"; {INDEXING}" if isinstance(error, IndexError) else ""
        raise InputError(f"the circuit {circuit_name(circuit)} cannot be built: {describe(error)}{hint}") from error
    parts = []
    for op in tape.operations:
        angles = [np.round(np.asarray(p, dtype=np.complex128), 9).tolist() for p in op.data]
        parts.append((op.name, op.wires.tolist(), angles, repr(op.hyperparameters)))
    for measurement in tape.measurements:
        matrices = [np.round(np.asarray(p), 9).tolist() for p in getattr(measurement.obs, "data", ())]
        parts.append((repr(measurement), matrices))  # repr shortens large matrices
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def refuse_mixing(runner: Callable, n_qubits: int, weight_shape: tuple[int, ...] | None) -> None:
    """Raise `InputError` for a circuit that draws random numbers, or whose values for an image follow from others.

    Such a circuit gives an image other logits in another batch, so no score of it means anything.
    """
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(2, n_qubits, generator=generator)
    inputs = torch.cat((inputs, -0.7 * inputs))  # both signs in every column, for what branches at 0
    more = [] if weight_shape is None else [torch.rand(weight_shape, generator=generator)]
    name = circuit_name(runner)
    with torch.no_grad():
        try:
            together, again = (stack_values(runner(inputs, *more), len(inputs)) for _ in range(2))
            alone = torch.cat([stack_values(runner(row[None], *more), 1) for row in inputs])
        except Exception as error:  # somebody's circuit, for example with a wire that the device does not have
            raise InputError(f"the circuit {name} on {n_qubits} qubits failed: {describe(error)}") from error
    if not torch.allclose(together, again, atol=1e-5, equal_nan=True):
        raise InputError(
            f"the circuit {name} gives other values for the same arguments; it must not draw random numbers"
        )
    if together.shape == alone.shape and not torch.allclose(together, alone, atol=1e-5, equal_nan=True):
        raise InputError(
            f"the circuit {name}: an image's values change with the other images of its batch; {INDEXING}, "
            f"and must not average or compare over B"
        )


def compare_with_pennylane(
    circuit: CompiledCircuit, function: Callable, n_wires: int, tolerance: float = 1e-4
) -> float:
    """Largest difference of values and gradients from `default.qubit` in float64, on random inputs.

    Raises:
        ArithmeticError: the difference is larger than `tolerance`.
    """
    generator = torch.Generator().manual_seed(1)
    shapes = [(4, circuit.n_inputs)] + ([circuit.weight_shape] if circuit.weight_shape is not None else [])
    exact = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    node = qml.QNode(function, qml.device("default.qubit", wires=n_wires), interface="torch", diff_method="backprop")
    mine = [value.detach().to(circuit.signs_z).requires_grad_() for value in exact]
    results = []
    for run, arguments in (
        (lambda *a: stack_values(node(*a), len(exact[0])), exact),
        (circuit, mine),
    ):
        values = run(*arguments)
        ramp = torch.arange(1.0, values.shape[-1] + 1, dtype=values.dtype, device=values.device)
        total = (values * ramp).sum() + sum(0.0 * argument.sum() for argument in arguments)  # some may have no effect
        gradients = torch.autograd.grad(total, arguments)
        results.append([values, *gradients])
    differences = []
    for theirs, ours in zip(*results, strict=True):
        difference = (ours.cpu().double() - theirs.cpu().double()).abs()
        difference[theirs.cpu().isnan() & ours.cpu().isnan()] = 0.0  # angles that random inputs do not have
        differences.append(difference.max())
    worst = torch.stack(differences).max().item()  # NaN if there is one
    if not worst <= tolerance:
        raise ArithmeticError(f"differs from default.qubit by {worst:.2e}, expected at most {tolerance:.0e}")
    return worst


def check_layer(layer: QuantumLayer, n_qubits: int, device: torch.device) -> None:
    """Run `layer` forward and backward on two inputs. Raises `InputError` if it cannot be trained."""
    probe = torch.linspace(-1.0, 2.0, 2 * n_qubits, device=device).view(2, -1)  # not zeros, which some would divide by
    values = layer(probe.requires_grad_())
    try:
        values.sum().backward()
    except Exception as error:
        raise InputError(f"the circuit {circuit_name(layer.runner)} has no gradient: {describe(error)}") from error
    layer.zero_grad()
    name = circuit_name(layer.runner)
    if values.shape != (2, n_qubits):
        raise InputError(
            f"the circuit {name}: expected a list of N_QUBITS = {n_qubits} expectation values, got {values.shape[-1]}"
        )
    if not bool((values.abs() <= 1 + 1e-6).all()):  # also catches NaN
        raise InputError(
            f"the circuit {name}: expected values from -1 to 1, as of Pauli words, got {values.abs().max().item():.3g}"
        )
