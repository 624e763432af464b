"""Noise models: as text, uniform, and PennyLane's."""

import math

import pennylane as qml
import pytest
import torch

from qcifar.errors import InputError
from qcifar.hardware.engine import NoisyCircuit
from qcifar.hardware.noise import NoiseModel


def circuit(inputs, weights):
    qml.RX(inputs[:, 0], wires=0)
    qml.RY(inputs[:, 1], wires=1)
    qml.CNOT(wires=[0, 1])
    qml.Rot(*weights, wires=0)
    qml.Hadamard(wires=1)
    return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1)), qml.expval(qml.Z(0) @ qml.Z(1))]


GIVEN = torch.tensor([[0.3, -1.2], [1.1, 0.4]], dtype=torch.float64), torch.tensor([0.4, 1.3, -0.2]).double()


def by_add_noise(function, model, level="user"):
    node = qml.QNode(function, qml.device("default.mixed", wires=2), interface="torch")
    return torch.stack(qml.noise.add_noise(node, model, level=level)(*GIVEN), dim=-1)


def differs(function, model, theirs):
    return (NoisyCircuit(function, 2, NoiseModel.from_pennylane(model))(*GIVEN) - theirs).abs().max().item()


def damped(op, **strengths):
    for wire in op.wires:
        qml.AmplitudeDamping(strengths["gamma"], wires=wire)
    qml.RZ(0.05, wires=op.wires[0])  # an error that is a gate


def around(op, **strengths):
    qml.BitFlip(0.1, wires=op.wires[0])
    qml.apply(op)
    qml.PhaseFlip(0.2, wires=op.wires[0])


def test_a_model_of_pennylane_does_what_add_noise_does():
    model = qml.NoiseModel(
        {
            qml.noise.op_in(["RX", "RY", "Rot", "Hadamard"]) & qml.noise.wires_in([0, 1]): damped,
            qml.noise.op_eq(qml.CNOT): around,
            qml.noise.op_eq("Hadamard"): qml.noise.partial_wires(qml.DepolarizingChannel, 0.1),
        },
        gamma=0.07,
    )
    assert differs(circuit, model, by_add_noise(circuit, model)) < 1e-10


def test_readout_channels_of_a_model_of_pennylane():
    model = qml.NoiseModel(
        {qml.noise.op_eq(qml.CNOT): qml.noise.partial_wires(qml.PhaseDamping, 0.1, wires=0)},
        meas_map={qml.noise.meas_eq(qml.expval) & qml.noise.wires_in([0]): qml.noise.partial_wires(qml.BitFlip, 0.2)},
    )

    def alone(inputs, weights):
        qml.RX(inputs[:, 0], wires=0)
        qml.Rot(*weights, wires=1)
        qml.CNOT(wires=[1, 0])
        return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1))]

    assert differs(alone, model, by_add_noise(alone, model)) < 1e-10
    with pytest.raises(InputError, match="measurements of wire 0 have different readout channels"):
        NoisyCircuit(circuit, 2, NoiseModel.from_pennylane(model))(*GIVEN)


def test_gates_that_a_model_does_not_name_are_taken_apart_until_it_does():
    """PennyLane leaves `Rot` without noise here, and takes nothing apart."""
    model = qml.NoiseModel({qml.noise.op_in(["RX", "RY", "RZ"]): qml.noise.partial_wires(qml.DepolarizingChannel, 0.1)})

    def apart(inputs, weights):
        qml.RX(inputs[:, 0], wires=0)
        qml.RY(inputs[:, 1], wires=1)
        qml.CNOT(wires=[0, 1])  # of none of these: whole, and without noise
        for gate, angle in zip((qml.RZ, qml.RY, qml.RZ), weights.tolist(), strict=True):
            gate(angle, wires=0)  # as numbers: default.mixed computes RZ by a tensor in float32
        for gate in (qml.RZ, qml.RX, qml.RZ):  # the Hadamard
            gate(math.pi / 2, wires=1)
        return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1)), qml.expval(qml.Z(0) @ qml.Z(1))]

    assert differs(circuit, model, by_add_noise(apart, model)) < 1e-10
    assert differs(circuit, model, by_add_noise(circuit, model)) > 0.01


def test_noise_as_text():
    assert NoiseModel.parse("none") is None
    assert NoiseModel.parse("depolarizing=0.01, readout=0.02") == NoiseModel.uniform(depolarizing=0.01, readout=0.02)
    for text in ("depolarizing=0.01", "two_qubit_depolarizing=0.0", "phase_damping=0.1,readout=0.02"):
        model = NoiseModel.parse(text)
        assert NoiseModel.parse(str(model)) == model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("depolarising=0.1", "unknown noise 'depolarising'; did you mean depolarizing?"),
        ("", "unknown noise ''; none, or name=number"),
        ("readout", "expected readout=<number from 0 to 0.5>, got ''"),
        ("readout=2", "expected readout=<number from 0 to 0.5>, got '2'"),
        ("readout=nan", "expected readout=<number from 0 to 0.5>, got 'nan'"),
        ("readout=0.6", "number from 0 to 0.5>, got '0.6'; at 0.5 an outcome says nothing of its qubit"),
        ("readout=0.1,readout=0.2", "readout is given twice"),
    ],
)
def test_noise_that_is_no_noise_is_refused(text, expected):
    with pytest.raises(InputError) as caught:
        NoiseModel.parse(text)
    assert expected in str(caught.value)


def test_strengths_outside_their_range_are_refused():
    for strengths in ({"depolarizing": 1.5}, {"readout": (0.1, -0.1)}, {"phase_damping": "x"}, {"readout": True}):
        with pytest.raises(InputError, match="expected a number from 0 to 1"):
            NoiseModel.uniform(**strengths)
    with pytest.raises(InputError, match="depolarizing: expected a number from 0 to 1, got 1.2"):
        NoiseModel.uniform(depolarizing=0.6).scaled(2)


def test_scaled_strengths_and_those_of_two_qubits():
    model = NoiseModel.uniform(0.01, 0.02, amplitude_damping=0.03, readout=0.1).scaled(3)
    expected = NoiseModel.uniform(0.03, 0.06, amplitude_damping=0.09, readout=0.1)
    assert repr(model)[:60] == repr(expected)[:60] and str(model).count("=") == 4

    def bell(inputs):
        qml.RX(inputs[:, 0], wires=0)
        qml.CNOT(wires=[0, 1])
        return [qml.expval(qml.Z(0) @ qml.Z(1)), qml.expval(qml.Z(0))]

    p, q = 0.03, 0.12
    values = NoisyCircuit(bell, 2, NoiseModel.uniform(p, q))(torch.zeros(1, 2))
    one, two = 1 - 4 * p / 3, 1 - 4 * q / 3
    assert torch.allclose(values, torch.tensor([[two**2, one * two]]).double(), atol=1e-12)


def test_readout_errors_of_zeros_and_ones_differ():
    def flipped(inputs):
        qml.RX(inputs[:, 0], wires=0)
        return [qml.expval(qml.Z(0))]

    noisy = NoisyCircuit(flipped, 1, NoiseModel.uniform(readout=(0.1, 0.3)))
    angles = torch.tensor([[0.0], [torch.pi]])
    assert torch.allclose(noisy.probabilities(angles), torch.tensor([[0.9, 0.1], [0.3, 0.7]]).double())
    assert torch.allclose(noisy(angles)[:, 0], torch.tensor([0.8, -0.4]).double())
