"""Steps on Pauli vectors: a tensor (4^n, B) whose columns are images, or observables on their way back.

Gates that are the same for all images cost least where there are fewest columns: those at the end act on the
observables (Heisenberg picture), those at the beginning on a product of qubits.
"""

import functools

import numpy as np
import torch

from qcifar.hardware.lower import Step, Value
from qcifar.hardware.pauli import rotation, single_rotation


class Constants:
    """Arrays as tensors of one type on one device, each moved once."""

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype, self.known = device, dtype, {}

    def of(self, name: tuple | None, array: Value) -> torch.Tensor:
        """`array` as a tensor; kept under `name` where there is one."""
        if isinstance(array, torch.Tensor):
            return array.to(self.device, self.dtype)
        if name not in self.known or name is None:
            with torch.inference_mode(False):  # what is kept may be used to learn later
                tensor = torch.from_numpy(np.ascontiguousarray(array))
                tensor = tensor.to(self.device, self.dtype if tensor.is_floating_point() else torch.int64)
            if name is None:
                return tensor
            self.known[name] = tensor
        return self.known[name]


def fused(steps: list[Step], n: int, constants: Constants) -> list[Step]:
    """The same circuit with all that is still on one qubit, between two steps of another kind, in one matrix.

    The matrices of all rotations are made at once.
    """
    turns = [step for step in steps if step.word is not None and len(step.wires) == 1 and not step.moving]
    made = dict(zip(map(id, turns), _turns(turns, constants), strict=True)) if turns else {}
    result: list[Step] = []
    waiting: list[torch.Tensor | None] = [None] * n

    def flush(wires):
        for wire in wires:
            if waiting[wire] is not None:
                result.append(Step((wire,), None, waiting[wire]))
                waiting[wire] = None

    for step in steps:
        if step.moving or len(step.wires) > 1:
            flush(step.wires)
            result.append(step)
            continue
        matrix = made[id(step)] if id(step) in made else constants.of(step.name, step.value)
        before = waiting[step.wires[0]]
        waiting[step.wires[0]] = matrix if before is None else matrix @ before
    flush(range(n))
    return result


def _turns(steps: list[Step], constants: Constants) -> tuple[torch.Tensor, ...]:
    """(4, 4) of each of these rotations on one qubit."""
    angles = torch.stack([constants.of(None, step.value) for step in steps])[:, None, None]
    letters = "".join(step.word for step in steps)
    parts = constants.of(("turns", letters), np.stack([single_rotation(letter) for letter in letters], axis=1))
    return (parts[0] + angles.cos() * parts[1] + angles.sin() * parts[2]).unbind(0)


def split(steps: list[Step], n: int) -> tuple[list[list[Step]], list[Step], list[Step]]:
    """(for each qubit what happens to it alone before anything else, the middle, what is still at the end)."""
    alone: list[list[Step]] = [[] for _ in range(n)]
    entangled: set[int] = set()
    rest: list[Step] = []
    for step in steps:
        if len(step.wires) == 1 and step.wires[0] not in entangled:
            alone[step.wires[0]].append(step)
        else:
            entangled |= set(step.wires)
            rest.append(step)
    moved: set[int] = set()
    middle: list[Step] = []
    end: list[Step] = []
    for step in reversed(rest):
        if step.moving or moved & set(step.wires):
            moved |= set(step.wires)
            middle.append(step)
        else:
            end.append(step)
    return alone, middle[::-1], end[::-1]


def qubit(steps: list[Step], constants: Constants) -> torch.Tensor:
    """(4, B or 1): |0> after steps on this one qubit."""
    state = constants.of(("zero",), np.array([[1.0], [0.0], [0.0], [1.0]]))
    for step in steps:
        state = applied(step, state, 1, constants, (0,))
    return state


def product(qubits: list[torch.Tensor]) -> torch.Tensor:
    """(4^k, B or 1) of k qubits (4, B or 1)."""
    return functools.reduce(lambda left, right: (left[:, None] * right).flatten(0, 1), qubits)


def applied(
    step: Step, state: torch.Tensor, n: int, constants: Constants, wires: tuple[int, ...] | None = None, back=False
) -> torch.Tensor:
    """A step on a Pauli vector (4^n, columns).

    Args:
        wires: where it acts, if elsewhere than it says.
        back: on observables instead: the transposed step.
    """
    wires = step.wires if wires is None else wires
    value = constants.of(step.name, step.value)
    if step.moving and state.shape[-1] == 1:
        state = state.expand(-1, len(value))
    if step.word is None:
        source = _sources_of(step, wires, n, back, constants)
        if source is not None:
            return state.index_select(0, source[0]) * source[1]
        return _mapped(value.mT if back else value, state, wires, n)
    cos, sin = value.cos(), (-value if back else value).sin()
    if len(wires) == 1:
        return _turned(step.word, state, wires[0], cos, sin)
    word = tuple(zip(wires, step.word, strict=True))
    rows, partners, sign = (
        constants.of((kind, n, word), part)
        for kind, part in zip(("rows", "partners", "sign"), rotation(word, n), strict=True)
    )
    turned = cos * state.index_select(0, rows) + sin * (sign[:, None] * state.index_select(0, partners))
    return state.index_copy(0, rows, turned)


def _turned(letter: str, state: torch.Tensor, wire: int, cos, sin) -> torch.Tensor:
    """RX, RY or RZ on one qubit: two of its four components turn into each other."""
    parts = list(state.view(4**wire, 4, -1, state.shape[-1]).unbind(1))
    first, second = {"X": (2, 3), "Y": (3, 1), "Z": (1, 2)}[letter]
    a, b = parts[first], parts[second]
    parts[first], parts[second] = cos * a - sin * b, sin * a + cos * b
    return torch.stack(parts, dim=1).view(state.shape)


def _mapped(matrix, state, wires, n: int) -> torch.Tensor:
    """A transfer matrix (4^k, 4^k) or (B, 4^k, 4^k) on some qubits."""
    columns, k = state.shape[-1], len(wires)
    if matrix.ndim == 2 and k == 1:
        return torch.matmul(matrix, state.view(4 ** wires[0], 4, -1)).view(state.shape)
    front = tuple(range(k))
    grid = state.view(*[4] * n, columns).movedim(wires, front)
    flat = grid.reshape(4**k, -1, columns)
    if matrix.ndim == 2:
        flat = (matrix @ flat.flatten(1)).view(flat.shape)
    else:
        flat = torch.einsum("bij,jrb->irb", matrix, flat)
    return flat.reshape(grid.shape).movedim(front, wires).reshape(state.shape)


def _sources_of(step: Step, wires, n: int, back: bool, constants: Constants):
    """Index and sign as tensors where a fixed gate on several qubits does nothing else, else None: see `_sources`."""
    if step.name is None or step.name[0] == "channel" or len(wires) == 1:
        return None
    name = "sources", step.name, wires, n, back
    if name not in constants.known:
        matrix = np.ascontiguousarray(step.value.T if back else step.value)
        found = _sources(matrix.tobytes(), wires, n)
        constants.known[name] = found and tuple(constants.of(None, part) for part in found)
    return constants.known[name]


def _sources(matrix: bytes, wires: tuple[int, ...], n: int):
    """(source (4^n,), sign (4^n, 1)) of a transfer matrix that only moves Pauli words and changes signs, else None."""
    k = len(wires)
    small = np.frombuffer(matrix).reshape(4**k, 4**k)
    where = np.abs(small).argmax(1)
    exact = np.zeros_like(small)
    exact[np.arange(4**k), where] = np.sign(small[np.arange(4**k), where])
    if not np.allclose(small, exact, atol=1e-12):
        return None
    numbers = np.arange(4**n)
    shifts = [2 * (n - 1 - wire) for wire in wires]
    local = sum(((numbers >> shift) & 3) << (2 * (k - 1 - place)) for place, shift in enumerate(shifts))
    source, rest = where[local], numbers
    for place, shift in enumerate(shifts):
        letter = (source >> (2 * (k - 1 - place))) & 3
        rest = (rest & ~(3 << shift)) | (letter << shift)
    return rest, exact[local, source][:, None]
