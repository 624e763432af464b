"""What a step does on a GPU, on machines that have none: torch's fake CUDA tensors have shapes and devices, no values.

An operation on tensors of two devices raises, and so does reading a value; copies between CPU and GPU are
counted. The backward pass needs a CUDA context and is left out.
"""

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode

from benchmarks.common import HostReads
from qcifar.data import augment
from tests.helpers import slow
from tests.helpers.scripts import prepare

GPU = torch.device("cuda:0")
CACHES = (augment._mean_and_std, augment._sharpness_kernel, augment.pixel_sources)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)  # has no fake
    yield FakeTensorMode()
    for cache in CACHES:
        cache.cache_clear()


def placed(thing, mode):
    """A fake copy on the GPU of a module, or of an object that holds tensors."""
    with FakeCopyMode(mode):
        thing = copy.deepcopy(thing)
    with mode:
        for owner in thing.modules() if isinstance(thing, nn.Module) else [thing]:
            holders = (owner._parameters, owner._buffers) if isinstance(owner, nn.Module) else (vars(owner),)
            for holder in holders:
                for name, value in holder.items():
                    if isinstance(value, nn.Parameter):
                        holder[name] = nn.Parameter(value.detach().to(GPU), requires_grad=value.requires_grad)
                    elif isinstance(value, torch.Tensor):
                        holder[name] = value.to(GPU)
    return thing


@pytest.mark.slow
@pytest.mark.parametrize("name", ["channels", slow("head"), slow("baseline")])
def test_a_step_on_a_gpu_copies_its_random_parameters_and_nothing_else(name, fake, tmp_path):
    it = prepare(name, tmp_path, "--train-limit", "512", "--batch-size", "64")  # all operations in the first steps
    model, loader, validation, criterion = it.model, it.train_loader, it.val_loader, it.criterion
    if name == "head":
        it.on_epoch_start(1)  # phase B
    for operation in augment.NAMES:  # read from a table on the CPU, once
        augment.operation_magnitude(operation, loader.recipe.magnitude, loader.recipe.img_size)
    model = placed(model, fake)
    loader, validation = (placed(one, fake) for one in (loader, validation))
    for one in (loader, validation):
        one.extra = one.extra and placed(one.extra, fake)
    with fake:
        validation.matrices = tuple(matrix.to(GPU) for matrix in validation.matrices)
        list(loader._batches(0, 0))  # fills the caches of constants
        with HostReads() as reads:
            for x, labels in loader._batches(1, 4):
                loss = criterion(model(x), labels)
                assert x.device == loss.device == GPU and labels.device == GPU
            for x, _ in validation.batches():
                assert model(x).device == GPU
    found = {place.split(" at ")[1].split(":")[0]: count for place, count in reads.places.items()}
    assert found == {"qcifar/data/augment.py": 1 + 4}, reads.places  # `upload`: the epoch's order, and four steps
