"""Checks against Aer's samples: each with a seed of its own, and a wrong circuit is found. Without Qiskit."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qcifar.errors import InputError
from qcifar.hardware import on_chip, with_qiskit

UNIFORM = torch.full((12, 4), 0.25, dtype=torch.float64)  # of the outcomes of two qubits


@pytest.fixture
def seeds(monkeypatch):
    """Stands for Aer: what it was called with, while it samples the uniform distribution."""
    called = []

    def counts(made, there, columns, backend, shots, seed):
        called.append(seed)
        return np.random.default_rng(seed).multinomial(shots, [0.25] * 4, size=len(columns))

    monkeypatch.setattr(with_qiskit, "aer_counts", counts)
    return called


def check(run, chip, circuit, sampling_seed=0, found=UNIFORM):
    ev = SimpleNamespace(seed=sampling_seed, run=run)
    there = SimpleNamespace(values=lambda angles: angles)
    one = SimpleNamespace(made=None, there=there, circuit=SimpleNamespace(name=circuit, angles=torch.zeros(12, 2)))
    return on_chip.check_with_aer(ev, one, SimpleNamespace(name=chip), found)


def test_every_run_chip_and_circuit_has_its_own_seed_and_the_same_each_time(seeds):
    cases = list(itertools.product(("head/a/0", "head/b/0", "head/a/1"), ("one", "two"), ("edge", "texture"), (0, 1)))
    for _ in range(2):
        for case in cases:
            assert check(*case)["p"] > 1e-4
    assert seeds[: len(cases)] == seeds[len(cases) :] and len(set(seeds)) == len(cases)


def test_samples_of_another_distribution_are_an_error(seeds):
    with pytest.raises(InputError, match="Aer's samples of edge differ from our probabilities"):
        check("head/a/0", "one", "edge", found=torch.tensor([[0.27, 0.23, 0.25, 0.25]] * 12, dtype=torch.float64))
