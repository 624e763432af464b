"""Checks of a circuit before a run: its fingerprint, that images do not mix, that it agrees with PennyLane, learns."""

import functools
import math

import numpy as np
import pennylane as qml
import pytest
import torch
from torch import nn

from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import make_circuits
from qcifar.compiler import CompiledCircuit
from qcifar.errors import InputError
from qcifar.quantum.checks import (
    check_layer,
    circuit_fingerprint,
    compare_with_pennylane,
    refuse_mixing,
    refuse_too_deep,
    rounding,
    trained_outside,
)
from qcifar.quantum.layer import QuantumLayer
from qcifar.quantum.runner import make_qnode, make_runner
from tests.helpers.circuits import broken_circuit, head_layer, random_head


def variant(angles, gate=qml.RY, factor=0.5, wire=0, depth=1, observable=qml.PauliZ):
    for _ in range(depth):
        gate(factor * angles[..., 0], wires=wire)
        qml.CNOT(wires=[0, 1])
    return [qml.expval(observable(i)) for i in range(3)]


def test_fingerprint_of_mid_circuit_measurements_is_the_same_each_time_and_names_their_use():
    def variant(x, reset=False, postselect=None, measured=0, follows=0):
        outcomes = [qml.measure(wire, reset=reset, postselect=postselect) for wire in (measured, 1)]
        qml.cond(outcomes[follows], qml.PauliX)(wires=2)
        return [qml.expval(qml.PauliZ(i)) for i in range(3)]

    changes = [{}, {"reset": True}, {"postselect": 1}, {"measured": 2}, {"follows": 1}]
    first, second = (
        [circuit_fingerprint(functools.partial(variant, **change), (1, 3)) for change in changes] for _ in range(2)
    )
    assert first == second and len(set(first)) == len(changes)


def test_fingerprint_names_the_circuit_and_nothing_else():
    def same_gates_written_otherwise(v):
        half = v[..., 0] / 2
        qml.RY(half, 0)
        qml.CNOT([0, 1])
        return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1)), qml.expval(qml.Z(2))]

    assert circuit_fingerprint(variant, (1, 3)) == circuit_fingerprint(same_gates_written_otherwise, (1, 3))
    changes = [{}, {"gate": qml.RX}, {"factor": 0.51}, {"wire": 2}, {"depth": 2}, {"observable": qml.PauliX}]
    prints = [circuit_fingerprint(functools.partial(variant, **change), (1, 3)) for change in changes]
    assert len(set(prints)) == len(changes)


def test_circuit_that_raises_is_named():
    with pytest.raises(InputError, match=r"broken_circuit.*no such wire"):
        circuit_fingerprint(broken_circuit, (1, 3))


def test_the_batch_taken_for_the_qubits_is_explained():
    def circuit(inputs):
        for i in range(4):
            qml.RX(inputs[i], wires=i)
        return [qml.expval(qml.PauliZ(i)) for i in range(4)]

    line = r"cannot be built: IndexError.*it was called with angles \(2, 4\).*qubit i takes angles\[\.\.\., i\]"
    with pytest.raises(InputError, match=line):
        circuit_fingerprint(circuit, (2, 4))


def test_swapped_arguments_are_told_what_comes_in_which_order():
    def circuit(weights, inputs):
        qml.StronglyEntanglingLayers(weights, wires=range(4))
        return [qml.expval(qml.PauliZ(i)) for i in range(4)]

    with pytest.raises(InputError, match=r"it was called with angles \(2, 4\) and weights \(2, 4, 3\)"):
        circuit_fingerprint(circuit, (2, 4), (2, 4, 3))


@pytest.mark.parametrize(
    ("returned", "got"),
    [(lambda: None, "nothing"), (lambda: [], "nothing"), (lambda: [qml.expval(qml.Z(0)), None], "a NoneType")],
)
def test_a_circuit_that_returns_nothing_is_refused_in_one_line(returned, got):
    def circuit(inputs):
        qml.RX(inputs[..., 0], wires=0)
        return returned()

    with pytest.raises(InputError, match=rf"expected a list of expectation values, such as .*, got {got}$"):
        make_runner(circuit, "fast", 2)


@pytest.mark.parametrize("device", ["fast", "default.qubit", "lightning.qubit"])
def test_circuits_that_make_a_score_meaningless_are_refused(device):
    def circuit(first):
        def of(x):
            first(x)
            qml.RX(x[..., 1], wires=1)
            return [qml.expval(qml.PauliZ(i)) for i in range(2)]

        return of

    for mixes in (
        lambda x: qml.RY(x[..., 0] * x[:, 0].mean(), wires=0),
        lambda x: qml.RY(x[..., 0] * x[0, 0], wires=0),
        lambda x: qml.RY(x[..., 0] * (x[0, 0] > 0), wires=0),
    ):
        with pytest.raises(InputError, match="change with the other images of its batch"):
            make_runner(circuit(mixes), device, 2)
    with pytest.raises(InputError, match="other values for the same arguments"):
        make_runner(circuit(lambda x: qml.RY(x[..., 0] + np.random.rand(), wires=0)), device, 2)
    make_runner(circuit(lambda x: qml.RY(x[..., 0] ** 2, wires=0)), device, 2)


def test_angles_that_random_inputs_do_not_have():
    """NaN where PennyLane has NaN is not a difference, NaN elsewhere is one."""

    def circuit(x):
        qml.RY(torch.log(x[..., 0]), wires=0)
        qml.RY(x[..., 1], wires=1)
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    fast = CompiledCircuit(circuit, 2)
    assert fast(torch.tensor([[-1.0, 0.0], [1.0, 0.0]])).isnan().tolist() == [[True, True], [False, False]]
    assert compare_with_pennylane(fast, circuit, 2) < 1e-5
    fast.signs_z[0] = torch.nan
    with pytest.raises(ArithmeticError, match="by nan"):
        compare_with_pennylane(fast, circuit, 2)


def test_a_miscompiled_circuit_runs_in_pennylane_and_is_named(monkeypatch, capsys):
    monkeypatch.setattr("qcifar.compiler.gates.math.pi", 3.0)
    runner = make_runner(make_circuit(2, 2)[0], "fast", 2, (1, 2, 3))
    assert isinstance(runner, qml.QNode)
    said = capsys.readouterr().out
    assert "head_circuit: compiled, it differs from default.qubit by" in said and "please report this" in said


def test_check_layer_refuses_what_is_no_expectation_value():
    _, weights = random_head(4)
    good = head_layer(4, weights)
    check_layer(good, 4, torch.device("cpu"))
    assert good.weights.grad is None or not good.weights.grad.any()
    nan = r"head_circuit.*not finite for 2 of 2 images, whose angles go from -1 to 2"
    with pytest.raises(InputError, match=nan):
        check_layer(head_layer(4, torch.full_like(weights, math.nan)), 4, torch.device("cpu"))

    def of_length_one(inputs, weights):
        qml.AngleEmbedding(inputs / inputs.norm(dim=-1, keepdim=True), wires=range(4))
        qml.StronglyEntanglingLayers(weights, wires=range(4))
        return [qml.expval(qml.PauliZ(i)) for i in range(4)]

    check_layer(QuantumLayer(make_runner(of_length_one, "fast", 4, weights.shape), weights), 4, torch.device("cpu"))

    def three_values(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(4))
        return [qml.expval(qml.PauliZ(i)) for i in range(3)]

    layer = QuantumLayer(make_qnode(three_values, "default.qubit", 4, "backprop"), weights)
    with pytest.raises(InputError, match="three_values: expected a list of N_QUBITS = 4 expectation values, got 3"):
        check_layer(layer, 4, torch.device("cpu"))


@pytest.mark.parametrize(("n_qubits", "device"), [(20, "fast"), (20, "default.qubit")])
def test_memory_that_is_not_there_is_refused_with_the_numbers(n_qubits, device, monkeypatch):
    monkeypatch.setattr("qcifar.quantum.checks.free_memory", lambda where: 2**30)
    circuit, shape = make_circuit(n_qubits, 2)
    line = r"head_circuit on 20 qubits needs 200.0 GB on default.qubit \(128 images, 100 gates\), 1.0 GB are free"
    with pytest.raises(InputError, match=line):  # 20 RX of the embedding, then two layers of 20 Rot and 20 CNOT
        make_runner(circuit, device, n_qubits, shape, "backprop", images=128)


@pytest.mark.slow
def test_memory_is_looked_at_where_a_circuit_falls_back_too(monkeypatch):
    def circuit(inputs, weights):
        n = inputs.shape[-1]
        qml.AngleEmbedding(inputs, wires=range(n))
        for i in range(n):
            qml.RY(weights[i], wires=i)
        return [qml.expval(qml.Hermitian(torch.eye(2).numpy(), wires=i)) for i in range(n)]

    assert not isinstance(make_runner(circuit, "fast", 4, (4,), "backprop", images=128), CompiledCircuit)
    monkeypatch.setattr("qcifar.quantum.checks.free_memory", lambda where: 2**29)
    for device in ("fast", "default.qubit"):
        line = r"circuit on 14 qubits needs 0.9 GB on default.qubit \(128 images, 28 gates\), 0.5 GB are free"
        with pytest.raises(InputError, match=line):
            make_runner(circuit, device, 14, (14,), "backprop", images=128)


def test_memory_of_a_compiled_circuit_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr("qcifar.quantum.checks.free_memory", lambda where: 2**30)
    circuit, shape = make_circuit(12, 200)
    line = r"head_circuit on 12 qubits needs 2.8 GB compiled \(400 images, 201 layers of rotations\), 1.0 GB are free"
    with pytest.raises(InputError, match=line):  # AngleEmbedding and 200 layers
        refuse_too_deep(circuit, 12, shape, 400)
    refuse_too_deep(circuit, 12, shape, 16)
    refuse_too_deep(*make_circuit(4, 200)[:1], 4, (200, 4, 3), 10**5)  # up to 6 qubits they become one unitary


def test_a_deep_circuit_is_announced(capsys):
    circuit, shape = make_circuit(4, 200)
    refuse_too_deep(circuit, 4, shape, 16)
    assert capsys.readouterr().out == "head_circuit: 2404 angles, which take about 5 s to compile and to check\n"
    refuse_too_deep(make_circuits("default", 4, 250)[0], 4, None, 2**16)  # without weights, too
    assert capsys.readouterr().out == "edge_circuit: 3000 angles, which take about 6 s to compile and to check\n"


def test_of_a_deep_circuit_fewer_images_are_tried():
    tried = []

    def runner(inputs):
        tried.append(len(inputs))
        return inputs

    runner.func = make_circuits("default", 4, 100)[0]
    refuse_mixing(runner, 4, None, 2**16)
    assert max(tried) < 2**11
    runner.func = make_circuits("default", 4, 1)[0]
    refuse_mixing(runner, 4, None, 2**16)
    assert max(tried) == 2**16


def measuring(*returned):
    def circuit(angles, weights):
        qml.AngleEmbedding(angles, wires=range(4))
        qml.StronglyEntanglingLayers(weights, wires=range(4))
        made = [make() for make in returned]
        return made if len(made) > 1 else made[0]

    return circuit


@pytest.mark.parametrize("device", ["fast", "default.qubit"])
def test_what_is_measured_is_decided_by_its_kind_and_bound_and_not_by_luck(device):
    def three_of(last):
        return [functools.partial(lambda i: qml.expval(qml.PauliZ(i)), i) for i in range(3)] + [last]

    for circuit, words in (
        (measuring(lambda: qml.probs(wires=[0, 1])), "got a ProbabilityMP"),
        (measuring(*three_of(lambda: qml.var(qml.PauliZ(3)))), "got a VarianceMP"),
        (measuring(*three_of(lambda: qml.expval(2 * qml.PauliZ(3)))), "which may be 2; divide"),
        (measuring(*three_of(lambda: qml.expval(1.001 * qml.PauliX(3) @ qml.PauliZ(0)))), "which may be 1"),
        (measuring(*three_of(lambda: qml.expval(qml.Hermitian(np.diag([0.5, -1.5]), wires=3)))), "which may be 1.5"),
        (measuring(*three_of(lambda: qml.expval(qml.PauliZ(3) + 0.5 * qml.PauliX(3)))), "which may be 1.5"),
    ):
        with pytest.raises(InputError, match=words):
            make_runner(circuit, device, 4, (1, 4, 3), "backprop")
    make_runner(measuring(*three_of(lambda: qml.expval(qml.Projector([1], wires=3)))), device, 4, (1, 4, 3), "backprop")


def test_tolerance_follows_width_depth_and_precision():
    def of(n, layers, precision):
        circuit, shape = make_circuit(n, layers)
        tape = qml.tape.make_qscript(circuit)(torch.zeros(2, n), torch.ones(shape))
        return rounding(tape, n, precision)

    assert 1e-5 < of(4, 2, torch.float32) < 3e-4 and of(4, 2, torch.float64) < 1e-12
    assert of(4, 50, torch.float32) > 3 * of(4, 2, torch.float32) and of(8, 2, torch.float32) > of(4, 2, torch.float32)


def test_trainable_tensors_from_outside_are_found_wherever_they_stand():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = nn.Parameter(torch.ones(2))

        def circuit(self, angles, weights):
            qml.AngleEmbedding(angles * self.own * first.exp(), wires=range(2))
            qml.RX(second[0], wires=0)
            qml.RX(first.sum() + weights[0], wires=0)
            return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    first, second = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    model = Model()
    found = trained_outside(model.circuit, 2, (1,))
    assert len(found) == 2 and found[0] is first and found[1] is second
    second = torch.ones(1, requires_grad=True)
    with pytest.raises(InputError, match=r"a trainable tensor \(1,\) from outside .* expected an nn.Parameter"):
        trained_outside(model.circuit, 2, (1,))


@pytest.mark.parametrize("device", ["fast", "default.qubit"])
def test_parameters_from_outside_belong_to_the_layer(device):
    scale = nn.Parameter(torch.full((2,), 0.6))

    def circuit(angles, weights):
        qml.AngleEmbedding(angles * scale, wires=range(2))
        qml.StronglyEntanglingLayers(weights, wires=range(2))
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    layer = QuantumLayer(make_runner(circuit, device, 2, (1, 2, 3), "backprop"), torch.rand(1, 2, 3))
    assert list(layer.state_dict()) == ["weights", "outside_0"] and layer.outside_0 is scale
    x = torch.randn(5, 2)
    layer(x).sum().backward()
    assert scale.grad.abs().max() > 0.01
    before = layer(x).detach()
    layer.load_state_dict({"weights": layer.weights.detach(), "outside_0": torch.full((2,), 1.5)})
    assert (layer(x) - before).abs().max() > 0.01


def test_a_circuit_that_raises_names_the_line():
    def circuit(angles):
        qml.RX(angles[..., 7], wires=0)

    with pytest.raises(
        InputError, match=r"IndexError: .* \(test_checks.py, line \d+\); it was called with angles \(2, 4\); angles are"
    ):
        circuit_fingerprint(circuit, (2, 4))


def test_a_circuit_whose_reading_cannot_be_watched_says_what_that_costs(capsys):
    class Setting:
        factor = 1.0

    def circuit(angles):
        qml.AngleEmbedding(Setting.factor * angles, wires=range(2))
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    assert isinstance(make_runner(circuit, "fast", 2), CompiledCircuit)
    said = capsys.readouterr().out
    assert said.startswith("circuit: it reads Setting, whose changes only a new recording shows: one for each step, ")
    assert said.count("\n") == 1
