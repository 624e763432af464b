"""The quantum channels: facts about the descriptor circuits, and a first convolution that takes two maps more."""

import copy
from types import SimpleNamespace

import numpy as np
import pennylane as qml
import pytest
import torch

import cifar100_quantum_channels
from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import edge_circuit, make_circuits, texture_circuit, widen_first_conv
from cifar100_quantum_channels import published_edge_circuit as published_edge
from cifar100_quantum_channels import published_texture_circuit as published_texture
from qcifar.compiler import CompiledCircuit
from qcifar.experiment.models import count_parameters
from qcifar.quantum.checks import circuit_fingerprint
from tests.helpers import slow
from tests.helpers.circuits import execute, random_head, standardised, tape_of
from tests.helpers.networks import NAME, SEED, assert_equal_states, network
from tests.helpers.scripts import RESNET, copy_of_the_code, edit, flags, run, run_file

DEFAULT_PAIR = [edge_circuit, texture_circuit]
SIZES = [(3, 1), (3, 2), (4, 1), (4, 2), slow(6, 1), slow(6, 2)]  # qubits, depth


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


@pytest.mark.slow
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


def random_head_circuit(angles, n_qubits, depth):
    return make_circuit(n_qubits, 2)[0](angles, random_head(n_qubits, depth)[1].double())


@pytest.mark.parametrize("circuit", [*DEFAULT_PAIR, published_edge, published_texture, random_head_circuit])
@pytest.mark.parametrize("depth", [1, 2])
def test_circuits_broadcast(circuit, depth):
    angles = standardised(5, 4)
    together = execute(tape_of(circuit, angles, 4, depth), 4)
    one_by_one = torch.stack([execute(tape_of(circuit, row, 4, depth), 4) for row in angles])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-12)


def test_fingerprints_of_the_selectable_circuits_differ():
    choices = [("default", 4, 1), ("default", 4, 2), ("default", 6, 1), ("published", 4, 1), ("published", 4, 2)]
    circuits = [(circuit, (1, choice[1])) for choice in 2 * choices for circuit in make_circuits(*choice)]
    prints = [circuit_fingerprint(*circuit) for circuit in circuits]
    assert prints[:10] == prints[10:] and len(set(prints)) == 10


def test_float32_descriptors_are_exact_to_1e_5():
    x = torch.randn(500, 4, dtype=torch.float64)
    for circuit in make_circuits("default", 4, 1) + make_circuits("published", 4, 1):
        fast = CompiledCircuit(circuit, 4)
        assert (fast(x) - copy.deepcopy(fast).double()(x)).abs().max() < 1e-5


def wide_and_plain(init):
    """The network with five input channels and the one it was made of."""
    wide, plain = (network(NAME, "none", SEED) for _ in range(2))
    widen_first_conv(wide, 2, init)
    return wide, plain


@pytest.mark.parametrize("size", [32, slow(64)])
@pytest.mark.parametrize("training", [True, False])
def test_extra_channels_at_zero_leave_the_logits_as_they_are(size, training):
    wide, plain = (model.train(training) for model in wide_and_plain("zero"))
    rng = torch.Generator().manual_seed(size)
    x = torch.randn(8, 3, size, size, generator=rng)
    extra = 100 * torch.randn(8, 2, size, size, generator=rng)
    logits = wide(torch.cat([x, extra], dim=1))
    assert torch.equal(logits, plain(x))
    torch.nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    gradient = wide.conv1.weight.grad[:, 3:].abs().amax((0, 2, 3))
    assert gradient.shape == (2,) and (gradient > 0).all()  # they start at zero and do not stay there


@pytest.mark.parametrize("init", ["zero", "mean"])
@pytest.mark.parametrize("extra", [1, 2])
def test_expansion_changes_nothing_but_conv1(init, extra):
    plain, wide = network(NAME, "none", SEED), network(NAME, "none", SEED)
    before = torch.get_rng_state()
    widen_first_conv(wide, extra, init)
    assert torch.equal(torch.get_rng_state(), before)
    state, old = wide.state_dict(), plain.state_dict()
    assert_equal_states(state, old, but=("conv1.weight",))
    weight, rgb = state["conv1.weight"], old["conv1.weight"]
    assert weight.shape == (64, 3 + extra, 7, 7) and torch.equal(weight[:, :3], rgb)
    expected = rgb.mean(dim=1) if init == "mean" else torch.zeros(64, 7, 7)
    for k in range(3, 3 + extra):
        torch.testing.assert_close(weight[:, k], expected, rtol=0, atol=1e-8)
    for setting in ("stride", "padding", "dilation", "groups", "bias"):
        assert getattr(wide.conv1, setting) == getattr(plain.conv1, setting)
    assert wide.conv1.weight.requires_grad
    assert count_parameters(wide) - count_parameters(plain) == extra * 64 * 49


def test_a_control_of_nobodys_is_not_taken_for_the_circuits():
    """Who adds one to the rule alone must not train on the circuits' maps under its name."""
    parts = SimpleNamespace(train=SimpleNamespace(images=None))
    with pytest.raises(ValueError, match="CONTROL mine: expected its name in with_circuits or in classical"):
        cifar100_quantum_channels.make_maps(SimpleNamespace(control="mine"), parts, None, "train")


def test_published_channels_and_cache_reuse(tmp_path, monkeypatch):
    published = "--circuits published --no-align-maps --map-scaling minmax --extra-channel-init mean --epochs 1".split()
    run("channels", tmp_path, *published)
    files = sorted((tmp_path / "cifar100_quantum_channels" / "descriptors").iterdir())
    assert [f.name.rsplit("_", 1)[0] for f in files] == [
        "test_q_edge", "test_q_tex", "train_q_edge", "train_q_tex", "val_q_edge", "val_q_tex",
    ]  # fmt: skip
    monkeypatch.setattr("qcifar.quantum.descriptors.run_circuit", None)  # a second seed reads the caches
    result = cifar100_quantum_channels.main(flags("channels", tmp_path, *published, "--seed", "7"))
    assert result["seed"] == 7


@pytest.mark.slow  # a process; `test_code.py` and `test_descriptors.py` have its parts
def test_descriptors_of_edited_code_are_computed_anew(tmp_path):
    """The preprocessing is edited, and the run started over: the old caches lie there, and are not read."""
    more = ("--epochs", "1", "--train-limit", "16", "--eval-limit", "16", *RESNET)
    run("channels", tmp_path / "runs", *more)
    caches = tmp_path / "runs" / "cifar100_quantum_channels" / "descriptors"
    before = {path: path.read_bytes() for path in caches.iterdir()}
    edit(copy_of_the_code(tmp_path) / "qcifar/quantum/descriptors.py", "return centred / (", "return 2 * centred / (")
    script = tmp_path / "cifar100_quantum_channels.py"
    done = run_file(script, *flags("channels", tmp_path / "runs", *more, "--no-resume"))
    assert done.returncode == 0, done.stderr
    new = set(caches.iterdir()) - before.keys()
    assert len(before) == len(new) == 6 and all(path.read_bytes() == content for path, content in before.items())
    for path in before:
        (twin,) = (other for other in new if other.name.rsplit("_", 1)[0] == path.name.rsplit("_", 1)[0])
        assert np.allclose(np.load(twin)["inputs"], 2 * np.load(path)["inputs"], atol=1e-6)
