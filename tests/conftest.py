"""Fixtures: the real data where it stands, small image batches, and deterministic torch."""

from pathlib import Path

import pytest
import torch

from qcifar.data.cifar import load_dataset
from qcifar.device import set_up_torch
from qcifar.streams import stream

DATA_DIR = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="session", autouse=True)
def deterministic_torch():
    set_up_torch("cpu", "fp32")


@pytest.fixture(scope="session")
def real_data():
    """CIFAR-100, or a skip where its files do not lie in ./data."""
    if not (DATA_DIR / "cifar-100-python" / "train").exists():
        pytest.skip("no CIFAR-100 in ./data")
    return load_dataset("cifar100", DATA_DIR)


@pytest.fixture(scope="session")
def synthetic():
    return load_dataset("synthetic", "unused")


@pytest.fixture(scope="session")
def images(synthetic) -> torch.Tensor:
    """(96, 3, 32, 32) uint8: synthetic images, noise, and flat or two-level images that are edge cases."""
    noise = torch.from_numpy(stream(0, "test images").integers(0, 256, size=(20, 3, 32, 32)).astype("uint8"))
    flat = torch.zeros(12, 3, 32, 32, dtype=torch.uint8) + 20 * torch.arange(12, dtype=torch.uint8).view(-1, 1, 1, 1)
    flat[6:, :, 16:] += 3
    return torch.cat([synthetic.test_images[:64], noise, flat])
