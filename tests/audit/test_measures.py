"""Expressibility as in Sim et al., entangling capability, gradient variances and Lie algebras of known circuits."""

import math

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane.pauli import PauliSentence, PauliWord
from scipy.stats import unitary_group

from qcifar.audit.gates import Circuit, points, read_gates
from qcifar.audit.measures import (
    BINS,
    entangling_capability,
    expressibility,
    generators,
    gradients,
    lie_dimension,
    log_haar,
    random_states,
)
from tests.helpers.audited import circuit_of, descriptor, head

# ---- expressibility: Fig. 1 of arXiv 1905.10876, 5,000 pairs, 75 bins


def idle(w):
    qml.I(0)


def circuit_a(w):
    qml.Hadamard(0)
    qml.RZ(w[0], wires=0)


def circuit_b(w):
    circuit_a(w)
    qml.RX(w[1], wires=0)


def haar_random(rng, dimension, count):
    states = unitary_group.rvs(dimension, size=count, random_state=rng)[:, :, 0]
    return torch.from_numpy(states)


@pytest.mark.parametrize(
    ("ansatz", "published", "tolerance"), [(idle, 4.30, 0.03), (circuit_a, 0.22, 0.03), (circuit_b, 0.02, 0.01)]
)
def test_expressibility_of_one_qubit_circuits_as_published(ansatz, published, tolerance):
    def circuit(x, w):
        ansatz(w)
        return qml.expval(qml.Z(0))

    gates = read_gates(circuit_of(circuit, 1, (2,)))
    found = expressibility(random_states(gates, 5000, 1), random_states(gates, 5000, 2))
    assert found.kl == pytest.approx(published, abs=tolerance) and found.pairs == 5000
    assert len(found.histogram) == BINS and sum(found.histogram) == pytest.approx(1)


def test_an_arbitrary_unitary_is_as_expressible_as_haar():
    """The paper's fourth circuit has 0.007, which the number of samples alone explains."""
    rng = np.random.default_rng(3)
    found = expressibility(haar_random(rng, 2, 5000), haar_random(rng, 2, 5000))
    assert found.kl == pytest.approx(0.007, abs=0.004) and found.floor == pytest.approx(0.007, abs=0.004)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_haar_random_states_have_the_floor(n):
    rng = np.random.default_rng(n)
    found = expressibility(haar_random(rng, 2**n, 2000), haar_random(rng, 2**n, 2000))
    assert found.kl < 2.5 * found.floor + 0.01 and not found.blind


def test_haar_probabilities_of_the_bins():
    for n in (1, 2, 5):
        assert np.exp(log_haar(2**n)).sum() == pytest.approx(1.0)
    assert np.exp(log_haar(2)) == pytest.approx(np.full(BINS, 1 / BINS))
    assert np.isfinite(log_haar(2**16)).all()


def test_bins_that_cannot_tell_are_named():
    states = torch.nn.functional.normalize(torch.eye(2**10, dtype=torch.complex128)[:4], dim=1)
    assert expressibility(states, states.flip(0)).blind


# ---- entangling capability


def test_entangling_capability_of_known_circuits():
    def product(x):
        qml.AngleEmbedding(x, wires=range(3))
        return qml.expval(qml.Z(0))

    def bell(x):
        qml.Hadamard(0)
        qml.CNOT(wires=[0, 1])
        qml.AngleEmbedding(x, wires=range(2))
        return qml.expval(qml.Z(0))

    def turned(x):  # cos(x/2) |00> + ... |11>: sin(x)^2, of mean 1/2
        qml.RY(x[..., 0], wires=0)
        qml.CNOT(wires=[0, 1])
        return qml.expval(qml.Z(0))

    for function, n, expected in ((product, 3, 0.0), (bell, 2, 1.0), (turned, 1, 0.5)):
        mean, error = entangling_capability(random_states(read_gates(circuit_of(function, n)), 4000, 3))
        assert mean == pytest.approx(expected, abs=max(4 * error, 1e-12))


# ---- gradient variance


def family(measured, turn=qml.RY):
    """Circuits of n qubits, each turned by its own weight."""

    def at(n, layers):
        def circuit(x, w):
            for i in range(n):
                turn(w[i], wires=i)
            return qml.expval(measured(n))

        return Circuit("family", circuit, n, (n,), layers, resized=at)

    return at


def test_a_global_observable_halves_the_variance_with_each_qubit():
    """d/dw of a product of cosines: sin^2 times cos^2 of the others, 2^-n (Cerezo et al. 2021 on global costs)."""
    at = family(lambda n: qml.prod(*(qml.Z(i) for i in range(n))) if n > 1 else qml.Z(0))
    found = gradients(at(3, 1), 4000, (1, 2, 3, 4, 5), (1,))
    for n, variance in found.qubits.items():
        assert variance == pytest.approx(2.0**-n, rel=0.15)
    assert found.exponent == pytest.approx(1.0, abs=0.05) and found.by == "weights" and found.left_out == []
    assert found.layers == {1: found.qubits[3]}


def test_a_local_observable_keeps_it():
    found = gradients(family(lambda n: qml.Z(0))(3, 1), 2000, (1, 2, 3), ())
    assert found.exponent == pytest.approx(0.0, abs=0.1) and found.qubits[3] == pytest.approx(0.5, rel=0.1)


def test_the_head_loses_gradient_with_qubits_and_inputs_count_without_weights():
    found = gradients(head(), 100, (2, 4, 6), (1, 2))
    assert 0.5 < found.exponent < 1.5 and found.qubits[2] > found.qubits[6]
    edge = descriptor("default", 0)
    edge = Circuit(edge.name, edge.function, 4, resized=lambda n, depth: descriptor("default", 0, n, depth))
    assert gradients(edge, 50, (2, 3), ()).by == "inputs"


def test_a_variance_by_pennylanes_gradients():
    circuit = head(2, 1)
    found = gradients(circuit, 60, (2,), ())
    node = qml.QNode(circuit.function, qml.device("default.qubit", wires=2), diff_method="backprop")
    inputs, weights = points(circuit, 60, 41)  # those of the audit
    rows = []
    for x, w in zip(inputs, weights, strict=True):
        leaf = w.view(1, 2, 3).clone().requires_grad_()
        rows.append(torch.autograd.grad(node(x[None], leaf)[0].sum(), leaf)[0].flatten())
    rows = torch.stack(rows)
    live = rows.abs().amax(0) > 1e-9
    assert found.qubits[2] == pytest.approx(rows[:, live].var(0).mean().item(), rel=1e-9)


def test_sizes_that_are_too_large_or_fail_are_left_out_with_the_reason():
    def at(n, layers):
        if n == 3:
            raise ValueError("not with three")
        return family(lambda n: qml.Z(0))(n, layers)

    circuit = Circuit("odd", at(2, 1).function, 2, (2,), resized=at)
    found = gradients(circuit, 10**6, (1, 3, 12), ())
    assert found.qubits.keys() == {1} and found.exponent is None
    assert any("ValueError: not with three" in line for line in found.left_out)
    assert any(line.startswith("12 qubits") and "amplitudes" in line for line in found.left_out)


# ---- Lie algebras


def words(*texts):
    return [PauliSentence({PauliWord({i: letter for i, letter in enumerate(t) if letter != "I"}): 1.0}) for t in texts]


def lie_of(function, n, weight_shape):
    return lie_dimension(read_gates(circuit_of(function, n, weight_shape)))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_rotations_and_zz_give_su_of_2_to_the_n(n):
    def circuit(x, w):
        for i in range(n):
            qml.RX(w[0, i], wires=i)
            qml.RZ(w[1, i], wires=i)
        for i in range(n - 1):
            qml.IsingZZ(w[2, i], wires=[i, i + 1])
        return qml.expval(qml.Z(0))

    assert lie_of(circuit, n, (3, n)) == 4**n - 1


@pytest.mark.parametrize("n", [2, 3, 4])
def test_free_fermions_give_so_of_2n(n):
    """XX chain terms and single Z: n (2n - 1) dimensions (Wiersema et al., arXiv 2309.05690)."""

    def circuit(x, w):
        for i in range(n):
            qml.RZ(w[0, i], wires=i)
        for i in range(n - 1):
            qml.IsingXX(w[1, i], wires=[i, i + 1])
        return qml.expval(qml.Z(0))

    assert lie_dimension_by_words(n) == n * (2 * n - 1)
    with_gates = read_gates(circuit_of(circuit, n, (2, n)))
    assert lie_dimension(with_gates) == n * (2 * n - 1)


def lie_dimension_by_words(n):
    chain = ["I" * i + "XX" + "I" * (n - i - 2) for i in range(n - 1)] + [
        "I" * i + "Z" + "I" * (n - 1 - i) for i in range(n)
    ]
    return len(qml.lie_closure(words(*chain), pauli=True))


def test_small_known_algebras():
    def commuting(x, w):
        qml.RZ(w[0], wires=0)
        qml.IsingZZ(w[1], wires=[0, 1])
        qml.PhaseShift(x[..., 0], wires=1)
        return qml.expval(qml.Z(0))

    def local(x, w):
        for i in range(3):
            qml.Rot(*w[i], wires=i)
        return qml.expval(qml.Z(0))

    def none(x, w):
        qml.RX(0.3, wires=0)
        return qml.expval(qml.Z(0))

    assert lie_of(commuting, 2, (2,)) == 3
    assert lie_of(local, 3, (3, 3)) == 9  # su(2) on each qubit
    assert lie_of(none, 1, (1,)) == 0


def test_generators_are_carried_through_the_fixed_gates_before_them():
    def circuit(x, w):
        qml.RX(w[0], wires=0)
        qml.CNOT(wires=[0, 1])
        qml.RX(w[1], wires=0)  # CNOT X0 CNOT = X0 X1
        qml.RX(0.5, wires=0)  # fixed
        qml.RZ(w[1], wires=0)  # cos Z0 + sin Y0, the same before the CNOT but for X1 at Y0
        return qml.expval(qml.Z(0))

    found = list(generators(read_gates(circuit_of(circuit, 2, (2,)))).values())
    assert [set(map(str, sentence)) for sentence in found] == [{"X(0)"}, {"X(0) @ X(1)"}, {"Z(0)", "Y(0) @ X(1)"}]
    ratio = found[2][PauliWord({0: "Y", 1: "X"})] / found[2][PauliWord({0: "Z"})]
    assert abs(ratio) == pytest.approx(math.tan(0.5))


def test_the_scripts_circuits_and_wide_ones():
    assert lie_dimension(read_gates(head())) == 255
    assert lie_dimension(read_gates(descriptor("published", 1))) == 136
    assert lie_dimension(read_gates(head(5, 1))) is None
