"""Gates as layers of rotations, phases and permutations, as matrices against PennyLane's."""

import numpy as np
import pennylane as qml
import pytest

from qcifar.compiler.gates import PRIMITIVES
from qcifar.compiler.ir import Angle, Layer
from qcifar.compiler.schedule import Builder, gather


def matrix_of(layers: list[Layer], n: int) -> np.ndarray:
    """The product of the layers, each written out as `ir.py` defines it, for angles that are constants."""
    product = np.eye(2**n, dtype=complex)
    for layer in layers:
        if layer.kind == "P":
            product = product[layer.source]
        elif layer.kind == "D":
            phase = sum((z * angle.const for z, angle, _ in layer.phases), np.zeros(2**n))
            sign = 1.0 if layer.sign is None else layer.sign
            product = (sign * np.exp(-0.5j * phase))[:, None] * product
        else:
            turns = [qml.RY(layer.rotations.get(wire, Angle()).const, wire).matrix() for wire in range(n)]
            rotation = np.eye(1)
            for turn in turns:
                rotation = np.kron(rotation, turn)
            product = rotation @ product
    return product


def up_to_phase(matrix, reference):
    """`matrix` times the global phase that brings it closest to `reference`."""
    overlap = np.vdot(matrix, reference)
    return matrix * overlap / abs(overlap)


def builder_on_any_state(n):
    builder = Builder(n)
    builder.fresh = set()  # else gates without effect on |0...0> are left out
    return builder


@pytest.mark.parametrize("name", PRIMITIVES)
def test_each_gate_is_pennylanes_up_to_a_global_phase(name):
    op = getattr(qml, name)
    wires = {1: [1], 2: [2, 0], 3: [2, 0, 1]}[op.num_wires or 2]
    angles = [0.7, -1.3, 2.1][: op.num_params]
    builder = builder_on_any_state(3)
    PRIMITIVES[name](builder, wires, [Angle(const=angle) for angle in angles])
    expected = qml.matrix(op(*angles, wires=wires), wire_order=range(3))
    np.testing.assert_allclose(up_to_phase(matrix_of(builder.layers, 3), expected), expected, rtol=0, atol=1e-12)


def random_layers(rng, n=3):
    """Layers of random gates, and the gates themselves."""
    builder, gates = builder_on_any_state(n), []
    for name in rng.choice(sorted(PRIMITIVES), size=25):
        op = getattr(qml, name)
        wires = [int(wire) for wire in rng.permutation(n)[: op.num_wires or 2]]
        angles = rng.normal(size=op.num_params)
        PRIMITIVES[name](builder, wires, [Angle(const=angle) for angle in angles])
        gates.append(op(*angles, wires=wires))
    return builder.layers, gates


@pytest.mark.parametrize("seed", range(10))
def test_layers_are_the_gates_in_their_order_however_they_were_joined(seed):
    layers, gates = random_layers(np.random.default_rng(seed))
    expected = qml.matrix(qml.tape.QuantumScript(gates), wire_order=range(3))
    assert len(layers) < 40  # of more than 60 rotations, phases and permutations
    np.testing.assert_allclose(up_to_phase(matrix_of(layers, 3), expected), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(10))
def test_gathered_layers_are_fewer_and_the_same(seed):
    layers, _ = random_layers(np.random.default_rng(seed))
    gathered = gather(layers)
    kinds = "".join(layer.kind for layer in gathered)
    assert len(gathered) < len(layers) and not any(pair in kinds for pair in ("PP", "DD", "DPD"))
    np.testing.assert_allclose(matrix_of(gathered, 3), matrix_of(layers, 3), rtol=0, atol=1e-12)


def test_gates_without_effect_on_zeros_are_left_out():
    builder = Builder(2)
    for name, wires, angles in (("RZ", [0], [0.4]), ("CNOT", [0, 1], []), ("CZ", [0, 1], []), ("SWAP", [0, 1], [])):
        PRIMITIVES[name](builder, wires, [Angle(const=angle) for angle in angles])
    assert builder.layers == []
    PRIMITIVES["RX"](builder, [1], [Angle({3: 1.0})])
    assert [layer.kind for layer in builder.layers] == ["R", "D"]  # no phase before the rotation
    assert builder.layers[0].rotations == {1: Angle({3: 1.0})}


def test_angles_add_up_and_scale():
    both = Angle({0: 1.0, 1: 2.0}, 0.5) + Angle({1: -2.0, 2: 3.0}, 0.25)
    assert both == Angle({0: 1.0, 1: 0.0, 2: 3.0}, 0.75)
    assert both * -2.0 == Angle({0: -2.0, 1: 0.0, 2: -6.0}, -1.5)
