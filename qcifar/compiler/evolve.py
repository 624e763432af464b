"""A circuit's steps on a batch of states, forward and backward.

`evolve` runs the steps of `steps.py` as plain differentiable torch, for inference and for `torch.compile`.
`Evolve` runs the same steps with a backward pass written by hand: gates are orthogonal in real arithmetic, so the
gradient of a state is carried back by the transposed gate, and an angle's gradient is the overlap of the gradient
with the generator applied to the state at that place. It keeps one state a step.

Angles come as {use: (rows, 1 or B)}, `Scratch` holds what one call computes once.
"""

from collections import defaultdict

import torch

Angles = dict[int, torch.Tensor]


class Scratch:
    """What one call computes once: rotation matrices, phases and, if `keep`, what the way back needs again."""

    def __init__(self, shared, angles: Angles, keep: bool = False):
        self.by_kind = {part.kind: part.forward(angles) for part in shared}
        self.keep, self.kept = keep, {}

    def once(self, step, make):
        if not self.keep:
            return make()
        if id(step) not in self.kept:
            self.kept[id(step)] = make()
        return self.kept[id(step)]


class Found:
    """Gradients, as the steps find them on the way back."""

    def __init__(self):
        self.angles: Angles = {}  # by the angles of each use
        self.shared: dict[str, dict] = defaultdict(dict)  # kind -> place -> by that matrix or circle of `Scratch`

    def stacked(self, kind: str) -> torch.Tensor:
        """Those of one shared part in the order of their places, (places, ...)."""
        return torch.stack([self.shared[kind][place] for place in range(len(self.shared[kind]))])


def evolve(steps, state, angles: Angles, scratch: Scratch) -> torch.Tensor:
    """Final state (parts, 2^N, B or 1), differentiable by autograd."""
    for step in steps:
        _, state = step.ahead(state, angles, scratch)
    return state


def walk(steps, state, angles: Angles, scratch: Scratch) -> tuple[list, torch.Tensor]:
    """What every step keeps, with the shape of the state before it, and the final state."""
    trail = []
    for step in steps:
        shape = None if state is None else state.shape
        kept, state = step.ahead(state, angles, scratch)
        trail.append((kept, shape))
    return trail, state


def walk_back(steps, trail, gradient, angles: Angles, scratch: Scratch, found: Found) -> None:
    """Carry the gradient of the last state back to the first, filling `found`."""
    for step, (kept, shape) in zip(reversed(steps), reversed(trail), strict=True):
        gradient = step.back(kept, gradient, angles, scratch, found)
        if shape is not None and gradient.shape != shape:
            gradient = gradient[: shape[0]]  # the state was real here
            if gradient.shape[-1] != shape[-1]:
                gradient = gradient.sum(-1, keepdim=True)  # and one column for all images


class Once(torch.autograd.Function):
    """The argument itself, for `torch.compile`: a second derivative through it is refused instead of zero.

    A compiled backward pass refuses to be differentiated only if it was handed a tensor that has a gradient; of a
    circuit it keeps sines and cosines, which have none. So this one keeps the argument.
    """

    @staticmethod
    def forward(ctx, argument):
        ctx.save_for_backward(argument)
        return argument.view_as(argument)

    @staticmethod
    def backward(ctx, gradient):
        (argument,) = ctx.saved_tensors
        return gradient + argument * (0.0 * gradient.sum())


class Evolve(torch.autograd.Function):
    """A circuit from its arguments on, with a backward pass written by hand; differentiable once.

    Args of apply: the circuit; inputs (B, n); weights or None; the parts of the still (rows, 1) and of the moving
    angles (rows, B) that are not linear in these, each a tensor or None. Returns the values (B, outputs) where all
    are read along Z, else the final state.
    """

    @staticmethod
    def forward(ctx, circuit, inputs, weights, *others):
        still, moving = circuit.angles(inputs, weights, others)
        angles = circuit.split_angles(still, moving)
        scratch = Scratch(circuit.shared, angles, keep=True)
        trail, state = walk(circuit.steps, None, angles, scratch)
        kept, ctx.before = zip(*trail, strict=True)
        ctx.save_for_backward(state, *kept)  # freed by the backward pass, unlike what lies on ctx
        ctx.circuit, ctx.angles, ctx.scratch = circuit, angles, scratch
        ctx.shapes = still.shape, moving.shape, None if weights is None else weights.shape
        return circuit.read_z(state, len(inputs)).contiguous() if circuit.plain else state

    @staticmethod
    def backward(ctx, gradient):
        if torch.is_grad_enabled():  # create_graph: torch would take these gradients for constants
            raise RuntimeError(
                "a compiled circuit is differentiable once only; for higher derivatives use default.qubit with backprop"
            )
        circuit, scratch, found = ctx.circuit, ctx.scratch, Found()
        state, *kept = ctx.saved_tensors
        still, moving, weights = ctx.shapes
        if circuit.plain:
            gradient = circuit.read_z_back(state, gradient)
        trail = list(zip(kept, ctx.before, strict=True))
        walk_back(circuit.steps, trail, gradient, ctx.angles, scratch, found)
        for part in circuit.shared:
            part.back(scratch, found)
        by_still, by_moving = circuit.join_gradients(found.angles, gradient, still, moving)
        by_inputs, by_weights = circuit.angles_back(by_still, by_moving, weights)
        others = [
            by if needed else None for by, needed in zip((by_still, by_moving), ctx.needs_input_grad[3:], strict=True)
        ]
        return None, by_inputs, by_weights, *others
