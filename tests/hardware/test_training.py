"""Training under noise and with shots: repeatable to the bit, right on average, refused where it makes no sense."""

import copy
import functools
from types import SimpleNamespace

import pennylane as qml
import pytest
import torch

import DLfunctions
from cifar100_hybrid_Qhead import make_circuit
from qcifar.errors import InputError
from qcifar.hardware.engine import NoisyCircuit
from qcifar.hardware.evaluate import _under_noise
from qcifar.hardware.gates import along_z
from qcifar.hardware.hybrid import Circuit
from qcifar.hardware.noise import NoiseModel
from qcifar.hardware.training import Sampled, SampledOnDevice, start_epoch, under_noise
from qcifar.quantum.layer import QuantumLayer
from qcifar.quantum.runner import make_runner
from qcifar.streams import seed_torch
from tests.helpers.scripts import Killed, assert_same, dying_after, prepare, run, stored

NOISE = ("--quantum-noise", "depolarizing=0.05,readout=0.1", "--shots", "20")
TINY = ("--train-limit", "32", "--eval-limit", "16")


def sampled(shots=50, seed=1):
    circuit, shape = make_circuit(3, 1)
    noise = NoiseModel.uniform(depolarizing=0.05)
    layer = QuantumLayer(Sampled(NoisyCircuit(circuit, 3, noise), shots, seed), torch.linspace(0, 5, 9).view(shape))
    return layer, torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


def test_values_are_sampled_and_gradients_exact():
    layer, inputs = sampled()
    values = layer(inputs)
    exact = layer.runner.exact(inputs, layer.weights)
    assert torch.allclose((values * 25).round(), values * 25, atol=1e-4)  # means of 50 signs
    assert 0.02 < (values - exact).abs().mean() < 0.3
    scale = torch.randn(40, 3, generator=torch.Generator().manual_seed(2))
    ours, theirs = (torch.autograd.grad((scale * each).sum(), layer.weights)[0] for each in (layer(inputs), exact))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_outcomes_of_a_step_follow_from_its_seed_and_leave_others_alone():
    layer, inputs = sampled()

    def step(epoch, step):
        seed_torch(5, "model", epoch, step)
        found = layer(inputs), layer(inputs)  # two micro-batches
        return *found, torch.rand(1)

    one, other, again = step(0, 3), step(0, 4), step(0, 3)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0], other[0])
    seed_torch(5, "model", 0, 3)
    assert torch.equal(torch.rand(1), one[2])  # what else the model draws is as without shots


def test_outcomes_of_an_evaluation_follow_from_seed_and_epoch():
    layer, inputs = sampled()
    layer.eval()
    first, second = layer(inputs), layer(inputs)
    torch.manual_seed(9)
    layer.train()
    layer(inputs)
    layer.eval()
    assert torch.equal(layer(inputs), first) and torch.equal(layer(inputs), second) and not torch.equal(first, second)
    start_epoch(layer, 1)
    assert not torch.equal(layer(inputs), first)
    assert not torch.equal(sampled(seed=2)[0].eval()(inputs), first)
    assert torch.equal(copy.deepcopy(layer).eval()(inputs), layer.eval()(inputs))


def test_shots_on_a_device_are_repeatable_and_right():
    circuit, shape = make_circuit(2, 1)
    layer = QuantumLayer(SampledOnDevice(circuit, "default.qubit", 2, 400, 3), torch.linspace(0, 5, 6).view(shape))
    inputs = torch.linspace(-2, 2, 6).view(3, 2)
    seed_torch(5, "model", 0, 0)
    values = layer(inputs)
    (gradient,) = torch.autograd.grad(values.sum(), layer.weights)
    seed_torch(5, "model", 0, 1)
    assert not torch.equal(layer(inputs), values)
    seed_torch(5, "model", 0, 0)
    again = layer(inputs)
    assert torch.equal(values, again)
    assert torch.equal(torch.autograd.grad(again.sum(), layer.weights)[0], gradient)
    exact = QuantumLayer(NoisyCircuit(circuit, 2), layer.weights.detach())
    assert (exact(inputs) - values).abs().max() < 0.25
    assert (torch.autograd.grad(exact(inputs).sum(), exact.weights)[0] - gradient).abs().max() < 0.5
    with pytest.raises(InputError, match="SHOTS 400 on QUANTUM_DEVICE no.such: .*a device that takes a seed"):
        SampledOnDevice(circuit, "no.such", 2, 400, 3)


def x_and_y(angles, weights, other=None):
    qml.AngleEmbedding(angles, wires=range(2))
    qml.RY(weights[0], wires=0)
    qml.CNOT(wires=[0, 1])
    return [qml.expval(qml.X(0)), qml.expval(other or qml.Y(1))]


def in_training(circuit, noise):
    cfg = SimpleNamespace(quantum_noise=noise, quantum_device="fast", n_qubits=2, shots=0, seed=0, batch_size=4)
    return under_noise(make_runner(circuit, "fast", 2, (1,), "backprop"), circuit, (1,), cfg)


def test_turns_before_a_measurement_are_as_noisy_in_training_as_in_evaluation():
    inputs, weights = torch.linspace(-2, 2, 8, dtype=torch.float64).view(4, 2), torch.tensor([0.7], dtype=torch.float64)
    circuit = Circuit("both", along_z(lambda angles: x_and_y(angles, weights), 2), 2, inputs, inputs)
    strengths = {"depolarizing": 0.1, "readout": 0.02}
    evaluated, _ = _under_noise(SimpleNamespace(mitigate=False), circuit, strengths)
    trained = in_training(x_and_y, "depolarizing=0.1,readout=0.02")(inputs, weights)
    assert torch.allclose(trained.double(), evaluated, atol=1e-6)
    silent = NoisyCircuit(x_and_y, 2, NoiseModel.uniform(**strengths))(inputs, weights)  # its turns are not gates
    assert not torch.allclose(silent, evaluated, atol=1e-3)


def test_noise_on_several_ways_of_measuring_is_refused_as_in_evaluation():
    several = functools.partial(x_and_y, other=qml.Z(0))
    with pytest.raises(InputError, match="wire 0 is read along X and Z; expected values that one way of measuring"):
        in_training(several, "depolarizing=0.1")
    assert in_training(several, "none")(torch.zeros(1, 2), torch.zeros(1)).shape == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--control", "product"), ("--control", "frozen")])
def test_a_run_that_was_killed_ends_as_one_that_was_not(more, tmp_path, monkeypatch):
    """Inside phase B, and after its last validation."""
    result, folder = run("head", tmp_path / "calm", *TINY, *NOISE, *more)
    assert result["quantum_device"] == "exact density matrices, noise readout=0.1,depolarizing=0.05, 20 shots"
    calm = folder
    for saves in (4, 1):
        monkeypatch.setattr(DLfunctions, "write_checkpoint", dying_after(saves))
        with pytest.raises(Killed):
            run("head", tmp_path / "killed", *TINY, *NOISE, *more, "--checkpoint-minutes", "0")
        monkeypatch.undo()
    _, folder = run("head", tmp_path / "killed", *TINY, *NOISE, *more)
    assert_same(stored(calm), stored(folder))


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--shots", "9", "--control", "fourier"], "SHOTS (--shots): has an effect with CONTROL quantum or product or"),
        (["--quantum-noise", "readout=0.1", "--control", "off"], "QUANTUM_NOISE (--quantum-noise): has an effect with"),
        (
            ["--quantum-noise", "readout=0.1", "--quantum-device", "default.qubit"],
            "expected none with QUANTUM_DEVICE default.qubit, got readout=0.1; noise is computed with --quantum-device",
        ),
        (
            ["--shots", "9", "--quantum-device", "default.qubit"],
            "SHOTS (--shots): expected DIFF_METHOD parameter-shift with QUANTUM_DEVICE default.qubit, got backprop",
        ),
        (["--quantum-noise", "readout=0.1", "--n-qubits", "16"], "exact noise on 16 qubits needs 68,719,476,736 bytes"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(more, expected, tmp_path):
    with pytest.raises(InputError) as caught:
        run("head", tmp_path, *more)
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_without_them_has_the_identity_that_it_had_before_there_were_any(tmp_path):
    it = prepare("head", tmp_path)
    assert not {"QUANTUM_NOISE", "SHOTS"} & it.run.identity.keys()
    assert type(it.model.branch.circuit.runner).__name__ == "CompiledCircuit"
    noisy = prepare("head", tmp_path, "--quantum-noise", "depolarizing=0.05")
    assert noisy.run.identity["QUANTUM_NOISE"] == "depolarizing=0.05" and "SHOTS" not in noisy.run.identity
    assert noisy.run.identity["circuits"] == it.run.identity["circuits"]
