"""Sampled outcomes: right on average, repeatable, with the right errors."""

import pennylane as qml
import pytest
import torch

from cifar100_hybrid_Qhead import make_circuit
from qcifar.errors import InputError
from qcifar.hardware.engine import NoisyCircuit
from qcifar.hardware.noise import NoiseModel
from qcifar.hardware.shots import expvals_from, sample, standard_errors
from qcifar.streams import stream


def head(images=200):
    circuit, shape = make_circuit(3, 2)
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(images, 3, generator=generator), torch.rand(shape, generator=generator) * 6
    return NoisyCircuit(circuit, 3, NoiseModel.uniform(depolarizing=0.02, readout=0.05)), given


def test_values_of_probabilities_are_the_exact_values():
    noisy, given = head()
    probabilities = noisy.probabilities(*given)
    assert sample(probabilities, 0, stream(1, "shots")) is probabilities
    assert torch.allclose(expvals_from(probabilities, [(0,), (1,), (2,)]), noisy(*given), atol=1e-12)
    values, errors = noisy.sampled(0, stream(1, "shots"), *given)
    assert torch.allclose(values, noisy(*given)) and not errors.any()


def test_outcomes_follow_from_the_stream_alone():
    noisy, given = head(20)
    probabilities = noisy.probabilities(*given)
    one, again, other = (sample(probabilities, 100, stream(seed, "shots")) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.allclose(one.sum(1), torch.ones(20).double()) and torch.allclose((100 * one).round(), 100 * one)
    narrow = sample(probabilities.float(), 100, stream(1, "shots"))
    assert narrow.dtype == torch.float32


def test_shot_noise_falls_as_one_over_the_root_of_the_shots():
    noisy, given = head(400)
    exact = noisy(*given)
    for shots in (100, 1600, 25600):
        values, errors = noisy.sampled(shots, stream(5, "shots", shots), *given)
        pull = (values - exact) / errors.clamp(min=1e-3)
        assert abs(pull.square().mean().sqrt() - 1) < 0.1
        expected = ((1 - exact.square()) / shots).mean().sqrt()
        assert abs((values - exact).square().mean().sqrt() / expected - 1) < 0.1
        assert torch.allclose(errors, standard_errors(values, shots), atol=1e-12)


def test_words_along_other_axes_are_measured_apart():
    def circuit(inputs):
        qml.RY(inputs[:, 0], wires=0)
        qml.CNOT(wires=[0, 1])
        return [
            qml.expval(qml.X(0) @ qml.X(1)), qml.expval(qml.Z(0)), qml.expval(qml.Z(0) @ qml.Z(1)),
            qml.expval(0.5 * qml.Y(0) @ qml.Y(1) + 0.5 * qml.Z(1)),
        ]  # fmt: skip

    noisy = NoisyCircuit(circuit, 2, NoiseModel.uniform(amplitude_damping=0.1, readout=0.03))
    given = torch.linspace(0, 3, 300).view(-1, 1)
    exact = noisy(given)
    values, errors = noisy.sampled(4000, stream(3, "shots"), given)
    pull = (values - exact) / errors.clamp(min=1e-3)
    assert (pull.square().mean(0).sqrt() - 1).abs().max() < 0.15 and pull.mean(0).abs().max() < 0.25


def test_one_shot_has_no_error_and_no_probabilities_are_refused():
    noisy, given = head(4)
    values, errors = noisy.sampled(1, stream(3, "shots"), *given)
    assert (values.abs() == 1).all() and errors.isnan().all() and standard_errors(values, 1).isnan().all()
    for wrong in (torch.tensor([[0.5, 0.6]]), torch.tensor([[-0.1, 1.1]]), torch.tensor([[float("nan"), 1.0]])):
        with pytest.raises(InputError, match="outcomes have no probabilities"):
            sample(wrong, 10, stream(1, "shots"))
