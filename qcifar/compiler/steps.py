"""Steps of a compiled circuit: what `evolve` does to a batch of states, there and back, in real arithmetic.

A state is a real tensor (parts, 2^N, B): parts is 1 while the amplitudes are real, then 2 for real and
imaginary parts. The batch comes last, so that an angle per image multiplies along contiguous memory and
gates that are the same for all images are matrix products; B is 1 while nothing depends on the image.
"""

import functools

import numpy as np
import torch
from torch import nn

from .evolve import Angles, Found, Scratch, walk, walk_back


class Constants(nn.Module):
    """A module whose constants are float32 or, without loss, float64, never less; they are not in its state dict."""

    def constant(self, name: str, array: np.ndarray) -> None:
        exact = torch.from_numpy(np.ascontiguousarray(array))
        self.register_buffer(name, exact.float() if exact.is_floating_point() else exact.long(), persistent=False)
        if exact.is_floating_point():
            self.__dict__.setdefault("exact", {})[name] = exact.double()

    def _apply(self, fn, recurse=True):
        """Every conversion of a module comes here, also one of a module around this one."""
        super()._apply(fn, recurse)
        for name, tensor in self.__dict__.get("exact", {}).items():
            now = getattr(self, name)
            if now.dtype != torch.float32:  # also after half(): a circuit is float32 or wider
                wanted = torch.float64 if now.dtype == torch.float64 else torch.float32
                setattr(self, name, tensor.to(now.device, wanted))
        return self


class Step(Constants):
    """Base of the steps.

    A step has `ahead(state, angles, scratch)`, which returns what it keeps and the next state, and
    `back(kept, gradient, angles, scratch, found)`, which returns the gradient by the state before it and leaves
    those by its angles in `found`. Where that state was real or the same for all images, the gradient may have an
    imaginary part or columns too many.

    What several steps need is a part of `Scratch`, `Kron` or `Circles`: `forward(angles)` makes it for all of them at
    once, `back(scratch, found)` takes what they left in `found.shared[kind]` on to the angles.
    """


class Kron(Constants):
    """All rotation matrices on `size` neighbouring wires, that is Kronecker products of RY(2 half)."""

    def __init__(self, size: int, use: int):
        super().__init__()
        self.kind, self.size, self.use = f"kron {size}", size, use
        # A place is +- the product of cos half and, on the wires where row and column differ, sin half.
        sign = functools.reduce(np.kron, [np.array([[1.0, -1.0], [1.0, 1.0]])] * size).reshape(-1)
        rows, columns = np.divmod(np.arange(4**size), 2**size)
        spread = np.zeros((2**size, 4**size))
        spread[rows ^ columns, np.arange(4**size)] = sign
        self.constant("spread", spread)
        self.constant("generators", _generators(size).reshape(size, -1).T)  # (4^size, size)

    def forward(self, angles: Angles) -> tuple[tuple, tuple]:
        """Angles (factors * size, 1) -> matrices (2^size, 2^size), and the same transposed."""
        halves = angles[self.use].view(-1, self.size, 1)
        products = _product(torch.stack((halves.cos(), halves.sin()), dim=2)).squeeze(-1)  # (factors, 2^size)
        matrices = (products @ self.spread).view(-1, 2**self.size, 2**self.size)
        return matrices.unbind(0), matrices.mT.unbind(0)

    def back(self, scratch: Scratch, found: Found) -> None:
        """From sum over images of gradient @ state^T, (2^size, 2^size) for each matrix."""
        overlaps = found.stacked(self.kind).flatten(1)  # (factors, 4^size)
        found.angles[self.use] = (overlaps @ self.generators).view(-1, 1)


class Circles(Constants):
    """cos and sin of all phases that are the same for all images: phase = z @ angles, with a sign.

    Args:
        use: angles (layers * rows, 1), padded to the same number of rows for each layer.
        z: (layers, 2^N, rows) eigenvalues.
        sign: (layers, 2^N) of +1 and -1.
    """

    kind = "circles"

    def __init__(self, use: int, z: np.ndarray, sign: np.ndarray):
        super().__init__()
        self.use = use
        self.constant("z", z.transpose(0, 2, 1))
        self.constant("sign", sign[:, None])

    def forward(self, angles: Angles) -> list[tuple]:
        """For each layer four pairs (2, 2^N, 1) for `_phased`: first and second ahead, first and second back."""
        phases = torch.bmm(angles[self.use].view(len(self.z), 1, -1), self.z)  # (layers, 1, 2^N)
        cos, sin = phases.cos() * self.sign, phases.sin() * self.sign
        pairs = torch.cat((cos, sin, -sin, cos, cos, -sin, sin, cos), dim=1)
        return [layer.unbind(0) for layer in pairs.view(len(self.z), 4, 2, -1, 1).unbind(0)]

    def back(self, scratch: Scratch, found: Found) -> None:
        by_phase = found.stacked(self.kind)
        found.angles[self.use] = torch.bmm(by_phase.mT, self.z.mT).view(-1, 1)


class Product(Step):
    """|0...0> turned by RY(2 half) on all n wires: the product of qubits (cos half, sin half)."""

    def __init__(self, use: int, n: int):
        super().__init__()
        self.use, self.sizes = use, (n - n // 2, n // 2)
        for name, size in zip(("left_generators", "right_generators"), self.sizes, strict=True):
            self.constant(name, _generators(size))

    def ahead(self, state, angles: Angles, scratch: Scratch):
        left, right = scratch.once(self, lambda: self._halves(angles[self.use]))
        return None, (left[:, None] * right).flatten(0, 1)[None]

    def _halves(self, halves):
        """(n, B) -> the states (2^size, B) of the first and the last wires."""
        qubits = torch.stack((halves.cos(), halves.sin()), dim=1)
        if self.sizes[0] == self.sizes[1]:
            return _product(qubits.unflatten(0, (2, -1))).unbind(0)
        left, right = qubits.split(self.sizes)
        return _product(left[None])[0], _product(right[None])[0] if len(right) else torch.ones_like(halves[:1])

    def back(self, kept, gradient, angles: Angles, scratch: Scratch, found: Found):
        left, right = scratch.once(self, lambda: self._halves(angles[self.use]))
        grid = gradient[0].view(len(left), len(right), gradient.shape[-1])
        by_left = _by_angles(self.left_generators, left, (grid * right).sum(1))
        by_right = _by_angles(self.right_generators, right, (grid * left[:, None]).sum(0))
        found.angles[self.use] = torch.cat((by_left, by_right))
        return None


def _generators(size: int) -> np.ndarray:
    """d RY(2 half) / d half at half = 0 on each of `size` wires, (size, 2^size, 2^size)."""
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])
    each = [np.kron(np.kron(np.eye(2**k), turn), np.eye(2 ** (size - 1 - k))) for k in range(size)]
    return np.array(each).reshape(size, 2**size, 2**size)


def _by_angles(generators, state, gradient):
    """(size, B): overlap of the gradient with every generator applied to a state (2^size, B)."""
    size, rows, _ = generators.shape
    return ((generators.flatten(0, 1) @ state).view(size, rows, state.shape[-1]) * gradient).sum(1)


class Still(Step):
    """Gates that are the same for all images: a permutation, then a sign or phases, then rotations, each if given.

    Rotations and phases commute with their generators: all gradients are overlaps at one place, between phases
    and rotations. That state is kept.

    Args:
        source: permutation, new[s] = old[source[s]].
        sign: (2^N,) of +1 and -1, where there are no phases.
        circle: layer of `Circles` with the phases.
        rotations: for each matrix the kind of its `Kron`, its place there and the first of its wires.
    """

    ORDER = ("source", "sign", "circle", "rotations")

    def __init__(self, source=None, sign=None, circle: int | None = None, rotations: list[tuple[str, int, int]] = ()):
        super().__init__()
        self.circle, self.rotations = circle, rotations
        self.signed, self.permuted = sign is not None, source is not None
        if self.signed:
            self.constant("sign", sign[:, None])
        if self.permuted:
            self.constant("source", source)
            self.constant("target", np.argsort(source))

    def ahead(self, state, angles: Angles, scratch: Scratch):
        if self.permuted:
            state = _reordered(state, self.source, self.target)
        if self.signed:
            state = state * self.sign
        if self.circle is not None:
            first, second, _, _ = scratch.by_kind[Circles.kind][self.circle]
            state = _phased(state.unbind(0), first, second)
        after, shape = state, state.shape
        for kron, place, wire in self.rotations:
            after = _applied(scratch.by_kind[kron][0][place], after, shape[0] << wire)
        return state, after.view(shape)

    def back(self, kept, gradient, angles: Angles, scratch: Scratch, found: Found):
        shape = gradient.shape
        for kron, place, wire in self.rotations:
            gradient = _applied(scratch.by_kind[kron][1][place], gradient, shape[0] << wire)
        for kron, place, wire in self.rotations:
            groups = (shape[0] << wire, len(scratch.by_kind[kron][0][place]), -1)
            found.shared[kron][place] = torch.bmm(gradient.view(groups), kept.view(groups).mT).sum(0)
        gradient = gradient.view(shape)
        if self.circle is not None:
            _, _, first, second = scratch.by_kind[Circles.kind][self.circle]
            parts = gradient.unbind(0)
            found.shared[Circles.kind][self.circle] = _by_phase(kept.unbind(0), parts).sum(-1, keepdim=True)
            gradient = _phased(parts, first, second)
        if self.signed:
            gradient = gradient * self.sign
        return gradient.index_select(1, self.target) if self.permuted else gradient


def _phased(parts, first, second):
    """exp(i phase) on every basis state: the real part is multiplied with (cos, sin), the imaginary one, if there
    is one, with (-sin, cos); pairs (2, 2^N, B or 1) -> state (2, 2^N, B)."""
    turned = parts[0] * first
    return turned.addcmul_(parts[1], second) if len(parts) == 2 else turned


def _by_phase(parts, gradient):
    """d loss / d phase of every basis state and image (2^N, B), where the phases act, before or after them."""
    by_phase = gradient[1] * parts[0]
    return by_phase.addcmul_(gradient[0], parts[1], value=-1) if len(parts) == 2 else by_phase


def _applied(matrix, state, groups: int):
    """A matrix on each of `groups` parts of a state, which comes back in another shape."""
    return torch.bmm(matrix.expand(groups, -1, -1), state.reshape(groups, len(matrix), -1))


class MovingPhases(Step):
    """Phases of every image, z @ angles, with cos x as sin(x + pi/2): one matrix product and one sine."""

    def __init__(self, use: int, z: np.ndarray):
        super().__init__()
        self.use = use
        self.constant("z", np.concatenate((-z, z, z)))  # (3 * 2^N, rows), for -sin, cos, sin
        self.constant("offset", np.repeat([0.0, np.pi / 2, 0.0], len(z))[:, None])

    def ahead(self, state, angles: Angles, scratch: Scratch):
        third = len(self.z) // 3
        first = third if len(state) == 1 and not scratch.keep else 0  # -sin is for imaginary parts and the way back
        circle = scratch.once(self, lambda: self._circle(first, angles))
        return state, _phased(state.unbind(0), circle[-2:], circle[:-1])

    def back(self, kept, gradient, angles: Angles, scratch: Scratch, found: Found):
        circle = scratch.once(self, lambda: self._circle(0, angles)).flip(0)
        gradient = _phased(gradient.unbind(0), circle[1:], circle[:-1])
        third = len(self.z) // 3
        found.angles[self.use] = self.z[third : 2 * third].mT @ _by_phase(kept.unbind(0), gradient.unbind(0))
        return gradient

    def _circle(self, first: int, angles: Angles):
        """(-sin, cos, sin) of the phases, (3, 2^N, B), from row `first` on."""
        phases = torch.addmm(self.offset[first:], self.z[first:], angles[self.use])
        return phases.sin().view(-1, len(self.z) // 3, phases.shape[-1])


def _reordered(state, source, target):
    if torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active():
        return _Reorder.apply(state, source, target)
    return state.index_select(1, source)


class _Reorder(torch.autograd.Function):
    """The gradient is the inverse order; autograd would scatter and add."""

    @staticmethod
    def forward(ctx, state, source, target):
        ctx.save_for_backward(target)
        return state.index_select(1, source)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.index_select(1, ctx.saved_tensors[0]), None, None


class Turn(Step):
    """RY(2 half) on one wire with an angle for every image."""

    def __init__(self, wire: int, use: int):
        super().__init__()
        self.wire, self.use = wire, use

    def _halves(self, state):
        return state.unflatten(1, (2**self.wire, 2, -1)).unbind(2)  # each (parts, 2^wire, rest, B)

    def ahead(self, state, angles: Angles, scratch: Scratch):
        half = angles[self.use][0]
        return state, self._turned(state, half.cos(), half.sin())

    def _turned(self, state, cos, sin):
        zero, one = self._halves(state)
        return torch.stack((cos * zero - sin * one, sin * zero + cos * one), dim=2).flatten(1, 3)

    def back(self, kept, gradient, angles: Angles, scratch: Scratch, found: Found):
        half = angles[self.use][0]
        gradient = self._turned(gradient, half.cos(), -half.sin())
        (zero, one), (by_zero, by_one) = self._halves(kept), self._halves(gradient)
        found.angles[self.use] = (by_one * zero - by_zero * one).sum((0, 1, 2))[None]
        return gradient


class Fused(Step):
    """Steps that are the same for all images as one unitary, built once for a batch by running them on 2^N columns."""

    def __init__(self, steps: list[Step], n: int):
        super().__init__()
        self.steps = nn.ModuleList(steps)
        self.constant("eye", np.eye(2**n)[None])

    def ahead(self, state, angles: Angles, scratch: Scratch):
        *_, matrix = scratch.once(self, lambda: self._built(len(state), angles, scratch))
        return state, (matrix @ state.flatten(0, 1)).view(-1, *state.shape[1:])

    def _built(self, parts: int, angles: Angles, scratch: Scratch):
        trail, unitary = walk(self.steps, self.eye, angles, scratch)
        return trail, unitary, _as_matrix(unitary, parts)

    def back(self, kept, gradient, angles: Angles, scratch: Scratch, found: Found):
        trail, unitary, matrix = scratch.once(self, lambda: self._built(len(kept), angles, scratch))
        by_matrix = gradient.flatten(0, 1) @ kept.flatten(0, 1).mT
        walk_back(self.steps, trail, _as_parts(by_matrix, unitary), angles, scratch, found)
        return (matrix.mT @ gradient.flatten(0, 1)).view(kept.shape[:2] + gradient.shape[2:])


def _as_matrix(unitary, parts: int):
    """A unitary (1 or 2, D, D) as the real matrix that acts on a state of `parts` real parts, stacked."""
    if len(unitary) == 1:
        return unitary[0] if parts == 1 else torch.block_diag(unitary[0], unitary[0])
    column = unitary.flatten(0, 1)  # (2 D, D)
    if parts == 1:
        return column
    return torch.cat((column, torch.cat((-unitary[1], unitary[0]))), dim=1)


def _as_parts(by_matrix, unitary):
    """The gradient of `_as_matrix`: by every place of the matrix -> by the parts of the unitary."""
    size = unitary.shape[-1]
    blocks = by_matrix.unflatten(0, (-1, size)).unflatten(2, (-1, size))  # (row blocks, D, column blocks, D)
    if len(unitary) == 1:
        return blocks[0, :, 0][None] + (blocks[1, :, 1] if len(blocks) > 1 else 0)
    if blocks.shape[2] == 1:
        return blocks[:, :, 0]
    return torch.stack((blocks[0, :, 0] + blocks[1, :, 1], blocks[1, :, 0] - blocks[0, :, 1]))


def _product(qubits):
    """Kronecker products over the second axis: (F, n, 2, B) -> (F, 2^n, B), in log2 n rounds where n is even."""
    factors, n, _, batch = qubits.shape
    if n == 1:
        return qubits[:, 0]
    if n % 2:
        rest, last = _product(qubits[:, :-1]), qubits[:, -1]
    else:
        rest, last = _product(qubits.reshape(2 * factors, n // 2, 2, batch)).unflatten(0, (factors, 2)).unbind(1)
    return (rest[:, :, None] * last[:, None]).flatten(1, 2)
