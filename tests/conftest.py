"""Fixtures: the real data where it stands, small image batches, deterministic torch, and one run of each script."""

import os
import signal

import pytest
import torch

from qcifar.data.cifar import load_dataset
from qcifar.device import set_up_torch
from qcifar.streams import stream
from tests.helpers import ROOT
from tests.helpers.data import flush_nothing, make_synthetic_once

DATA_DIR = ROOT / "data"


@pytest.fixture(scope="session", autouse=True)
def deterministic_torch():
    set_up_torch("cpu", "fp32")
    make_synthetic_once()
    flush_nothing()
    if "OMP_NUM_THREADS" not in os.environ:  # small tensors: threads that wait for each other cost more than they save
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"  # in the processes that tests start, too


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """A background job of a shell ignores SIGINT, and so would the processes that tests start and interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture
def without_figures(monkeypatch):
    """`compare_runs.py` writes all but figures, drawings of circuits and pictures of images, which take seconds."""
    import compare_runs
    from qcifar.comparison import page

    monkeypatch.setattr(page, "draw", lambda report, series, pairs: {})
    monkeypatch.setattr(compare_runs, "drawn_circuits", lambda pairs: ())
    monkeypatch.setattr(compare_runs, "test_images", lambda pairs, data_dir: {})


@pytest.fixture(scope="session")
def calm(tmp_path_factory):
    """An undisturbed run of each script, in one run folder as a user has them: name -> (result, folder)."""
    from tests.helpers.scripts import SCRIPTS, run  # PennyLane takes seconds to import, and most tests do without

    folder = tmp_path_factory.mktemp("calm")
    return {name: run(name, folder) for name in SCRIPTS}
