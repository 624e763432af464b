"""Circuits, weights and layers for tests, and PennyLane's own way to run them."""

import math

import pennylane as qml
import torch

from cifar100_hybrid_Qhead import head_circuit, make_circuit
from qcifar.quantum.layer import QuantumLayer
from qcifar.quantum.runner import make_runner
from qcifar.streams import stream

# (QUANTUM_DEVICE, DIFF_METHOD) that work in all cases, empty batches among them.
HOW = [("fast", "backprop"), ("default.qubit", "backprop"), ("default.qubit", "parameter-shift")]

ONE = ("RX RY RZ PhaseShift U1 Rot U2 U3 Hadamard PauliX PauliY PauliZ S T SX").split()
TWO = ("CNOT CZ CY SWAP ISWAP CRX CRY CRZ CRot ControlledPhaseShift IsingXX IsingYY IsingZZ MultiRZ "
       "SingleExcitation").split()  # fmt: skip
THREE = "Toffoli CSWAP CCZ MultiRZ PauliRot".split()
# How an angle of a random circuit follows from one input of each image, one weight, a number, and all inputs.
ANGLES = [
    lambda a, b, number, x: a,
    lambda a, b, number, x: b,
    lambda a, b, number, x: torch.tensor(number, dtype=x.dtype),
    lambda a, b, number, x: number * a + 0.3,
    lambda a, b, number, x: a * b,
    lambda a, b, number, x: torch.sin(b) + x[..., 0] * a,
    lambda a, b, number, x: a * a,
    lambda a, b, number, x: b * b - a,
]


def random_circuit(seed):
    """A circuit of random gates whose angles are inputs, weights, constants, and sums and products of these."""
    rng = stream(seed, "circuit")
    n = int(rng.integers(1, 9))
    gates = []
    for _ in range(int(rng.integers(n, 5 * n + 4))):
        pool = ONE + (TWO if n > 1 else []) + (THREE if n > 2 else [])
        name = str(rng.choice(pool))
        width = 1 if name in ONE else 2 if name in TWO and name != "MultiRZ" else int(rng.integers(2, min(n, 3) + 1))
        width = 3 if name in ("Toffoli", "CSWAP", "CCZ", "PauliRot") else width
        wires = rng.permutation(n)[:width].tolist()
        gates.append((name, wires, rng.integers(0, 8, size=3), rng.integers(0, 64, size=(3, 2)), rng.normal(size=3)))
    words = ["".join(rng.choice(list("IXYZ"), size=n)) for _ in range(int(rng.integers(1, 4)))]
    words = ["Z" * n] if seed % 3 == 0 else [w if set(w) != {"I"} else "Z" + w[1:] for w in words]

    def angle(kind, places, number, x, w):
        a, b = x[..., places[0] % x.shape[-1]], w.reshape(-1)[places[1] % w.numel()]
        return ANGLES[kind](a, b, number, x)

    def circuit(x, w):
        for name, wires, kinds, places, numbers in gates:
            op = getattr(qml, name)
            angles = [angle(kinds[k], places[k], numbers[k], x, w) for k in range(op.num_params)]
            if name == "PauliRot":
                op(angles[0], "XYZ", wires=wires)
            else:
                op(*angles, wires=wires)
        return [qml.expval(qml.pauli.string_to_pauli_word(word)) for word in words]

    return circuit, n


def standardised(n_images, n_qubits):
    """Angles as the images give them: mean 0 and standard deviation pi/3 in each row."""
    cells = torch.randn(n_images, n_qubits, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cells = cells - cells.mean(1, keepdim=True)
    return cells / cells.std(1, correction=0, keepdim=True) * math.pi / 3


def tape_of(circuit, *arguments):
    return qml.tape.make_qscript(circuit)(*arguments)


def execute(tape, n_qubits, diff_method=None):
    """Expectation values of a tape on default.qubit, qubits last."""
    device = qml.device("default.qubit", wires=n_qubits)
    values = qml.execute([tape], device, diff_method=diff_method, interface="torch")[0]
    return torch.stack([torch.as_tensor(value) for value in values], dim=-1)


def random_head(n_qubits, n_layers=2, batch=3):
    """Inputs and weights of the head circuit as float32 leaves."""
    rng = torch.Generator().manual_seed(1)
    inputs = 2 * torch.randn(batch, n_qubits, generator=rng)
    weights = 2 * math.pi * torch.rand(qml.StronglyEntanglingLayers.shape(n_layers, n_qubits), generator=rng)
    return inputs.requires_grad_(), weights


def head_layer(n_qubits, weights, device="default.qubit", diff_method="backprop"):
    runner = make_runner(make_circuit(n_qubits, 2)[0], device, n_qubits, tuple(weights.shape), diff_method)
    return QuantumLayer(runner, weights.clone())


def torch_layer(n_qubits, weights):
    """PennyLane's own layer around the same circuit, with the same weights."""

    def circuit(inputs, weights):  # TorchLayer goes by these names
        return head_circuit(inputs, weights, n_qubits)

    qnode = qml.QNode(circuit, qml.device("default.qubit", wires=n_qubits), diff_method="backprop")
    layer = qml.qnn.TorchLayer(qnode, {"weights": tuple(weights.shape)})
    layer.load_state_dict({"weights": weights})
    return layer


def values_and_gradients(layer, inputs):
    inputs = inputs.detach().clone().requires_grad_()
    values = layer(inputs).reshape(inputs.shape)  # for one qubit TorchLayer drops the last axis
    scale = torch.linspace(-1, 2, values.numel()).view_as(values)
    gradients = torch.autograd.grad((values * scale).sum(), [inputs, layer.weights])
    return [part.detach().float() for part in (values, *gradients)]


def broken_circuit(inputs, weights=None):
    raise ValueError("no such wire")


def branches_on_a_value(x, w):
    """What cannot be compiled: which gates there are depends on a number."""
    if w.sum() > 0:
        qml.RX(x[..., 0], wires=0)
    qml.RY(x[..., 1], wires=1)
    return [qml.expval(qml.PauliZ(i)) for i in range(2)]
