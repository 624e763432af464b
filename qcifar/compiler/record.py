"""One call of a PennyLane quantum function, kept: its gates, their angles as a torch graph, and what it measures.

PennyLane remains the definition: `record` calls the function under a tracer, and keeps the tape's gates and a
torch graph of how each gate's angle follows from inputs and weights.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pennylane as qml
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from .batch import follow_batch
from .gates import PRIMITIVES
from .ir import NotCompilable, Recording
from .trace import digest, trace

IGNORED = {"Identity", "GlobalPhase", "Barrier", "Snapshot"}  # no effect on an expectation value
MAX_QUBITS = 16
MANY = 67  # images of the call that confirms the graph


def record(function: Callable, probes: tuple[torch.Tensor, ...]) -> Recording:
    """Call `function` and keep its gates, its angles as a torch graph, and what it measures.

    Args:
        function: a quantum function of (inputs (B, n)) or (inputs (B, n), weights).
        probes: example arguments, float64, of the right shapes; their values do not matter.

    Raises:
        NotCompilable: with the name of the operation or measurement.
    """
    try:
        found = _Found(function, probes)
    except NotCompilable:
        raise
    except Exception as in_double:  # for example a product with a float32 matrix, which takes float32 inputs only
        probes = tuple(probe.float() for probe in probes)
        try:
            found = _Found(function, probes)
        except NotCompilable:
            raise
        except Exception:  # a function that fails, or an operation that cannot be traced
            reason = f"{type(in_double).__name__}: {in_double}".splitlines()[0]
            raise NotCompilable(f"angles that cannot be traced ({reason})") from in_double
    gates = [(name, [found.place[w] for w in wires], numbers) for name, wires, numbers in found.call.gates]
    return Recording(
        n_wires=len(found.place), gates=gates, angles=found.graph, captured=found.captured, dtype=probes[0].dtype,
        rounded=probes[0].dtype != torch.float64 or _computes_below_double(found.graph), observables=found.observables,
        digest=found.digest, other_sizes=found.other_sizes,
    )  # fmt: skip


def check_form(function, n_inputs, weight_shape) -> None:
    """Raise TypeError or ValueError, in one line, for what cannot be a circuit's function and sizes."""
    if isinstance(function, qml.QNode):
        raise TypeError("expected a quantum function, got a QNode; hand in the function itself, its attribute func")
    if not callable(function):
        raise TypeError(f"expected a quantum function, got a {type(function).__name__}")
    if not hasattr(n_inputs, "__index__") or n_inputs < 1:
        raise ValueError(f"expected a number of inputs from 1 on, got {n_inputs!r}")
    whole = isinstance(weight_shape, (tuple, list)) and all(
        isinstance(size, int) and size >= 0 for size in weight_shape
    )
    if weight_shape is not None and not whole:
        raise ValueError(f"expected the shape of the weights as a tuple, such as (2, 4, 3), got {weight_shape!r}")


class Call:
    """One call of the function: its gates, the parameters that these number, its measurements and wires."""

    def __init__(self, function: Callable, arguments: Sequence[torch.Tensor]):
        tape = qml.tape.make_qscript(function)(*arguments)
        self.measurements, self.wires, self.gates, parameters = tape.measurements, tape.wires.tolist(), [], []
        _flatten(tape.operations, self.gates, parameters)
        self.parameters = [torch.as_tensor(p, dtype=arguments[0].dtype) for p in parameters]

    def structure(self) -> tuple:
        """All but the parameters, as a value that can be compared."""
        sentences = [getattr(getattr(m, "obs", None), "pauli_rep", None) or {} for m in self.measurements]
        words = [[(repr(c), repr(dict(word))) for word, c in sentence.items()] for sentence in sentences]
        return repr(self.gates), repr(self.wires), [(repr(m), w) for m, w in zip(self.measurements, words, strict=True)]


def digest_of(function: Callable, arguments: Sequence[torch.Tensor]) -> tuple[tuple, list]:
    """A value that is equal while `function` does the same, and the tensors that must live for it."""
    call, graph = _traced(function, arguments)
    return _digest(call, graph)


def _digest(call: Call, graph: torch.fx.GraphModule) -> tuple[tuple, list]:
    entries, learn = digest(graph)
    return (call.structure(), entries), learn


def _traced(function, arguments) -> tuple[Call, torch.fx.GraphModule]:
    calls: list[Call] = []

    def parameters(*arguments):
        calls.append(Call(function, arguments))
        return calls[0].parameters

    graph = trace(parameters, arguments)
    return calls[0], graph


class _Found:
    """What calls with batches of several sizes left behind: the graph of the parameters for a batch of any size.

    Raises:
        NotCompilable: they differ in more than sizes, or a third call has other parameters or gradients than the graph.
    """

    def __init__(self, function: Callable, probes: tuple[torch.Tensor, ...]):
        more = (torch.cat((probes[0], probes[0][:2])), *probes[1:])
        (self.call, graph), (other, twin) = _traced(function, probes), _traced(function, more)
        self.digest = _digest(self.call, graph)
        if not self.call.measurements:
            raise NotCompilable("a function that returns no measurement")
        wires = sorted(self.call.wires, key=lambda wire: (str(type(wire)), wire))
        if len(wires) > MAX_QUBITS:
            raise NotCompilable(f"{len(wires)} wires, more than {MAX_QUBITS},")
        self.place = {wire: k for k, wire in enumerate(wires)}
        self.observables = [pauli_words(measurement, self.place) for measurement in self.call.measurements]
        graphs = _without_filling(graph, probes), _without_filling(twin, more)
        if self.call.structure() != other.structure():
            raise NotCompilable("gates that change with the size of the batch")
        self.graph = follow_batch(*graphs, len(probes[0]), len(more[0]))
        _make_differentiable(self.graph)
        self.captured = _take_captured(self.graph)
        generator = torch.Generator().manual_seed(1)
        self.other_sizes = [
            torch.randn(MANY, probes[0].shape[1], generator=generator, dtype=torch.float64).to(probes[0]),
            *(probe + 0.1 for probe in probes[1:]),
        ]
        self._confirm(function, self.other_sizes)

    def _confirm(self, function, arguments) -> None:
        """Compare parameters and their gradients with those of a call outside the tracer."""
        results = []
        for run in (lambda *a: self.graph(*a, *self.captured), lambda *a: self._same_gates(Call(function, a))):
            leaves = [argument.clone().requires_grad_() for argument in arguments]
            values = [v.expand(MANY) if v.ndim < 2 else v for v in run(*(leaf.clone() for leaf in leaves))]
            total = sum((0.3 + 0.1 * (k % 7)) * value.nan_to_num().sum() for k, value in enumerate(values))
            gradients = [None] * len(leaves + self.captured)
            if isinstance(total, torch.Tensor) and total.requires_grad:
                gradients = torch.autograd.grad(total, leaves + self.captured, allow_unused=True)
            results.append([*values, *(g for g in gradients if g is not None and g.any())])
        close = len(results[0]) == len(results[1]) and all(map(_close, *results))
        if not close:
            raise NotCompilable("angles that follow from more than arguments, or in another way at another batch size,")

    def _same_gates(self, call: Call) -> list[torch.Tensor]:
        if call.structure() != self.call.structure():
            raise NotCompilable("gates that change from call to call, or with the size of the batch")
        return call.parameters


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape:
        return False
    tolerance = 1e4 * torch.finfo(one.dtype).eps
    scale = other.detach().nan_to_num().abs().max().clamp(min=1.0).item() if other.numel() else 1.0
    return torch.allclose(one.detach(), other.detach(), rtol=0, atol=tolerance * scale, equal_nan=True)


def _without_filling(graph: torch.fx.GraphModule, arguments) -> torch.fx.GraphModule:
    """The same graph with arithmetic instead of tensors that are filled in place.

    The graph is traced again, not the function: what PennyLane hands to NumPy must be memory that is there.
    """
    if not any(isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable for n in graph.graph.nodes):
        return graph
    return make_fx(torch.func.functionalize(graph))(*arguments)


def _make_differentiable(graph: torch.fx.GraphModule) -> None:
    """Replace what functionalize leaves of `a[:] = b`, for which torch has no derivative."""
    aten = torch.ops.aten
    for node in graph.graph.find_nodes(op="call_function", target=aten.copy.default):
        target, source = node.args
        with graph.graph.inserting_before(node):
            spread = graph.graph.call_function(aten.expand_as.default, (source, target))
            node.replace_all_uses_with(graph.graph.call_function(aten.type_as.default, (spread, target)))
        graph.graph.erase_node(node)


def _take_captured(graph: torch.fx.GraphModule) -> list[torch.Tensor]:
    """Make trainable tensors that the function took from outside further arguments of `graph`, in this order."""
    captured: list[torch.Tensor] = []
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    given: dict[int, torch.fx.Node] = {}
    taken: set[str] = set()  # attributes, each of which may have several nodes
    for node in graph.graph.find_nodes(op="get_attr"):
        tensor = getattr(graph, node.target)
        if not tensor.requires_grad:
            continue
        if id(tensor) not in given:
            with graph.graph.inserting_after(placeholders[-1]):
                placeholders.append(graph.graph.placeholder(f"captured_{len(captured)}"))
            given[id(tensor)] = placeholders[-1]
            captured.append(tensor)
        node.replace_all_uses_with(given[id(tensor)])
        graph.graph.erase_node(node)
        taken.add(node.target)
    for name in taken:
        delattr(graph, name)
    graph.recompile()
    return captured


def _computes_below_double(graph) -> bool:
    for node in graph.graph.nodes:
        value = node.meta.get("val")  # of nodes that `_without_filling` traced again
        dtype = value.dtype if isinstance(value, torch.Tensor) else node.meta.get("dtype", torch.float64)
        constant = node.target is torch.ops.aten.lift_fresh_copy.default  # is rounded alike wherever it is used
        if (dtype.is_floating_point or dtype.is_complex) and torch.finfo(dtype).bits < 64 and not constant:
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


def pauli_words(measurement, place) -> list[tuple[float, dict[int, str]]]:
    """An expectation value as [(coefficient, wire -> X, Y or Z)], with wires numbered by `place`.

    Raises:
        NotCompilable: it is none of Pauli words and sums of them, or its coefficients follow from the arguments.
    """
    sentence = getattr(getattr(measurement, "obs", None), "pauli_rep", None)
    if not isinstance(measurement, qml.measurements.ExpectationMP) or sentence is None:
        raise NotCompilable(f"the measurement {measurement}")
    if any(isinstance(coefficient, torch.Tensor) for coefficient in sentence.values()):
        raise NotCompilable(f"the measurement {measurement}, with a coefficient that follows from the arguments,")
    return [
        (float(np.real(coefficient)), {place[wire]: letter for wire, letter in word.items()})
        for word, coefficient in sentence.items()
    ]
