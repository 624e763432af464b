"""`export_head.py`: the exported head answers like the run, read back by torch alone and by onnxruntime."""

import subprocess
import sys

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
from tests.helpers import ROOT
from tests.helpers.networks import network
from tests.helpers.scripts import NETWORK, ONE_EPOCH, run


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A head whose branch is on in the tested weights, and what its export says."""
    _, folder = run("head", tmp_path_factory.mktemp("head"), *ONE_EPOCH["head"])
    command = [sys.executable, str(ROOT / "export_head.py"), str(folder)]
    return folder, subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def test_inputs(synthetic, exported):
    """What the run's network saw of its test images, and its logits."""
    stored = np.load(exported[0] / "predictions.npz")
    images = synthetic.test_images[torch.from_numpy(stored["index"])]
    return normalise(crop_resize(images, *evaluation_matrices(32, images.device))), torch.from_numpy(stored["logits"])


def test_state_dict_is_read_by_torch_alone(exported, test_inputs):
    folder, said = exported
    assert "linear map of 81 features: logits of 40 test images within" in said
    net = network(NETWORK)
    classifier = split_head(net)
    model = HybridNet(net, classifier, Branch(1024, 100, Fourier(4), 4, bounded=True))
    model.load_state_dict(read_checkpoint(folder / "head_fourier.pt"))
    model.branch_on = True
    x, logits = test_inputs
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), logits, rtol=0, atol=1e-5)


def test_onnx_is_read_by_onnxruntime(exported, test_inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    session = onnxruntime.InferenceSession(exported[0] / "head_fourier.onnx", providers=["CPUExecutionProvider"])
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


def test_a_circuit_on_default_qubit_is_exported_alike():
    circuit, shape = make_circuit(2, 2)
    weights, branches = torch.rand(shape), []
    for device in ("fast", "default.qubit"):
        net = nn.Module()
        net.branch = Branch(8, 5, QuantumLayer(make_runner(circuit, device, 2, shape, "backprop"), weights), 2, True)
        branches.append(export_head.without_circuit(net).branch.circuit.linear.weight)
    torch.testing.assert_close(*branches, rtol=0, atol=1e-6)
