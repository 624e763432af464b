"""What runs a circuit: compiled or a PennyLane device, and what is refused."""

import pennylane as qml
import pytest
import torch

from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import texture_circuit
from qcifar.compiler import CompiledCircuit
from qcifar.errors import InputError
from qcifar.quantum.layer import QuantumLayer
from qcifar.quantum.runner import make_qnode, make_runner, runs_on
from tests.helpers.circuits import branches_on_a_value


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


def test_what_cannot_be_compiled_is_named_and_runs_in_pennylane(capsys):
    runner = make_runner(branches_on_a_value, "fast", 2, (1,))
    said = capsys.readouterr().out
    assert isinstance(runner, qml.QNode) and "branches_on_a_value: a number or a condition that is read" in said
    assert runs_on(runner) == runs_on(runner, runner) == "default.qubit"
    make_runner(branches_on_a_value, "fast", 2, (1, 2, 3), "backprop")
    said = capsys.readouterr().out
    assert said.endswith("cannot be compiled; it runs on default.qubit by backprop, about 20 times slower\n")


def test_one_bare_measurement():
    def circuit(x):
        qml.RY(x[..., 0], wires=0)
        return qml.expval(qml.PauliZ(0))

    x = torch.randn(4, 1)
    assert torch.allclose(make_runner(circuit, "fast", 1)(x), x.cos(), atol=1e-6)


def test_a_circuit_that_rounds_to_single_precision_itself():
    def circuit(x, w):
        qml.AngleEmbedding(torch.sin(3 * x.float()), range(2))
        qml.StronglyEntanglingLayers(w, range(2))
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    runner = make_runner(circuit, "fast", 2, (1, 2, 3))
    assert isinstance(runner, CompiledCircuit) and runner.rounded
    assert not make_runner(make_circuit(2, 1)[0], "fast", 2, (1, 2, 3)).rounded


def test_weights_that_do_not_learn():
    """A detached weight has no gradient when compiled either."""

    def circuit(x, w):
        qml.AngleEmbedding(x, range(2))
        qml.StronglyEntanglingLayers(w.detach(), range(2))
        qml.RY(w[0, 0, 0], wires=0)
        return [qml.expval(qml.PauliZ(i)) for i in range(2)]

    assert isinstance(make_runner(circuit, "fast", 2, (2, 2, 3)), CompiledCircuit)
