"""The scripts' circuits as the audit takes them, and PennyLane's values of any."""

import pennylane as qml
import torch

import cifar100_hybrid_Qhead as head_script
import cifar100_quantum_channels as channels_script
from qcifar.audit.gates import Circuit, points
from qcifar.quantum.layer import stack_values


def head(n_qubits=4, n_layers=2):
    circuit, shape = head_script.make_circuit(n_qubits, n_layers)
    return Circuit("head_circuit", circuit, n_qubits, tuple(shape), n_layers, resized=head)


def descriptor(which, place, n_qubits=4, depth=1):
    """The edge (0) or the texture (1) circuit, "default" or "published"."""
    circuit = channels_script.make_circuits(which, n_qubits, depth)[place]
    return Circuit(circuit.func.__name__, circuit, n_qubits, None, depth)


SCRIPTS_CIRCUITS = {
    "head": head(),
    "edge": descriptor("default", 0),
    "texture": descriptor("default", 1),
    "published edge": descriptor("published", 0),
    "published texture": descriptor("published", 1),
}


def circuit_of(function, n_inputs, weight_shape=None):
    return Circuit(function.__name__, function, n_inputs, weight_shape)


def by_pennylane(circuit, inputs, weights=None, n_wires=None):
    """Values (B, outputs) on default.qubit for inputs (B, n) and one set of weights, flat."""
    node = qml.QNode(circuit.function, qml.device("default.qubit", wires=n_wires or circuit.n_inputs))
    arguments = [inputs] if weights is None else [inputs, weights.reshape(circuit.weight_shape)]
    return stack_values(node(*arguments), len(inputs)).double()


def same_weights(circuit, count, seed):
    """Random inputs (count, n), weights (count, W) that are all the same, and these once (W,)."""
    inputs, weights = points(circuit, count, seed, spread=False)
    return inputs, weights, None if weights is None else weights[0]


def assert_equal(one, other, tolerance=1e-12):
    torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=0, atol=tolerance)
