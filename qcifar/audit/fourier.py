"""The exact trigonometric polynomial of an output in its inputs (Schuld et al. 2021, arXiv 2008.08605).

Each gate's angle enters an output with the frequencies that are differences of its generator's eigenvalues. With the
weights fixed, an angle is a constant and a combination of symbols: the inputs, where it is quadratic also their
products, else a symbol of its own. Angles that follow the same combination and whose factors have a common measure
share an axis; other frequencies, such as 1 and 0.7, have an axis each. On all axes together the output is a
trigonometric polynomial of integer frequencies, so the Fourier transform of its values on a grid is exact.
"""

import functools
import itertools
import math
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch

from .gates import Gates, LeftOut, points
from .simulate import values

MAX_GRID = 300_000  # values of one output
MAX_AMPLITUDES = 2**23  # of all states on the grid
ZERO = 1e-10  # coefficients below are rounding
MAX_FACTOR = 64  # largest integer frequency of one gate on a shared axis
SHORT = 100  # characters of a closed form that is printed
HALF_STEPS = {"CRX", "CRY", "CRZ"}  # frequencies 0, 1/2 and 1; all other gates: 0 and 1


@dataclass(frozen=True)
class Axis:
    """sum of factors * symbols, and the largest integer frequency in it."""

    direction: tuple[tuple[str, float], ...]  # symbol, factor
    degree: int

    def text(self, frequency: int) -> str:
        """What stands in a cosine: `0.7 v0`, `v0 + 0.5 v1`."""
        parts = [f"{_number(frequency * factor)}{symbol}" for symbol, factor in self.direction]
        return " + ".join(parts).replace("+ -", "- ")


@dataclass(frozen=True)
class ClosedForm:
    """An output as a sum of products of one of 1, cos(m u), sin(m u) for each axis u."""

    axes: list[Axis]
    terms: dict[tuple[int, ...], float]  # for each axis: 0 for 1, m for cos(m u), -m for sin(m u) -> coefficient
    frequencies: int  # number of frequencies with a Fourier coefficient that is not zero
    grid: int  # points at which the circuit was evaluated

    def __str__(self) -> str:
        text = ""
        for key, coefficient in sorted(self.terms.items(), key=lambda item: (_order(item[0]), item[0])):
            factors = self.functions(key)
            size = "" if factors and abs(abs(coefficient) - 1) < ZERO else f"{abs(coefficient):.6g}"
            sign = ("-" if coefficient < 0 else "") if not text else (" - " if coefficient < 0 else " + ")
            text += sign + " ".join(filter(None, (size, *factors)))
        return text or "0"

    def functions(self, key: tuple[int, ...]) -> list[str]:
        """The cosines and sines of one term."""
        return [
            f"{'cos' if m > 0 else 'sin'}({axis.text(abs(m))})" for axis, m in zip(self.axes, key, strict=True) if m
        ]

    @property
    def short(self) -> bool:
        return len(self.terms) <= 4 and len(str(self)) <= SHORT

    def __call__(self, inputs: np.ndarray, angles: np.ndarray) -> np.ndarray:
        """Values (B,) for inputs (B, n) and the circuit's angles (B, A) for these, evaluated term by term.

        The angles are looked at only where they are symbols of their own.
        """
        phases = [sum(f * symbol_value(s, inputs, angles) for s, f in axis.direction) for axis in self.axes]
        total = np.zeros(len(inputs))
        for key, coefficient in self.terms.items():
            factors = [np.cos(m * u) if m > 0 else np.sin(-m * u) for m, u in zip(key, phases, strict=True) if m]
            total = total + coefficient * math.prod(factors, start=np.ones(len(inputs)))
        return total


def symbol_value(symbol: str, inputs: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """`v0` or `v0 v2` of inputs (B, n), or `angle 3` of angles (B, A)."""
    if symbol.startswith("angle"):
        return angles[:, int(symbol.split()[1])]
    return math.prod((inputs[:, int(name[1:])] for name in symbol.split()), start=np.ones(len(inputs)))


def _order(key) -> tuple:
    return (sum(m != 0 for m in key), [abs(m) for m in key])


def _number(value: float) -> str:
    rounded = f"{value:.6g}"
    return {"1": "", "-1": "-"}.get(rounded, f"{rounded} ")


@dataclass(frozen=True)
class Encoding:
    """With fixed weights, angles = factors @ symbols + constant."""

    symbols: list[str]
    factors: np.ndarray  # (A, symbols)
    constant: np.ndarray  # (A,)


def encoding_of(gates: Gates, weights: torch.Tensor | None) -> Encoding:
    """How the angles follow from the inputs at these weights (W,): linear, else quadratic, else symbols of their own.

    Angles that are neither get the symbol `angle k`; their closed form holds in these.
    """
    n = gates.circuit.n_inputs
    pairs = list(itertools.combinations_with_replacement(range(n), 2))
    inputs, _ = points(gates.circuit, 2 * (1 + n + len(pairs)), 21)
    inputs = torch.cat((inputs, inputs.new_zeros(1, n)))
    with torch.no_grad():
        angles = gates.angles(inputs, None if weights is None else weights.expand(len(inputs), -1)).numpy()
    x = inputs.numpy()
    names = [f"v{i}" for i in range(n)] + [f"v{i} v{j}" for i, j in pairs]
    columns = np.column_stack([np.ones(len(x)), *(symbol_value(name, x, angles) for name in names)])
    found = np.linalg.lstsq(columns, angles, rcond=None)[0].T  # (A, 1 + symbols)
    found[np.abs(found) < 1e-9] = 0.0
    tolerance = 1e-8 if gates.dtype == torch.float64 else 1e-3
    fits = np.abs(columns @ found.T - angles).max(0) <= tolerance
    constant = np.where(fits, found[:, 0], 0.0)
    if gates.linear.all():  # exact to the last bit
        base = gates.constant + (0 if weights is None else gates.by_weight @ weights)
        return Encoding(names[:n], gates.by_input.numpy(), base.detach().numpy())
    others = np.flatnonzero(~fits)
    own = np.zeros((len(found), len(others)))
    own[others, np.arange(len(others))] = 1.0
    factors = np.column_stack([np.where(fits[:, None], found[:, 1:], 0.0), own])
    return Encoding(names + [f"angle {k}" for k in others], factors, constant)


def axes_of(gates: Gates, encoding: Encoding, live: np.ndarray, shared: bool = True) -> tuple[list[Axis], np.ndarray]:
    """The axes of an output that depends on the angles `live` (A,) bool, and the angles' factors (A, axes) on them.

    Args:
        shared: whether different factors may share an axis, for the smallest grid; else only equal ones do.
    """
    groups: dict[tuple, list[tuple[int, float, int]]] = {}
    for k in np.flatnonzero(live & encoding.factors.any(1)):
        row = encoding.factors[k]
        pivot = row[np.flatnonzero(row)[0]]
        half = gates.gates[gates.owner[k]].name in HALF_STEPS
        groups.setdefault(tuple(np.round(row / pivot, 9)), []).append((k, pivot / (2 if half else 1), 2 if half else 1))
    axes, columns = [], []
    for direction, members in groups.items():
        for unit, chosen in _shared(members, shared):
            steps = {k: round(pivot / unit) for k, pivot, _ in chosen}
            degree = sum(abs(steps[k]) * times for k, _, times in chosen)
            named = tuple((s, unit * f) for s, f in zip(encoding.symbols, direction, strict=True) if f)
            axes.append(Axis(named, degree))
            column = np.zeros(len(live))
            for k, pivot, times in chosen:
                column[k] = pivot / unit * times
            columns.append(column)
    return axes, np.column_stack(columns) if columns else np.zeros((len(live), 0))


def _shared(members, shared: bool) -> list[tuple[float, list]]:
    """Members (angle, factor, times) in sets with a common measure, merged wherever that makes the grid smaller."""
    found = [(abs(member[1]), [member]) for member in members]
    merged = True
    while merged:
        merged = False
        for a, b in itertools.combinations(range(len(found)), 2):
            unit = _common(found[a][0], found[b][0])
            if unit is None or not (shared or unit > 0.999 * max(found[a][0], found[b][0])):
                continue
            both = (unit, found[a][1] + found[b][1])
            if _points(both) <= _points(found[a]) * _points(found[b]):
                found = [each for k, each in enumerate(found) if k not in (a, b)] + [both]
                merged = True
                break
    return found


def _common(a: float, b: float) -> float | None:
    """The largest number of which both are multiples, if it is not much smaller."""
    ratio = Fraction(a / b).limit_denominator(MAX_FACTOR)
    if ratio.numerator == 0 or ratio.numerator > MAX_FACTOR or abs(float(ratio) - a / b) > 1e-9:
        return None
    return b / ratio.denominator


def _points(shared) -> int:
    unit, members = shared
    return 1 + 2 * sum(abs(round(factor / unit)) * times for _, factor, times in members)


def closed_form(
    gates: Gates, encoding: Encoding, output: int, live: np.ndarray, amplitudes: int = MAX_AMPLITUDES
) -> ClosedForm:
    """The exact trigonometric polynomial of an output, from the smallest sufficient grid.

    Where the same with an axis for each factor, cos(v0) cos(0.5 v0) for example, has fewer terms, it has these terms.

    Args:
        live: (A,) bool, the angles that the output depends on.
        amplitudes: of all states on the grid, at most.

    Raises:
        LeftOut: with the size of the grid.
    """
    axes, factors = axes_of(gates, encoding, live)
    smallest = _transformed(gates, encoding, output, axes, factors, amplitudes)
    split, its_factors = axes_of(gates, encoding, live, shared=False)
    if len(smallest.terms) == 1 or split == axes:
        return smallest
    try:
        other = _transformed(gates, encoding, output, split, its_factors, amplitudes)
    except LeftOut:
        return smallest
    fewer = len(other.terms) < len(smallest.terms)
    return replace(smallest, axes=split, terms=other.terms) if fewer else smallest


def _transformed(gates, encoding, output, axes, factors, amplitudes: int) -> ClosedForm:
    sizes = [2 * axis.degree + 1 for axis in axes]
    size = math.prod(sizes)
    if size > MAX_GRID or size << gates.n_wires > amplitudes:
        most = min(MAX_GRID, amplitudes >> gates.n_wires)
        raise LeftOut(f"its grid has {size:,} points, at most {most:,} are evaluated with {gates.n_wires} qubits")
    angles = torch.from_numpy(_grid(sizes) @ factors.T + encoding.constant)
    with torch.no_grad():
        found = values(gates, angles, outputs=[output])[:, 0].numpy().reshape(sizes)
    coefficients = np.asarray(np.fft.fftn(found) / size)  # also without any axis
    coefficients[np.abs(coefficients) < ZERO] = 0.0
    return ClosedForm(axes, _real_terms(coefficients), _distinct(axes, coefficients), size)


def _grid(sizes: list[int]) -> np.ndarray:
    """(points, axes): all combinations of equally spaced phases."""
    sides = [2 * np.pi * np.arange(side) / side for side in sizes]
    return np.stack([u.ravel() for u in np.meshgrid(*sides, indexing="ij")], axis=1) if sizes else np.zeros((1, 0))


def _real_terms(coefficients: np.ndarray) -> dict[tuple[int, ...], float]:
    """From exp(i m u) to 1, cos(m u), sin(m u) along every axis."""
    for axis, side in enumerate(coefficients.shape):
        coefficients = np.moveaxis(np.tensordot(_to_real(side), coefficients, axes=(1, axis)), 0, axis)
    real = coefficients.real
    names = [[0, *itertools.chain.from_iterable((m, -m) for m in range(1, side // 2 + 1))] for side in real.shape]
    places = np.argwhere(np.abs(real) > ZERO)
    return {tuple(names[a][p] for a, p in enumerate(place)): float(real[tuple(place)]) for place in places}


@functools.lru_cache
def _to_real(side: int) -> np.ndarray:
    """Rows 1, cos u, sin u, cos 2u, ...; columns in the order of NumPy's FFT."""
    matrix = np.zeros((side, side), dtype=complex)
    matrix[0, 0] = 1
    for m in range(1, side // 2 + 1):
        matrix[2 * m - 1, [m, -m]] = 1
        matrix[2 * m, [m, -m]] = 1j, -1j
    return matrix


def _distinct(axes: list[Axis], coefficients: np.ndarray) -> int:
    """Number of different frequencies, as vectors over the symbols, whose coefficients do not cancel."""
    symbols = sorted({symbol for axis in axes for symbol, _ in axis.direction})
    directions = np.array([[dict(axis.direction).get(s, 0.0) for s in symbols] for axis in axes])
    places = np.argwhere(coefficients != 0)
    if not axes or not len(places):
        return len(places)
    sizes = np.array(coefficients.shape)
    signed = np.where(places > sizes // 2, places - sizes, places)
    keys = np.round(signed @ directions, 6)
    _, which = np.unique(keys, axis=0, return_inverse=True)
    total = np.zeros(which.max() + 1, dtype=complex)
    np.add.at(total, which.ravel(), coefficients[tuple(places.T)])
    return int((np.abs(total) > ZERO).sum())


@dataclass(frozen=True)
class Features:
    """Fixed functions of the inputs of which every output is a linear map, whatever the weights are."""

    axes: list[Axis]
    count: int  # products over the axes of one of 1, cos(m u), sin(m u)
    rank: int  # dimension of what the outputs span over random weights

    def __str__(self) -> str:
        first = self.axes[0]
        each = ["1"] + [f"{f}({first.text(m)})" for m in range(1, first.degree + 1) for f in ("cos", "sin")]
        return f"{self.count} products over {len(self.axes)} factors such as ({', '.join(each)})"


MAX_FEATURES = 243


def features(gates: Gates, live: np.ndarray) -> Features | None:
    """The fixed features of a circuit with weights, or None where there are none, or too many to look at.

    Args:
        live: (outputs, A) bool.
    """
    if gates.circuit.weight_shape is None:
        return None
    _, weights = points(gates.circuit, 2, 22)
    one, other = (encoding_of(gates, w) for w in weights)
    if one.symbols != other.symbols or not np.allclose(one.factors, other.factors, rtol=0, atol=1e-9):
        return None  # weights that multiply inputs move the frequencies
    if any(symbol.startswith("angle") for symbol in one.symbols):
        return None  # such an angle may hold weights
    axes, factors = axes_of(gates, one, live.any(0))
    sizes = [2 * axis.degree + 1 for axis in axes]
    count = math.prod(sizes)
    draws = -(-count // max(1, len(gates.observables))) + 4
    if not axes or count > MAX_FEATURES or (count * draws) << gates.n_wires > MAX_AMPLITUDES:
        return None
    moving = torch.from_numpy(_grid(sizes) @ factors.T)  # (count, A)
    _, weights = points(gates.circuit, draws, 23)
    still = gates.angles(weights.new_zeros(draws, gates.circuit.n_inputs), weights).detach()  # (draws, A)
    with torch.no_grad():
        found = values(gates, (still[:, None] + moving).flatten(0, 1))
    rows = found.unflatten(0, (draws, count)).permute(0, 2, 1).flatten(0, 1).numpy()  # on the grid: as good as features
    strengths = np.linalg.svd(rows, compute_uv=False)
    return Features(axes, count, int((strengths > 1e-9 * strengths[0]).sum()))
