"""Imported by the process that `processes.py` forks from: what its children would each do again is done here once."""

import torch

from qcifar.data.cifar import load_dataset
from tests.helpers import data, scripts  # noqa: F401  torch and PennyLane take seconds to import

torch.set_num_threads(1)  # so that no thread of torch's is alive at a fork
data.make_synthetic_once()
data.flush_nothing()
load_dataset("synthetic", "unused")
