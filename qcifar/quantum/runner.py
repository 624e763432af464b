"""What runs a circuit on a batch of angles.

`QUANTUM_DEVICE = "fast"` compiles it to batched torch (`qcifar.compiler`) and checks that against PennyLane;
any other name is a PennyLane device.
"""

import copy
import functools
from collections.abc import Callable

import pennylane as qml

from qcifar import distributed
from qcifar.compiler import CompiledCircuit, NotCompilable
from qcifar.errors import InputError, describe
from qcifar.quantum.checks import compare_with_pennylane, refuse_mixing
from qcifar.quantum.layer import circuit_name


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
            f"the compiled circuit {circuit_name(circuit)} {error}; use --quantum-device default.qubit, "
            f"and please report it"
        ) from None
    except Exception as error:  # somebody's circuit, for example with a wire that the device does not have
        raise InputError(
            f"the circuit {circuit_name(circuit)} on {n_qubits} qubits failed: {describe(error)}; "
            f"correct it, or report this if --quantum-device default.qubit runs it"
        ) from error
    return compiled


def runs_on(*runners: Callable) -> str:
    """What really runs these circuits: "fast" or names of PennyLane devices."""
    names = ["fast" if isinstance(one, CompiledCircuit) else getattr(one, "qnode", one).device.name for one in runners]
    return ", ".join(dict.fromkeys(names))


def refuse_other_method(device_name: str, diff_method: str | None) -> None:
    """Raise `InputError` for "fast" with another method than backprop, which nothing would use."""
    if device_name == "fast" and diff_method not in (None, "backprop"):
        raise InputError(
            f"DIFF_METHOD (--diff-method): expected backprop with QUANTUM_DEVICE fast, got {diff_method}; "
            f"for others use --quantum-device default.qubit"
        )
