"""A trace for batches of any size: what follows from the size of the batch is found by comparing two traces."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from qcifar.compiler import NotCompilable
from qcifar.compiler.batch import follow_batch


def traced(function):
    small, large = (torch.linspace(-1, 2, 2 * size, dtype=torch.float64).view(size, 2) for size in (3, 5))
    return follow_batch(make_fx(function)(small), make_fx(function)(large), 3, 5)


FUNCTIONS = {
    "zeros": lambda x: torch.cat([x, torch.zeros(x.shape[0], 1, dtype=x.dtype)], dim=1),
    "ones beyond": lambda x: torch.ones(2 * len(x) + 1, dtype=x.dtype),
    "reshape": lambda x: x.reshape(len(x), 1, 2).flatten(1) * 3,
    "expand": lambda x: x[:1].expand(len(x), 2) - x,
    "no size": lambda x: x.sin() * x[:, :1],
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [1, 3, 4, 11])
def test_a_batch_of_any_size_gives_what_the_function_gives(name, size):
    x = torch.linspace(0, 1, 2 * size, dtype=torch.float64).view(size, 2)
    assert torch.equal(traced(FUNCTIONS[name])(x), FUNCTIONS[name](x))


def test_what_follows_from_the_size_in_another_way_is_named():
    with pytest.raises(NotCompilable, match="computed otherwise for a batch of another size"):
        traced(lambda x: x.sin() if len(x) > 4 else x.cos())
    with pytest.raises(NotCompilable, match="follows from the size of the batch"):
        traced(lambda x: x * (1.0 / len(x)))
