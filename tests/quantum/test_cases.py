"""Circuits as people write them: right and compiled, right on another device, or refused in one line before the run."""

import functools

import pennylane as qml
import pytest
import torch

from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import make_circuits
from qcifar.compiler import CompiledCircuit
from qcifar.errors import InputError
from qcifar.quantum.checks import check_layer, circuit_fingerprint
from qcifar.quantum.layer import QuantumLayer, stack_values
from qcifar.quantum.runner import make_runner
from tests.helpers import slow
from tests.helpers.circuits import standardised
from tests.helpers.scripts import SCRIPTS, prepare

SHAPE = (2, 4, 3)
ON = [("fast", "backprop"), ("default.qubit", "backprop"), ("lightning.qubit", "adjoint")]
EXAMPLE = "expected a list of expectation values, such as [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)], got a "


def layers_and_z(weights):
    if weights is not None:
        qml.StronglyEntanglingLayers(weights, wires=range(4))
    return [qml.expval(qml.PauliZ(i)) for i in range(4)]


def layer_of(circuit, device="fast", method="backprop", images=16):
    """As the head makes it: weights are the same each time."""
    weights = 6.28 * torch.rand(SHAPE, generator=torch.Generator().manual_seed(1))
    return QuantumLayer(make_runner(circuit, device, 4, SHAPE, method, images), weights)


def notes_of(layer):
    notes = []
    check_layer(layer, 4, torch.device("cpu"), notes.append)
    return notes


def refusal(circuit, *how, **more):
    """What a run says instead of beginning: one line that names the circuit."""
    with pytest.raises(InputError) as caught:
        notes_of(layer_of(circuit, *how, **more))
    said = str(caught.value)
    assert said.startswith(f"the circuit {circuit.__name__}") and "\n" not in said
    return said


def in_double(circuit, n_qubits, *arguments):
    """Values (B, n) on default.qubit, differentiable."""
    node = qml.QNode(circuit, qml.device("default.qubit", wires=n_qubits), interface="torch", diff_method="backprop")
    return stack_values(node(*arguments), len(arguments[0]))


def values_and_gradients(run, inputs, weights):
    arguments = [value.detach().clone().requires_grad_() for value in (inputs, weights)]
    values = run(*arguments)
    ramp = torch.arange(1.0, 5, dtype=values.dtype)
    return [part.detach().double() for part in (values, *torch.autograd.grad((values * ramp).sum(), arguments))]


def assert_right(layer, circuit):
    """Values and both gradients of a layer, against `circuit` in double precision."""
    inputs, weights = torch.randn(6, 4, generator=torch.Generator().manual_seed(2)), layer.weights
    found = values_and_gradients(lambda x, w: torch.func.functional_call(layer, {"weights": w}, x), inputs, weights)
    expected = values_and_gradients(functools.partial(in_double, circuit, 4), inputs.double(), weights.double())
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("n_qubits", "depth"), [(14, 1), (4, 18), slow(12, 4), slow(9, 5)])
def test_wide_and_deep_circuits_of_the_channels_are_compiled(n_qubits, depth, capsys):
    """The texture circuit's gradients in single precision, which descriptors do not use, are off by 1e-4 and more."""
    angles = standardised(5, n_qubits)
    for circuit in make_circuits("default", n_qubits, depth):
        runner = make_runner(circuit, "fast", n_qubits)
        assert isinstance(runner, CompiledCircuit)
        with torch.no_grad():
            torch.testing.assert_close(runner(angles).double(), in_double(circuit, n_qubits, angles), rtol=0, atol=1e-5)
    assert capsys.readouterr().out == ""


def projection(seed):
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))


def projected(angles, weights, matrix):
    qml.AngleEmbedding(angles @ matrix, wires=range(4))
    return layers_and_z(weights)


def test_fingerprint_of_a_circuit_with_a_constant_matrix_in_single_precision():
    with pytest.raises(RuntimeError):  # which is why it is told apart by single precision
        projected(torch.ones(2, 4, dtype=torch.float64), torch.ones(SHAPE), projection(5))
    prints = [
        circuit_fingerprint(functools.partial(projected, matrix=projection(seed)), (2, 4), SHAPE) for seed in (5, 5, 6)
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("device", ["fast", "default.qubit"])
def test_a_constant_matrix_in_single_precision(device, capsys):
    layer = layer_of(functools.partial(projected, matrix=projection(5)), device)
    assert isinstance(layer.runner, CompiledCircuit) == (device == "fast") and notes_of(layer) == []
    assert_right(layer, functools.partial(projected, matrix=projection(5).double()))
    assert capsys.readouterr().out == ""


def amplitudes(angles, weights):
    qml.AmplitudeEmbedding(angles, wires=range(4), normalize=True, pad_with=0.0)
    return layers_and_z(weights)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["lightning.qubit", "default.qubit"])
def test_gradients_that_are_no_numbers_are_refused_before_the_run(device):
    layer, x = layer_of(amplitudes, device, "adjoint"), torch.randn(5, 4, requires_grad=True)
    values = layer(x)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert values.isfinite().all() and gradient.isnan().any()  # so that phase A would go well, and phase B would not
    said = refusal(amplitudes, device, "adjoint")
    assert "the gradient by its angles is not finite for 8 of 8 of them" in said and "use another embedding" in said


@pytest.mark.parametrize("device", ["fast", "default.qubit"])
def test_amplitude_embedding_is_right_by_backprop(device):
    layer = layer_of(amplitudes, device)
    assert notes_of(layer) == []
    assert_right(layer, amplitudes)


def batch_as_qubits(angles, weights=None):
    for i in range(len(angles)):
        qml.RX(angles[i], wires=i)
    return layers_and_z(weights)


def batch_on_the_diagonal(angles, weights=None):
    for i in range(len(angles)):
        qml.RX(angles[i, i % 4], wires=i % 4)
    return layers_and_z(weights)


@pytest.mark.parametrize(("device", "method"), ON)
@pytest.mark.parametrize("images", [4, 16])  # as many as qubits, too, where no shape and no wire is wrong
def test_loops_over_the_batch_are_refused(images, device, method):
    hint = "angles are (B, n_qubits), so qubit i takes angles[..., i]"
    assert hint in refusal(batch_as_qubits, device, method, images=images)
    said = refusal(batch_on_the_diagonal, device, method, images=images)
    assert "an image's values change with the other images of its batch" in said and hint in said
    for circuit in (batch_as_qubits, batch_on_the_diagonal):  # as the channels make it
        with pytest.raises(InputError, match=rf"^the circuit {circuit.__name__}[^\n]*qubit i takes angles[^\n]*$"):
            make_runner(circuit, device, 4, images=images)


def density(angles, weights):
    layers_and_z(weights)
    return qml.density_matrix(range(4))


def densities(angles, weights):
    layers_and_z(weights)
    return [qml.density_matrix(i) for i in range(4)]


def named(angles, weights):
    return {f"z{i}": value for i, value in enumerate(layers_and_z(weights))}


def in_pairs(angles, weights):
    values = layers_and_z(weights)
    return [values[:2], values[2:]]


def in_a_list(angles, weights):
    return [layers_and_z(weights)]


OTHER_FORMS = {
    density: "DensityMatrixMP", densities: "DensityMatrixMP", named: "dict", in_pairs: "list", in_a_list: "list",
}  # fmt: skip


@pytest.mark.parametrize(("device", "method"), ON)
@pytest.mark.parametrize("circuit", OTHER_FORMS)
def test_what_is_no_list_of_expectation_values_is_refused_with_an_example(circuit, device, method):
    assert EXAMPLE + OTHER_FORMS[circuit] in refusal(circuit, device, method)


@qml.qnode(qml.device("default.qubit", wires=4), interface="torch")
def pasted(angles, weights):
    qml.AngleEmbedding(angles, wires=range(4))
    return layers_and_z(weights)


@pytest.mark.parametrize(("device", "method"), ON)
def test_a_pasted_qnode_is_told_to_lose_its_line(device, method):
    line = r"^the circuit pasted is a QNode; take the @qml\.qnode line away: QUANTUM_DEVICE \(--quantum-device\) says"
    for circuit in (pasted, functools.partial(pasted)):
        with pytest.raises(InputError, match=line):
            make_runner(circuit, device, 4, SHAPE, method)


def iqp(angles, weights=None):
    qml.IQPEmbedding(angles, wires=range(4), n_repeats=2)
    if weights is None:
        qml.IsingXY(0.7, wires=[0, 1])  # else all values are 0
        qml.BasicEntanglerLayers(torch.full((1, 4), 0.4), wires=range(4))
    return layers_and_z(weights)


@pytest.mark.parametrize("images", [4, 16])
def test_iqp_embedding_is_refused_by_adjoint_where_it_gives_values_of_another_shape(images):
    said = refusal(iqp, "lightning.qubit", "adjoint", images=images)
    assert f"values of shape ({images}, {images}) for {images} images, expected one for each image" in said
    assert "IndexError" in refusal(iqp, "default.qubit", "adjoint", images=images)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [("fast", "backprop"), ("default.qubit", "backprop"), ("lightning.qubit", "parameter-shift")]
)
def test_iqp_embedding_is_right_by_every_other_method(how):
    layer = layer_of(iqp, *how)
    assert notes_of(layer) == []
    assert_right(layer, iqp)


@pytest.mark.parametrize("device", ["fast", "default.qubit", "lightning.qubit"])
def test_iqp_embedding_is_right_where_nothing_learns(device):
    angles = standardised(6, 4)
    expected = in_double(iqp, 4, angles)
    assert expected.std(0).min() > 0.05
    with torch.no_grad():
        values = stack_values(make_runner(iqp, device, 4)(angles), 6)
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-5)


def mixes_above_eight(angles, weights=None):
    qml.AngleEmbedding(angles - angles.mean(0) if len(angles) > 8 else angles, wires=range(4))
    return layers_and_z(weights)


def raises_above_eight(angles, weights=None):
    if len(angles) > 8:
        raise ValueError("at most eight images")
    qml.AngleEmbedding(angles, wires=range(4))
    return layers_and_z(weights)


ABOVE_EIGHT = {
    mixes_above_eight: "an image's values change with the other images of its batch",
    raises_above_eight: "failed: ValueError: at most eight images",
}


@pytest.mark.slow
@pytest.mark.parametrize(("device", "method"), ON)
@pytest.mark.parametrize("circuit", ABOVE_EIGHT)
def test_what_happens_in_large_batches_only_is_found_with_the_size_that_will_be_used(circuit, device, method):
    notes_of(layer_of(circuit, device, method, images=8))
    for images in (16, 128):
        assert ABOVE_EIGHT[circuit] in refusal(circuit, device, method, images=images)


@pytest.mark.parametrize("circuit", ABOVE_EIGHT)
@pytest.mark.parametrize("name", ["head", "channels"])
def test_the_scripts_try_circuits_with_the_batches_that_they_will_use(name, circuit, monkeypatch, tmp_path):
    made = (circuit, make_circuit(4, 2)[1]) if name == "head" else [circuit, circuit]
    monkeypatch.setattr(SCRIPTS[name][0], "make_circuit" if name == "head" else "make_circuits", lambda *size: made)
    with pytest.raises(
        InputError, match=f"^the circuit {circuit.__name__}( on 4 qubits|:) {ABOVE_EIGHT[circuit]}[^\n]*$"
    ):
        prepare(name, tmp_path)  # not while descriptors are computed, which says on which images
    assert not list(tmp_path.rglob("seed*"))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["backprop", "parameter-shift"])
def test_a_head_on_a_device_that_computes_nothing_is_named_before_the_run(method, tmp_path):
    notes = prepare("head", tmp_path, "--quantum-device", "null.qubit", "--diff-method", method).run.notes
    warned = " ".join(note for note in notes if note.startswith("warning: the circuit head_circuit does not learn by"))
    assert "angles" in warned and "weights" in warned
    notes = prepare("head", tmp_path / "other", "--quantum-device", "default.qubit").run.notes
    assert not any("does not learn" in note for note in notes)


def test_channels_on_a_device_that_computes_nothing_are_named_before_the_run(tmp_path):
    notes = prepare("channels", tmp_path, "--quantum-device", "null.qubit").run.notes
    for kind in ("edge", "tex"):
        assert any(note.startswith(f"warning: the {kind} descriptors are the same for all images") for note in notes)
