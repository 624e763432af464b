"""Measures of circuits from random states and gradients: expressibility, entangling capability, gradient variance."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pennylane as qml
import torch

from qcifar.errors import describe

from .effect import meyer_wallach
from .gates import Circuit, Gates, LeftOut, points, read_gates
from .simulate import AMPLITUDES, readout, states

BINS = 75  # of fidelities, as in Sim et al.
GRADIENT_AMPLITUDES = 2**22  # samples * 2^N * gates, for one size of the circuit


@dataclass(frozen=True)
class Expressibility:
    """KL divergence of the fidelities of random pairs of states from that of Haar-random states (Sim et al. 2019)."""

    kl: float  # nats; 0 is Haar-random, ln 75 = 4.3 a single qubit that does not move
    floor: float  # the same of as many Haar-random pairs: what the number of samples alone leaves
    pairs: int
    blind: bool  # whether Haar-random fidelities lie in the first bin nearly always: any good spread looks like them
    histogram: list[float]  # share of pairs in each of 75 equal bins of the fidelity from 0 to 1


def random_states(gates: Gates, count: int, seed: int) -> torch.Tensor:
    """States (count, 2^N) for random inputs and weights from -pi to pi."""
    with torch.no_grad():
        angles = gates.angles(*points(gates.circuit, count, seed))
        return torch.cat([states(gates, chunk) for chunk in angles.split(max(1, AMPLITUDES >> gates.n_wires))])


def expressibility(first: torch.Tensor, second: torch.Tensor) -> Expressibility:
    """From two independent sets of random states (n, 2^N)."""
    dimension = first.shape[1]
    fidelities = ((first.conj() * second).sum(1).abs() ** 2).numpy()
    haar = np.random.Generator(np.random.Philox(key=5)).beta(1, dimension - 1, size=len(fidelities))
    (kl, histogram), (floor, _) = (_divergence(f, dimension) for f in (fidelities, haar))
    blind = bool(log_haar(dimension)[0] > math.log(0.99))
    return Expressibility(kl, floor, len(fidelities), blind, histogram.tolist())


def log_haar(dimension: int) -> np.ndarray:
    """Logarithm of the probability (75,) that a fidelity of Haar-random states lies in a bin: of (1 - F)^(d - 1)."""
    low, high = (1 - np.arange(BINS) / BINS), (1 - np.arange(1, BINS + 1) / BINS)
    return (dimension - 1) * np.log(low) + np.log1p(-((high / low) ** (dimension - 1)))


def _divergence(fidelities: np.ndarray, dimension: int) -> tuple[float, np.ndarray]:
    counts, _ = np.histogram(np.clip(fidelities, 0, 1), bins=BINS, range=(0, 1))
    share = counts / len(fidelities)
    hit = share > 0
    return float((share[hit] * (np.log(share[hit]) - log_haar(dimension)[hit])).sum()), share


def entangling_capability(found: torch.Tensor) -> tuple[float, float]:
    """Mean Meyer-Wallach entanglement of random states (n, 2^N), and its standard error."""
    each = meyer_wallach(found)
    return each.mean().item(), (each.std() / math.sqrt(len(each))).item()


@dataclass(frozen=True)
class Gradients:
    """Variance of the first output's derivatives, for each size of the circuit (McClean et al. 2018)."""

    by: str  # "weights" or "inputs"
    samples: int
    qubits: dict[int, float]  # N -> variance, at the circuit's number of layers
    layers: dict[int, float]  # number of layers -> variance, at the circuit's N
    exponent: float | None  # of the fit: variance ~ 2^(-exponent * N); None with fewer than three sizes
    left_out: list[str]  # sizes, and why


def gradients(circuit: Circuit, samples: int, sizes: tuple[int, ...], depths: tuple[int, ...]) -> Gradients:
    """Rebuild the circuit with other sizes and take the variance over random inputs and weights.

    The variance is the mean over those weights (inputs where there are none) that the first output depends on.
    """
    left_out: list[str] = []

    def at(n: int, depth: int) -> float | None:
        try:
            return _variance(read_gates(circuit.resized(n, depth)), samples)
        except LeftOut as reason:
            left_out.append(f"{n} qubits, {depth} layers: {reason}")
            return None
        except Exception as reason:  # somebody's function may not take every size
            left_out.append(f"{n} qubits, {depth} layers: {describe(reason)}")
            return None

    qubits = {n: at(n, circuit.layers) for n in sizes}
    deep = {depth: at(circuit.n_inputs, depth) for depth in depths}
    qubits, deep = ({size: v for size, v in found.items() if v is not None} for found in (qubits, deep))
    by = "inputs" if circuit.weight_shape is None else "weights"
    return Gradients(by, samples, qubits, deep, _exponent(qubits), left_out)


def _variance(gates: Gates, samples: int) -> float:
    if samples * 2**gates.n_wires * len(gates.gates) > GRADIENT_AMPLITUDES:
        raise LeftOut(f"more than {GRADIENT_AMPLITUDES:,} amplitudes to keep")
    inputs, weights = points(gates.circuit, samples, 41)
    leaf = (inputs if weights is None else weights).requires_grad_()
    first = readout(gates, states(gates, gates.angles(inputs, weights)), [0])[:, 0]
    if not first.requires_grad:
        return 0.0
    (found,) = torch.autograd.grad(first.sum(), leaf)  # (samples, W or n): rows do not mix
    live = found.abs().amax(0) > 1e-9
    return found[:, live].var(0).mean().item() if bool(live.any()) else 0.0


def _exponent(variances: dict[int, float]) -> float | None:
    positive = {n: v for n, v in variances.items() if v > 0}
    if len(positive) < 3:
        return None
    slope, _ = np.polyfit(list(positive), np.log2(list(positive.values())), 1)
    return float(-slope)


# ---- dynamical Lie algebra

LIE_QUBITS = 4  # up to 255 dimensions, a tenth of a second; 1,023 take ten times as long, and more for sums of words


def lie_dimension(gates: Gates) -> int | None:
    """Dimension of the dynamical Lie algebra, or None beyond `LIE_QUBITS`.

    Its generators are those of the gates with angles that follow from inputs or weights, each carried through the
    fixed gates before it: U = V_m exp(-i t_m H_m) ... V_1 exp(-i t_1 H_1) V_0.
    """
    if gates.n_wires > LIE_QUBITS:
        return None
    found = list(generators(gates).values())
    return len(qml.lie_closure(found, pauli=True)) if found else 0


def generators(gates: Gates) -> dict[tuple, qml.pauli.PauliSentence]:
    """The different generators, without identity, as sums of Pauli words; those that differ by a factor count once."""
    moves = (gates.by_input.any(1) | gates.by_weight.any(1) | ~gates.linear).tolist()
    before, found = np.eye(2**gates.n_wires, dtype=complex), {}
    seen = set()  # matrices: most gates share theirs with another, and taking one apart is slow
    order = list(range(gates.n_wires))
    for op, angle in _single_angles(gates):
        if angle is None or not moves[angle]:
            before = qml.matrix(op, wire_order=order) @ before
            continue
        matrix = before.conj().T @ qml.matrix(op.generator(), wire_order=order) @ before
        if (same := (matrix.round(9) + 0.0).tobytes()) in seen:  # + 0.0: no -0.0
            continue
        seen.add(same)
        sentence = qml.pauli.pauli_sentence(qml.pauli_decompose(matrix, hide_identity=False))
        kept = {word: complex(c).real for word, c in sentence.items() if len(word) and abs(c) > 1e-12}
        if kept:
            scale = kept[min(kept, key=str)]
            key = tuple(sorted((str(word), round(c / scale, 9)) for word, c in kept.items()))
            found.setdefault(key, qml.pauli.PauliSentence(kept))
    return found


def _single_angles(gates: Gates) -> list[tuple[qml.operation.Operator, int | None]]:
    """The gates as PennyLane's, each with the number of its angle; a Rot is three of these. Constants have values."""
    found = []
    for gate in gates.gates:
        if gate.matrix is not None:
            found.append((qml.QubitUnitary(gate.matrix.numpy(), wires=gate.wires), None))
        elif gate.name == "Rot":
            kinds = zip((qml.RZ, qml.RY, qml.RZ), gate.angles, strict=True)
            found += [(kind(gates.constant[k].item(), wires=gate.wires), k) for kind, k in kinds]
        else:
            op: Callable = getattr(qml, gate.name)
            found.append((op(gates.constant[gate.first].item(), wires=gate.wires), gate.first))
    return found
