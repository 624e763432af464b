"""One call of a PennyLane quantum function, kept: its gates, their angles as a torch graph, and what it measures.

PennyLane remains the definition: `record` calls the function once, under torch's tracer, and keeps the tape's
gates and a torch graph of how each gate's angle follows from inputs and weights.
"""

from collections.abc import Callable

import numpy as np
import pennylane as qml
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from .gates import PRIMITIVES
from .ir import NotCompilable, Recording

IGNORED = {"Identity", "GlobalPhase", "Barrier", "Snapshot"}  # no effect on an expectation value
MAX_QUBITS = 16


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
