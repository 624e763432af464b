"""What both quantum experiments need around a PennyLane circuit: something that runs it, a check, a fingerprint.

`QUANTUM_DEVICE = "fast"` compiles the circuit to batched torch (`qcifar.compiler.circuit`) and checks it against
PennyLane; any other name is a PennyLane device.
"""

import copy
import functools
import hashlib
from collections.abc import Callable

import numpy as np
import pennylane as qml
import torch
from torch import nn

from qcifar import distributed
from qcifar.compiler.circuit import CompiledCircuit, compare_with_pennylane
from qcifar.compiler.schedule import NotCompilable
from qcifar.errors import InputError, describe

INDEXING = "angles are (B, n_qubits), so qubit i takes angles[..., i]"  # what circuits get wrong most


def make_qnode(circuit: Callable, device_name: str, n_qubits: int, diff_method: str | None = None) -> Callable:
    """`circuit` as a QNode with the torch interface on a PennyLane device of `n_qubits` wires.

    It can be pickled where `circuit` can.

    Raises:
        InputError: there is no such device, or it cannot differentiate by `diff_method`.
    """
    try:
        device = qml.device(device_name, wires=n_qubits)
        qnode = qml.QNode(circuit, device, interface="torch", diff_method=diff_method)
    except Exception as error:  # plugins raise what they like
        method = f"DIFF_METHOD {diff_method} and " if diff_method else ""
        works = " with backprop always works, lightning.qubit with --diff-method adjoint" if diff_method else " works"
        raise InputError(
            f"QUANTUM_DEVICE {device_name} with {method}{n_qubits} qubits: {describe(error)}; default.qubit{works}"
        ) from None
    return OneByOne(qnode) if diff_method == "parameter-shift" else qnode


class OneByOne:
    """A QNode that takes the batch apart: PennyLane shifts the parameters of one circuit at a time.

    The transform is applied in each call, since a QNode that holds it cannot be pickled.
    """

    def __init__(self, qnode: qml.QNode):
        self.qnode, self.func = qnode, qnode.func

    def __call__(self, *arguments):
        return qml.transforms.broadcast_expand(self.qnode)(*arguments)


def make_runner(
    circuit: Callable,
    device_name: str,
    n_qubits: int,
    weight_shape: tuple[int, ...] | None = None,
    diff_method: str | None = None,
) -> Callable:
    """What evaluates `circuit` on a batch: compiled for "fast", else a QNode on that PennyLane device.

    What cannot be compiled is named on the screen and runs on default.qubit with broadcasting, by backprop.

    Args:
        circuit: quantum function of (inputs (B, n_qubits)) or (inputs, weights).
        weight_shape: shape of `weights`, None where there are none.
        diff_method: PennyLane's, None where nothing is differentiated; "fast" has backprop only.

    Raises:
        InputError: no such device or method, the circuit fails, or it does not agree with PennyLane when compiled.
    """
    refuse_other_method(device_name, diff_method)
    by_name = functools.partial(
        make_qnode, circuit, "default.qubit" if device_name == "fast" else device_name, n_qubits, diff_method
    )
    refuse_mixing(by_name(), n_qubits, weight_shape)  # on its own, since a device that has run cannot be pickled
    if device_name != "fast":
        return by_name()
    try:
        compiled = CompiledCircuit(circuit, n_qubits, weight_shape)
        compare_with_pennylane(compiled, circuit, n_qubits)
        tolerance = 1e-4 if compiled.rounded else 1e-9
        compare_with_pennylane(copy.deepcopy(compiled).double(), circuit, n_qubits, tolerance)
    except NotCompilable as reason:
        by = f" by {diff_method}" if diff_method else ""
        distributed.say(f"{circuit_name(circuit)}: {reason} cannot be compiled; it runs on default.qubit{by}")
        return by_name()
    except ArithmeticError as error:
        raise InputError(
            f"the compiled circuit {circuit_name(circuit)} {error}; use --quantum-device default.qubit, and report it"
        ) from None
    except Exception as error:  # somebody's circuit, for example with a wire that the device does not have
        raise InputError(
            f"the circuit {circuit_name(circuit)} on {n_qubits} qubits failed: {describe(error)}; "
            f"mend it, or report this if --quantum-device default.qubit runs it"
        ) from error
    return compiled


def runs_on(*runners: Callable) -> str:
    """What really runs these circuits: "fast" or names of PennyLane devices."""
    names = ["fast" if isinstance(one, CompiledCircuit) else getattr(one, "qnode", one).device.name for one in runners]
    return ", ".join(dict.fromkeys(names))


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
            together, again = (stack_values(runner(inputs, *more)) for _ in range(2))
            alone = torch.cat([stack_values(runner(row[None], *more)) for row in inputs])
        except Exception as error:  # somebody's circuit, for example with a wire that the device does not have
            raise InputError(f"the circuit {name} on {n_qubits} qubits failed: {describe(error)}") from error
    if not torch.allclose(together, again, atol=1e-5, equal_nan=True):
        raise InputError(f"the circuit {name} gives other values for the same arguments; draw no random numbers in it")
    if together.shape == alone.shape and not torch.allclose(together, alone, atol=1e-5, equal_nan=True):
        raise InputError(
            f"the circuit {name}: an image's values change with the other images of its batch; {INDEXING}, "
            f"and nothing is averaged or compared over B"
        )


def refuse_other_method(device_name: str, diff_method: str | None) -> None:
    """Raise `InputError` for "fast" with another method than backprop, which nothing would use."""
    if device_name == "fast" and diff_method not in (None, "backprop"):
        raise InputError(
            f"DIFF_METHOD (--diff-method): expected backprop with QUANTUM_DEVICE fast, got {diff_method}; "
            f"for others use --quantum-device default.qubit"
        )


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


def circuit_name(circuit: Callable) -> str:
    """Name of the quantum function inside a QNode, a partial, or both."""
    while hasattr(circuit, "func"):
        circuit = circuit.func
    return getattr(circuit, "__name__", type(circuit).__name__)


class QuantumLayer(nn.Module):
    """A circuit as a layer: inputs (..., n_qubits) -> expectation values (..., n_qubits).

    The circuit is called once for the whole batch, in float32 or wider even under autocast. Its only
    parameter is `weights`, as in `qml.qnn.TorchLayer`, whatever runs the circuit.

    Args:
        runner: from `make_runner`: (inputs (B, n), weights) -> values (B, n), or n of shape (B,).
        weights: initial value of the circuit's weights.
    """

    def __init__(self, runner: Callable, weights: torch.Tensor):
        super().__init__()
        self.runner = runner
        self.weights = nn.Parameter(weights)

    @torch.compiler.disable  # torch.compile goes through the compiled circuit, but cannot look into PennyLane
    def _outside_torch(self, inputs, weights):
        return self.runner(inputs, weights)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        if len(flat) == 0:
            return inputs.float() + self.weights.sum()  # no values, but gradients: zeros
        run = self.runner if isinstance(self.runner, nn.Module) else self._outside_torch
        with torch.autocast(inputs.device.type, enabled=False):
            try:
                values = stack_values(run(flat.float(), self.weights))  # (B, n)
            except Exception as error:  # never replaced by zeros: a circuit that fails stops the run
                raise InputError(
                    f"the circuit {circuit_name(self.runner)} failed on inputs {tuple(inputs.shape)}: {describe(error)}"
                ) from error
            if values.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(values.isfinite().all()):
                bad = int((~values.isfinite()).any(1).sum())
                raise InputError(
                    f"the circuit {circuit_name(self.runner)} returned values that are not finite for {bad} of "
                    f"{len(flat)} images, whose angles go from {flat.min().item():.3g} to {flat.max().item():.3g}"
                )
            return values.to(torch.float32).reshape(*inputs.shape[:-1], values.shape[-1])


def stack_values(values) -> torch.Tensor:
    """What a circuit returned as one tensor (B, n): PennyLane gives n of shape (B,), or the bare one for n = 1."""
    if not isinstance(values, torch.Tensor):
        return torch.stack([torch.as_tensor(value) for value in values], dim=-1)
    return values if values.ndim == 2 else values[:, None]


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
