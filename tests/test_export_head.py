"""`export_head.py`: the exported head answers like the run, read back by torch alone and by onnxruntime."""

import importlib.util

import numpy as np
import pennylane as qml
import pytest
import torch
from torch import nn

import export_head
from cifar100_hybrid_Qhead import Branch, HybridNet, make_circuit
from qcifar.data.augment import evaluation_matrices
from qcifar.data.loader import crop_resize, normalise
from qcifar.errors import InputError
from qcifar.experiment.models import split_head
from qcifar.files import read_checkpoint
from qcifar.quantum.controls import Fourier
from qcifar.quantum.layer import QuantumLayer
from qcifar.quantum.runner import make_runner
from tests.helpers.networks import SMALL_FEATURES, SMALL_RESNET, network
from tests.helpers.scripts import ONE_EPOCH, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a head whose branch is on in the tested weights."""
    return run("head", tmp_path_factory.mktemp("head"), *ONE_EPOCH["head"])[1]


@pytest.fixture(scope="module")
def test_inputs(synthetic, trained):
    """What the run's network saw of its test images, and its logits."""
    stored = np.load(trained / "predictions.npz")
    images = synthetic.test_images[torch.from_numpy(stored["index"])]
    return normalise(crop_resize(images, *evaluation_matrices(32, images.device))), torch.from_numpy(stored["logits"])


def test_state_dict_is_read_by_torch_alone(trained, test_inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # as where onnx is not installed
    export_head.main([str(trained), "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert "linear map of 81 features: logits of 40 test images within" in said
    assert "no ONNX file: pip install" in said and not (tmp_path / "head_fourier.onnx").exists()
    net = network(SMALL_RESNET)
    classifier = split_head(net)
    model = HybridNet(net, classifier, Branch(SMALL_FEATURES, 100, Fourier(4), 4, bounded=True))
    model.load_state_dict(read_checkpoint(tmp_path / "head_fourier.pt"))
    model.branch_on = True
    x, logits = test_inputs
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), logits, rtol=0, atol=1e-5)


@pytest.mark.slow  # torch's exporter takes ten seconds
def test_onnx_is_read_by_onnxruntime(trained, test_inputs, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export_head.main([str(trained)])
    said = capsys.readouterr().out
    assert f"written: {trained / 'head_fourier.onnx'}, read back by onnxruntime: logits within" in said
    assert (trained / "head_fourier.pt").exists()
    session = onnxruntime.InferenceSession(trained / "head_fourier.onnx", providers=["CPUExecutionProvider"])
    x, logits = test_inputs
    for images in (x, x[:1]):  # any number of images
        (found,) = session.run(["logits"], {"images": images.numpy()})
        np.testing.assert_allclose(found, logits[: len(images)], rtol=0, atol=1e-4)


def encoded_twice(angles, weights, n_qubits):
    qml.AngleEmbedding(angles, wires=range(n_qubits))
    qml.StronglyEntanglingLayers(weights[:1], wires=range(n_qubits))
    qml.AngleEmbedding(angles, wires=range(n_qubits))
    return [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]


def test_a_circuit_that_is_no_such_map_is_refused():
    shape = make_circuit(3, 2)[1]
    runner = make_runner(lambda a, w: encoded_twice(a, w, 3), "fast", 3, shape, "backprop")
    net = nn.Module()
    net.branch = Branch(8, 5, QuantumLayer(runner, torch.rand(shape)), 3, True)
    with pytest.raises(InputError, match="takes each input once"):
        export_head.without_circuit(net)


@pytest.mark.parametrize(("name", "more"), [("baseline", ()), ("head", ("--control", "tanh"))])
def test_a_run_without_a_circuit_is_refused_and_nothing_is_written(name, more, calm, tmp_path):
    folder = calm[name][1] if not more else run(name, tmp_path, *more)[1]
    with pytest.raises(InputError, match="no circuit in its head"):
        export_head.main([str(folder)])
    assert not list(folder.glob("head_fourier*"))


def test_a_head_whose_branch_is_off_in_the_tested_weights_is_refused(tmp_path):
    """Any map at all would pass the comparison of logits there."""
    _, folder = run("head", tmp_path, "--epochs-warmup", "2")  # of two epochs
    with pytest.raises(InputError, match="its best epoch lies in phase A"):
        export_head.main([str(folder)])
    assert not list(folder.glob("head_fourier*"))


def test_a_circuit_on_default_qubit_is_exported_alike():
    circuit, shape = make_circuit(2, 2)
    weights, branches = torch.rand(shape), []
    for device in ("fast", "default.qubit"):
        net = nn.Module()
        net.branch = Branch(8, 5, QuantumLayer(make_runner(circuit, device, 2, shape, "backprop"), weights), 2, True)
        branches.append(export_head.without_circuit(net).branch.circuit.linear.weight)
    torch.testing.assert_close(*branches, rtol=0, atol=1e-6)
