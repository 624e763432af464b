"""One call of a PennyLane quantum function, kept: its gates, their angles as a torch graph, and what it measures.

PennyLane remains the definition: `record` calls the function under torch's tracer, and keeps the tape's gates and a
torch graph of how each gate's angle follows from inputs and weights.
"""

from collections.abc import Callable

import numpy as np
import pennylane as qml
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from .batch import follow_batch
from .gates import PRIMITIVES
from .ir import NotCompilable, Recording

IGNORED = {"Identity", "GlobalPhase", "Barrier", "Snapshot"}  # no effect on an expectation value
MAX_QUBITS = 16


def record(function: Callable, probes: tuple[torch.Tensor, ...]) -> Recording:
    """Call `function` and keep its gates, its angles as a torch graph, and what it measures.

    Args:
        function: a quantum function of (inputs (B, n)) or (inputs (B, n), weights).
        probes: example arguments, float64, of the right shapes; their values do not matter.

    Raises:
        NotCompilable: with the name of the operation or measurement.
    """
    try:
        found, graph, captured = _traced(function, probes)
    except NotCompilable:
        raise
    except Exception as in_double:  # for example a product with a float32 matrix, which takes float32 inputs only
        probes = tuple(probe.float() for probe in probes)
        try:
            found, graph, captured = _traced(function, probes)
        except NotCompilable:
            raise
        except Exception:  # the tracer's ways to say that an angle depends on more than arithmetic
            reason = f"{type(in_double).__name__}: {in_double}".splitlines()[0]
            raise NotCompilable(f"angles that cannot be traced ({reason})") from in_double
    tape = found["tape"]
    if len(tape.wires) > MAX_QUBITS:
        raise NotCompilable(f"{len(tape.wires)} wires, more than {MAX_QUBITS},")
    place = {wire: k for k, wire in enumerate(sorted(tape.wires.tolist(), key=lambda w: (str(type(w)), w)))}
    gates = [(name, [place[w] for w in wires], numbers) for name, wires, numbers in found["gates"]]
    observables = [_pauli_words(measurement, place) for measurement in tape.measurements]
    return Recording(
        n_wires=len(place), gates=gates, angles=graph, captured=captured, dtype=probes[0].dtype,
        rounded=probes[0].dtype != torch.float64 or _computes_below_double(graph), observables=observables,
    )  # fmt: skip


def _traced(function, probes) -> tuple[dict, torch.fx.GraphModule, list[torch.Tensor]]:
    """The tape, the graph of its parameters for a batch of any size, and the trainable tensors from outside."""
    found: dict = {}

    def angles_of(*arguments):
        with _GradientsStopped() as stopped:
            tape = qml.tape.make_qscript(function)(*arguments)
            gates, parameters = [], []
            _flatten(tape.operations, gates, parameters)
            parameters = [torch.as_tensor(p, dtype=probes[0].dtype) for p in parameters]
        if stopped.found:
            raise NotCompilable("angles computed under torch.no_grad")
        found.update(tape=tape, gates=gates)
        return parameters

    more = (torch.cat((probes[0], probes[0][:2])), *probes[1:])
    graphs = [_without_filling(make_fx(angles_of)(*arguments), arguments) for arguments in (more, probes)]
    graph = follow_batch(graphs[1], graphs[0], len(probes[0]), len(more[0]))
    _make_differentiable(graph)
    return found, graph, _take_captured(graph)


class _GradientsStopped(TorchFunctionMode):
    """Notices torch functions that are called where gradients are switched off: a trace does not show that."""

    found = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.found = self.found or not torch.is_grad_enabled()
        return func(*args, **(kwargs or {}))


def _without_filling(graph: torch.fx.GraphModule, arguments) -> torch.fx.GraphModule:
    """The same graph with arithmetic instead of tensors that are filled in place.

    The graph is traced again, not the function: what PennyLane hands to NumPy must be memory that is there.
    """
    calls = graph.graph.nodes
    if not any(node.op == "call_function" and str(node.target).split(".")[1].endswith("_") for node in calls):
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
        delattr(graph, node.target)
    graph.recompile()
    return captured


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
