"""What a circuit is between PennyLane and torch: a recording, angles, and layers of three kinds.

Every gate becomes a product of these, up to a global phase that no expectation value sees:

    R   RY(theta) on some wires                     real mixing
    D   exp(-i/2 sum_k theta_k z_k(s))              phases and signs of basis states s
    P   a permutation of the basis states           CNOT, SWAP, X, Toffoli

Basis states are numbered as in PennyLane: wire 0 is the most significant bit.
"""

from dataclasses import dataclass, field

import numpy as np
import torch


class NotCompilable(Exception):
    """The circuit holds something that only PennyLane can run; the message names it."""


@dataclass
class Angle:
    """const + sum of coefficient * (parameter of the tape), in radians."""

    terms: dict[int, float] = field(default_factory=dict)  # number of the tape's parameter -> coefficient
    const: float = 0.0

    def __mul__(self, factor: float) -> "Angle":
        return Angle({k: c * factor for k, c in self.terms.items()}, self.const * factor)

    def __add__(self, other: "Angle") -> "Angle":
        keys = self.terms.keys() | other.terms.keys()
        return Angle({k: self.terms.get(k, 0.0) + other.terms.get(k, 0.0) for k in keys}, self.const + other.const)


@dataclass
class Layer:
    """Gates of one kind that are applied at once."""

    kind: str  # "R", "D" or "P"
    wires: set[int] = field(default_factory=set)
    rotations: dict[int, Angle] = field(default_factory=dict)  # R: wire -> angle of RY
    phases: list[tuple[np.ndarray, Angle, frozenset]] = field(default_factory=list)  # D: (z (2^N,), angle, wires)
    sign: np.ndarray | None = None  # D: (2^N,) of +1 and -1
    source: np.ndarray | None = None  # P: new[s] = old[source[s]]


@dataclass
class Recording:
    """What one call of the quantum function left behind."""

    n_wires: int
    gates: list[tuple[str, list[int], list[int]]]  # (name, wires, numbers of its parameters)
    angles: torch.fx.GraphModule  # (inputs (B, n), weights, *captured) -> list of the tape's parameters, () or (B,)
    captured: list[torch.Tensor]  # trainable tensors that the function takes from outside its arguments
    dtype: torch.dtype  # of the arguments that `angles` takes
    rounded: bool  # whether the function itself computes some of them in less than double precision
    observables: list[list[tuple[float, dict[int, str]]]]  # for each output: [(coefficient, wire -> X, Y or Z)]
    digest: tuple[tuple, list]  # a value that is equal while the function does the same, and what must live for it
    other_sizes: list[torch.Tensor]  # arguments with a batch of another size
