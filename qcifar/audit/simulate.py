"""States and values of a circuit's gates on a batch of angles: plain matrices on state vectors, differentiable.

The matrices are PennyLane's. It is slower than a compiled circuit and gives what that does not: the state, gates left
out, any set of weights for each row, and every angle free.
"""

import pennylane as qml
import torch

from .gates import Gate, Gates

AMPLITUDES = 2**20  # of all states of a chunk: 16 MB


def matrix_of(gate: Gate, angles: torch.Tensor) -> torch.Tensor:
    """(B, 2^k, 2^k), or (1, 2^k, 2^k) for a gate without angles."""
    if gate.matrix is not None:
        return gate.matrix[None]
    op = getattr(qml, gate.name)(*(angles[:, k] for k in gate.angles), wires=gate.wires)
    return torch.as_tensor(op.matrix()).to(torch.complex128)


def apply(matrix: torch.Tensor, wires: tuple[int, ...], state: torch.Tensor) -> torch.Tensor:
    """Matrices (B or 1, 2^k, 2^k) on `wires` of states (B or 1, 2^N); wire 0 is the most significant bit."""
    n = state.shape[-1].bit_length() - 1
    if len(wires) == 1:  # without moving axes
        (wire,) = wires
        split = state.view(len(state), 2**wire, 2, -1)
        return torch.einsum("bij,bljr->blir", matrix, split).reshape(-1, 2**n)
    order = [*wires, *(w for w in range(n) if w not in wires)]
    back = [1 + order.index(w) for w in range(n)]
    moved = state.view(-1, *[2] * n).permute(0, *(1 + w for w in order)).reshape(len(state), 2 ** len(wires), -1)
    return (matrix @ moved).view(-1, *[2] * n).permute(0, *back).reshape(-1, 2**n)


def states(gates: Gates, angles: torch.Tensor, left_out: frozenset[int] = frozenset()) -> torch.Tensor:
    """Final states (B, 2^N) complex128 for angles (B, A), without the gates at the places `left_out`."""
    state = torch.zeros(len(angles), 2**gates.n_wires, dtype=torch.complex128)
    state[:, 0] = 1
    for place, gate in enumerate(gates.gates):
        if place not in left_out:
            state = apply(matrix_of(gate, angles), gate.wires, state)
    return state


def readout(gates: Gates, state: torch.Tensor, outputs: list[int] | None = None) -> torch.Tensor:
    """Expectation values (B, outputs) of states (B, 2^N)."""
    chosen = gates.observables if outputs is None else [gates.observables[k] for k in outputs]
    return torch.stack([(state.conj() * apply(m[None], w, state)).sum(-1).real for m, w in chosen], dim=-1)


def values(
    gates: Gates, angles: torch.Tensor, left_out: frozenset[int] = frozenset(), outputs: list[int] | None = None
) -> torch.Tensor:
    """Expectation values (B, outputs) for angles (B, A), in chunks."""
    chunks = angles.split(max(1, AMPLITUDES >> gates.n_wires))
    return torch.cat([readout(gates, states(gates, chunk, left_out), outputs) for chunk in chunks])


def values_without_each(gates: Gates, angles: torch.Tensor) -> torch.Tensor:
    """Expectation values (G, B, outputs) for angles (B, A), each time without one of the G gates."""
    state, found = states(gates, angles[:, :], frozenset(range(len(gates.gates)))), []
    matrices = [matrix_of(gate, angles) for gate in gates.gates]
    for place, gate in enumerate(gates.gates):
        rest = state
        for later in range(place + 1, len(gates.gates)):
            rest = apply(matrices[later], gates.gates[later].wires, rest)
        found.append(readout(gates, rest))
        state = apply(matrices[place], gate.wires, state)
    return torch.stack(found) if found else torch.zeros(0, len(angles), len(gates.observables), dtype=torch.float64)


def values_without_pairs(
    gates: Gates, angles: torch.Tensor, pairs: list[tuple[int, int]], left_out: frozenset[int] = frozenset()
) -> torch.Tensor:
    """Expectation values (P, B, outputs) for angles (B, A), each time without both gates of one of P pairs.

    Args:
        left_out: gates that are missing each time.
    """
    matrices = [matrix_of(gate, angles).expand(len(angles), -1, -1) for gate in gates.gates]
    some = max(1, (AMPLITUDES >> gates.n_wires) // max(1, len(angles)))
    chunks = [pairs[first : first + some] for first in range(0, len(pairs), some)]
    found = [_without(gates, matrices, chunk, left_out) for chunk in chunks]
    return torch.cat(found) if found else torch.zeros(0, len(angles), len(gates.observables), dtype=torch.float64)


def _without(gates: Gates, matrices: list[torch.Tensor], pairs: list[tuple[int, int]], left_out: frozenset[int]):
    """All pairs in one batch: where a gate is missing, its row keeps the state that it had."""
    count, points = len(pairs), len(matrices[0])
    state = torch.zeros(count * points, 2**gates.n_wires, dtype=torch.complex128)
    state[:, 0] = 1
    for place, gate in enumerate(gates.gates):
        if place not in left_out:
            missing = torch.tensor([place in pair for pair in pairs]).repeat_interleave(points)  # (P * B,)
            changed = apply(matrices[place].repeat(count, 1, 1), gate.wires, state)
            state = torch.where(missing[:, None], state, changed) if missing.any() else changed
    return readout(gates, state).unflatten(0, (count, points))
