"""What runs a circuit on a batch of angles.

`QUANTUM_DEVICE = "fast"` compiles it to batched torch (`qcifar.compiler`) and checks that against PennyLane;
any other name is a PennyLane device.
"""

import copy
import functools
import time
from collections.abc import Callable

import pennylane as qml
import torch

from qcifar import distributed
from qcifar.compiler import CompiledCircuit, NotCompilable
from qcifar.compiler.record import MAX_QUBITS
from qcifar.compiler.watch import Outside
from qcifar.errors import InputError, describe
from qcifar.quantum.checks import (
    compare_with_pennylane,
    count_measurements,
    refuse_mixing,
    refuse_other_form,
    refuse_too_deep,
    refuse_too_wide,
    trained_outside,
)
from qcifar.quantum.layer import circuit_name

SLOWER = "20"  # see docs/measurements.md


def make_qnode(
    circuit: Callable, device_name: str, n_qubits: int, diff_method: str | None = None, measured: int = 0, **more
) -> Callable:
    """`circuit` as a QNode with the torch interface on a PennyLane device of `n_qubits` wires.

    It can be pickled where `circuit` can.

    Args:
        measured: mid-circuit measurements. PennyLane's simulators defer each to the end, on a wire of its own.
        more: arguments of the device, such as a seed.

    Raises:
        InputError: there is no such device, or it cannot differentiate by `diff_method`.
    """
    try:
        deferred = measured if device_name.startswith(("default.", "lightning.")) else 0
        device = qml.device(device_name, wires=n_qubits + deferred, **more)
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

    Its angles are double precision, since PennyLane takes finite differences of a gate that has no shift rule.
    The transforms are applied in each call, since a QNode that holds them cannot be pickled.
    """

    def __init__(self, qnode: qml.QNode):
        self.qnode, self.func = qnode, qnode.func

    def __call__(self, *arguments):
        return qml.transforms.broadcast_expand(in_double(self.qnode))(*arguments)


@qml.transform
def in_double(tape):
    """A tape with its real parameters in double precision."""
    parameters = tape.get_parameters(trainable_only=False)
    wide = [p.double() if isinstance(p, torch.Tensor) and p.dtype == torch.float32 else p for p in parameters]
    return [tape.bind_new_parameters(wide, range(len(wide)))], lambda results: results[0]


def make_runner(
    circuit: Callable,
    device_name: str,
    n_qubits: int,
    weight_shape: tuple[int, ...] | None = None,
    diff_method: str | None = None,
    images: int = 4,
) -> Callable:
    """What evaluates `circuit` on a batch: compiled for "fast", else a QNode on that PennyLane device.

    Its `outside` are the parameters that the circuit takes from outside its arguments, for `QuantumLayer`.

    What cannot be compiled, or differs from default.qubit when compiled, is named on the screen and runs on
    default.qubit with broadcasting, by backprop.

    Args:
        circuit: quantum function of (angles (B, n_qubits)) or (angles, weights).
        weight_shape: shape of `weights`, None where there are none and nothing is differentiated.
        diff_method: PennyLane's, None where nothing is differentiated; "fast" has backprop only.
        images: size of the batches that will be used.

    Raises:
        InputError: no such device or method, or the circuit fails or cannot be one of a network.
    """
    refuse_other_method(device_name, diff_method)
    runner = _runner(circuit, device_name, n_qubits, weight_shape, diff_method, images)
    runner.outside = Outside(trained_outside(circuit, n_qubits, weight_shape) if weight_shape is not None else [])
    return runner


def _runner(circuit, device_name, n_qubits, weight_shape, diff_method, images) -> Callable:
    pennylane_name = "default.qubit" if device_name == "fast" else device_name
    make_qnode(circuit, pennylane_name, n_qubits, diff_method)  # whether there is such a device
    refuse_other_form(circuit, n_qubits, weight_shape)
    measured = count_measurements(circuit, n_qubits, weight_shape)
    by_name = functools.partial(make_qnode, circuit, pennylane_name, n_qubits, diff_method, measured)
    in_pennylane = by_name()  # its own, to be tried out: a device that has run cannot be pickled
    refuse = functools.partial(
        refuse_too_wide, circuit, n_qubits, weight_shape, images, diff_method == "backprop", measured
    )
    if pennylane_name == "default.qubit" and (device_name != "fast" or measured or n_qubits > MAX_QUBITS):
        refuse()
    if device_name == "fast":
        refuse_too_deep(circuit, n_qubits, weight_shape, images)
    refuse_mixing(in_pennylane, n_qubits, weight_shape, images)
    if device_name != "fast":
        return by_name()
    try:
        return _compiled(circuit, n_qubits, weight_shape)
    except NotCompilable as reason:
        why = f"{reason} cannot be compiled"
    except ArithmeticError as error:
        why = f"compiled, it {error} (please report this)"
    except Exception as error:  # default.qubit has just run it
        why = f"it cannot be compiled: {describe(error)} (please report this)"
    refuse()
    by = f" by {diff_method}" if diff_method else ""
    why = " ".join(why.split())
    distributed.say(f"{circuit_name(circuit)}: {why}; it runs on default.qubit{by}, about {SLOWER} times slower")
    return by_name()


def _compiled(circuit: Callable, n_qubits: int, weight_shape: tuple[int, ...] | None) -> CompiledCircuit:
    """`circuit` compiled, after it agreed with default.qubit: in float32, as it will run, and in float64."""
    compiled, learns = CompiledCircuit(circuit, n_qubits, weight_shape), weight_shape is not None
    compare_with_pennylane(compiled, circuit, n_qubits, gradients=learns)
    compare_with_pennylane(copy.deepcopy(compiled).double(), circuit, n_qubits, gradients=learns)
    unseen = compiled.recorded.watch.unseen
    if unseen is not None:
        start = time.perf_counter()
        compiled.recorded.does_something_else(torch.device("cpu"))
        distributed.say(
            f"{circuit_name(circuit)}: it reads {unseen}, whose changes only a new recording shows: one for each step, "
            f"{(time.perf_counter() - start) * 1e3:.0f} ms slower; hand it in by functools.partial to avoid that"
        )
    return compiled


def runs_on(*runners: Callable) -> str:
    """What really runs these circuits: "fast", names of PennyLane devices, or what a runner says in `ran_on`."""
    return ", ".join(dict.fromkeys(map(_runs_on, runners)))


def _runs_on(runner: Callable) -> str:
    if isinstance(runner, CompiledCircuit):
        return "fast"
    return getattr(runner, "ran_on", None) or getattr(runner, "qnode", runner).device.name


def refuse_other_method(device_name: str, diff_method: str | None) -> None:
    """Raise `InputError` for "fast" with another method than backprop, which nothing would use."""
    if device_name == "fast" and diff_method not in (None, "backprop"):
        raise InputError(
            f"DIFF_METHOD (--diff-method): expected backprop with QUANTUM_DEVICE fast, got {diff_method}; "
            f"for others use --quantum-device default.qubit"
        )
