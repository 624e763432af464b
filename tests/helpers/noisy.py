"""Circuits under noise in PennyLane's `default.mixed`, for comparison."""

import pennylane as qml
import torch

CHANNELS = {
    "depolarizing": qml.DepolarizingChannel,
    "amplitude_damping": qml.AmplitudeDamping,
    "phase_damping": qml.PhaseDamping,
}


def taken_apart(operations):
    """Gates on one and two qubits."""
    for op in operations:
        if len(op.wires) > 2 or op.name in ("AngleEmbedding", "StronglyEntanglingLayers"):
            yield from taken_apart(op.decomposition())
        else:
            yield op


def on_default_mixed(circuit, n, arguments, strengths=None, readout=0.0, probabilities=False, device="default.mixed"):
    """Values (B, outputs), or probabilities (B, 2^n), with channels after each gate on each of its qubits.

    Args:
        strengths: name in `CHANNELS` -> strength.
        readout: probability of a bit flip before the measurement, which for a readout along Z is a readout error.
    """
    tape = qml.tape.make_qscript(circuit)(*arguments)
    operations = []
    for op in taken_apart(tape.operations):
        operations.append(op)
        if isinstance(op, qml.operation.Channel) or op.name == "GlobalPhase":
            continue
        for wire in op.wires:
            operations += [CHANNELS[name](value, wires=wire) for name, value in (strengths or {}).items()]
    operations += [qml.BitFlip(readout, wires=wire) for wire in range(n) if readout]
    measurements = [qml.probs(wires=range(n))] if probabilities else tape.measurements
    noisy = qml.tape.QuantumScript(operations, measurements)
    values = qml.execute([noisy], qml.device(device, wires=n), diff_method="backprop", interface="torch")[0]
    images = len(arguments[0])
    if probabilities:
        return torch.as_tensor(values).real.double().expand(images, -1)
    values = values if isinstance(values, (tuple, list)) else [values]
    return torch.stack([torch.as_tensor(value).real.double().expand(images) for value in values], dim=-1)
