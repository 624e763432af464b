"""Batches that have to be equal, others who draw, and files that must not be unpickled."""

import functools
import os
import random

import numpy as np
import torch

from qcifar.data import cifar


def make_synthetic_once():
    """Let this process make the synthetic images once; each run asks for them and would take half a second."""
    cifar._synthetic = functools.cache(cifar._synthetic)


def flush_nothing():
    """Let this process not wait for the disk: killed processes lose nothing, and no test cuts the power."""
    os.fsync = lambda descriptor: None


def draw_globally():
    """Whoever else draws: a model, a library, a user's notebook."""
    torch.rand(5)
    np.random.rand(5)
    random.random()


def assert_same_batches(left, right):
    left, right = list(left), list(right)
    assert len(left) == len(right) > 0
    for (x, labels), (y, others) in zip(left, right, strict=True):
        assert torch.equal(x, y) and torch.equal(labels, others)


class Bomb:
    """Unpickling it makes the folder `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
