"""Checks of a circuit before a run: its fingerprint, that images do not mix, that it agrees with PennyLane, learns."""

import functools
import math

import numpy as np
import pennylane as qml
import pytest
import torch

from cifar100_hybrid_Qhead import make_circuit
from qcifar.compiler import CompiledCircuit
from qcifar.errors import InputError
from qcifar.quantum.checks import check_layer, circuit_fingerprint, compare_with_pennylane
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

    with pytest.raises(InputError, match=r"cannot be built: IndexError.*qubit i takes angles\[\.\.\., i\]"):
        circuit_fingerprint(circuit, (2, 4))


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
    """NaN where PennyLane has NaN is no difference, NaN elsewhere is one."""

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
    line = r"head_circuit on 20 qubits needs 200 GB on default.qubit \(128 images, 100 gates\), 1 GB are free"
    with pytest.raises(InputError, match=line):  # 20 RX of the embedding, then two layers of 20 Rot and 20 CNOT
        make_runner(circuit, device, n_qubits, shape, "backprop", images=128)
