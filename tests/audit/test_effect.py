"""Inert gates and weights, light cones, and forms: the known facts of DESIGN.md, and circuits made for it."""

import itertools

import pennylane as qml
import pytest
import torch

from qcifar.audit.effect import SCREENED, cones, forms, inert_gates, meyer_wallach, nearest_pairs
from qcifar.audit.gates import points, read_gates
from qcifar.audit.parts import values_by
from qcifar.audit.simulate import states, values, values_without_pairs
from tests.helpers.audited import SCRIPTS_CIRCUITS, circuit_of, descriptor, head


def looked_at(circuit):
    gates = read_gates(circuit)
    values_of = values_by(circuit, gates)
    return gates, cones(circuit, values_of, gates), inert_gates(gates), forms(circuit, values_of)


def names(gates, inert):
    return [str(gates.gates[place]) for place in inert.gates]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("n_qubits", [2, 3, 4])
def test_rz_of_the_published_edge_circuits_last_layer_are_inert_and_nothing_else(n_qubits, depth):
    gates, _, inert, _ = looked_at(descriptor("published", 0, n_qubits, depth))
    last = len(gates.gates) - 2 * n_qubits
    assert inert.gates == [last + 2 * i + 1 for i in range(n_qubits)]
    assert names(gates, inert) == [f"RZ({i})" for i in range(n_qubits)] and inert.together


def test_the_published_texture_circuit_has_no_entanglement_in_its_output():
    gates, cone, inert, form = looked_at(SCRIPTS_CIRCUITS["published texture"])
    expected = [f"RX({i})" for i in range(4)] + [f"CNOT(0, {i})" for i in (1, 2, 3)]
    assert sorted(names(gates, inert)) == sorted(expected + [f"CZ({i}, {i + 1})" for i in range(3)])
    assert inert.together and inert.two_qubit_live == 0
    assert inert.entanglement == pytest.approx(0.0, abs=1e-12)
    assert cone.inputs.int().tolist() == torch.eye(4, dtype=torch.int).tolist()
    assert form == ["of one input"] * 4


@pytest.mark.parametrize(("n_qubits", "n_layers"), [(2, 1), (3, 2), (4, 2), (4, 3)])
def test_omega_of_every_last_rot_is_inert_and_no_other_weight(n_qubits, n_layers):
    """Against gradients of PennyLane's backprop, not only the audit's own values."""
    circuit = head(n_qubits, n_layers)
    _, cone, inert, _ = looked_at(circuit)
    last = 3 * n_qubits * (n_layers - 1)
    assert cone.inert_weights == [last + 3 * i + 2 for i in range(n_qubits)]
    assert cone.live_weights == 3 * n_qubits * n_layers - n_qubits and inert.gates == []
    node = qml.QNode(circuit.function, qml.device("default.qubit", wires=n_qubits), diff_method="backprop")
    largest = torch.zeros(n_qubits, circuit.n_weights, dtype=torch.float64)
    for seed in range(3):
        inputs, weights = points(circuit, 2, seed)
        leaf = weights[0].view(circuit.weight_shape).requires_grad_()
        for k, value in enumerate(node(inputs, leaf)):
            (gradient,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
            largest[k] = torch.maximum(largest[k], gradient.flatten().abs())
    assert ((largest > 1e-10) == cone.weights).all()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("n_qubits", [3, 4])
def test_our_descriptor_circuits_have_no_inert_gate_and_no_additive_output(n_qubits, place, depth):
    _, cone, inert, form = looked_at(descriptor("default", place, n_qubits, depth))
    assert inert.gates == []
    assert (cone.inputs.sum(1) >= 2).all() and set(form) <= {"a product", "neither"}


def test_output_0_of_our_texture_circuit_is_a_product_at_depth_1():
    *_, form = looked_at(SCRIPTS_CIRCUITS["texture"])
    assert form == ["a product", "neither", "neither", "neither"]


def test_gates_that_are_inert_alone_but_not_together():
    def twice(x):
        qml.RY(x[..., 0], wires=0)
        qml.X(0)
        qml.RX(x[..., 1], wires=1)
        qml.SWAP(wires=[0, 1])
        qml.SWAP(wires=[0, 1])
        return [qml.expval(qml.Z(0) @ qml.Z(1))]  # symmetric: one SWAP more or less changes nothing

    gates, _, inert, form = looked_at(circuit_of(twice, 2))
    assert names(gates, inert) == ["SWAP(0, 1)", "SWAP(0, 1)"] and inert.together and form == ["a product"]

    def pair(x):
        qml.RY(x[..., 0], wires=0)
        qml.RZ(x[..., 0], wires=1)  # on |0>: nothing
        qml.CNOT(wires=[1, 0])  # from |0>: nothing
        qml.X(1)
        return [qml.expval(qml.Z(0))]

    gates, _, inert, _ = looked_at(circuit_of(pair, 1))
    assert names(gates, inert) == ["RZ(1)", "CNOT(1, 0)", "PauliX(1)"]

    def either(x):  # of two projections onto |0> either one is enough
        qml.RY(x[..., 0], wires=0)
        qml.CNOT(wires=[0, 1])
        qml.CNOT(wires=[0, 2])
        return [qml.expval(qml.X(0)), qml.expval(qml.Z(0))]

    gates, _, inert, _ = looked_at(circuit_of(either, 3))
    assert names(gates, inert) == ["CNOT(0, 1)", "CNOT(0, 2)"] and not inert.together
    assert inert.two_qubit_live == 1 and inert.entanglement > 0.1 and inert.pairs == []  # one of them is needed


def cz_ring(times):
    """A CZ between neighbours, `times` times each, between two layers of rotations."""

    def circuit(x):
        for i in range(3):
            qml.RY(x[..., i], wires=i)
        for i in range(3):
            for _ in range(times):
                qml.CZ(wires=[i, (i + 1) % 3])
        for i in range(3):
            qml.RY(0.4 + x[..., i], wires=i)
        return [qml.expval(qml.Z(i)) for i in range(3)]

    return circuit_of(circuit, 3)


def test_gates_that_are_inert_together_only():
    gates, _, inert, _ = looked_at(cz_ring(2))
    assert inert.gates == [] and inert.pairs == [(3, 4), (5, 6), (7, 8)]
    assert {str(gates.gates[place]) for place in inert.pairs[0]} == {"CZ(0, 1)"}
    assert inert.two_qubit_live == 0 and inert.entanglement == pytest.approx(0.0, abs=1e-12)


def test_of_three_equal_gates_that_cancel_one_is_left():
    _, _, inert, _ = looked_at(cz_ring(3))
    assert inert.gates == [] and [set(pair) for pair in inert.pairs] == [{3, 4}, {6, 7}, {9, 10}]
    assert inert.two_qubit_live == 3 and inert.entanglement > 0.1


def test_a_circuit_without_such_gates_has_no_inert_pair():
    for circuit in (cz_ring(1), *(SCRIPTS_CIRCUITS[name] for name in ("head", "edge", "texture", "published edge"))):
        _, _, inert, _ = looked_at(circuit)
        assert inert.pairs == [] and inert.pairs_tried == inert.pairs_there > 0


def test_opposite_constant_angles_and_pairs_inside_pairs():
    """Also where an inert gate stands between them, and where the outer pair is inert only without the inner one."""

    def circuit(x):
        qml.RY(x[..., 0], wires=0)
        qml.RX(0.3, wires=1)
        qml.RX(-0.3, wires=1)
        qml.RY(0.7, wires=0)
        qml.CNOT(wires=[0, 1])
        qml.CNOT(wires=[0, 1])
        qml.RY(-0.7, wires=0)
        qml.RY(x[..., 1], wires=1)
        qml.CNOT(wires=[0, 1])
        return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1))]

    gates, _, inert, _ = looked_at(circuit_of(circuit, 2))
    assert inert.gates == [] and sorted(inert.pairs) == [(1, 2), (3, 6), (4, 5)] and inert.two_qubit_live == 1
    angles = gates.angles(*points(gates.circuit, 4, 5))
    every = values(gates, angles, frozenset(place for pair in inert.pairs for place in pair))
    torch.testing.assert_close(every, values(gates, angles), rtol=0, atol=1e-12)


def test_pairs_are_tried_from_the_nearest_on_until_the_work_is_done():
    gates = read_gates(cz_ring(2))
    each = SCREENED * 2**3 * len(gates.gates)
    inert = inert_gates(gates, work=4 * each)
    assert (inert.pairs_tried, inert.pairs_there) == (4, 66) and inert.pairs == [(3, 4), (5, 6), (7, 8)]
    every = list(nearest_pairs(gates, list(range(12))))
    assert len(every) == 66 == len({frozenset(pair) for pair in every})


def test_values_without_pairs_are_those_of_the_circuit_without_them():
    gates = read_gates(SCRIPTS_CIRCUITS["edge"])
    angles, pairs = gates.angles(*points(gates.circuit, 3, 4)), [(0, 5), (2, 3), (9, 15)]
    found = values_without_pairs(gates, angles, pairs, frozenset({7}))
    for row, pair in zip(found, pairs, strict=True):
        torch.testing.assert_close(row, values(gates, angles, frozenset({7, *pair})), rtol=0, atol=1e-14)


def additive(x):
    """A product state and <Z0> + <Z1>: cos v0 + cos v1."""
    qml.RX(x[..., 0], wires=0)
    qml.RX(x[..., 1], wires=1)
    return [
        qml.expval(qml.Z(0) + qml.Z(1)), qml.expval(qml.Z(0) @ qml.Z(1)), qml.expval(qml.Z(0)), qml.expval(qml.X(0)),
        qml.expval(qml.Z(0) + qml.Z(0) @ qml.Z(1)), qml.expval(qml.Z(0) + qml.Z(0) @ qml.Z(1) + qml.Z(1)),
    ]  # fmt: skip


def test_forms_of_sums_and_products():
    *_, form = looked_at(circuit_of(additive, 2))
    assert form == ["additive", "a product", "of one input", "constant", "a product", "neither"]


def test_forms_and_cones_without_gates():
    """By PennyLane's values alone."""
    circuit = circuit_of(additive, 2)
    assert forms(circuit, values_by(circuit, None), 3)[:3] == ["additive", "a product", "of one input"]
    found = cones(head(3, 1), values_by(head(3, 1), None), None, 2)
    expected = cones(head(3, 1), values_by(head(3, 1), read_gates(head(3, 1))), None, 2)
    assert torch.equal(found.weights, expected.weights) and torch.equal(found.inputs, expected.inputs)
    assert found.angles is None


def test_an_input_that_only_steps_is_in_the_cone():
    def steps(x):
        qml.RX(torch.floor(x[..., 0]), wires=0)  # its gradient is zero
        return qml.expval(qml.Z(0))

    circuit = circuit_of(steps, 1)
    assert cones(circuit, values_by(circuit, None), None, 4).inputs.tolist() == [[True]]


def ghz(n):
    state = torch.zeros(1, 2**n, dtype=torch.complex128)
    state[0, [0, -1]] = 0.5**0.5
    return state


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_meyer_wallach_of_ghz_states_is_1_and_of_products_0(n):
    assert meyer_wallach(ghz(n)).item() == pytest.approx(1.0, abs=1e-12)
    generator = torch.Generator().manual_seed(n)
    qubits = torch.nn.functional.normalize(torch.randn(n, 2, generator=generator, dtype=torch.complex128), dim=1)
    product = qubits[0]
    for qubit in qubits[1:]:
        product = torch.kron(product, qubit)
    assert meyer_wallach(product[None]).item() == pytest.approx(0.0, abs=1e-12)


def test_meyer_wallach_of_known_states():
    """W states: 1 - purity mean of (n-1)^2/n^2 + 1/n^2; half a Bell pair: 2/3 of the qubits are entangled."""
    w = torch.zeros(1, 8, dtype=torch.complex128)
    w[0, [1, 2, 4]] = 3**-0.5
    assert meyer_wallach(w).item() == pytest.approx(8 / 9, abs=1e-12)
    bell_and_one = torch.kron(ghz(2)[0], torch.tensor([1, 0], dtype=torch.complex128))[None]
    assert meyer_wallach(bell_and_one).item() == pytest.approx(2 / 3, abs=1e-12)


def test_meyer_wallach_by_pennylanes_purities():
    gates = read_gates(head(3, 2))
    inputs, weights = points(gates.circuit, 2, 8)
    found = meyer_wallach(states(gates, gates.angles(inputs, weights)))

    @qml.qnode(qml.device("default.qubit", wires=3))
    def purities(x, w):
        for op in qml.tape.make_qscript(gates.circuit.function)(x, w).operations:
            qml.apply(op)
        return [qml.purity(wires=i) for i in range(3)]

    for k, (x, w) in enumerate(zip(inputs, weights, strict=True)):
        purity = torch.stack([torch.as_tensor(p).reshape(()) for p in purities(x[None], w.view(2, 3, 3))])
        assert found[k].item() == pytest.approx(2 - 2 * purity.mean().item(), abs=1e-10)


def test_mixed_differences_agree_with_a_direct_count():
    circuit = SCRIPTS_CIRCUITS["edge"]
    values_of = values_by(circuit, read_gates(circuit))
    (a, _), (b, _) = points(circuit, 4, 1), points(circuit, 4, 2)
    for i, j in itertools.combinations(range(3), 2):
        corners = [a.clone() for _ in range(4)]
        corners[1][:, i], corners[2][:, j] = b[:, i], b[:, j]
        corners[3][:, [i, j]] = b[:, [i, j]]
        f = [values_of(corner, None)[:, 0] for corner in corners]
        assert (f[0] - f[1] - f[2] + f[3]).abs().max() > 1e-3  # output 0 is not additive in any of these
