"""Random streams: functions of seed and purpose, apart from each other and from the global generators."""

import itertools

import numpy as np
import pytest
import torch

from qcifar.data.augment import Augmentation, draw_parameters
from qcifar.streams import seed_torch, stream, torch_stream
from tests.helpers.data import draw_globally


def test_stream_is_a_function_of_seed_and_purpose():
    first = stream(42, "augment", 3, 5).random(1000)
    draw_globally()
    assert np.array_equal(first, stream(42, "augment", 3, 5).random(1000))


def test_streams_of_different_purpose_do_not_meet():
    purposes = [(p, e, s) for p in ("order", "augment", "limit") for e in range(5) for s in range(5)]
    purposes += [("order",), ("order", 1), ("order", 11), ("order1",), ("order", "1"), ("augment", 1, 23)]
    keys = [(seed, *purpose) for seed in (0, 1, 42, 2**32 - 1) for purpose in purposes]
    blocks = np.stack([stream(*key).integers(2**63, size=8) for key in keys])
    assert len(np.unique(blocks)) == blocks.size


def test_streams_of_neighbouring_steps_are_uncorrelated():
    draws = np.stack([stream(42, "augment", 0, step).random(4000) for step in range(40)])
    correlation = np.corrcoef(draws)[np.triu_indices(40, 1)]
    assert np.abs(correlation).max() < 5 / np.sqrt(4000)  # 780 pairs, standard deviation 1 / sqrt(4000)


def test_stream_does_not_touch_the_global_generators():
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1)
    np.random.seed(1)
    draw_parameters(stream(42, "augment", 0, 0), 16, Augmentation(24))
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_torch_stream_draws_the_same_and_puts_back():
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    draws = []
    for purpose in ("quantum", "quantum", "weights"):
        with torch_stream(42, purpose):
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.rand(4), expected)


def test_torch_stream_puts_back_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), torch_stream(42, "quantum"):
        torch.rand(4)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_torch_depends_on_every_part():
    draws = []
    with torch.random.fork_rng(devices=[]):
        for key in ((42, "model", 0), (42, "model", 1), (43, "model", 0), (42, "other", 0), (42, "model", 0)):
            seed_torch(*key)
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[-1])
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(draws[:-1], 2))
