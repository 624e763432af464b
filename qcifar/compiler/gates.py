"""PennyLane's gates as R, D and P layers, given a builder that schedules these; any other gate by its decomposition."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from .ir import Angle

if TYPE_CHECKING:
    from .schedule import Builder


def _const(value: float) -> Angle:
    return Angle(const=value)


def _rx(b: "Builder", wire: int, angle: Angle) -> None:  # RX = RZ(-pi/2) RY RZ(pi/2), the rightmost first
    b.phase([wire], _const(math.pi / 2))
    b.rotate(wire, angle)
    b.phase([wire], _const(-math.pi / 2))


def _rot(b: "Builder", wire: int, phi: Angle, theta: Angle, omega: Angle) -> None:
    b.phase([wire], phi)
    b.rotate(wire, theta)
    b.phase([wire], omega)


def _hadamard(b: "Builder", wire: int) -> None:  # H = RY(pi/2) Z
    b.flip_sign([wire])
    b.rotate(wire, _const(math.pi / 2))


def _cry(b: "Builder", control: int, target: int, angle: Angle) -> None:
    b.rotate(target, angle * 0.5)
    b.not_([control], target)
    b.rotate(target, angle * -0.5)
    b.not_([control], target)


def _crx(b: "Builder", control: int, target: int, angle: Angle) -> None:
    b.phase([target], _const(math.pi / 2))
    _cry(b, control, target, angle)
    b.phase([target], _const(-math.pi / 2))


def _crz(b: "Builder", control: int, target: int, angle: Angle) -> None:  # Z_t (1 - Z_c) / 2
    b.phase([target], angle * 0.5)
    b.phase([control, target], angle * -0.5)


def _controlled_phase(b: "Builder", control: int, target: int, angle: Angle) -> None:
    b.phase([control], angle * 0.5)  # |11><11| = (1 - Z_c)(1 - Z_t) / 4
    b.phase([target], angle * 0.5)
    b.phase([control, target], angle * -0.5)


def _cy(b: "Builder", control: int, target: int) -> None:
    b.phase([target], _const(-math.pi / 2))
    b.not_([control], target)
    b.phase([target], _const(math.pi / 2))


def _y(b: "Builder", wire: int) -> None:  # Y = i X Z
    b.flip_sign([wire])
    b.not_([], wire)


# name in PennyLane -> what it is in R, D and P, given (builder, wires, angles); any other gate by its decomposition
PRIMITIVES: dict[str, Callable] = {
    "RX": lambda b, w, a: _rx(b, w[0], a[0]),
    "RY": lambda b, w, a: b.rotate(w[0], a[0]),
    "RZ": lambda b, w, a: b.phase(w, a[0]),
    "PhaseShift": lambda b, w, a: b.phase(w, a[0]),
    "U1": lambda b, w, a: b.phase(w, a[0]),
    "Rot": lambda b, w, a: _rot(b, w[0], *a),
    "Hadamard": lambda b, w, a: _hadamard(b, w[0]),
    "PauliX": lambda b, w, a: b.not_([], w[0]),
    "PauliY": lambda b, w, a: _y(b, w[0]),
    "PauliZ": lambda b, w, a: b.flip_sign(w),
    "S": lambda b, w, a: b.phase(w, _const(math.pi / 2)),
    "T": lambda b, w, a: b.phase(w, _const(math.pi / 4)),
    "SX": lambda b, w, a: _rx(b, w[0], _const(math.pi / 2)),
    "CNOT": lambda b, w, a: b.not_(w[:1], w[1]),
    "CY": lambda b, w, a: _cy(b, *w),
    "CZ": lambda b, w, a: b.flip_sign(w),
    "CCZ": lambda b, w, a: b.flip_sign(w),
    "SWAP": lambda b, w, a: b.swap([], *w),
    "CSWAP": lambda b, w, a: b.swap(w[:1], *w[1:]),
    "Toffoli": lambda b, w, a: b.not_(w[:2], w[2]),
    "CRX": lambda b, w, a: _crx(b, *w, a[0]),
    "CRY": lambda b, w, a: _cry(b, *w, a[0]),
    "CRZ": lambda b, w, a: _crz(b, *w, a[0]),
    "ControlledPhaseShift": lambda b, w, a: _controlled_phase(b, *w, a[0]),
    "IsingZZ": lambda b, w, a: b.phase(w, a[0]),
    "MultiRZ": lambda b, w, a: b.phase(w, a[0]),
}
