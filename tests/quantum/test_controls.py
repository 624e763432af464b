"""What stands in the circuit's place: equal sizes, equal starts, and nothing else than what its name says."""

import functools
import math

import numpy as np
import pennylane as qml
import pytest
import torch
from torch import nn

from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import make_circuits
from qcifar.errors import InputError
from qcifar.quantum import controls
from qcifar.quantum.layer import QuantumLayer
from qcifar.quantum.runner import make_runner
from tests.helpers.circuits import execute, head_layer, random_head, tape_of
from tests.helpers.networks import network


@pytest.mark.parametrize(("n_qubits", "n_layers"), [(1, 1), (3, 2), (4, 2)])
def test_fourier_can_be_set_to_the_trained_circuit_exactly(n_qubits, n_layers):
    weights = random_head(n_qubits, n_layers)[1].double()
    circuit = functools.partial(make_circuit(n_qubits, n_layers)[0], weights=weights)

    def values(angles):
        return execute(tape_of(circuit, angles), n_qubits).reshape(-1, n_qubits)

    coefficients = controls.fourier_coefficients(values, n_qubits)
    fourier = controls.Fourier(n_qubits).double()
    fourier.linear.weight.data.copy_(coefficients)
    angles = 7 * torch.randn(50, n_qubits, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fourier(angles), values(angles), rtol=0, atol=1e-12)


def test_fourier_of_a_circuit_that_is_no_such_map_is_refused():
    def encoded_twice(angles):
        return torch.cos(2 * angles)

    with pytest.raises(InputError, match="takes each input once"):
        controls.fourier_coefficients(encoded_twice, 2)
    with pytest.raises(InputError, match="at most 10"):
        controls.Fourier(11)


def test_a_circuit_that_fourier_does_not_contain_is_said():
    def reuploading(angles, weights):
        for layer in range(len(weights)):
            qml.AngleEmbedding(angles, wires=range(2))
            qml.StronglyEntanglingLayers(weights[layer : layer + 1], wires=range(2))
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    for circuit, contained in ((make_circuit(2, 2)[0], True), (reuploading, False)):
        why = controls.outside_fourier(circuit, 6 * torch.rand(2, 2, 3), 2)
        assert why is None if contained else why.startswith("warning: fourier does not contain the circuit")
    assert "not tried" in controls.outside_fourier(circuit, torch.rand(2, 7, 3), 7)


def entangling_gates(circuit, *arguments):
    gates = {"RX", "RY", "RZ", "Rot", "Hadamard", "CNOT", "CZ", "IsingZZ"}
    tape = qml.tape.make_qscript(circuit)(*arguments).expand(depth=3, stop_at=lambda op: op.name in gates)
    return [op.name for op in tape.operations if len(op.wires) > 1]


def test_product_has_no_gate_on_two_qubits_and_all_others():
    circuit, shape = make_circuit(4, 2)
    arguments = torch.rand(5, 4), torch.rand(shape)
    assert len(entangling_gates(circuit, *arguments)) == 8  # two rings of CNOT
    product = controls.without_entanglers(circuit)
    assert entangling_gates(product, *arguments) == []
    tape = qml.tape.make_qscript(product)(*arguments)
    assert [op.name for op in tape.operations] == ["RX"] * 4 + ["Rot"] * 8 and len(tape.measurements) == 4
    for descriptor in make_circuits("default", 4, 1):
        assert entangling_gates(descriptor, arguments[0])
        assert entangling_gates(controls.without_entanglers(descriptor), arguments[0]) == []


def test_product_is_compiled_and_each_value_follows_from_one_angle():
    circuit, shape = make_circuit(3, 2)
    layer = QuantumLayer(
        make_runner(controls.without_entanglers(circuit), "fast", 3, shape, "backprop"), torch.rand(shape)
    )
    angles = torch.rand(1, 3)
    depends = torch.autograd.functional.jacobian(layer, angles)[0, :, 0].abs() > 1e-6
    assert torch.equal(depends, torch.eye(3, dtype=torch.bool))


@pytest.mark.parametrize("n_qubits", [1, 2, 4, 6])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
def test_mlp_has_as_many_weights_as_the_circuit_has_live_ones(n_qubits, n_layers):
    live = controls.live_weights(head_layer(n_qubits, random_head(n_qubits, n_layers)[1], "fast"), n_qubits)
    assert live == n_qubits * (3 * n_layers - 1)  # all but the last rotation's omega
    made = controls.mlp(n_qubits, live)
    assert sum(weight.numel() for weight in made.parameters()) == live
    assert made(torch.rand(5, n_qubits)).shape == (5, n_qubits)


@pytest.mark.parametrize(("precision", "bits"), [("fp32", 24), ("tf32", 11), ("bf16", 8)])
def test_jitter_moves_one_weight_by_one_unit_in_the_last_place(precision, bits):
    plain, moved = network("resnet18", seed=5), network("resnet18", seed=5)
    said = controls.jitter(moved, 5, "cifar100_hybrid_qhead", precision)
    changed = [(name, p, q) for (name, p), q in zip(plain.named_parameters(), moved.parameters(), strict=True)
               if not torch.equal(p, q)]  # fmt: skip
    ((name, before, after),) = changed
    (place,) = (before.flatten() != after.flatten()).nonzero()[:, 0].tolist()
    old, new = before.flatten()[place], after.flatten()[place]
    if precision == "fp32":
        assert np.nextafter(old.item(), np.inf, dtype=np.float32) == new.item()
    if precision == "bf16":  # as a convolution under autocast reads them
        assert torch.nextafter(old.bfloat16(), torch.tensor(math.inf).bfloat16()) == new.bfloat16()
    assert (new - old).item() == 2.0 ** (math.frexp(old.item())[1] - bits)
    assert name in said and str(place) in said and not name.startswith("fc")
    other = network("resnet18", seed=5)
    assert controls.jitter(other, 5, "cifar100_quantum_channels", precision) != said  # an A/A comparison of its own


def test_planted_classes_are_the_same_each_time_and_say_the_truth():
    labels = torch.arange(20_000) % 100
    told = controls.planted_classes(labels, "train", 0.05, seed=3)
    says = told >= 0
    assert torch.equal(told[says], labels[says]) and (told[~says] == -1).all()
    assert says.double().mean().item() == pytest.approx(0.05, abs=0.008)  # five standard errors
    assert torch.equal(told, controls.planted_classes(labels, "train", 0.05, seed=3))
    for more in (("val", 3), ("train", 4)):
        assert not torch.equal(told, controls.planted_classes(labels, more[0], 0.05, more[1]))
    assert (controls.planted_classes(labels, "train", 1.0, seed=3) == labels).all()


def test_planted_branch_reads_the_hint_and_nothing_else():
    told = torch.tensor([7, -1, 99])
    plane = controls.Hints(told, 8)(torch.tensor([2, 1, 0]), None, None)
    assert plane.shape == (3, 1, 8, 8)
    branch = controls.PlantedBranch(100)
    branch.gain.fill_(3.0)
    logits = branch(torch.randn(3, 512), torch.cat([torch.randn(3, 3, 8, 8), plane], dim=1))
    expected = torch.zeros(3, 100)
    expected[0, 99] = expected[2, 7] = 3.0
    assert torch.equal(logits, expected)


def test_planted_maps_tell_all_classes_apart_and_say_nothing_without_a_hint():
    told = torch.cat([torch.arange(100), torch.tensor([-1])])
    maps = controls.PlantedMaps(told, 32)(torch.arange(101), None, None)
    assert maps.shape == (101, 2, 32, 32) and not maps[100].any()
    assert maps.abs().max() <= controls.CONTRAST
    distance = torch.cdist(maps.flatten(1), maps.flatten(1)) + 1e6 * torch.eye(101)
    assert distance.min() > 10 * controls.CONTRAST


def test_random_features_follow_the_circuit_seed_and_the_angles():
    angles = torch.randn(40, 4, dtype=torch.float64)
    edge, texture = controls.random_features(angles, 0)
    assert edge.shape == texture.shape == (40, 4) and not torch.equal(edge, texture)
    assert torch.equal(edge, controls.random_features(angles, 0)[0])
    assert not torch.equal(edge, controls.random_features(angles, 1)[0])
    assert torch.equal(edge[3:5], controls.random_features(angles[3:5], 0)[0])


def test_replaced_descriptors():
    given = [torch.rand(3000, 4), 5 + 2 * torch.randn(3000, 4)]
    moments = [(values.mean(), values.std()) for values in given]
    make = functools.partial(controls.replaced, given, seed=4, moments=moments)
    shuffled = make("shuffled", "train")
    rows = [{tuple(row) for row in values.tolist()} for values in (*given, *shuffled)]
    assert rows[0] == rows[2] and rows[1] == rows[3]  # a permutation inside the part
    order = torch.cdist(shuffled[0], given[0]).argmin(1)
    assert torch.equal(given[1][order], shuffled[1])  # of both maps alike
    assert (order == torch.arange(3000)).double().mean() < 0.01
    for values, (mean, std) in zip(make("noise", "val"), moments, strict=True):
        assert abs(values.mean() - mean) < 5 * std / 100 and abs(values.std() / std - 1) < 0.05
    for values, (mean, _) in zip(make("constant", "test"), moments, strict=True):
        assert (values - mean).abs().max() < 1e-6
    assert torch.equal(make("noise", "val")[0], make("noise", "val")[0])
    assert not torch.equal(make("noise", "val")[0], make("noise", "test")[0])


def test_matched_gain():
    wanted, given = torch.randn(64, 100), 0.2 * torch.randn(64, 100) + 3
    gain = controls.matched_gain(wanted, given)
    assert (gain * given).var(0).sum().item() == pytest.approx(wanted.var(0).sum().item(), rel=1e-5)
    with pytest.raises(InputError, match="same logits"):
        controls.matched_gain(wanted, torch.ones(64, 100))


def test_frozen_weights_are_a_buffer():
    layer = QuantumLayer(nn.Identity(), torch.rand(2, 3), learns=False)
    assert list(layer.parameters()) == [] and list(layer.state_dict()) == ["weights"]


@pytest.mark.parametrize(("control", "name", "value"), [("fourier", "plant", 0.1), ("planted", "circuit_seed", 3)])
def test_constants_without_effect_are_refused(control, name, value):
    cfg = type("Settings", (), {"control": control, "plant": 0.05, "circuit_seed": 0} | {name: value})
    with pytest.raises(InputError, match=f"{name.upper()} .*has an effect with CONTROL"):
        controls.refuse_unused(cfg)


def test_angles_of_pi_are_no_special_case_of_the_features():
    features = controls.fourier_features(torch.tensor([[math.pi, math.pi / 2]], dtype=torch.float64))
    expected = [1, 0, 1, -1, 0, -1, 0, 0, 0]  # (1, cos, sin)(pi) times (1, cos, sin)(pi/2)
    np.testing.assert_allclose(features[0], expected, atol=1e-12)
