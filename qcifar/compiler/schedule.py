"""Recorded gates as R, D and P layers (see `ir.py`), in as few as their wires allow.

`circuit.py` folds the last of them into the readout and runs the others.
"""

from collections.abc import Callable

import numpy as np

from .gates import PRIMITIVES
from .ir import Angle, Layer, Recording


class Builder:
    """Collects gates as R, D and P layers, each gate as early as those before it allow."""

    def __init__(self, n_wires: int):
        self.n = n_wires
        self.states = np.arange(2**n_wires)
        self.layers: list[Layer] = []
        self.fresh = set(range(n_wires))  # wires that are still |0>

    def bit(self, wire: int) -> np.ndarray:
        return (self.states >> (self.n - 1 - wire)) & 1

    def z(self, wires) -> np.ndarray:
        """Eigenvalues (2^N,) of the product of Z on `wires`."""
        return np.prod([1.0 - 2.0 * self.bit(w) for w in wires], axis=0)

    def _join(self, gate: Layer, merge: Callable[[Layer], None]) -> None:
        best = None
        for layer in reversed(self.layers):
            if layer.kind == gate.kind:
                best = layer
            elif gate.wires & layer.wires:
                break
            if gate.kind == "P" and gate.wires & layer.wires:
                break  # permutations on the same wires keep their order
        if best is None:
            self.layers.append(best := Layer(gate.kind, set()))
        best.wires |= gate.wires
        merge(best)

    def rotate(self, wire: int, angle: Angle) -> None:
        def merge(layer):
            layer.rotations[wire] = layer.rotations.get(wire, Angle()) + angle

        self.fresh.discard(wire)
        self._join(Layer("R", {wire}), merge)

    def phase(self, wires, angle: Angle) -> None:
        """exp(-i angle/2 Z...Z); on a wire in |0>, Z is 1."""
        wires = frozenset(wires) - self.fresh
        if wires:
            self._join(Layer("D", set(wires)), lambda layer: layer.phases.append((self.z(wires), angle, wires)))

    def flip_sign(self, wires) -> None:
        """-1 where all `wires` are 1: Z, CZ, CCZ."""
        if self.fresh & set(wires):
            return
        sign = 1.0 - 2.0 * np.prod([self.bit(w) for w in wires], axis=0)

        def merge(layer):
            layer.sign = sign if layer.sign is None else layer.sign * sign

        self._join(Layer("D", set(wires)), merge)

    def permute(self, wires, target_of: np.ndarray) -> None:
        """|s> -> |target_of[s]>."""
        source = np.argsort(target_of)

        def merge(layer):
            layer.source = source if layer.source is None else layer.source[source]

        self._join(Layer("P", set(wires)), merge)

    def not_(self, controls, target: int) -> None:
        """X on `target` where all `controls` are 1."""
        if self.fresh & set(controls):
            return
        self.fresh.discard(target)
        active = np.prod([self.bit(w) for w in controls], axis=0) if controls else np.ones_like(self.states)
        self.permute([*controls, target], self.states ^ (active << (self.n - 1 - target)))

    def swap(self, controls, a: int, b: int) -> None:
        if self.fresh & set(controls):
            return
        was = {a in self.fresh, b in self.fresh}
        self.fresh -= {a, b}
        if was == {True}:
            self.fresh |= {a, b}
            return
        active = np.prod([self.bit(w) for w in controls], axis=0) if controls else np.ones_like(self.states)
        differs = (self.bit(a) ^ self.bit(b)) * active
        mask = (1 << (self.n - 1 - a)) | (1 << (self.n - 1 - b))
        self.permute([*controls, a, b], self.states ^ (differs * mask))


def schedule(recording: Recording) -> list[Layer]:
    """The recorded gates as R, D and P layers, in as few as their wires allow."""
    builder = Builder(recording.n_wires)
    for name, wires, numbers in recording.gates:
        PRIMITIVES[name](builder, wires, [Angle({number: 1.0}) for number in numbers])
    return builder.layers


def gather(layers: list[Layer]) -> list[Layer]:
    """The same circuit with neighbouring P layers in one, and every D merged with one after a P if there is any.

    Which wires the new layers act on is not kept.
    """
    layers, k = list(layers), 1
    while k < len(layers):
        kinds = "".join(layer.kind for layer in layers[max(0, k - 2) : k + 1])
        if kinds.endswith("PP"):
            both = layers[k - 1].source[layers[k].source]
            layers[k - 1 : k + 1] = [Layer("P", source=both)]
        elif kinds.endswith("DD"):
            layers[k - 1 : k + 1] = [_merged(layers[k - 1], layers[k])]
        elif kinds == "DPD":
            layers[k - 2 : k + 1] = [layers[k - 1], _merged(_pushed_through(layers[k - 2], layers[k - 1]), layers[k])]
        else:
            k += 1
            continue
        k = max(1, k - 2)
    return layers


def _pushed_through(phases: Layer, permutation: Layer) -> Layer:
    """The D that after `permutation` does what `phases` does before it."""
    source = permutation.source
    moved = [(z[source], angle, frozenset()) for z, angle, _ in phases.phases]  # on other wires now
    return Layer("D", phases=moved, sign=None if phases.sign is None else phases.sign[source])


def _merged(first: Layer, second: Layer) -> Layer:
    signs = [layer.sign for layer in (first, second) if layer.sign is not None]
    sign = np.prod(signs, axis=0) if signs else None
    return Layer("D", phases=first.phases + second.phases, sign=sign)
