"""What has an effect on what: gates and weights without any, light cones, additive and product outputs.

All of it follows from values at random points. An output is an analytic function of its angles, so one that agrees
at random points agrees everywhere, except with probability 0; `TOLERANCE` is for rounding.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from .gates import Circuit, Gates, points
from .simulate import states, values, values_without_each, values_without_pairs

TOLERANCE = 1e-9  # of a difference of outputs, which go from -1 to 1
POINTS = 8  # random inputs and weights at which outputs are compared
SCREENED = 2  # of these, at which all pairs of gates are tried; what is found there is compared at all
PAIR_WORK = 2e7  # amplitudes times gates for pairs of gates: about half a second on one core

Values = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]  # inputs (B, n), weights (B, W) -> (B, outputs)


@dataclass(frozen=True)
class Cones:
    """Which output depends on what."""

    inputs: torch.Tensor  # (outputs, n) bool
    weights: torch.Tensor  # (outputs, W) bool
    angles: torch.Tensor | None  # (outputs, A) bool; None where the gates cannot be read

    @property
    def live_weights(self) -> int:
        return int(self.weights.any(0).sum())

    @property
    def inert_weights(self) -> list[int]:
        """Places of the weights, flat, that no output depends on."""
        return (~self.weights.any(0)).nonzero().flatten().tolist()


def cones(circuit: Circuit, values_of: Values, gates: Gates | None, count: int = POINTS) -> Cones:
    """Replace one input, weight or angle after the other by another random number, and see which outputs change."""
    (inputs, weights), (others, other_weights) = (points(circuit, count, seed) for seed in (11, 12))
    before = values_of(inputs, weights)
    by_input = _changed(lambda x: values_of(x, _repeated(weights, len(x))), inputs, others, before)
    by_weight = by_input.new_zeros(before.shape[1], 0)
    if weights is not None:
        by_weight = _changed(lambda w: values_of(_repeated(inputs, len(w)), w), weights, other_weights, before)
    by_angle = None
    if gates is not None:
        angles = gates.angles(inputs, weights)
        generator = torch.Generator().manual_seed(13)
        elsewhere = 2 * torch.pi * torch.rand(angles.shape, generator=generator, dtype=torch.float64)
        by_angle = _changed(lambda theta: values(gates, theta), angles, elsewhere, values(gates, angles))
    return Cones(by_input, by_weight, by_angle)


def _repeated(tensor, rows: int):
    return None if tensor is None else tensor.repeat(rows // len(tensor), 1)


def _changed(values_of, arguments, others, before) -> torch.Tensor:
    """(outputs, columns): whether an output changes with a column of arguments (B, columns)."""
    columns = arguments.shape[1]
    if columns == 0:
        return torch.zeros(before.shape[1], 0, dtype=torch.bool)
    replaced = arguments.repeat(columns, 1, 1)  # (columns, B, columns)
    place = torch.arange(columns)
    replaced[place, :, place] = others.mT
    after = values_of(replaced.flatten(0, 1)).unflatten(0, (columns, -1))
    return ((after - before).abs() > TOLERANCE).any(1).mT


@dataclass(frozen=True)
class Inert:
    """Gates without which every output is the same."""

    gates: list[int]  # places; each alone
    together: bool  # whether all of them can be taken away at once
    pairs: list[tuple[int, int]]  # places of two gates that have an effect, and none together; all at once
    pairs_tried: int  # the nearest first
    pairs_there: int  # pairs of gates that each have an effect
    # Gates on several qubits that are left when these are taken away, one by one from the end if not at once.
    two_qubit_live: int
    entanglement: float  # Meyer-Wallach mean of the states then


def inert_gates(gates: Gates, count: int = POINTS, work: float = PAIR_WORK) -> Inert:
    """Take away one gate after the other, then all at once that had no effect, then pairs, and compare outputs.

    Args:
        work: amplitudes times gates that are computed for pairs; it bounds how many are tried.
    """
    angles = gates.angles(*points(gates.circuit, count, 11))
    before = values(gates, angles)
    difference = (values_without_each(gates, angles) - before).abs().amax((1, 2))
    found = (difference <= TOLERANCE).nonzero().flatten().tolist()
    gone = _removable(gates, angles, before, found)
    live = [place for place in range(len(gates.gates)) if place not in gone]
    there = len(live) * (len(live) - 1) // 2
    tried = min(there, int(work / (SCREENED * 2.0**gates.n_wires * max(1, len(gates.gates)))))
    candidates = list(itertools.islice(nearest_pairs(gates, live), tried))
    pairs, gone = _inert_pairs(gates, angles, before, candidates, gone)
    several = sum(len(gates.gates[place].wires) > 1 for place in live if place not in gone)
    entanglement = meyer_wallach(states(gates, angles, gone)).mean().item()
    return Inert(found, gone.issuperset(found), pairs, tried, there, several, entanglement)


def _removable(gates: Gates, angles: torch.Tensor, before: torch.Tensor, found: list[int]) -> frozenset[int]:
    """Those of `found` that can be away at once: all, or those that can be taken one by one from the circuit's end."""

    def same(without: frozenset[int]) -> bool:
        return bool(((values(gates, angles, without) - before).abs() <= TOLERANCE).all())

    if same(frozenset(found)):
        return frozenset(found)
    gone: frozenset[int] = frozenset()
    for place in reversed(found):
        if same(gone | {place}):
            gone |= {place}
    return gone


def nearest_pairs(gates: Gates, places: list[int]) -> Iterator[tuple[int, int]]:
    """Pairs of `places`: first those on the same qubits, since they may cancel, then all others; neighbours first."""
    alike: dict[frozenset[int], list[int]] = {}
    for place in places:
        alike.setdefault(frozenset(gates.gates[place].wires), []).append(place)
    for apart in range(1, max(map(len, alike.values()), default=0)):
        level = [pair for members in alike.values() for pair in zip(members, members[apart:], strict=False)]
        yield from sorted(level, key=lambda pair: pair[1] - pair[0])
    for apart in range(1, len(places)):
        for pair in zip(places, places[apart:], strict=False):
            if len({frozenset(gates.gates[place].wires) for place in pair}) == 2:
                yield pair


def _inert_pairs(
    gates: Gates, angles: torch.Tensor, before: torch.Tensor, candidates: list[tuple[int, int]], without: frozenset[int]
) -> tuple[list[tuple[int, int]], frozenset[int]]:
    """Pairs without which every output is the same, one after the other taken away; and all that is away then.

    Where a pair was found, the rest is tried again: A B B* A* are two pairs, of which the outer one is found second.

    Args:
        without: gates that are away from the beginning.
    """
    kept: list[tuple[int, int]] = []
    while candidates:
        few = values_without_pairs(gates, angles[:SCREENED], candidates, without)
        same = ((few - before[:SCREENED]).abs() <= TOLERANCE).all(2).all(1)
        known = len(kept)
        for pair in (candidates[k] for k in same.nonzero().flatten().tolist()):
            if without.isdisjoint(pair):
                fewer = without.union(pair)
                if bool(((values(gates, angles, fewer) - before).abs() <= TOLERANCE).all()):
                    kept, without = [*kept, pair], fewer
        if len(kept) == known:
            break
        candidates = [pair for pair in candidates if without.isdisjoint(pair)]
    return kept, without


def meyer_wallach(state: torch.Tensor) -> torch.Tensor:
    """Meyer-Wallach entanglement (B,) of states (B, 2^N): 2 - 2 * mean over qubits of the purity of each.

    0 for a product of qubits, 1 for a GHZ state (J. Math. Phys. 43, 4273; in this form Brennen,
    Quantum Inf. Comput. 3, 619).
    """
    n = state.shape[-1].bit_length() - 1
    purities = []
    for wire in range(n):
        split = state.view(len(state), 2**wire, 2, -1).transpose(1, 2).flatten(2)  # (B, 2, 2^(N-1))
        reduced = split @ split.mH
        purities.append((reduced.abs() ** 2).sum((1, 2)))
    return 2 - 2 * torch.stack(purities).mean(0)


CONSTANT, ONE, ADDITIVE, PRODUCT, NEITHER = "constant", "of one input", "additive", "a product", "neither"


def forms(circuit: Circuit, values_of: Values, count: int = POINTS) -> list[str]:
    """For each output, as a function of the inputs at random weights, the first that is true of it.

    "constant", "of one input", "additive" (a sum of functions of single inputs), "a product" (of such functions),
    "neither". Additive: all mixed second differences are 0. A product: f(a, b) f(a', b') = f(a, b') f(a', b) for all
    pairs of inputs.
    """
    a, weights = points(circuit, count, 31, spread=False)
    b, _ = points(circuit, count, 32)
    pairs = itertools.combinations(range(circuit.n_inputs), 2)
    changed = [[i] for i in range(circuit.n_inputs)] + [part for i, j in pairs for part in ([], [i], [j], [i, j])]
    rows = torch.cat([a, *(_with(a, b, columns) for columns in changed)])
    found = values_of(rows, _repeated(weights, len(rows))).unflatten(0, (-1, count))
    single = ((found[1 : 1 + circuit.n_inputs] - found[0]).abs() > TOLERANCE).any(1).sum(0)  # (outputs,)
    square = found[1 + circuit.n_inputs :].unflatten(0, (-1, 4))  # (pairs, 4, count, outputs)
    sums = (square[:, 0] - square[:, 1] - square[:, 2] + square[:, 3]).abs()
    products = (square[:, 0] * square[:, 3] - square[:, 1] * square[:, 2]).abs()
    additive, product = ((each <= TOLERANCE).flatten(0, 1).all(0) for each in (sums, products))
    return [
        CONSTANT if n == 0 else ONE if n == 1 else ADDITIVE if is_sum else PRODUCT if is_product else NEITHER
        for n, is_sum, is_product in zip(single.tolist(), additive.tolist(), product.tolist(), strict=True)
    ]


def _with(a, b, columns) -> torch.Tensor:
    mixed = a.clone()
    mixed[:, columns] = b[:, columns]
    return mixed
