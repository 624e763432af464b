"""Mitigation: what each correction undoes exactly, and what it refuses."""

import pytest
import torch

from cifar100_hybrid_Qhead import make_circuit
from qcifar.errors import InputError
from qcifar.hardware.engine import NoisyCircuit
from qcifar.hardware.mitigation import Rescale, extrapolate, invert_readout
from qcifar.hardware.noise import NoiseModel
from qcifar.hardware.shots import expvals_from

WORDS = [(0,), (1,), (2,)]


def head(noise):
    circuit, shape = make_circuit(3, 2)
    generator = torch.Generator().manual_seed(4)
    weights = 6 * torch.rand(shape, generator=generator, dtype=torch.float64)
    return NoisyCircuit(circuit, 3, noise), torch.randn(300, 3, generator=generator, dtype=torch.float64), weights


def test_inverted_readout_errors_are_gone():
    noise = NoiseModel.uniform(depolarizing=0.02, readout=(0.03, 0.08))
    noisy, inputs, weights = head(noise)
    without = NoisyCircuit(noisy.func, 3, NoiseModel.uniform(depolarizing=0.02))
    corrected = expvals_from(invert_readout(noisy.probabilities(inputs, weights), noise.confusions(range(3))), WORDS)
    assert torch.allclose(corrected, without(inputs, weights), atol=1e-12)
    with pytest.raises(InputError, match="qubit 0 cannot be inverted"):
        invert_readout(noisy.probabilities(inputs, weights), NoiseModel.uniform(readout=0.5).confusions(range(3)))


def test_a_rescale_fitted_on_some_images_mends_others():
    noisy, inputs, weights = head(NoiseModel.uniform(depolarizing=0.01, amplitude_damping=0.01, readout=0.02))
    ideal = NoisyCircuit(noisy.func, 3)
    wrong, right = noisy(inputs, weights), ideal(inputs, weights)
    rescale = Rescale.fit(wrong[:150], right[:150])
    before = (wrong[150:] - right[150:]).square().mean().sqrt()
    after = (rescale(wrong[150:]) - right[150:]).square().mean().sqrt()
    assert after < before / 3
    line = Rescale.fit(right, 2 * right + 1)
    assert torch.allclose(line.slope, torch.full((3,), 2.0).double()) and torch.allclose(line.offset, line.slope / 2)
    flat = Rescale.fit(torch.zeros(5, 1), torch.ones(5, 1))
    assert (flat.slope.item(), flat.offset.item()) == (1.0, 1.0)
    with pytest.raises(InputError, match="three or more images"):
        Rescale.fit(wrong[:2], right[:2])


def test_a_straight_line_to_zero_noise():
    model = NoiseModel.uniform(depolarizing=0.003)
    noisy, inputs, weights = head(model)
    right, scales = NoisyCircuit(noisy.func, 3)(inputs, weights), (1, 2, 3)
    values = torch.stack([NoisyCircuit(noisy.func, 3, model.scaled(k))(inputs, weights) for k in scales])
    before, after = ((one - right).square().mean().sqrt() for one in (values[0], extrapolate(values, scales)))
    assert after < before / 3
    line = torch.tensor([[[1.5]], [[2.0]], [[2.5]]])
    assert torch.allclose(extrapolate(line, (1, 2, 3)), torch.tensor([[1.0]]))
    with pytest.raises(InputError, match="two or more different scales"):
        extrapolate(line[:1], (1,))
