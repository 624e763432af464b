"""The compiler against PennyLane's default.qubit: random circuits, templates, the scripts' own circuits."""

import copy
import gc
import io
import math
import pickle
import shutil
import weakref

import numpy as np
import pennylane as qml
import pytest
import torch

from cifar100_hybrid_Qhead import head_circuit, make_circuit
from cifar100_quantum_channels import make_circuits
from qcifar.compiler import CompiledCircuit, NotCompilable
from qcifar.errors import InputError
from qcifar.quantum.checks import compare_with_pennylane
from qcifar.quantum.layer import QuantumLayer
from qcifar.quantum.runner import make_runner, runs_on
from qcifar.streams import stream

ONE = [
    "RX",
    "RY",
    "RZ",
    "PhaseShift",
    "U1",
    "Rot",
    "U2",
    "U3",
    "Hadamard",
    "PauliX",
    "PauliY",
    "PauliZ",
    "S",
    "T",
    "SX",
]
TWO = ["CNOT", "CZ", "CY", "SWAP", "ISWAP", "CRX", "CRY", "CRZ", "CRot", "ControlledPhaseShift",
       "IsingXX", "IsingYY", "IsingZZ", "MultiRZ", "SingleExcitation"]  # fmt: skip
THREE = ["Toffoli", "CSWAP", "CCZ", "MultiRZ", "PauliRot"]
WIDTH = {"PauliRot": 3}


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
        constant, line = torch.tensor(number, dtype=x.dtype), number * a + 0.3
        return [a, b, constant, line, a * b, torch.sin(b) + x[..., 0] * a, a * a, b * b - a][kind]

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


@pytest.mark.parametrize("seed", range(200))
def test_random_circuits_equal_pennylane(seed):
    """Values and both gradients; PennyLane is asked gate by gate and broadcasts over the batch."""
    circuit, n = random_circuit(seed)
    fast = CompiledCircuit(circuit, 3, (2, 2))
    assert compare_with_pennylane(fast, circuit, n, 1e-4) < 1e-4
    assert compare_with_pennylane(fast.double(), circuit, n, 1e-10) < 1e-10


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("n", [2, 4, 5, 8])
def test_the_scripts_circuits_equal_pennylane(n, depth):
    for kind in ("default", "published"):
        for circuit in make_circuits(kind, n, depth):
            assert compare_with_pennylane(CompiledCircuit(circuit, n).double(), circuit, n, 1e-10) < 1e-10
    circuit, shape = make_circuit(n, depth)
    assert compare_with_pennylane(CompiledCircuit(circuit, n, shape).double(), circuit, n, 1e-10) < 1e-10


N = 4
WIRES = range(N)
TEMPLATES = {
    "AngleEmbedding Y, BasicEntanglerLayers": (
        lambda x, w: (qml.AngleEmbedding(x, WIRES, rotation="Y"), qml.BasicEntanglerLayers(w, WIRES)), (2, N)),
    "AngleEmbedding Z after H": (
        lambda x, w: ([qml.Hadamard(i) for i in WIRES], qml.AngleEmbedding(x, WIRES, rotation="Z"),
                      qml.BasicEntanglerLayers(w, WIRES, rotation=qml.RY)), (3, N)),
    "IQPEmbedding": (
        lambda x, w: (qml.IQPEmbedding(x, WIRES, n_repeats=2), qml.StronglyEntanglingLayers(w, WIRES)), (1, N, 3)),
    "SimplifiedTwoDesign": (
        lambda x, w: (qml.AngleEmbedding(x, WIRES), qml.SimplifiedTwoDesign(w[0, :, 0], w[1:, :3], WIRES)), (3, N, 2)),
    "RandomLayers": (
        lambda x, w: (qml.AngleEmbedding(x, WIRES), qml.RandomLayers(w, WIRES, seed=3)), (2, 6)),
    "QFT": (lambda x, w: (qml.AngleEmbedding(x, WIRES), qml.QFT(WIRES), qml.BasicEntanglerLayers(w, WIRES)), (1, N)),
    "re-uploading": (
        lambda x, w: [(qml.AngleEmbedding(w[k, 0] * x, WIRES), qml.StronglyEntanglingLayers(w[k : k + 1, :, None]
                      .expand(1, N, 3), WIRES)) for k in range(2)], (2, N)),
    "adjoint": (
        lambda x, w: (qml.AngleEmbedding(x, WIRES), qml.adjoint(qml.StronglyEntanglingLayers)(w, WIRES)), (2, N, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_equal_pennylane(name):
    body, shape = TEMPLATES[name]

    def circuit(x, w):
        body(x, w)
        return [qml.expval(qml.PauliZ(i)) for i in WIRES]

    assert compare_with_pennylane(CompiledCircuit(circuit, N, shape).double(), circuit, N, 1e-10) < 1e-10


def test_sums_of_pauli_words():
    def circuit(x, w):
        qml.AngleEmbedding(x, range(3))
        qml.StronglyEntanglingLayers(w, range(3))
        return [
            qml.expval(0.5 * qml.PauliZ(0) @ qml.PauliZ(1) - 2.0 * qml.PauliX(2) + 0.25 * qml.Identity(0)),
            qml.expval(qml.PauliZ(0) + qml.PauliY(1) @ qml.PauliY(2)),
        ]

    assert compare_with_pennylane(CompiledCircuit(circuit, 3, (2, 3, 3)).double(), circuit, 3, 1e-10) < 1e-10


def test_gradient_by_the_parameter_shift_rule():
    """d<Z>/dtheta = (f(theta + pi/2) - f(theta - pi/2)) / 2 for every weight of the head's circuit."""
    fast = CompiledCircuit(make_circuit(3, 2)[0], 3, (2, 3, 3)).double()
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    w = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(fast(x, w).sum(), w)
    for place in np.ndindex(*w.shape):
        shift = torch.zeros_like(w)
        shift[place] = math.pi / 2
        shifted = (fast(x, w + shift).sum() - fast(x, w - shift).sum()) / 2
        assert gradient[place].item() == pytest.approx(shifted.item(), abs=1e-12)
    assert torch.autograd.gradcheck(fast, (x.requires_grad_(), w), eps=1e-6, atol=1e-8)


@pytest.fixture
def layer():
    torch.manual_seed(2)
    return QuantumLayer(make_runner(make_circuit(3, 2)[0], "fast", 3, (2, 3, 3)), torch.rand(2, 3, 3))


def test_state_dict_is_torch_layers(layer):
    def circuit(inputs, weights):  # TorchLayer goes by these names
        return head_circuit(inputs, weights, 3)

    node = qml.QNode(circuit, qml.device("default.qubit", wires=3), interface="torch")
    theirs = qml.qnn.TorchLayer(node, {"weights": (2, 3, 3)})
    assert list(layer.state_dict()) == ["weights"]
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3)
    assert torch.allclose(layer(x), theirs(x).to(torch.float32), atol=1e-5)
    layer.load_state_dict(qml.qnn.TorchLayer(node, {"weights": (2, 3, 3)}).state_dict())


def test_deepcopy_pickle_and_any_leading_dimensions(layer):
    x = torch.randn(2, 5, 3)
    again = pickle.loads(pickle.dumps(layer))
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    for other in (copy.deepcopy(layer), again):
        assert torch.equal(other(x), layer(x)) and other.weights is not layer.weights
    assert torch.allclose(layer(x)[1, 3], layer(x[1, 3]), atol=1e-6)
    assert layer(x[:, :0]).shape == (2, 0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.float())) and layer(x).dtype == torch.float32


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_torch_compile_gives_the_same(layer, backend):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    x = torch.randn(6, 3, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend)
    found = []
    for run in (layer, compiled):
        values = run(x)
        found.append([values, *torch.autograd.grad((values * torch.arange(3.0)).sum(), [layer.weights, x])])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_float64_is_exact_also_inside_another_module():
    circuit = make_circuits("default", 3, 2)[1]
    x = torch.randn(5, 3, dtype=torch.float64)
    inside = torch.nn.Sequential(CompiledCircuit(circuit, 3)).double()
    assert torch.equal(inside(x), CompiledCircuit(circuit, 3).double()(x))


def test_wrong_shapes_are_refused_by_name():
    fast = CompiledCircuit(make_circuit(3, 2)[0], 3, (2, 3, 3))
    with pytest.raises(ValueError, match=r"expected inputs \(\.\.\., 3\), got \(2, 4\)"):
        fast(torch.zeros(2, 4), torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"expected weights \(2, 3, 3\), got \(1, 3, 3\)"):
        fast(torch.zeros(2, 3), torch.zeros(1, 3, 3))
    with pytest.raises(ValueError, match=r"expected weights \(2, 3, 3\), got None"):
        fast(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"expected weights None, got \(1,\)"):
        CompiledCircuit(make_circuits("default", 3, 1)[0], 3)(torch.zeros(2, 3), torch.zeros(1))


def test_an_empty_batch_has_gradients():
    x, w = torch.zeros(0, 3, requires_grad=True), torch.ones(2, 3, 3, requires_grad=True)
    values = CompiledCircuit(make_circuit(3, 2)[0], 3, (2, 3, 3))(x, w)
    values.sum().backward()
    assert values.shape == x.grad.shape == (0, 3) and torch.equal(w.grad, torch.zeros(2, 3, 3))


def test_one_bare_measurement():
    def circuit(x):
        qml.RY(x[..., 0], wires=0)
        return qml.expval(qml.PauliZ(0))

    x = torch.randn(4, 1)
    assert torch.allclose(make_runner(circuit, "fast", 1)(x), x.cos(), atol=1e-6)


def test_angles_that_random_inputs_do_not_have():
    """NaN where PennyLane has NaN is no difference, NaN elsewhere is one."""

    def circuit(x):
        qml.RY(torch.log(x[..., 0]), wires=0)
        qml.RY(x[..., 1], wires=1)
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    fast = CompiledCircuit(circuit, 2)
    assert fast(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])).isnan().tolist() == [[True, True], [False, False]]
    assert compare_with_pennylane(fast, circuit, 2) < 1e-5
    fast.signs_z[0] = torch.nan
    with pytest.raises(ArithmeticError, match="by nan"):
        compare_with_pennylane(fast, circuit, 2)


def test_what_cannot_be_compiled_is_named_and_runs_in_pennylane(capsys):
    def circuit(x, w):
        qml.AngleEmbedding(x, range(2))
        qml.StronglyEntanglingLayers(w, range(2))
        return [qml.probs(wires=0)]

    with pytest.raises(NotCompilable, match="the measurement probs"):
        CompiledCircuit(circuit, 2, (1, 2, 3))

    def channel(x):
        qml.AngleEmbedding(x, range(2))
        qml.ResetError(0.1, 0.1, wires=0)
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    with pytest.raises(NotCompilable, match="the operation ResetError"):
        CompiledCircuit(channel, 2)

    def trainable_observable(x, w):
        qml.AngleEmbedding(x, range(2))
        return [qml.expval(w[0] * qml.PauliZ(0))]

    with pytest.raises(NotCompilable, match="a coefficient that follows from the arguments"):
        CompiledCircuit(trainable_observable, 2, (1,))

    def by_value(x, w):
        if w.sum() > 0:
            qml.RX(x[..., 0], wires=0)
        qml.RY(x[..., 1], wires=1)
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    with pytest.raises(NotCompilable, match="cannot be traced"):
        CompiledCircuit(by_value, 2, (1,))
    runner = make_runner(by_value, "fast", 2, (1,))
    assert isinstance(runner, qml.QNode) and "by_value: angles that cannot be traced" in capsys.readouterr().out
    assert runs_on(runner) == runs_on(runner, runner) == "default.qubit"
    make_runner(by_value, "fast", 2, (1, 2, 3), "backprop")
    assert capsys.readouterr().out.endswith("cannot be compiled; it runs on default.qubit by backprop\n")


def test_a_non_linear_angle_of_the_weights_only_in_a_rotation_of_the_images():
    def circuit(x, w):
        qml.RY(x[..., 0], wires=0)
        qml.RY(torch.sin(w[0]), wires=0)
        return [qml.expval(qml.PauliZ(0))]

    compare_with_pennylane(CompiledCircuit(circuit, 1, (1,)).double(), circuit, 1, tolerance=1e-12)


def test_a_circuit_that_rounds_to_single_precision_itself():
    def circuit(x, w):
        qml.AngleEmbedding(torch.sin(3 * x.float()), range(2))
        qml.StronglyEntanglingLayers(w, range(2))
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    assert isinstance(make_runner(circuit, "fast", 2, (1, 2, 3)), CompiledCircuit)
    assert CompiledCircuit(circuit, 2, (1, 2, 3)).rounded
    assert not CompiledCircuit(make_circuit(2, 1)[0], 2, (1, 2, 3)).rounded


def test_a_second_derivative_is_refused_and_not_taken_for_zero():
    fast, x, w = (
        CompiledCircuit(make_circuit(2, 2)[0], 2, (1, 2, 3)),
        torch.ones(1, 2, requires_grad=True),
        torch.ones(1, 2, 3),
    )
    assert torch.autograd.grad(fast(x, w).sum(), x)[0].abs().max() > 0.1
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(fast(x, w).sum(), x, create_graph=True)


@pytest.mark.parametrize("letter", [qml.PauliZ, qml.PauliX])
def test_what_a_pass_keeps_is_freed_without_the_garbage_collector(letter):
    def circuit(x, w):
        qml.AngleEmbedding(x, range(7))
        qml.StronglyEntanglingLayers(w, range(7))
        return [qml.expval(letter(0))]

    fast, x, w = CompiledCircuit(circuit, 7, (2, 7, 3)), torch.ones(2, 7, requires_grad=True), torch.ones(2, 7, 3)
    gc.collect()
    gc.disable()
    try:
        values = fast(x, w)
        nodes = [values.grad_fn]
        while type(nodes[0]).__name__ != "EvolveBackward":
            nodes = [*nodes[1:], *(node for node, _ in nodes[0].next_functions if node is not None)]
        scratch = weakref.ref(nodes[0].scratch)
        del nodes, values
        assert scratch() is None
    finally:
        gc.enable()


def test_weights_that_do_not_learn():
    """A detached weight has no gradient when compiled either."""

    def circuit(x, w):
        qml.AngleEmbedding(x, range(2))
        qml.StronglyEntanglingLayers(w.detach(), range(2))
        qml.RY(w[0, 0, 0], wires=0)
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    assert isinstance(make_runner(circuit, "fast", 2, (2, 2, 3)), CompiledCircuit)


def test_a_miscompiled_circuit_stops_the_run(monkeypatch):
    monkeypatch.setattr("qcifar.compiler.gates.math.pi", 3.0)
    with pytest.raises(InputError, match="head_circuit differs from default.qubit"):
        make_runner(make_circuit(2, 2)[0], "fast", 2, (1, 2, 3))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_compiling_without_gradients_gives_the_same(context):
    circuit = make_circuits("default", 3, 1)[1]
    x = torch.randn(5, 3)
    with context():
        inside = CompiledCircuit(circuit, 3)(x)
    assert torch.equal(inside, CompiledCircuit(circuit, 3)(x)) and inside.std() > 0.01


def test_float32_descriptors_are_exact_to_1e_5():
    x = torch.randn(500, 4, dtype=torch.float64)
    for circuit in make_circuits("default", 4, 1) + make_circuits("published", 4, 1):
        fast = CompiledCircuit(circuit, 4)
        assert (fast(x) - copy.deepcopy(fast).double()(x)).abs().max() < 1e-5
