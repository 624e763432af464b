"""What a circuit reads outside its arguments: noticed when it changes, and only then."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from qcifar.compiler.watch import reads

SETTING = {"factor": 2.0}
array, trainable = np.zeros(3), nn.Parameter(torch.zeros(2))


class Held:
    def __init__(self):
        self.depth, self.unread = 2, 0


def reader():
    """A function that reads a closure, a global, an attribute, a default and another function, and who holds them."""
    held = Held()
    numbers = [1, 2]

    def inner():
        return SETTING["factor"]

    def function(x, power=3):
        return x**power * held.depth + sum(numbers) + inner() + array.sum() + trainable.sum()

    return function, held, numbers


CHANGES = {
    "an attribute": lambda function, held, numbers: setattr(held, "depth", 3),
    "a list": lambda function, held, numbers: numbers.append(3),
    "a default": lambda function, held, numbers: setattr(function, "__defaults__", (4,)),
    "what a function that it calls reads": lambda function, held, numbers: SETTING.update(factor=SETTING["factor"] + 1),
    "an array": lambda function, held, numbers: array.__iadd__(1),
    "whether a tensor learns": lambda function, held, numbers: trainable.requires_grad_(not trainable.requires_grad),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_is_read_is_noticed(change):
    function, *holders = reader()
    before = reads(function)
    assert before == reads(function)
    CHANGES[change](function, *holders)
    assert reads(function) != before


def test_what_does_not_matter_is_not_a_change():
    function, held, _ = reader()
    trainable.requires_grad_()
    before = reads(function)
    held.unread = 7
    with torch.no_grad():
        trainable.add_(1)  # a step of the optimizer: it is read at each call
    assert reads(function) == before


def test_methods_and_partials_are_looked_into():
    class Model(nn.Module):
        layers = 1

        def of(self, x):
            return x[: self.layers]

    model = Model()
    for function in (model.of, functools.partial(model.of), functools.partial(len, (model.of,))):
        before = reads(function)
        assert reads(function) == before
    before = reads(model.of)
    model.layers = 2
    assert reads(model.of) != before
    assert reads(functools.partial(pow, 2)) != reads(functools.partial(pow, 3))
