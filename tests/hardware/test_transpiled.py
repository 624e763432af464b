"""Circuits that Qiskit transpiled to fake chips, against the density matrices of Qiskit Aer."""

import numpy as np
import pytest
import torch

from qcifar.errors import InputError
from qcifar.hardware.engine import NoisyCircuit
from qcifar.hardware.noise import NoiseModel
from qcifar.streams import stream

qiskit = pytest.importorskip("qiskit")
aer = pytest.importorskip("qiskit_aer")
fake = pytest.importorskip("qiskit_ibm_runtime.fake_provider")

from qiskit.circuit import Parameter, ParameterVector  # noqa: E402

from tests.helpers import slow  # noqa: E402

N = 3


def head():
    """The head's circuit, its inputs and its weights."""
    inputs, weights = ParameterVector("x", N), ParameterVector("w", 6 * N)
    circuit = qiskit.QuantumCircuit(N, N)
    for i in range(N):
        circuit.rx(inputs[i], i)
    for layer in range(2):
        for i in range(N):
            a, b, c = weights[3 * (layer * N + i) : 3 * (layer * N + i) + 3]
            circuit.rz(a, i)
            circuit.ry(b, i)
            circuit.rz(c, i)
        for i in range(N):
            circuit.cx(i, (i + 1 + layer) % N)
    circuit.measure(range(N), range(N))
    return circuit, inputs, weights


def by_aer(circuit, values, noise, engine):
    """(2^N,) probabilities of Aer's density matrix, with readout errors, wire 0 the most significant."""
    qubits = engine.source.qubits[: engine.source.read]
    bound = circuit.assign_parameters(values).remove_final_measurements(inplace=False)
    bound.save_density_matrix(qubits=[bound.qubits[qubit] for qubit in qubits])
    simulator = aer.AerSimulator(method="density_matrix", noise_model=noise)
    density = np.asarray(simulator.run(bound).result().data(0)["density_matrix"])
    outcomes = np.diag(density).real.reshape([2] * len(qubits)).T.reshape(-1)
    for place, qubit in enumerate(qubits):
        grid = outcomes.reshape(2**place, 2, -1)
        outcomes = np.einsum("ij,ljr->lir", engine.noise.confusion(qubit), grid).reshape(-1)
    return outcomes


@pytest.mark.parametrize("backend", ["FakeManilaV2", *map(slow, ("FakeSherbrooke", "FakeTorino"))])
def test_transpiled_circuits_equal_aers_density_matrices(backend):
    circuit, inputs, weights = head()
    chip = getattr(fake, backend)()
    transpiled = qiskit.transpile(circuit, chip, optimization_level=3, seed_transpiler=1)
    noise = aer.noise.NoiseModel.from_backend(chip)
    noisy = NoisyCircuit.from_qiskit(transpiled, NoiseModel.from_qiskit(noise), inputs, weights)
    draw = stream(1, "angles")
    x, w = torch.from_numpy(draw.normal(size=(2, N))), torch.from_numpy(draw.uniform(0, 6, size=6 * N))
    ours = noisy.probabilities(x, w)
    for row, angles in zip(ours, x, strict=True):
        values = dict(zip([*inputs, *weights], [*angles.tolist(), *w.tolist()], strict=True))
        assert np.abs(row.numpy() - by_aer(transpiled, values, noise, noisy)).max() < 1e-8
    assert torch.allclose(noisy(x, w)[:, 0], ours[:, :4].sum(1) - ours[:, 4:].sum(1))


def test_samples_equal_aers_within_their_errors():
    circuit, inputs, weights = head()
    chip = fake.FakeManilaV2()
    transpiled = qiskit.transpile(circuit, chip, optimization_level=1, seed_transpiler=1)
    noise = aer.noise.NoiseModel.from_backend(chip)
    noisy = NoisyCircuit.from_qiskit(transpiled, NoiseModel.from_qiskit(noise), inputs, weights)
    w = torch.from_numpy(stream(2, "angles").uniform(0, 6, size=7 * N))
    exact = noisy.probabilities(w[None, :N], w[N:])[0].numpy()
    bound = transpiled.assign_parameters(dict(zip([*inputs, *weights], w.tolist(), strict=True)))
    shots = 20000
    counts = aer.AerSimulator(noise_model=noise, seed_simulator=5).run(bound, shots=shots).result().get_counts()
    found = np.array([counts.get(f"{k:03b}"[::-1], 0) for k in range(8)]) / shots  # Qiskit writes the last bit first
    assert (np.abs(found - exact) < 4.5 * np.sqrt(exact * (1 - exact) / shots) + 1e-4).all()


def test_ancillas_columns_that_do_not_move_and_gradients():
    """A qubit that is not measured counts in the state and not in the outcomes."""
    x, w = Parameter("x"), Parameter("w")
    circuit = qiskit.QuantumCircuit(3, 2)
    circuit.ry(x, 2)
    circuit.cx(2, 0)
    circuit.crz(2 * x + w, 0, 1)
    circuit.u(0.3, w, 0.1, 1)
    circuit.append(qiskit.circuit.library.iSwapGate(), [1, 2])
    circuit.measure([1, 0], [0, 1])
    noisy = NoisyCircuit.from_qiskit(circuit, None, [x], [w])
    assert (noisy.n, noisy.source.read) == (3, 2)
    given = torch.tensor([[0.4], [1.7]], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    for row, angle in zip(noisy.probabilities(*given), given[0], strict=True):
        bound = circuit.assign_parameters({x: angle.item(), w: 0.6}).remove_final_measurements(inplace=False)
        pure = qiskit.quantum_info.Statevector(bound).probabilities([0, 1]).reshape(2, 2)  # [qubit 1, qubit 0]
        assert np.allclose(row.numpy(), pure.reshape(-1), atol=1e-12)
    still = noisy(given[0][:1].expand(4, -1), given[1])
    assert torch.allclose(still, noisy(given[0][:1], given[1]).expand(4, -1))
    assert torch.autograd.gradcheck(noisy, [part.clone().requires_grad_() for part in given])


def test_what_is_not_taken_is_named():
    x = Parameter("x")
    bare = qiskit.QuantumCircuit(1, 1)
    with pytest.raises(InputError, match="expected each classical bit to be measured once"):
        NoisyCircuit.from_qiskit(bare)
    curved = bare.copy()
    curved.rx(x * x, 0)
    curved.measure(0, 0)
    with pytest.raises(InputError, match="is not linear in x"):
        NoisyCircuit.from_qiskit(curved, None, [x])
    with pytest.raises(InputError, match="the circuit's parameter x is not among"):
        NoisyCircuit.from_qiskit(curved)
    late = bare.copy()
    late.measure(0, 0)
    late.x(0)
    with pytest.raises(InputError, match="x after a measurement"):
        NoisyCircuit.from_qiskit(late)
    with pytest.raises(InputError, match="expected a noise model of Qiskit Aer, or a backend"):
        NoiseModel.from_qiskit("ibm_none")
