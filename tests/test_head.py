"""The hybrid head: its circuit, its phases, and the branch beside the classifier."""

import math
import pickle

import numpy as np
import pennylane as qml
import pytest
import torch
from torch import nn

import DLfunctions
from cifar100_hybrid_Qhead import Branch, HybridNet, head_circuit, make_circuit
from qcifar.experiment.models import split_head
from qcifar.quantum.checks import circuit_fingerprint
from qcifar.quantum.controls import fourier_features
from qcifar.quantum.layer import QuantumLayer, circuit_name
from qcifar.quantum.runner import make_qnode
from qcifar.streams import torch_stream
from tests.helpers import slow
from tests.helpers.circuits import (
    HOW,
    execute,
    head_layer,
    random_head,
    tape_of,
    torch_layer,
    values_and_gradients,
)
from tests.helpers.networks import network
from tests.helpers.scripts import Killed, assert_same, dying_after, run, stored

PICTURES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_last_omega_of_the_head_has_no_gradient():
    inputs, weights = random_head(4)
    layer = QuantumLayer(make_qnode(make_circuit(4, 2)[0], "default.qubit", 4, "backprop"), weights.double())
    (layer(inputs) * torch.tensor([1.0, -0.7, 0.4, 1.3])).sum().backward()
    gradient = layer.weights.grad.abs()  # (layers, qubits, phi theta omega)
    assert gradient[-1, :, 2].max() < 1e-6
    assert gradient[-1, :, :2].min() > 1e-4 and gradient[0].min() > 1e-4


@pytest.mark.parametrize(("n_qubits", "n_layers"), [(1, 2), (4, 2), (4, 5)])
def test_the_heads_circuit_is_a_linear_map_of_fixed_features(n_qubits, n_layers):
    """A classical layer on these 3^n features can do everything that it can."""
    weights = random_head(n_qubits, n_layers)[1].double()
    angles = torch.randn(400, n_qubits, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    features = fourier_features(angles)
    assert features.shape[1] == 3**n_qubits

    def error_on_others(circuit):
        """Largest error on the second half of the images of the linear map that is fitted on the first."""
        values = execute(tape_of(circuit, angles, weights), n_qubits)
        fitted = torch.linalg.lstsq(features[:200], values[:200]).solution
        return (features[200:] @ fitted - values[200:]).abs().max()

    def encoded_twice(angles, weights):
        qml.AngleEmbedding(angles, wires=range(n_qubits), rotation="Y")
        qml.AngleEmbedding(angles, wires=range(n_qubits))
        return head_circuit(angles, weights, n_qubits)

    assert error_on_others(make_circuit(n_qubits, n_layers)[0]) < 1e-12
    assert error_on_others(encoded_twice) > 1e-2  # else this would show nothing


@pytest.mark.slow
@pytest.mark.parametrize("how", [*HOW, ("lightning.qubit", "adjoint")])
def test_head_can_be_pickled(how):
    inputs, weights = random_head(3)
    model = hybrid_net(head_layer(3, weights, *how), 3).eval()
    model.start_epoch(0, epochs_warmup=0, alpha_start=0.3)
    again = pickle.loads(pickle.dumps(model))
    assert circuit_name(again.branch.circuit.runner) == circuit_name(model.branch.circuit.runner) == "head_circuit"
    assert torch.equal(again(PICTURES), model(PICTURES))
    found, expected = (values_and_gradients(one.branch.circuit, inputs) for one in (again, model))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(("n_qubits", "n_layers"), [(1, 1), (4, 2), (6, 3)])
def test_fingerprint_of_the_head_is_that_of_its_gates(n_qubits, n_layers):
    def written_otherwise(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(n_qubits))
        qml.StronglyEntanglingLayers(weights, wires=range(n_qubits))
        return [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]

    circuit, shape = make_circuit(n_qubits, n_layers)
    shapes = (2, n_qubits), shape
    assert shape == (n_layers, n_qubits, 3)
    assert circuit_fingerprint(circuit, *shapes) == circuit_fingerprint(written_otherwise, *shapes)


def hybrid_net(layer, n_qubits, bounded=True):
    net = network("resnet18", seed=5)
    classifier = split_head(net)
    with torch_stream(5, "branch"):
        branch = Branch(classifier.in_features, classifier.out_features, layer, n_qubits, bounded)
    return HybridNet(net, classifier, branch)


def hybrid(bounded=True):
    """resnet18 with four qubits, and a list that receives the angles of every call of the circuit."""
    model, calls = hybrid_net(head_layer(4, random_head(4)[1]), 4, bounded), []
    model.branch.circuit.register_forward_hook(lambda _, inputs, output: calls.append(inputs[0]))
    return model, calls


def branch(model):
    return [model.alpha_raw, *model.branch.parameters()]


def test_branch_off_is_the_plain_network_to_the_bit():
    (model, calls), plain = hybrid(), network("resnet18", seed=5)
    model.start_epoch(0, epochs_warmup=1, alpha_start=0.1)
    logits, expected = model(PICTURES), plain(PICTURES)
    assert torch.equal(logits, expected) and calls == []
    logits.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(model.backbone.conv1.weight.grad, plain.conv1.weight.grad)
    assert torch.equal(model.classifier.weight.grad, plain.fc.weight.grad)
    assert all(parameter.grad is None for parameter in branch(model))
    model.start_epoch(1, epochs_warmup=1, alpha_start=0.1)
    assert not torch.equal(model(PICTURES), expected) and len(calls) == 1


def test_start_epoch_freezes_and_opens_the_branch():
    model, _ = hybrid()
    for epoch in (0, 1):
        model.start_epoch(epoch, epochs_warmup=2, alpha_start=0.3)
        assert model.alpha.item() < 1e-8 and not any(p.requires_grad for p in branch(model))
        assert model.classifier.weight.requires_grad and model.backbone.conv1.weight.requires_grad
    model.start_epoch(2, epochs_warmup=2, alpha_start=0.3)
    assert model.alpha.item() == pytest.approx(0.3, abs=1e-6) and all(p.requires_grad for p in branch(model))
    model.alpha_raw.data.fill_(1.0)  # as if learned
    model.start_epoch(3, epochs_warmup=2, alpha_start=0.3)
    assert model.alpha_raw.item() == 1.0 and all(p.requires_grad for p in branch(model))
    without_warmup, _ = hybrid()
    without_warmup.start_epoch(0, epochs_warmup=0, alpha_start=0.5)
    assert without_warmup.alpha.item() == 0.5 and without_warmup.alpha_raw.requires_grad


@pytest.mark.parametrize("bounded", [True, False])
def test_branch_on_adds_alpha_times_the_circuit(bounded):
    model, calls = hybrid(bounded)
    pre_q, post_q = model.eval().branch.pre_q, model.branch.post_q
    pre_q.weight.data.mul_(20)  # beyond pi where nothing bounds the angles
    model.start_epoch(1, epochs_warmup=1, alpha_start=0.3)
    logits, feats = model(PICTURES), model.backbone(PICTURES)
    angles = feats @ pre_q.weight.T + pre_q.bias
    angles = math.pi * torch.tanh(angles) if bounded else angles
    torch.testing.assert_close(calls[0], angles, rtol=0, atol=1e-4)
    assert (calls[0].abs().max() <= math.pi + 1e-6) == bounded
    values = torch_layer(4, model.branch.circuit.weights.detach())(calls[0]).float()
    expected = model.classifier(feats) + 0.3 * (values @ post_q.weight.T + post_q.bias)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in (*branch(model), *model.backbone.parameters()))


@pytest.mark.parametrize(
    "more",
    [("--schedule", "per_phase"), slow(("--epochs-warmup", "0")), slow(("--n-qubits", "3", "--n-layers", "1"))],
)
def test_variants_of_the_head(more, calm, tmp_path):
    result, folder = run("head", tmp_path, *more)
    rates = [row["lr"] for row in stored(folder)[2]]
    assert (rates[0] < 1e-6) == ("per_phase" in more)  # the first cycle has ended
    assert result["params_quantum"] == (9 if "--n-qubits" in more else 24)
    assert result["variant"] == folder.parent.name and (folder / "result.json").exists()
    same_recipe = result["recipe"] == calm["baseline"][0]["recipe"] == calm["head"][0]["recipe"]
    assert same_recipe == ("per_phase" not in more)  # phase B has an optimizer and a cycle of its own


def test_head_on_pennylane_learns_what_the_compiled_one_does(tmp_path):
    """At a small rate: at the default one Adam makes rounding grow."""
    more = "--epochs 1 --epochs-warmup 0 --max-lr 1e-5 --alpha-start 0.5 --n-qubits 3".split()
    fast, pennylane = (run("head", tmp_path / d, *more, "--quantum-device", d) for d in ("fast", "default.qubit"))
    scores = [key for key in fast[0] if key.startswith(("val_", "test_")) or key == "alpha"]
    assert [result["quantum_device"] for result, _ in (fast, pennylane)] == ["fast", "default.qubit"]
    one, other = ({key: result[key] for key in scores} for result, _ in (fast, pennylane))
    assert one == pytest.approx(other, abs=3e-5)  # a gradient of the wrong sign: 1e-4 in the loss
    (_, _, rows, logits, _), (_, _, expected_rows, expected, _) = (stored(folder) for _, folder in (fast, pennylane))
    assert rows[0]["train_loss"] == pytest.approx(expected_rows[0]["train_loss"], abs=3e-5)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=3e-4)  # likewise: 2e-3


INPUT_SCALING = nn.Parameter(torch.ones(4))


def scaled_circuit(angles, weights, n_qubits):
    """The head's circuit with a trainable scaling at the top of the file."""
    return head_circuit(angles * INPUT_SCALING, weights, n_qubits)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["fast", "default.qubit"])
def test_a_parameter_at_the_top_of_the_script_is_trained_stored_and_continued(device, tmp_path, monkeypatch):
    def start(place, *more):
        INPUT_SCALING.data.fill_(1.0)  # as in a new process
        return run("head", tmp_path / place, "--epochs-warmup", "0", "--quantum-device", device, *more)

    monkeypatch.setattr("cifar100_hybrid_Qhead.head_circuit", scaled_circuit)
    result, folder = start("whole")
    whole, moments, *_ = stored(folder)
    scaling = whole["branch.circuit.outside_0"]
    assert (scaling - 1).abs().min() > 1e-5 and torch.equal(scaling, INPUT_SCALING.detach())
    assert (4,) in [tuple(moment.shape) for moment in moments]
    assert result["params_quantum"] == 24 + 4
    with monkeypatch.context() as dying, pytest.raises(Killed):
        dying.setattr(DLfunctions, "write_checkpoint", dying_after(3))
        start("stopped", "--checkpoint-minutes", "0")
    assert_same(stored(folder), stored(start("stopped")[1]))
