"""The circuits, the layer around them and the hybrid network, against PennyLane and torch themselves."""

import copy
import functools
import math
import pickle

import numpy as np
import pennylane as qml
import pytest
import torch
from torch import nn

from cifar100_hybrid_Qhead import HybridNet, head_circuit, make_circuit
from cifar100_quantum_channels import edge_circuit, make_circuits, texture_circuit
from cifar100_quantum_channels import published_edge_circuit as published_edge
from cifar100_quantum_channels import published_texture_circuit as published_texture
from qcifar.errors import InputError
from qcifar.experiment.recipe import make_optimizer, make_schedule
from qcifar.quantum.checks import check_layer, circuit_fingerprint
from qcifar.quantum.layer import QuantumLayer, circuit_name
from qcifar.quantum.runner import make_qnode, make_runner
from qcifar.streams import torch_stream
from tests.helpers.networks import network

DEFAULT_PAIR = [edge_circuit, texture_circuit]
SIZES = [(n, depth) for n in (3, 4, 6) for depth in (1, 2)]
STEPS_A, STEPS_B, MAX_LR = 5, 7, 0.01
PICTURES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def standardised(n_images, n_qubits):
    """Angles as the images give them: mean 0 and standard deviation pi/3 in each row."""
    cells = torch.randn(n_images, n_qubits, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cells = cells - cells.mean(1, keepdim=True)
    return cells / cells.std(1, correction=0, keepdim=True) * math.pi / 3


def tape_of(circuit, *arguments):
    return qml.tape.make_qscript(circuit)(*arguments)


def execute(tape, n_qubits, diff_method=None):
    """Expectation values of a tape on default.qubit, qubits last."""
    device = qml.device("default.qubit", wires=n_qubits)
    values = qml.execute([tape], device, diff_method=diff_method, interface="torch")[0]
    return torch.stack([torch.as_tensor(value) for value in values], dim=-1)


def effect_of_each_gate(circuit, n_qubits, depth):
    """[(name, largest change of any output when the gate is removed)], in the order of the tape."""
    tape = tape_of(circuit, standardised(16, n_qubits), n_qubits, depth)
    whole, effects = execute(tape, n_qubits), []
    for k, gate in enumerate(tape.operations):
        rest = qml.tape.QuantumScript(tape.operations[:k] + tape.operations[k + 1 :], tape.measurements)
        effects.append((gate.name, (execute(rest, n_qubits) - whole).abs().max().item()))
    return effects


def mixed_derivative(circuit, n_qubits, depth, output):
    """Largest |d2 f / dv_i dv_j|, i != j, of one output at two inputs."""

    def f(v):
        return execute(tape_of(circuit, v, n_qubits, depth), n_qubits, "backprop")[..., output]

    hessians = [torch.autograd.functional.hessian(f, row) for row in standardised(2, n_qubits)]
    return max((h - torch.diag(h.diag())).abs().max().item() for h in hessians)


@pytest.mark.parametrize("circuit", DEFAULT_PAIR)
@pytest.mark.parametrize(("n_qubits", "depth"), SIZES)
def test_default_circuits_have_no_inert_gate(circuit, n_qubits, depth):
    effects = effect_of_each_gate(circuit, n_qubits, depth)
    assert len(effects) > 3 * n_qubits * depth
    assert [effect for effect in effects if effect[1] <= 1e-3] == []


@pytest.mark.parametrize("circuit", DEFAULT_PAIR)
@pytest.mark.parametrize(("n_qubits", "depth"), SIZES)
def test_every_default_output_mixes_cells(circuit, n_qubits, depth):
    assert min(mixed_derivative(circuit, n_qubits, depth, output) for output in range(n_qubits)) > 1e-3


@pytest.mark.parametrize("n_qubits", [2, 4, 6])
def test_published_texture_is_a_sine_of_its_own_cell(n_qubits):
    angles = standardised(20, n_qubits)
    values = execute(tape_of(published_texture, angles, n_qubits, 1), n_qubits)
    torch.testing.assert_close(values, -torch.sin(0.7 * angles), rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_published_edge_last_rz_gates_are_inert(depth):
    tape = tape_of(published_edge, standardised(16, 4), 4, depth)
    layer = len(tape.operations) // depth
    without = [g for k, g in enumerate(tape.operations) if g.name != "RZ" or k < len(tape.operations) - layer]
    assert len(tape.operations) - len(without) == 4
    shorter = qml.tape.QuantumScript(without, tape.measurements)
    torch.testing.assert_close(execute(shorter, 4), execute(tape, 4), rtol=0, atol=1e-12)
    inert = [name for name, effect in effect_of_each_gate(published_edge, 4, depth) if effect < 1e-12]
    assert inert == ["RZ"] * 4  # and no other gate is, so the audit above can tell


def random_head(n_qubits, n_layers=2, batch=3):
    """Inputs and weights of the head circuit as float32 leaves."""
    rng = torch.Generator().manual_seed(1)
    inputs = 2 * torch.randn(batch, n_qubits, generator=rng)
    weights = 2 * math.pi * torch.rand(qml.StronglyEntanglingLayers.shape(n_layers, n_qubits), generator=rng)
    return inputs.requires_grad_(), weights


def test_last_omega_of_the_head_has_no_gradient():
    inputs, weights = random_head(4)
    layer = QuantumLayer(make_qnode(make_circuit(4, 2)[0], "default.qubit", 4, "backprop"), weights.double())
    (layer(inputs) * torch.tensor([1.0, -0.7, 0.4, 1.3])).sum().backward()
    gradient = layer.weights.grad.abs()  # (layers, qubits, phi theta omega)
    assert gradient[-1, :, 2].max() < 1e-6
    assert gradient[-1, :, :2].min() > 1e-4 and gradient[0].min() > 1e-4


def random_head_circuit(angles, n_qubits, depth):
    return make_circuit(n_qubits, 2)[0](angles, random_head(n_qubits, depth)[1].double())


@pytest.mark.parametrize("circuit", [*DEFAULT_PAIR, published_edge, published_texture, random_head_circuit])
@pytest.mark.parametrize("depth", [1, 2])
def test_circuits_broadcast(circuit, depth):
    angles = standardised(5, 4)
    together = execute(tape_of(circuit, angles, 4, depth), 4)
    one_by_one = torch.stack([execute(tape_of(circuit, row, 4, depth), 4) for row in angles])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-12)


def variant(angles, gate=qml.RY, factor=0.5, wire=0, depth=1, observable=qml.PauliZ):
    for _ in range(depth):
        gate(factor * angles[..., 0], wires=wire)
        qml.CNOT(wires=[0, 1])
    return [qml.expval(observable(i)) for i in range(3)]


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


def test_fingerprints_of_the_selectable_circuits_differ():
    choices = [("default", 4, 1), ("default", 4, 2), ("default", 6, 1), ("published", 4, 1), ("published", 4, 2)]
    circuits = [(circuit, (1, choice[1])) for choice in 2 * choices for circuit in make_circuits(*choice)]
    prints = [circuit_fingerprint(*circuit) for circuit in circuits]
    assert prints[:10] == prints[10:] and len(set(prints)) == 10


def broken_circuit(inputs, weights=None):
    raise ValueError("no such wire")


def test_circuit_that_raises_is_named():
    with pytest.raises(InputError, match=r"broken_circuit.*no such wire"):
        circuit_fingerprint(broken_circuit, (1, 3))
    with pytest.raises(InputError, match=r"broken_circuit.*no such wire"):
        layer = QuantumLayer(make_qnode(broken_circuit, "default.qubit", 2, "backprop"), torch.zeros(1, 2, 3))
        layer(torch.zeros(2, 2))


@pytest.mark.parametrize("device", ["fast", "default.qubit"])
def test_wire_that_is_not_there_is_one_line(device):
    def one_wire_too_far(inputs, weights):
        qml.AngleEmbedding(inputs, wires=range(2))
        qml.CNOT([0, 2])
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    with pytest.raises(InputError, match=r"^the circuit one_wire_too_far .*WireError: .*$") as caught:
        QuantumLayer(make_runner(one_wire_too_far, device, 2, (1, 2, 3), "backprop"), torch.zeros(1, 2, 3))(
            torch.zeros(2, 2)
        )
    assert "\n" not in str(caught.value)


def head_layer(n_qubits, weights, device="default.qubit", diff_method="backprop"):
    runner = make_runner(make_circuit(n_qubits, 2)[0], device, n_qubits, tuple(weights.shape), diff_method)
    return QuantumLayer(runner, weights.clone())


def torch_layer(n_qubits, weights):
    """PennyLane's own layer around the same circuit, with the same weights."""

    def circuit(inputs, weights):  # TorchLayer goes by these names
        return head_circuit(inputs, weights, n_qubits)

    qnode = qml.QNode(circuit, qml.device("default.qubit", wires=n_qubits), diff_method="backprop")
    layer = qml.qnn.TorchLayer(qnode, {"weights": tuple(weights.shape)})
    layer.load_state_dict({"weights": weights})
    return layer


def values_and_gradients(layer, inputs):
    inputs = inputs.detach().clone().requires_grad_()
    values = layer(inputs).reshape(inputs.shape)  # for one qubit TorchLayer drops the last axis
    scale = torch.linspace(-1, 2, values.numel()).view_as(values)
    gradients = torch.autograd.grad((values * scale).sum(), [inputs, layer.weights])
    return [part.detach().float() for part in (values, *gradients)]


@pytest.mark.parametrize("method", ["backprop", "adjoint", "parameter-shift", "lightning.qubit", "fast"])
@pytest.mark.parametrize(("n_qubits", "batch"), [(4, 6), (4, 1), (3, 2), (1, 3), (1, 1)])
def test_layer_equals_torch_layer(n_qubits, batch, method):
    inputs, weights = random_head(n_qubits, batch=batch)
    how = {"lightning.qubit": (method, "adjoint"), "fast": (method, "backprop")}.get(method, ("default.qubit", method))
    layer = head_layer(n_qubits, weights, *how)
    assert layer(inputs).shape == (batch, n_qubits)
    expected = values_and_gradients(torch_layer(n_qubits, weights), inputs)
    for one, other in zip(values_and_gradients(layer, inputs), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_state_dict_is_torch_layers():
    _, weights = random_head(4)
    ours, theirs = head_layer(4, weights), torch_layer(4, torch.zeros_like(weights))
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weights"]
    back = head_layer(4, torch.zeros_like(weights))
    for target, source in ((theirs, ours), (back, theirs)):
        target.load_state_dict(source.state_dict())
        assert torch.equal(target.weights, weights)


def test_layer_computes_in_float32_under_autocast():
    inputs, weights = random_head(4, batch=5)
    layer, reduced = head_layer(4, weights), inputs.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        values = layer(reduced)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, torch_layer(4, weights)(reduced.float()).float(), rtol=0, atol=1e-5)


HOW = [("fast", "backprop"), ("default.qubit", "backprop"), ("default.qubit", "parameter-shift")]


@pytest.mark.parametrize("how", [*HOW, ("lightning.qubit", "adjoint")])
def test_head_can_be_pickled(how):
    inputs, weights = random_head(3)
    model = HybridNet(network("resnet18", seed=5), head_layer(3, weights, *how), 3, "tanh").eval()
    model.start_epoch(0, epochs_warmup=0, alpha_start=0.3)
    again = pickle.loads(pickle.dumps(model))
    assert circuit_name(again.circuit.runner) == circuit_name(model.circuit.runner) == "head_circuit"
    assert torch.equal(again(PICTURES), model(PICTURES))
    pairs = zip(values_and_gradients(again.circuit, inputs), values_and_gradients(model.circuit, inputs), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


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


@pytest.mark.parametrize(("device", "diff_method"), [("no.such.device", "best"), ("lightning.qubit", "backprop")])
def test_impossible_devices_are_refused(device, diff_method):
    with pytest.raises(InputError, match=f"{device}.*{diff_method}"):
        make_qnode(make_circuit(4, 2)[0], device, 4, diff_method)


def test_a_refusal_names_the_method_only_where_there_is_one():
    with pytest.raises(InputError, match=r"QUANTUM_DEVICE no\.such with 4 qubits: .*; default\.qubit works") as caught:
        make_runner(texture_circuit, "no.such", 4)
    said = str(caught.value)
    assert "DIFF_METHOD" not in said and "None" not in said and "--diff-method" not in said
    with pytest.raises(InputError, match=r"with DIFF_METHOD adjoint.*--diff-method"):
        make_runner(make_circuit(4, 2)[0], "no.such", 4, (2, 4, 3), "adjoint")


@pytest.mark.parametrize("method", ["adjoint", "parameter-shift", "best"])
def test_fast_has_no_other_method_than_backprop(method):
    with pytest.raises(InputError, match=f"expected backprop with QUANTUM_DEVICE fast, got {method}; .*default.qubit"):
        make_runner(make_circuit(4, 2)[0], "fast", 4, (2, 4, 3), method)


@pytest.mark.parametrize("how", HOW)
def test_empty_batch_has_no_values_and_zero_gradients(how):
    _, weights = random_head(3)
    layer = head_layer(3, weights, *how)
    for shape in ((0, 3), (2, 0, 3)):
        inputs = torch.zeros(shape, dtype=torch.bfloat16, requires_grad=True)
        values = layer(inputs)
        assert values.shape == shape and values.dtype == torch.float32
        layer.zero_grad()
        values.sum().backward()
        assert inputs.grad.shape == shape and torch.equal(layer.weights.grad, torch.zeros_like(weights))


def test_the_batch_taken_for_the_qubits_is_explained():
    def circuit(inputs):
        for i in range(4):
            qml.RX(inputs[i], wires=i)
        return [qml.expval(qml.PauliZ(i)) for i in range(4)]

    with pytest.raises(InputError, match=r"cannot be built: IndexError.*qubit i takes angles\[\.\.\., i\]"):
        circuit_fingerprint(circuit, (2, 4))


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


def hybrid(angle_scaling="tanh"):
    """resnet18 with four qubits, and a list that receives the angles of every call of the circuit."""
    resnet, calls = network("resnet18", seed=5), []
    with torch_stream(5, "branch"):
        model = HybridNet(resnet, head_layer(4, random_head(4)[1]), 4, angle_scaling)
    model.circuit.register_forward_hook(lambda _, inputs, output: calls.append(inputs[0]))
    return model, calls


def branch(model):
    return [model.alpha_raw, model.circuit.weights, *model.pre_q.parameters(), *model.post_q.parameters()]


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


@pytest.mark.parametrize("angle_scaling", ["tanh", "none"])
def test_branch_on_adds_alpha_times_the_circuit(angle_scaling):
    model, calls = hybrid(angle_scaling)
    model.eval().pre_q.weight.data.mul_(20)  # beyond pi where nothing bounds the angles
    model.start_epoch(1, epochs_warmup=1, alpha_start=0.3)
    logits, feats = model(PICTURES), model.backbone(PICTURES)
    angles = feats @ model.pre_q.weight.T + model.pre_q.bias
    angles = math.pi * torch.tanh(angles) if angle_scaling == "tanh" else angles
    torch.testing.assert_close(calls[0], angles, rtol=0, atol=1e-4)
    assert (calls[0].abs().max() <= math.pi + 1e-6) == (angle_scaling == "tanh")
    values = torch_layer(4, model.circuit.weights.detach())(calls[0]).float()
    expected = model.classifier(feats) + 0.3 * (values @ model.post_q.weight.T + model.post_q.bias)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in (*branch(model), *model.backbone.parameters()))


def take_steps(weight, optimizer, schedule, n_steps):
    """Train; [(learning rate, beta1, weight after the step)]."""
    seen = []
    for _ in range(n_steps):
        group = optimizer.param_groups[0]
        rate, beta = group["lr"], group["betas"][0]
        optimizer.zero_grad()
        ((weight - torch.tensor([1.0, -2.0, 0.5])) ** 2).sum().backward()
        optimizer.step()
        schedule.step()
        seen.append((rate, beta, weight.tolist()))
    return seen


def per_phase(weight, steps_a, steps_b):
    optimizer = make_optimizer(nn.ParameterList([weight]), MAX_LR, 1e-4)
    return optimizer, make_schedule(optimizer, MAX_LR, steps_a, steps_b)


@pytest.mark.parametrize(("steps_a", "steps_b"), [(STEPS_A, STEPS_B), (0, STEPS_B), (STEPS_A, 0)])
def test_one_cycle_per_phase_is_two_fresh_runs(steps_a, steps_b):
    weight, expected = nn.Parameter(torch.zeros(3)), []
    for steps in filter(None, (steps_a, steps_b)):
        optimizer = torch.optim.AdamW([weight], lr=MAX_LR, weight_decay=1e-4, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=MAX_LR, total_steps=steps)
        expected += take_steps(weight, optimizer, cycle, steps)
    weight = nn.Parameter(torch.zeros(3))
    optimizer, schedule = per_phase(weight, steps_a, steps_b)
    seen = take_steps(weight, optimizer, schedule, steps_a)
    assert (len(optimizer.state) == 0) == (steps_a == 0 or steps_b > 0)
    assert seen + take_steps(weight, optimizer, schedule, steps_b) == expected


@pytest.mark.parametrize("stop", [0, 2, STEPS_A - 1, STEPS_A, STEPS_A + 3, STEPS_A + STEPS_B - 1])
def test_one_cycle_per_phase_goes_on_from_its_state(stop):
    weight = nn.Parameter(torch.zeros(3))
    calm = take_steps(weight, *per_phase(weight, STEPS_A, STEPS_B), STEPS_A + STEPS_B)
    weight = nn.Parameter(torch.zeros(3))
    first = per_phase(weight, STEPS_A, STEPS_B)
    take_steps(weight, *first, stop)
    states = copy.deepcopy([part.state_dict() for part in first])
    again = nn.Parameter(weight.detach().clone())
    second = per_phase(again, STEPS_A, STEPS_B)
    for part, state in zip(second, states, strict=True):
        part.load_state_dict(state)
    assert take_steps(again, *second, STEPS_A + STEPS_B - stop) == calm[stop:]


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
