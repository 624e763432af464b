"""A circuit's steps on a batch of states, forward and backward.

`evolve` runs the steps of `qcifar.steps` as plain differentiable torch, for inference and for `torch.compile`.
`Evolve` runs the same steps with a backward pass written by hand: every step is orthogonal, so the gradient of
a state is carried back by the transposed step, and an angle's gradient is the overlap of the gradient with the
generator applied to the state at that place. It keeps one state a step.

A step has `ahead(state, angles, scratch)`, which returns what it keeps and the next state, and
`back(kept, gradient, angles, scratch, found)`, which returns the gradient by the state before it. Where that
state was real or the same for all images, the gradient may have an imaginary part or columns too many.

Angles come as {use: (rows, 1 or B)}, `Scratch` holds what one call computes once.
"""

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
    """Gradients by angles, and by the parts of `Scratch`, as the steps find them."""

    def __init__(self):
        self.angles: Angles = {}
        self.shared: dict[str, list] = {}


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


class Evolve(torch.autograd.Function):
    """A circuit from its arguments on, with a backward pass written by hand; differentiable once.

    Args of apply: the circuit; inputs (B, n); weights or None; what angles have beside their part that is linear
    in both: still (rows, 1) and moving (rows, B), each or None. Returns the values (B, outputs) where all are
    read along Z, else the final state.
    """

    @staticmethod
    def forward(ctx, circuit, inputs, weights, *others):
        still, moving = circuit.angles(inputs, weights, others)
        angles = circuit.split_angles(still, moving)
        scratch = Scratch(circuit.shared, angles, keep=True)
        trail, state = walk(circuit.steps, None, angles, scratch)
        # An output on ctx would be a cycle that only the garbage collector frees.
        ctx.trail = [(None if kept is state else kept, shape) for kept, shape in trail]
        ctx.circuit, ctx.angles, ctx.scratch = circuit, angles, scratch
        ctx.shapes = still.shape, moving.shape, None if weights is None else weights.shape
        ctx.save_for_backward(state)
        return circuit.read_z(state, len(inputs)) if circuit.plain else state

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        circuit, scratch, found = ctx.circuit, ctx.scratch, Found()
        (state,) = ctx.saved_tensors
        still, moving, weights = ctx.shapes
        if circuit.plain:
            gradient = circuit.read_z_back(state, gradient)
        trail = [(state if kept is None else kept, shape) for kept, shape in ctx.trail]
        walk_back(circuit.steps, trail, gradient, ctx.angles, scratch, found)
        for part in circuit.shared:
            part.back(scratch, found)
        by_still, by_moving = circuit.join_gradients(found.angles, gradient, still, moving)
        by_inputs, by_weights = circuit.angles_back(by_still, by_moving, weights)
        others = [
            by if needed else None for by, needed in zip((by_still, by_moving), ctx.needs_input_grad[3:], strict=True)
        ]
        return None, by_inputs, by_weights, *others
