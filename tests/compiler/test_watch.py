"""What a circuit reads outside its arguments: every change of it counts, and costs little where it can be seen."""

import argparse
import collections
import copy
import functools
import itertools
import math
import pickle
import time
import types
from dataclasses import dataclass

import numpy as np
import pennylane as qml
import pytest
import torch
from torch import nn

from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import make_circuits
from qcifar.compiler import CompiledCircuit, NotCompilable
from qcifar.compiler.watch import Watch
from tests.helpers.circuits import execute, tape_of

N = 3
X = torch.randn(5, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def body(x, layers, scale=1.0):
    for _ in range(layers):
        for i in range(N):
            qml.RX(scale * x[:, i], wires=i)
        for i in range(N):
            qml.CNOT(wires=[i, (i + 1) % N])
    return [qml.expval(qml.PauliZ(i)) for i in range(N)]


def setter(holder, name, value):
    return lambda: setattr(holder, name, value)


def namespace():
    held = types.SimpleNamespace(layers=1)
    return lambda x: body(x, held.layers), setter(held, "layers", 3)


def arguments():
    held = argparse.Namespace(layers=1)
    return lambda x: body(x, held.layers), setter(held, "layers", 3)


def deque():
    held = collections.deque([1])
    return lambda x: body(x, held[0]), lambda: held.__setitem__(0, 3)


def class_attribute():
    class Config:
        layers = 1

    return lambda x: body(x, Config.layers), setter(Config, "layers", 3)


def class_attribute_through_an_instance():
    class Config:
        layers = 1

    held = Config()
    return lambda x: body(x, held.layers), setter(Config, "layers", 3)


def module_attribute():
    held = types.ModuleType("my_settings")
    held.layers = 1
    return lambda x: body(x, held.layers), setter(held, "layers", 3)


def property_():
    class Config:
        of_layers = 1
        layers = property(lambda self: self.of_layers)

    held = Config()
    return lambda x: body(x, held.layers), setter(held, "of_layers", 3)


def slots():
    @dataclass(slots=True)
    class Config:
        layers: int = 1

    held = Config()
    return lambda x: body(x, held.layers), setter(held, "layers", 3)


def getattr_of_a_string():
    held = types.SimpleNamespace(layers=1)
    return lambda x: body(x, getattr(held, "layers")), setter(held, "layers", 3)  # noqa: B009


def function_attribute():
    def circuit(x):
        return body(x, circuit.layers)

    circuit.layers = 1
    return circuit, setter(circuit, "layers", 3)


def method_that_calls_a_method():
    class Model:
        depth = 1

        def layers(self):
            return self.depth

        def circuit(self, x):
            return body(x, self.layers())

    held = Model()
    return held.circuit, setter(held, "depth", 3)


def call_that_calls_a_method():
    class Model:
        depth = 1

        def layers(self):
            return self.depth

        def __call__(self, x):
            return body(x, self.layers())

    held = Model()
    return held, setter(held, "depth", 3)


def helper_that_reads_another_attribute():
    held = types.SimpleNamespace(layers=1, scale=1.0)

    def encoded(x):
        return held.scale * x

    return lambda x: body(encoded(x), held.layers), setter(held, "scale", 2.0)


class Scaling(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.tensor(1.0))

    def forward(self, x):
        return self.factor * x


class Around(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Scaling()

    def forward(self, x):
        return self.inner(x)


def buffer_of_a_module(make=Scaling):
    held = make()
    (buffer,) = held.buffers()
    return lambda x: body(held(x), 1), lambda: buffer.fill_(2.0)


def frozen_weight_that_is_changed_through_data():
    held = nn.Linear(N, N).double().requires_grad_(False)
    return lambda x: body(held(x), 1), lambda: held.weight.data.mul_(2.0)


def large_array_in_place():
    held = np.ones(100_000)
    return lambda x: body(x, 1, float(held[-1])), lambda: held.__setitem__(-1, 2.0)


def tensor_through_data():
    held = torch.tensor(1.0)
    return lambda x: body(x, 1, held), lambda: held.data.fill_(2.0)


def tensor_through_numpy():
    held = torch.ones(N)
    return lambda x: body(x, 1, held[0]), lambda: held.numpy().__setitem__(0, 2.0)


def number_of_a_tensor():
    held = torch.tensor(1)
    return lambda x: body(x, held.item()), lambda: held.data.fill_(2)


def trainable_through_data():
    held = nn.Parameter(torch.ones(()))
    return lambda x: body(x, 1, held.data), lambda: held.data.mul_(2)


def trainable_replaced():
    held = {"scale": nn.Parameter(torch.ones(()))}
    return lambda x: body(x, 1, held["scale"]), lambda: held.update(scale=nn.Parameter(torch.full((), 2.0)))


def trainable_frozen_and_changed():
    held = nn.Parameter(torch.ones(()))
    return lambda x: body(x, 1, held), lambda: held.requires_grad_(False).mul_(2)


def replaced_until_its_id_comes_again(first, make):
    held = {"value": first}

    def change():
        place = id(held["value"])
        held["value"] = make(7)
        for k in range(50):
            held["value"] = make(2 + k % 3)
            if id(held["value"]) == place:
                break

    return lambda x: body(x, 1, held["value"]), change


def closure_list():
    held = [1, [2]]
    return lambda x: body(x, held[1][0]), lambda: held[1].__setitem__(0, 3)


def dictionary_order():
    held = {"a": 1, "b": 2}
    return lambda x: body(x, next(iter(held.values()))), lambda: held.update(a=held.pop("a"))


def closure():
    layers = 1

    def change():
        nonlocal layers
        layers = 3

    return lambda x: body(x, layers), change


def default():
    def circuit(x, layers=1):
        return body(x, layers)

    return circuit, setter(circuit, "__defaults__", (3,))


def keyword_of_a_partial():
    circuit = functools.partial(body, layers=1)
    return circuit, lambda: circuit.keywords.update(layers=3)


def code():
    def circuit(x):
        return body(x, 1)

    return circuit, setter(circuit, "__code__", (lambda x: body(x, 3)).__code__)


def sign_of_zero():
    held = [0.0]
    return lambda x: body(x, 1, math.copysign(1.0, held[0]) + 2), lambda: held.__setitem__(0, -0.0)


def limit_that_no_probe_reaches():
    held = types.SimpleNamespace(limit=50.0)
    return lambda x: body(x.clamp(max=held.limit), 1), setter(held, "limit", 0.1)


def measured():
    held = types.SimpleNamespace(of=qml.PauliZ)

    def circuit(x):
        qml.AngleEmbedding(x, wires=range(N))
        return [qml.expval(held.of(i)) for i in range(N)]

    return circuit, setter(held, "of", qml.PauliY)


FORMS = {
    "namespace": namespace,
    "argparse": arguments,
    "deque": deque,
    "class attribute": class_attribute,
    "class attribute through an instance": class_attribute_through_an_instance,
    "module attribute": module_attribute,
    "property": property_,
    "slots": slots,
    "getattr": getattr_of_a_string,
    "function attribute": function_attribute,
    "method that calls a method": method_that_calls_a_method,
    "__call__ that calls a method": call_that_calls_a_method,
    "helper that reads another attribute": helper_that_reads_another_attribute,
    "buffer": buffer_of_a_module,
    "nested buffer": functools.partial(buffer_of_a_module, Around),
    "buffer in Sequential": functools.partial(buffer_of_a_module, lambda: nn.Sequential(Scaling())),
    "frozen weight": frozen_weight_that_is_changed_through_data,
    "large array": large_array_in_place,
    "tensor.data": tensor_through_data,
    "tensor.numpy()": tensor_through_numpy,
    "tensor.item()": number_of_a_tensor,
    "parameter.data": trainable_through_data,
    "parameter replaced": trainable_replaced,
    "parameter frozen": trainable_frozen_and_changed,
    "np.int64 replaced": functools.partial(replaced_until_its_id_comes_again, np.int64(1), np.int64),
    "tensor replaced": functools.partial(replaced_until_its_id_comes_again, torch.tensor(1), torch.tensor),
    "list in a list": closure_list,
    "order of a dictionary": dictionary_order,
    "closure": closure,
    "default": default,
    "partial": keyword_of_a_partial,
    "code": code,
    "sign of zero": sign_of_zero,
    "a limit that no probe reaches": limit_that_no_probe_reaches,
    "what is measured": measured,
}


def equals_pennylane(fast, circuit):
    x = X.clone().requires_grad_()
    expected = execute(tape_of(circuit, x), N, "backprop")
    values, ramp = fast(x), torch.arange(1.0, N + 1)
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-10)
    ours, theirs = (torch.autograd.grad((v * ramp).sum(), x)[0] for v in (values, expected))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    return values.detach()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_change_of_what_is_read_is_followed(form):
    circuit, change = FORMS[form]()
    fast = CompiledCircuit(circuit, N).double()
    before, steps = equals_pennylane(fast, circuit), fast.steps
    equals_pennylane(fast, circuit)
    assert fast.steps is steps  # not compiled anew where nothing changed
    change()
    after = equals_pennylane(fast, circuit)
    assert (after - before).abs().max() > 0.1  # else this would show nothing


@pytest.mark.parametrize("detached", [True, False])
def test_a_change_of_gradients_only_is_followed(detached):
    held = types.SimpleNamespace(detached=detached)

    def circuit(x):
        return body(x.detach() + 0 * x if held.detached else x, 1)

    fast = CompiledCircuit(circuit, N).double()
    equals_pennylane(fast, circuit)
    held.detached = not detached
    equals_pennylane(fast, circuit)


def test_the_scripts_circuits_read_nothing_and_cost_little():
    circuits = [make_circuit(4, 2)[0], *make_circuits("default", 4, 1), *make_circuits("published", 4, 2)]
    for circuit in circuits:
        watch = Watch(circuit)
        assert watch.unchanged() and not watch.reads
        start = time.perf_counter()
        for _ in range(1000):
            watch.unchanged()
        assert time.perf_counter() - start < 0.1  # 100 us each, if ten processes share the core


def test_what_can_be_seen_is_not_recorded_again():
    number, numbers, table, array = 2, [1, 2], {"a": [1.0]}, np.ones(3)
    tensor, trainable = torch.ones(3), nn.Parameter(torch.ones(3))

    def inner(x):
        return x * table["a"][0] + float(array[0]) + torch.sin(tensor) + trainable

    def circuit(x):
        angles = inner(x) ** number + sum(numbers) + math.pi
        return [qml.expval(qml.PauliZ(i)) for i in range(len(numbers)) if qml.RX(angles[:, i], wires=i) is not None]

    watch = Watch(functools.partial(circuit))
    assert watch.unseen is None and watch.reads and watch.unchanged()
    with torch.no_grad():
        trainable.add_(1)  # a step of the optimizer: it is read at each call
    assert watch.unchanged()
    trainable.requires_grad_(False)
    assert not watch.unchanged()


@pytest.mark.parametrize(
    "function",
    [lambda x: time.time(), lambda x: globals(), lambda x: x.__class__, itertools.count()],
)
def test_what_cannot_be_seen_is_named(function):
    watch = Watch(function)
    assert watch.unseen and not watch.unchanged()


def test_a_function_that_changes_what_it_reads_is_not_compiled():
    calls = [1]

    def counting(x):
        calls[0] += 1
        return body(x, calls[0])

    def drawing(x):
        return body(x * np.random.rand(), 1)

    def at_the_time(x):
        return body(x * time.perf_counter(), 1)

    for circuit in (counting, drawing, at_the_time):
        with pytest.raises(NotCompilable):
            CompiledCircuit(circuit, N)


SETTING = {"layers": 1}


def of_a_global(x):
    return body(x, SETTING["layers"])


def test_copies_and_pickles_follow_changes(monkeypatch):
    fast = CompiledCircuit(of_a_global, N).double()
    copied, pickled = copy.deepcopy(fast), pickle.dumps(fast)
    monkeypatch.setitem(SETTING, "layers", 2)
    for each in (copied, pickle.loads(pickled), fast):
        equals_pennylane(each, of_a_global)


def test_changes_are_followed_under_functions_of_torch_and_without_gradients():
    for around in (torch.func.vmap, torch.no_grad(), torch.inference_mode(), lambda run: run):
        circuit, change = namespace()
        fast = CompiledCircuit(circuit, N)
        change()
        expected = execute(tape_of(circuit, X), N).float()
        torch.testing.assert_close(around(fast)(X.float()), expected, rtol=0, atol=1e-5)


@pytest.mark.slow  # torch.compile
@pytest.mark.parametrize("form", ["namespace", "closure", "tensor.data", "parameter frozen"])
def test_changes_are_followed_under_compile(form):
    torch._dynamo.reset()
    circuit, change = FORMS[form]()
    fast = CompiledCircuit(circuit, N).double()
    compiled = torch.compile(fast, backend="aot_eager")
    equals_pennylane(compiled, circuit)
    change()
    equals_pennylane(compiled, circuit)
