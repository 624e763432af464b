"""From a PennyLane quantum function to a short list of layers that batched torch runs fast.

PennyLane remains the definition: `record` calls the function once, under torch's tracer, and keeps
(a) the tape's gates and (b) a torch graph of how each gate's angle follows from inputs and weights.
Every gate becomes a product of three kinds, up to a global phase that no expectation value sees:

    R   RY(theta) on some wires                     real mixing
    D   exp(-i/2 sum_k theta_k z_k(s))              phases and signs of basis states s
    P   a permutation of the basis states           CNOT, SWAP, X, Toffoli

`schedule` moves gates into as few layers as their wires allow; `circuit` folds the last of them into
the readout and runs the others.
Basis states are numbered as in PennyLane: wire 0 is the most significant bit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pennylane as qml
import torch
from torch.fx.experimental.proxy_tensor import make_fx

IGNORED = {"Identity", "GlobalPhase", "Barrier", "Snapshot"}  # no effect on an expectation value
MAX_QUBITS = 16


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
    angles: torch.fx.GraphModule  # (inputs (B, n), weights) -> list of the tape's parameters, () or (B,)
    rounded: bool  # whether the function itself computes some of them in less than double precision
    observables: list[list[tuple[float, dict[int, str]]]]  # for each output: [(coefficient, wire -> X, Y or Z)]


def record(function: Callable, probes: tuple[torch.Tensor, ...]) -> Recording:
    """Call `function` once and keep its gates, its angles as a torch graph, and what it measures.

    Args:
        function: a quantum function of (inputs (B, n)) or (inputs (B, n), weights).
        probes: example arguments, float64, of the right shapes; their values do not matter.

    Raises:
        NotCompilable: with the name of the operation or measurement.
    """
    found: dict = {}

    def angles_of(*arguments):
        tape = qml.tape.make_qscript(function)(*arguments)
        gates, parameters = [], []
        _flatten(tape.operations, gates, parameters)
        found.update(tape=tape, gates=gates)
        return [torch.as_tensor(p, dtype=torch.float64) for p in parameters]

    try:
        graph = make_fx(angles_of)(*probes)
    except NotCompilable:
        raise
    except Exception as error:  # the tracer's ways to say that an angle depends on more than arithmetic
        raise NotCompilable(f"angles that cannot be traced ({type(error).__name__}: {error})") from error
    tape = found["tape"]
    if len(tape.wires) > MAX_QUBITS:
        raise NotCompilable(f"{len(tape.wires)} wires, more than {MAX_QUBITS},")
    place = {wire: k for k, wire in enumerate(sorted(tape.wires.tolist(), key=lambda w: (str(type(w)), w)))}
    gates = [(name, [place[w] for w in wires], numbers) for name, wires, numbers in found["gates"]]
    observables = [_pauli_words(measurement, place) for measurement in tape.measurements]
    return Recording(len(place), gates, graph, _computes_below_double(graph), observables)


def _computes_below_double(graph) -> bool:
    for node in graph.graph.nodes:
        value = node.meta.get("val") if node.op == "call_function" else None
        if isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex()):
            constant = node.target is torch.ops.aten.lift_fresh_copy.default  # is rounded alike wherever it is used
            if torch.finfo(value.dtype).bits < 64 and not constant:
                return True
    return False


def _flatten(operations, gates, parameters) -> None:
    for op in operations:
        if op.name in IGNORED:
            continue
        if op.name in PRIMITIVES:
            gates.append((op.name, op.wires.tolist(), [len(parameters) + k for k in range(len(op.data))]))
            parameters.extend(op.data)
        elif op.has_decomposition:
            _flatten(op.decomposition(), gates, parameters)
        else:
            raise NotCompilable(f"the operation {op.name}")


def _pauli_words(measurement, place) -> list[tuple[float, dict[int, str]]]:
    sentence = getattr(getattr(measurement, "obs", None), "pauli_rep", None)
    if not isinstance(measurement, qml.measurements.ExpectationMP) or sentence is None:
        raise NotCompilable(f"the measurement {measurement}")
    if any(isinstance(coefficient, torch.Tensor) for coefficient in sentence.values()):
        raise NotCompilable(f"the measurement {measurement}, with a coefficient that follows from the arguments,")
    return [
        (float(np.real(coefficient)), {place[wire]: letter for wire, letter in word.items()})
        for word, coefficient in sentence.items()
    ]


class _Builder:
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


def _const(value: float) -> Angle:
    return Angle(const=value)


def _rx(b: _Builder, wire: int, angle: Angle) -> None:  # RX = RZ(-pi/2) RY RZ(pi/2), the rightmost first
    b.phase([wire], _const(math.pi / 2))
    b.rotate(wire, angle)
    b.phase([wire], _const(-math.pi / 2))


def _rot(b: _Builder, wire: int, phi: Angle, theta: Angle, omega: Angle) -> None:
    b.phase([wire], phi)
    b.rotate(wire, theta)
    b.phase([wire], omega)


def _hadamard(b: _Builder, wire: int) -> None:  # H = RY(pi/2) Z
    b.flip_sign([wire])
    b.rotate(wire, _const(math.pi / 2))


def _cry(b: _Builder, control: int, target: int, angle: Angle) -> None:
    b.rotate(target, angle * 0.5)
    b.not_([control], target)
    b.rotate(target, angle * -0.5)
    b.not_([control], target)


def _crx(b: _Builder, control: int, target: int, angle: Angle) -> None:
    b.phase([target], _const(math.pi / 2))
    _cry(b, control, target, angle)
    b.phase([target], _const(-math.pi / 2))


def _crz(b: _Builder, control: int, target: int, angle: Angle) -> None:  # Z_t (1 - Z_c) / 2
    b.phase([target], angle * 0.5)
    b.phase([control, target], angle * -0.5)


def _controlled_phase(b: _Builder, control: int, target: int, angle: Angle) -> None:
    b.phase([control], angle * 0.5)  # |11><11| = (1 - Z_c)(1 - Z_t) / 4
    b.phase([target], angle * 0.5)
    b.phase([control, target], angle * -0.5)


def _cy(b: _Builder, control: int, target: int) -> None:
    b.phase([target], _const(-math.pi / 2))
    b.not_([control], target)
    b.phase([target], _const(math.pi / 2))


def _y(b: _Builder, wire: int) -> None:  # Y = i X Z
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


def schedule(recording: Recording) -> list[Layer]:
    """The recorded gates as R, D and P layers, in as few as their wires allow."""
    builder = _Builder(recording.n_wires)
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


# ---- how a tape's parameters follow from the arguments

_STRUCTURAL = {"select", "slice", "view", "_unsafe_view", "reshape", "unsqueeze", "squeeze", "permute", "transpose",
               "t", "expand", "clone", "_to_copy", "alias", "stack", "cat", "unbind", "neg"}  # fmt: skip


def classify(graph):
    """Nodes that are linear in the arguments (plus a constant), and nodes that depend on the first one."""
    linear, batch = set(), set()
    for place, node in enumerate(n for n in graph.graph.nodes if n.op == "placeholder"):
        linear.add(node)
        if place == 0:
            batch.add(node)
    for node in graph.graph.nodes:
        if node.op not in ("call_function", "get_attr"):
            continue
        parents = node.all_input_nodes
        if any(parent in batch for parent in parents):
            batch.add(node)
        if node.op == "get_attr":
            linear.add(node)
            continue
        name = getattr(node.target, "overloadpacket", node.target)
        name = getattr(name, "__name__", str(name))
        # From args, since v * v has one parent, but two factors.
        varying = [each for each in node.args if isinstance(each, torch.fx.Node) and not _is_constant(each)]
        inherits = all(parent in linear for parent in parents)
        keeps = (
            name in _STRUCTURAL | {"add", "sub", "rsub", "getitem"}
            or all(map(_is_constant, parents))
            or (name == "mul" and len(varying) == 1)
            or (name == "div" and len(varying) == 1 and varying[0] is node.args[0])
        )
        if inherits and keeps:
            linear.add(node)
    return linear, batch


def _is_constant(node) -> bool:
    return node.op == "get_attr" or (node.op == "call_function" and all(map(_is_constant, node.all_input_nodes)))


def jacobian(graph, probes, wanted):
    """For each wanted parameter: (derivative by one image's inputs (n,), by the weights, value at 0), exact."""
    zeros = [torch.zeros_like(probe).requires_grad_() for probe in probes]
    values = graph(*zeros)
    rows = []
    for value, yes in zip(values, wanted, strict=True):
        if value.ndim > 1 or (value.ndim == 1 and len(value) not in (1, len(probes[0]))):
            raise NotCompilable(f"an angle of shape {tuple(value.shape)}")
        if not yes:
            rows.append(None)
            continue
        first = value.reshape(-1)[0]
        if first.requires_grad:
            gradients = torch.autograd.grad(first, zeros, retain_graph=True, allow_unused=True)
        else:
            gradients = [None] * len(zeros)
        filled = [torch.zeros_like(z) if g is None else g for g, z in zip(gradients, zeros, strict=True)]
        weights = filled[1].flatten().numpy() if len(filled) > 1 else np.zeros(0)
        rows.append((filled[0][0].numpy(), weights, first.item()))
    return rows
