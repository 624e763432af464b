"""The noisy engine against PennyLane's `default.mixed`, and what it refuses."""

import math
import pickle

import pennylane as qml
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import make_circuits
from qcifar.errors import InputError
from qcifar.hardware import engine
from qcifar.hardware.engine import NoisyCircuit, density_bytes
from qcifar.hardware.noise import NoiseModel
from qcifar.quantum.layer import QuantumLayer
from tests.helpers import slow
from tests.helpers.circuits import random_circuit
from tests.helpers.noisy import on_default_mixed

STRENGTHS = {"depolarizing": 0.02, "amplitude_damping": 0.03, "phase_damping": 0.05}
EXACT = 1e-10


def arguments(n, shape=None, images=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = 2 * torch.randn(images, n, generator=generator, dtype=torch.float64)
    if shape is None:
        return [inputs]
    return [inputs, 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64)]


def worst(one, other):
    assert one.shape == other.shape
    return (one - other).abs().max().item()


@pytest.mark.parametrize("n", [1, 2, 4, slow(6)])
@pytest.mark.parametrize("readout", [0.0, 0.04])
def test_the_heads_circuit_equals_default_mixed(n, readout):
    circuit, shape = make_circuit(n, 2)
    given = arguments(n, shape, images=3)
    noisy = NoisyCircuit(circuit, n, NoiseModel.uniform(**STRENGTHS, readout=readout))
    assert worst(noisy(*given), on_default_mixed(circuit, n, given, STRENGTHS, readout)) < EXACT
    theirs = on_default_mixed(circuit, n, given, STRENGTHS, readout, probabilities=True)
    assert worst(noisy.probabilities(*given), theirs) < EXACT


@pytest.mark.parametrize("kind", ["default", "published"])
@pytest.mark.parametrize("place", [0, 1])
def test_the_channels_circuits_equal_default_mixed(kind, place):
    circuit, given = make_circuits(kind, 3, 2)[place], arguments(3)
    noisy = NoisyCircuit(circuit, 3, NoiseModel.uniform(**STRENGTHS, readout=0.01))
    assert worst(noisy(*given), on_default_mixed(circuit, 3, given, STRENGTHS, 0.01)) < EXACT


@pytest.mark.parametrize("seed", [*range(6), *map(slow, range(6, 40))])
def test_random_circuits_equal_default_mixed(seed):
    """Pauli words of all letters and gates of PennyLane, three-qubit ones taken apart, without readout errors.

    default.mixed computes some gates in float32 (RZ by a tensor without a batch, and what it decomposes into that):
    where it differs from default.qubit without noise, as much is allowed with it.
    """
    circuit, n = random_circuit(seed)
    if n > 5:
        pytest.skip("default.mixed would take minutes")
    given = arguments(n, (2, 3), images=3, seed=seed)
    pure = on_default_mixed(circuit, n, given, device="default.qubit")
    assert worst(NoisyCircuit(circuit, n)(*given), pure) < EXACT
    allowed = EXACT + 3 * worst(on_default_mixed(circuit, n, given), pure)
    noisy = NoisyCircuit(circuit, n, NoiseModel.uniform(**STRENGTHS))
    assert worst(noisy(*given), on_default_mixed(circuit, n, given, STRENGTHS)) < allowed < 1e-6


@pytest.mark.parametrize("name", ["depolarizing", "amplitude_damping", "phase_damping"])
def test_each_channel_alone(name):
    circuit, shape = make_circuit(2, 1)
    given = arguments(2, shape)
    noisy = NoisyCircuit(circuit, 2, NoiseModel.uniform(**{name: 0.3}))
    assert worst(noisy(*given), on_default_mixed(circuit, 2, given, {name: 0.3})) < EXACT


def with_channels(inputs, weights):
    """Channels of its own, on one qubit and on two, before, between and after gates."""
    qml.RX(inputs[:, 0], wires=0)
    qml.BitFlip(0.1, wires=0)
    qml.GeneralizedAmplitudeDamping(0.2, 0.7, wires=1)
    qml.CRY(inputs[:, 1] * weights[0], wires=[0, 1])
    qml.PauliError("XY", 0.15, wires=[1, 0])
    qml.QubitChannel([math.sqrt(0.8) * qml.matrix(qml.Identity(0)), math.sqrt(0.2) * qml.matrix(qml.Hadamard(0))], 1)
    qml.RY(weights[1], wires=1)
    qml.ThermalRelaxationError(0.1, 1.5, 1.1, 0.3, wires=1)
    qml.ResetError(0.1, 0.05, wires=0)
    qml.PhaseFlip(0.2, wires=0)
    return [qml.expval(qml.X(0) @ qml.Y(1)), qml.expval(0.3 * qml.Z(0) - 0.4 * qml.X(1) @ qml.Z(0))]


def test_channels_in_the_circuit_itself():
    given = [*arguments(2), torch.tensor([0.7, -0.4], dtype=torch.float64)]
    theirs = on_default_mixed(with_channels, 2, given)
    assert worst(NoisyCircuit(with_channels, 2)(*given), theirs) < EXACT
    theirs = on_default_mixed(with_channels, 2, given, STRENGTHS)
    assert worst(NoisyCircuit(with_channels, 2, NoiseModel.uniform(**STRENGTHS))(*given), theirs) < EXACT


@pytest.mark.parametrize("place", [0, 1])
def test_gradients_equal_those_of_default_mixed(place):
    """Of the head, whose still part acts on the observables, and of the edge circuit, which has none."""
    circuit, shape = (make_circuit(2, 2), (make_circuits("default", 2, 2)[0], None))[place]
    given = [argument.requires_grad_() for argument in arguments(2, shape)]
    scale = torch.linspace(-1, 2, 10, dtype=torch.float64).view(5, 2)
    noisy = NoisyCircuit(circuit, 2, NoiseModel.uniform(**STRENGTHS))
    ours = torch.autograd.grad((scale * noisy(*given)).sum(), given)
    theirs = torch.autograd.grad((scale * on_default_mixed(circuit, 2, given, STRENGTHS)).sum(), given)
    assert all(worst(one, other) < EXACT for one, other in zip(ours, theirs, strict=True))


def test_a_strength_can_be_learned():
    def circuit(inputs, strength):
        qml.RX(inputs[:, 0], wires=0)
        qml.DepolarizingChannel(strength, wires=0)
        return [qml.expval(qml.Z(0))]

    strength = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    inputs = torch.zeros(1, 1)
    NoisyCircuit(circuit, 1)(inputs, strength).sum().backward()
    assert abs(strength.grad.item() + 4 / 3) < EXACT  # <Z> = 1 - 4p/3


def test_chunks_and_orders_of_evaluation_give_the_same(monkeypatch):
    circuits = [make_circuit(3, 2), (make_circuits("default", 3, 2)[1], None)]
    for circuit, shape in circuits:
        given = arguments(3, shape, images=11)
        noisy = NoisyCircuit(circuit, 3, NoiseModel.uniform(**STRENGTHS, readout=0.1))
        values, probabilities = noisy(*given), noisy.probabilities(*given)
        with monkeypatch.context() as patched:
            patched.setattr(engine, "CHUNK_NUMBERS", 300)  # four images, or fewer
            assert worst(noisy(*given), values) < 1e-14 and worst(noisy.probabilities(*given), probabilities) < 1e-14
            patched.setattr(engine, "OBSERVABLE_NUMBERS", 0)  # nothing acts on the observables
            assert worst(noisy(*given), values) < 1e-14 and worst(noisy.probabilities(*given), probabilities) < 1e-14


def test_without_noise_it_is_default_qubit():
    circuit, shape = make_circuit(4, 2)
    given = arguments(4, shape)
    node = qml.QNode(circuit, qml.device("default.qubit", wires=4))
    theirs = torch.stack(node(*given), dim=-1)
    for noise in (None, NoiseModel.uniform()):
        assert worst(NoisyCircuit(circuit, 4, noise)(*given), theirs) < EXACT


def test_values_that_follow_from_no_input_and_no_images_at_all():
    def still(inputs):
        qml.Hadamard(0)
        return [qml.expval(qml.X(0)), qml.expval(qml.Z(1))]

    noisy = NoisyCircuit(still, 2, NoiseModel.uniform(depolarizing=0.3))
    assert worst(noisy(torch.zeros(3, 2)), torch.tensor([[0.6, 1.0]], dtype=torch.float64).expand(3, 2)) < EXACT
    assert noisy(torch.zeros(0, 2)).shape == (0, 2) and noisy.probabilities(torch.zeros(0, 2)).shape == (0, 4)


def test_as_a_layer_in_float32_copied_and_pickled():
    circuit, shape = make_circuit(3, 1)
    inputs, weights = (argument.float() for argument in arguments(3, shape))
    noise = NoiseModel.uniform(depolarizing=0.02)
    exact = NoisyCircuit(circuit, 3, noise)(inputs, weights)
    layer = QuantumLayer(NoisyCircuit(circuit, 3, noise, torch.float32), weights)
    assert list(layer.state_dict()) == ["weights"]
    values = layer(inputs.requires_grad_())
    assert values.dtype == torch.float32 and worst(values.double(), exact) < 1e-5
    values.sum().backward()
    assert layer.weights.grad.isfinite().all() and inputs.grad.isfinite().all()
    again = pickle.loads(pickle.dumps(NoisyCircuit(circuit, 3, noise, torch.float32))).double()
    assert worst(again(inputs, weights), exact) < EXACT


def test_it_learns_after_an_evaluation_and_is_exact_under_autocast():
    circuit, shape = make_circuit(2, 1)
    given = arguments(2, shape)
    noisy = NoisyCircuit(circuit, 2, NoiseModel.uniform(**STRENGTHS))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        values = noisy(*given)
    given[1].requires_grad_()
    again = noisy(*given)
    again.sum().backward()
    with torch.no_grad():
        assert torch.equal(values, noisy(*given))
    # With gradients, some processors round the last bit otherwise.
    assert worst(values, again) < EXACT and given[1].grad.any()


def test_no_devices_are_mixed_on_a_gpu():
    """By torch's fake CUDA tensors, which have no values; the backward pass needs a GPU."""
    for circuit, shape in (make_circuit(3, 2), (make_circuits("default", 3, 2)[1], None)):
        noise, given = NoiseModel.uniform(**STRENGTHS, readout=0.1), arguments(3, shape)
        NoisyCircuit(circuit, 3, noise)(*given)  # fixed gates are made once
        with FakeTensorMode(allow_non_fake_inputs=True):
            noisy = NoisyCircuit(circuit, 3, noise, torch.float32, "cpu").to("cuda")
            for run, width in ((noisy, 3), (noisy.probabilities, 8)):
                found = run(*(part.to("cuda") for part in given))
                assert (found.device.type, found.dtype, found.shape) == ("cuda", torch.float32, (5, width))


def test_memory_is_counted_and_refused_in_bytes(monkeypatch):
    assert density_bytes(4, 10, torch.float64) == 10 * 256 * 8 and density_bytes(3, 2, torch.float32) == 512
    circuit, shape = make_circuit(14, 1)
    monkeypatch.setattr(engine, "free_memory", lambda device: 10**9)
    with pytest.raises(InputError, match="14 qubits needs 8,589,934,592 bytes .*, 1,000,000,000 are free; use fewer"):
        NoisyCircuit(circuit, 14)
    circuit, shape = make_circuit(9, 6)
    noisy = NoisyCircuit(circuit, 9)
    with pytest.raises(InputError, match="64 images, .* steps to learn by"):
        noisy.check_memory(torch.zeros(64, 9), torch.zeros(shape, requires_grad=True))


@pytest.mark.parametrize(
    ("circuit", "expected"),
    [
        (lambda x: [qml.probs(wires=0)], "has no noisy value here; expected qml.expval of Pauli words"),
        (lambda x: [qml.expval(qml.Hermitian(qml.matrix(qml.X(0)), wires=0))], "has no noisy value here"),
        (lambda x: [qml.expval(qml.Z(7))], "uses wires .7.; expected 0 to 1"),
        (lambda x: [qml.measure(0), qml.expval(qml.Z(0))][1:], "has no noisy form here"),
    ],
)
def test_what_has_no_noisy_form_is_named_in_one_line(circuit, expected):
    with pytest.raises(InputError, match=expected) as caught:
        NoisyCircuit(circuit, 2)(torch.zeros(2, 2))
    assert "\n" not in str(caught.value)
