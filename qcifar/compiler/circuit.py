"""A compiled circuit: layers of `schedule` on a batch of states, in plain torch.

* The first layer of rotations acts on |0...0>: its state is a product of qubits.
* Rotations that do not depend on the batch are real Kronecker products over up to four qubits, all built
  at once and each applied by one matrix product; permutations are one index, phases one multiplication.
  Up to six qubits, all of these between two layers that depend on the batch become one unitary.
* A last layer of rotations that depend on the batch is folded into the observables:
  RY^T Z RY = cos Z - sin X, and RZ^T X RZ = cos X - sin Y before it. Phases before a readout along Z
  vanish, and permutations before it permute the observable.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from .angles import Replay, classify, holds_precision, jacobian
from .evolve import Angles, Evolve, Once, Scratch, evolve
from .ir import Angle, Layer
from .record import check_form, record
from .schedule import gather, schedule
from .steps import Circles, Constants, Fused, Kron, MovingPhases, Product, Step, Still, Turn
from .watch import Outside, Recorded, alone

KRON_QUBITS = 4  # qubits in one Kronecker factor: 16 x 16 matrices
FUSE_QUBITS = 6  # widest circuit whose still gates become one unitary


class CompiledCircuit(Constants):
    """A quantum function, compiled; differentiable in inputs and weights, once, in the module's precision.

    Under autocast its matrix products would be rounded: switch it off around a circuit, as `QuantumLayer` does.
    Trainable tensors that the function takes from outside its arguments (a closure, a module's attribute) are read
    and differentiated at each call; they are not parameters of this module. When something else that it reads there
    changes, a number of layers for example, it is compiled anew. What cannot be watched is named by
    `recorded.watch.unseen`; the function is then recorded again at each call. `torch.compile` leaves circuits that
    read something outside as they are.

    Args:
        function: quantum function of (inputs (B, n)) or (inputs (B, n), weights) that returns expectation
            values of Pauli words (or sums of them).
        n_inputs: n.
        weight_shape: shape of `weights`, or None where there are none.
        device: where the function's own tensors are, and so where it is called.

    Raises:
        NotCompilable: naming what only PennyLane can run.
        TypeError, ValueError: for something else than a quantum function or sizes.
        ValueError: from `forward`, for inputs or weights of another shape.
    """

    @torch.inference_mode(False)  # compiling differentiates, wherever it is called from
    @torch.enable_grad()
    def __init__(self, function: Callable, n_inputs: int, weight_shape: tuple[int, ...] | None = None, device="cpu"):
        super().__init__()
        check_form(function, n_inputs, weight_shape)
        self.n_inputs, self.weight_shape = n_inputs, weight_shape
        self.__name__ = getattr(getattr(function, "func", function), "__name__", "circuit")  # of a partial, too
        self.recorded = Recorded([function])
        self.recorded.look()
        shapes = [(3, n_inputs)] + ([tuple(weight_shape)] if weight_shape is not None else [])
        generator = torch.Generator().manual_seed(0)
        probes = tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(device) for shape in shapes)
        recording = record(function, probes)
        probes = tuple(probe.to(recording.dtype) for probe in probes)
        self.recorded.keep(recording.digest, probes)
        self.reads_outside = self.recorded.watch.reads
        self.n, self.rounded, self.traced_in = recording.n_wires, recording.rounded, recording.dtype
        self.layers = schedule(recording)
        self._uses: list[list[Angle]] = []
        self._read_angles(recording, probes)
        self._fold(recording.observables)
        self.layers = gather(self.layers)
        self._place()

    # ---- angles: theta = inputs @ X + weights @ W + products of both + const

    def _read_angles(self, recording, probes) -> None:
        """Split the tape's parameters into linear ones, as matrices, and the others, as a smaller graph."""
        graph = recording.angles
        linear, batch = classify(graph, len(probes))
        outputs = graph.graph.find_nodes(op="output")[0]
        nodes = list(outputs.args[0])
        self._is_batch = [node in batch for node in nodes]
        self._linear_rows = jacobian(
            graph, probes, recording.captured, [node in linear for node in nodes], recording.other_sizes
        )
        self._is_linear = [row is not None for row in self._linear_rows]
        others = [k for k, yes in enumerate(self._is_linear) if not yes]
        self._other_place = {number: place for place, number in enumerate(others)}
        self._other_batch = [self._is_batch[k] for k in others]
        outputs.args = ([nodes[k] for k in others],)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        self.others = Replay(graph) if others else None
        self.any_precision = not holds_precision(graph)
        self.captured = Outside(recording.captured if others else [])

    def _depends_on_batch(self, angle: Angle) -> bool:
        return any(self._is_batch[k] for k, c in angle.terms.items() if c)

    def _use(self, *angles: Angle | None) -> int:
        """Number under which `forward` finds these angles (None: 0), one row each."""
        self._uses.append([angle or Angle() for angle in angles])
        return len(self._uses) - 1

    # ---- compile time: rows, folding, constants

    def _fold(self, observables) -> None:
        """Move what the readout allows from the end of the layers into the observables."""
        self.outputs = len(observables)
        words = [(k, c, dict(word)) for k, terms in enumerate(observables) for c, word in terms]
        only_z = all(letter == "Z" for _, _, word in words for letter in word.values())
        self.signs = np.zeros((self.outputs, 2**self.n))  # readout along Z: values = signs @ probabilities
        self.words = [] if only_z else words
        self.turned: list[dict] = []  # readout after a folded rotation, one entry for each output
        if not only_z:
            return
        states = np.arange(2**self.n)
        for k, c, word in words:
            bits = [(states >> (self.n - 1 - wire)) & 1 for wire in word]
            self.signs[k] += c * np.prod([1.0 - 2.0 * bit for bit in bits], axis=0) if bits else c
        permuted = False
        while self.layers and self.layers[-1].kind in "DP":
            layer = self.layers.pop()
            if layer.kind == "P":
                self.signs = self.signs[:, np.argsort(layer.source)]
                permuted = True
        single = all(len(word) == 1 for _, _, word in words) and len(words) == self.outputs
        last = self.layers[-1] if self.layers else None
        if permuted or not single or len(self.layers) < 2 or last.kind != "R":
            return
        if not any(self._depends_on_batch(angle) for angle in last.rotations.values()):
            return
        self._fold_rotations(self.layers.pop(), words)

    def _fold_rotations(self, rotations: Layer, words) -> None:
        phases: dict[int, Angle] = {}
        before = self.layers[-1]
        if before.kind == "D" and before.sign is None and all(len(wires) == 1 for _, _, wires in before.phases):
            for _, angle, wires in self.layers.pop().phases:
                (wire,) = wires
                phases[wire] = phases.get(wire, Angle()) + angle
        for _, coefficient, word in words:
            (wire,) = word
            angle = rotations.rotations.get(wire)
            self.turned.append({"wire": wire, "coefficient": coefficient, "ry": angle, "rz": phases.get(wire)})

    def _place(self) -> None:
        """Turn the layers into steps of `steps` and give every angle a row."""
        first = self.layers.pop(0) if self.layers and self.layers[0].kind == "R" else Layer("R", set())
        rotations = [first.rotations.get(wire, Angle()) for wire in range(self.n)]
        steps: list[Step] = [Product(self._use(*(angle * 0.5 for angle in rotations)), self.n)]
        factors: dict[int, list[Angle | None]] = {}  # qubits of a Kronecker factor -> half angles of all of them
        circles: list[tuple[list, np.ndarray | None]] = []  # still phases: [(z, angle)] and sign of each layer
        still: list[dict] = []  # gates that are the same for all images, as arguments of `Still`
        for layer in self.layers:
            for part in self._parts(layer, factors, circles):
                if isinstance(part, Step):
                    steps += [*self._fused(still), part]
                    still = []
                else:
                    _join(still, *part)
        self.steps = nn.ModuleList(steps + self._fused(still))
        self.shared = nn.ModuleList(Kron(size, self._use(*halves)) for size, halves in factors.items())
        if circles:
            self.shared.append(self._circles(circles))
        if self.turned:
            self.turned_uses = [self._use(*(t[axis] for t in self.turned)) for axis in ("ry", "rz")]
            # Where RZ turns by an odd multiple of pi/2, as in RX, no X is read; where by an even one, no Y.
            self.turned_letters = {
                letter
                for letter, offset in (("X", np.pi / 2), ("Y", 0.0))
                if not all(_is_multiple_of_pi(t["rz"], offset) for t in self.turned)
            }
            self.constant("coefficients", np.array([[t["coefficient"]] for t in self.turned]))
        self._place_words()
        self.constant("signs_z", self.signs)
        self.plain = not self.words and not self.turned
        self._place_rows()
        del self.layers, self.signs

    def _parts(self, layer: Layer, factors: dict[int, list], circles: list[tuple]) -> list:
        """A layer as steps with angles of each image, and (name, value) of arguments of `Still`.

        Its still rotations join `factors`, its still phases `circles`.
        """
        if layer.kind == "P":
            return [("source", layer.source)]
        return self._rotations(layer, factors) if layer.kind == "R" else self._phases(layer, circles)

    def _fused(self, still: list[dict]) -> list[Step]:
        steps = [Still(**parts) for parts in still]
        return [Fused(steps, self.n)] if sum(map(len, still)) > 1 and self.n <= FUSE_QUBITS else steps

    def _rotations(self, layer: Layer, factors: dict[int, list]) -> list:
        halves = {wire: angle * 0.5 for wire, angle in sorted(layer.rotations.items())}
        moving = {wire: half for wire, half in halves.items() if self._depends_on_batch(half)}
        still, size = [], -(-self.n // -(-self.n // KRON_QUBITS))
        for first in range(0, self.n, size):
            wires = range(first, min(first + size, self.n))
            if halves.keys() & set(wires) - moving.keys():
                known = factors.setdefault(len(wires), [])
                still.append((f"kron {len(wires)}", len(known) // len(wires), first))
                known += [None if wire in moving else halves.get(wire) for wire in wires]
        turns = [Turn(wire, self._use(half)) for wire, half in moving.items()]
        return [("rotations", still), *turns] if still else turns

    def _phases(self, layer: Layer, circles: list[tuple]) -> list:
        still, moving = [], []
        for z, angle, _ in layer.phases:
            (moving if self._depends_on_batch(angle) else still).append((z, angle * -0.5))
        parts: list = []
        if moving:
            z = np.stack([z for z, _ in moving], axis=1)
            parts.append(MovingPhases(self._use(*(angle for _, angle in moving)), z))
        if still:
            parts.append(("circle", len(circles)))
            circles.append((still, layer.sign))
        elif layer.sign is not None:
            parts.append(("sign", layer.sign))
        return parts

    def _circles(self, circles: list[tuple]) -> Circles:
        """All still phases in one, each layer padded to the same number of angles."""
        rows = max(len(terms) for terms, _ in circles)
        z, sign = np.zeros((len(circles), 2**self.n, rows)), np.ones((len(circles), 2**self.n))
        angles: list[Angle | None] = []
        for place, (terms, signs) in enumerate(circles):
            for row, (eigenvalues, _) in enumerate(terms):
                z[place, :, row] = eigenvalues
            angles += [angle for _, angle in terms] + [None] * (rows - len(terms))
            sign[place] = 1.0 if signs is None else signs
        return Circles(self._use(*angles), z, sign)

    def _place_words(self) -> None:
        """Observables with X or Y: <P> = sum_s (-1)^(s.z) Re[i^nY conj(psi(s ^ x)) psi(s)]."""
        states = np.arange(2**self.n)
        for place, (_, coefficient, word) in enumerate(self.words):
            bit = {wire: 1 << (self.n - 1 - wire) for wire in word}
            flipped = states ^ sum(bit[w] for w, letter in word.items() if letter in "XY")
            sign = np.prod([np.ones(2**self.n)] + [
                1.0 - 2.0 * ((states & bit[w]) > 0) for w, letter in word.items() if letter in "YZ"
            ], axis=0)  # fmt: skip
            count_y = sum(letter == "Y" for letter in word.values())
            self.constant(f"flipped_{place}", flipped)
            self.constant(f"word_{place}", coefficient * (1, -1, -1, 1)[count_y % 4] * sign[None])
        self._word_outputs = [(k, sum(letter == "Y" for letter in word.values()) % 2 == 1) for k, _, word in self.words]

    def _place_rows(self) -> None:
        """Rows of theta = X inputs^T + W weights + O others + const, first of the uses that are still."""
        moves = [any(self._depends_on_batch(angle) for angle in angles) for angles in self._uses]
        n_weights = int(np.prod(self.weight_shape)) if self.weight_shape is not None else 0
        self.order, self.sizes = {}, {}
        for moving, kind in ((False, "still"), (True, "moving")):
            self.order[kind] = [use for use, yes in enumerate(moves) if yes == moving]
            self.sizes[kind] = [len(self._uses[use]) for use in self.order[kind]]
            angles = [angle for use in self.order[kind] for angle in self._uses[use]]
            x, w = np.zeros((len(angles), self.n_inputs)), np.zeros((len(angles), n_weights))
            other, const = np.zeros((len(angles), len(self._other_place))), np.zeros(len(angles))
            for row, angle in enumerate(angles):
                const[row] = angle.const
                for number, coefficient in angle.terms.items():
                    if not self._is_linear[number]:
                        other[row, self._other_place[number]] += coefficient
                        continue
                    by_input, by_weight, offset = self._linear_rows[number]
                    x[row] += coefficient * by_input
                    w[row] += coefficient * by_weight
                    const[row] += coefficient * offset
            for name, array in (("x", x), ("w", w), ("other", other), ("const", const[:, None])):
                self.constant(f"{kind}_{name}", array)
            self.uses_weights = getattr(self, "uses_weights", {}) | {kind: bool(w.any())}
        del self._uses, self._linear_rows

    # ---- run time

    def forward(self, inputs: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """inputs (..., n) radians and weights -> expectation values (..., outputs)."""
        for argument in (inputs, weights):
            if not isinstance(argument, (torch.Tensor, type(None))):
                raise TypeError(f"expected tensors, got a {type(argument).__module__}.{type(argument).__name__}")
        if inputs.shape[-1:] != (self.n_inputs,):
            raise ValueError(f"expected inputs (..., {self.n_inputs}), got {tuple(inputs.shape)}")
        given = None if weights is None else tuple(weights.shape)
        if given != (None if self.weight_shape is None else tuple(self.weight_shape)):
            raise ValueError(f"expected weights {self.weight_shape}, got {given}")
        if inputs.numel() == 0:  # with gradients, all of them zero
            return inputs.new_zeros(*inputs.shape[:-1], self.outputs) + 0.0 * sum(
                argument.sum() for argument in (inputs, weights) if argument is not None
            )
        if not torch.compiler.is_compiling():
            self._follow_changes()
        elif self.reads_outside:
            return self._uncompiled(inputs, weights)
        elif torch.is_grad_enabled():
            inputs, weights = Once.apply(inputs), None if weights is None else Once.apply(weights)
        dtype = self.signs_z.dtype
        flat, cast = inputs.reshape(-1, self.n_inputs).to(dtype), None if weights is None else weights.to(dtype)
        others = self._other_angles(flat, cast)
        by_hand = not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
        if torch.is_grad_enabled() and by_hand:
            values = state = Evolve.apply(self, flat, cast, *others)
            still, moving = self.angles(flat, cast, others) if self.turned else (None, None)
        else:
            still, moving = self.angles(flat, cast, others)
            angles = self.split_angles(still, moving)
            state = evolve(self.steps, None, angles, Scratch(self.shared, angles))
            values = self.read_z(state, len(flat)) if self.plain else None
        if not self.plain:
            values = self._measure(state, still, moving).expand(-1, len(flat)).mT
        return values.reshape(*inputs.shape[:-1], self.outputs)

    @torch.compiler.disable
    def _uncompiled(self, inputs, weights):
        return self(inputs, weights)

    def _follow_changes(self) -> None:
        """Compile the function anew if something that it reads has changed, a number of layers for example."""
        if self.recorded.is_unchanged() or not self.recorded.does_something_else(device := self.signs_z.device):
            return
        with alone():
            anew = type(self)(*self.recorded, self.n_inputs, self.weight_shape, device).to(self.signs_z)
        kept = {"training", *(name for name in vars(self) if name.endswith(("hooks", "hooks_with_kwargs")))}
        for name in vars(self).keys() - kept:  # also what the new one has in another place, as a module
            del vars(self)[name]
        vars(self).update({name: value for name, value in vars(anew).items() if name not in kept})

    def angles(self, inputs, weights, others) -> tuple[torch.Tensor, torch.Tensor]:
        """All angles: those that are the same for all images (rows, 1), the others (rows, B)."""
        still, moving = self.still_const, torch.addmm(self.moving_const, self.moving_x, inputs.mT)
        if self.uses_weights["still"]:
            still = torch.addmm(still, self.still_w, weights.reshape(-1, 1))
        if self.uses_weights["moving"]:
            moving = moving + self.moving_w @ weights.reshape(-1, 1)
        return tuple(own if other is None else own + other for own, other in zip((still, moving), others, strict=True))

    def angles_back(self, by_still, by_moving, shape) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Gradients of inputs and weights (of this shape, or None) by those of their angles."""
        if shape is None:
            return by_moving.mT @ self.moving_x, None
        by_weights = self.still_w.mT @ by_still
        if self.uses_weights["moving"]:
            by_weights = by_weights + self.moving_w.mT @ by_moving.sum(1, keepdim=True)
        return by_moving.mT @ self.moving_x, by_weights.view(shape)

    def _other_angles(self, inputs, weights) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """What still and moving angles have beside what is linear in inputs and weights."""
        if self.others is None:
            return None, None
        dtype = inputs.dtype if self.any_precision else self.traced_in
        arguments = [argument.to(dtype) for argument in (inputs, weights) if argument is not None]
        captured = [tensor.to(inputs.device) for tensor in self.captured]
        values = [value.to(inputs.dtype) for value in self.others(*arguments, *captured)]
        moving = self.moving_other @ torch.stack([value.expand(len(inputs)) for value in values])
        if all(self._other_batch):
            return None, moving
        zero = inputs.new_zeros(())
        still = [zero if is_batch else v.reshape(-1)[0] for v, is_batch in zip(values, self._other_batch, strict=True)]
        return self.still_other @ torch.stack(still)[:, None], moving

    def split_angles(self, still, moving) -> Angles:
        """{use: its rows}"""
        return {
            use: angles
            for kind, theta in (("still", still), ("moving", moving))
            for use, angles in zip(self.order[kind], theta.split(self.sizes[kind]), strict=True)
        }

    def join_gradients(self, found: Angles, like, *shapes) -> list[torch.Tensor]:
        """The inverse of `split_angles`, with these shapes of still and moving angles; zeros for those not found."""
        joined = []
        for kind, shape in zip(("still", "moving"), shapes, strict=True):
            parts = [
                found[use] if use in found else like.new_zeros(size, shape[1])
                for use, size in zip(self.order[kind], self.sizes[kind], strict=True)
            ]
            joined.append(torch.cat(parts) if parts else like.new_zeros(shape))
        return joined

    def read_z(self, state, images: int) -> torch.Tensor:
        """Readout along Z, signs @ probabilities, for a number of images: (B, outputs)."""
        return (self.signs_z @ (state * state)).sum(0).expand(-1, images).mT

    def read_z_back(self, state, gradient) -> torch.Tensor:
        """From the gradient of `read_z` (B, outputs) that of the state (parts, 2^N, B)."""
        by_value = 2 * gradient.mT
        if state.shape[-1] == 1:  # the same state for all images
            by_value = by_value.sum(1, keepdim=True)
        return state * (self.signs_z.mT @ by_value)

    def _measure(self, state, still, moving) -> torch.Tensor:
        """(outputs, B or 1)"""
        if self.words:
            return self._measure_words(state)
        z = self.read_z(state, state.shape[-1]).mT
        angles = self.split_angles(still, moving)
        ry, rz = (angles[use] for use in self.turned_uses)
        across = torch.zeros_like(z)
        if "X" in self.turned_letters:
            across = rz.cos() * self._transverse(state, _x)
        if "Y" in self.turned_letters and len(state) == 2:  # a real state has no Y
            across = across - rz.sin() * self._transverse(state, _y)
        return ry.cos() * z - ry.sin() * across

    def _transverse(self, state, read) -> torch.Tensor:
        """coefficient * <X> or <Y> of the wire of each output, (outputs, B)."""
        pairs = [state.unflatten(1, (2 ** output["wire"], 2, -1)).unbind(2) for output in self.turned]
        return torch.stack([read(zero, one) for zero, one in pairs]) * (2 * self.coefficients)

    def _measure_words(self, state):
        values = [0.0] * self.outputs
        for place, (k, odd) in enumerate(self._word_outputs):
            flipped = state.index_select(1, getattr(self, f"flipped_{place}"))
            if not odd:
                product = (flipped * state).sum(0)
            elif len(state) == 2:  # Im[conj(flipped) state]
                product = flipped[0] * state[1] - flipped[1] * state[0]
            else:
                product = torch.zeros_like(state[0])
            values[k] = values[k] + (getattr(self, f"word_{place}") @ product)[0]
        return torch.stack(values)


def _join(still: list[dict], name: str, value) -> None:
    """Add a part to the last of these `Still`, or to a new one where it would come too late there."""
    place = Still.ORDER.index(name)
    if not still or any(Still.ORDER.index(other) >= place for other in still[-1]):
        still.append({})
    still[-1][name] = value


def _x(zero, one):
    """Re sum conj(zero) one over all amplitudes (parts, 2^wire, rest, B) of an image, (B,)."""
    return (zero * one).sum((0, 1, 2))


def _y(zero, one):
    """Im sum conj(zero) one, likewise."""
    return torch.addcmul(zero[0] * one[1], zero[1], one[0], value=-1).sum((0, 1))


def _is_multiple_of_pi(angle: Angle | None, offset: float) -> bool:
    """Whether angle - offset is a multiple of pi, whatever the arguments are."""
    angle = angle or Angle()
    return not any(angle.terms.values()) and abs(np.sin(angle.const - offset)) < 1e-12
