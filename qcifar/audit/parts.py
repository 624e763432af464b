"""The audit of one circuit, part by part; what is too large or cannot be had is left out, with the reason."""

import functools
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pennylane as qml
import torch

from qcifar.compiler import CompiledCircuit
from qcifar.errors import InputError, describe
from qcifar.errors import count as counted
from qcifar.quantum.layer import circuit_name, stack_values
from qcifar.quantum.runner import make_qnode, make_runner

from . import fourier, measures, simulate
from .classical import audit_inputs, regressions
from .effect import PAIR_WORK, POINTS, TOLERANCE, Cones, cones, forms, inert_gates
from .gates import MAX_QUBITS, Circuit, Gates, LeftOut, Unreadable, points, read_gates

WORK = 5e8  # amplitudes times gates of one part: about 10 s on one core
FEWEST = 2  # random points, below which nothing is said
PENNYLANE_POINTS = 3  # where each takes a call of PennyLane
KEPT_TERMS = 1000  # of a closed form, in the file
QUICK_AMPLITUDES = 2**17  # on the grid of a closed form in the three lines; a larger grid takes seconds
LONGEST_LINE = 120  # of the three, with closed forms of all outputs


@dataclass(frozen=True)
class Settings:
    """How much is computed, and on what."""

    pairs: int = 5000  # of random states, for expressibility
    gradient_samples: int = 200  # random points, for each size
    gradient_qubits: tuple[int, ...] = (2, 3, 4, 5, 6, 8)
    gradient_layers: tuple[int, ...] = (1, 2, 4, 8)
    rows: int = 2000  # inputs of the regressions
    angles: str = "auto"  # see `qcifar.audit.classical.audit_inputs`
    data_dir: str = "./data"
    image_size: int = 28
    seed: int = 42  # of the rows and, for the regressions, of the weights
    # For the regressions of a trained head: where its angles come from, these (rows, n) float64, its weights (W,)
    trained: tuple[str, torch.Tensor, torch.Tensor] | None = None


def audit(circuit: Circuit, settings: Settings) -> dict:
    """Everything about one circuit, ready for JSON; `left_out` has a line for each part that is missing.

    Raises:
        InputError: the circuit cannot be run, or gives values that are not finite.
    """
    runner = _runner_of(circuit)
    gates, unreadable = _gates_of(circuit)
    values_of = _finite(circuit, values_by(circuit, gates))
    found: dict = {
        "name": circuit.name,
        "n_inputs": circuit.n_inputs,
        "weight_shape": circuit.weight_shape,
        "layers": circuit.layers,
        "note": circuit.note,
        "runs_on": "compiled" if isinstance(runner, CompiledCircuit) else "default.qubit",
        "left_out": [] if gates else [f"what needs the circuit's gates: {unreadable}"],
    }

    def part(name: str, compute: Callable):
        try:
            found[name] = compute()
        except LeftOut as reason:
            found[name] = None
            found["left_out"].append(f"{name}: {reason}")

    seen: dict[str, Cones] = {}
    part("specs", lambda: specs(circuit))
    part("effect", lambda: _effect(circuit, gates, values_of, seen))
    if gates:
        part("closed_form", lambda: _closed_forms(gates, seen))
        part("states", lambda: _states(gates, settings))
        part("lie_algebra", lambda: _lie_algebra(gates))
        part("gradients", lambda: _gradients(circuit, settings))
    part("classical", lambda: _classical(circuit, values_of, settings))
    found["microseconds_per_image"] = microseconds(circuit, runner)
    found["simulability"] = simulability(found)
    return found


def _runner_of(circuit: Circuit) -> Callable:
    if _on_other_wires(circuit):
        return qnode_of(circuit)
    method = None if circuit.weight_shape is None else "backprop"
    return make_runner(circuit.function, "fast", circuit.n_inputs, circuit.weight_shape, method)


def _tape_of(circuit: Circuit) -> qml.tape.QuantumScript:
    inputs, weights = points(circuit, 1, 0)
    return circuit.call(inputs, None if weights is None else weights[0])


def _on_other_wires(circuit: Circuit) -> bool:
    """Whether it uses wires beside one for each input: the scripts run no such circuit, PennyLane does."""
    wires = _tape_of(circuit).wires
    if len(wires) > MAX_QUBITS:
        raise InputError(
            f"the circuit {circuit.name} uses {len(wires)} qubits; expected at most {MAX_QUBITS}, which can be audited"
        )
    return not set(wires) <= set(range(circuit.n_inputs))


def _gates_of(circuit: Circuit) -> tuple[Gates | None, str]:
    try:
        return read_gates(circuit), ""
    except Unreadable as reason:
        return None, str(reason)


def values_by(circuit: Circuit, gates: Gates | None) -> Callable:
    """Inputs (B, n) and weights (B, W) -> values (B, outputs) float64, by the gates, or by PennyLane without them."""
    if gates is not None:
        return lambda inputs, weights: simulate.values(gates, gates.angles(inputs, weights))
    qnode = qnode_of(circuit)

    def one(inputs, weights):
        arguments = [inputs] if weights is None else [inputs, weights.reshape(circuit.weight_shape)]
        try:
            return stack_values(qnode(*arguments), len(inputs)).double()
        except Exception as error:
            raise InputError(f"the circuit {circuit.name} failed: {describe(error)}") from error

    def values_of(inputs, weights):
        if weights is None or bool((weights == weights[0]).all()):
            return one(inputs, None if weights is None else weights[0])
        rows, which = torch.unique(weights, dim=0, return_inverse=True)
        found = [one(inputs[which == k], row) for k, row in enumerate(rows)]
        back = torch.cat([(which == k).nonzero().flatten() for k in range(len(rows))])
        return torch.cat(found)[back.argsort()]

    return values_of


def qnode_of(circuit: Circuit):
    if _on_other_wires(circuit):
        return qml.QNode(circuit.function, qml.device("default.qubit"), interface="torch", diff_method=None)
    measured = sum(isinstance(op, qml.ops.MidMeasure) for op in _tape_of(circuit).operations)
    return make_qnode(circuit.function, "default.qubit", circuit.n_inputs, None, measured)


def _finite(circuit: Circuit, values_of: Callable) -> Callable:
    @torch.no_grad()
    def checked(inputs, weights):
        found = values_of(inputs, weights)
        if not bool(found.isfinite().all()):
            raise InputError(
                f"the circuit {circuit.name} returned values that are not finite for random inputs from -pi to pi"
            )
        return found

    return checked


def specs(circuit: Circuit) -> dict:
    """Qubits, depth and gates by PennyLane's `qml.specs`, after decomposition to the device's gates."""
    resources = qml.specs(qnode_of(circuit), level="device")(*example(circuit)).resources
    return {
        "qubits": len(circuit.call(*points_of_one(circuit)).wires),
        "depth": resources.depth,
        "gates": resources.num_gates,
        "two_qubit_gates": resources.gate_sizes.get(2, 0),
        "larger_gates": sum(count for size, count in resources.gate_sizes.items() if size > 2),
        "gate_types": dict(resources.gate_types),
    }


def points_of_one(circuit: Circuit):
    inputs, weights = points(circuit, 1, 0)
    return inputs, None if weights is None else weights[0]


def example(circuit: Circuit) -> list[torch.Tensor]:
    """Arguments of one call."""
    inputs, weights = points_of_one(circuit)
    return [inputs] if weights is None else [inputs, weights.reshape(circuit.weight_shape)]


def _affordable(gates: Gates | None, rows: int, wanted: int, fewest: int, what: str) -> int:
    """How many times `rows` states can be computed, at most `wanted`. Raises `LeftOut` below `fewest`."""
    if gates is None:
        return min(wanted, PENNYLANE_POINTS)
    each = rows * 2.0**gates.n_wires * max(1, len(gates.gates))
    count = int(min(wanted, WORK // each))
    if count < fewest:
        raise LeftOut(
            f"{gates.n_wires} qubits and {len(gates.gates)} gates need {fewest * each:.1e} amplitudes for {what}, "
            f"at most {WORK:.0e} are computed"
        )
    return count


def _effect(circuit: Circuit, gates: Gates | None, values_of: Callable, seen: dict) -> dict:
    angles = 0 if gates is None else len(gates.linear)
    rows = circuit.n_inputs + circuit.n_weights + angles + 1
    count = _affordable(gates, rows, POINTS, FEWEST, "light cones")
    seen["cones"] = cone = cones(circuit, values_of, gates, count)
    found = {
        "tolerance": TOLERANCE,
        "points": count,
        "weights": circuit.n_weights,
        "live_weights": cone.live_weights,
        "inert_weights": [_place(k, circuit.weight_shape) for k in cone.inert_weights],
        "inputs_of_output": cone.inputs.tolist(),
        "weights_of_output": cone.weights.tolist(),
        "form_of_output": forms(circuit, values_of, count),
    }
    if gates is None:
        return found
    count = _affordable(gates, max(1, len(gates.gates) // 2), count, FEWEST, "inert gates")
    inert = inert_gates(gates, count)
    return found | {
        "inert_gates": [{"place": place, "gate": str(gates.gates[place])} for place in inert.gates],
        "inert_together": inert.together,
        "inert_pairs": [[{"place": place, "gate": str(gates.gates[place])} for place in pair] for pair in inert.pairs],
        "pairs_tried": inert.pairs_tried,
        "pairs_there": inert.pairs_there,
        "live_two_qubit_gates": inert.two_qubit_live,
        "read_two_qubit_gates": sum(len(gate.wires) == 2 for gate in gates.gates),
        "entanglement_without_inert": inert.entanglement,
    }


def _place(k: int, shape) -> list[int]:
    return [int(side) for side in np.unravel_index(k, shape)]


def _closed_forms(gates: Gates, seen: dict) -> dict:
    """Of each output, at weights drawn once; and, with weights, the fixed features of which all outputs are sums."""
    if "cones" not in seen:
        raise LeftOut("it needs the light cones")
    live = seen["cones"].angles.numpy()
    inputs, weights = points(gates.circuit, 32, 61, spread=False)
    encoding = fourier.encoding_of(gates, None if weights is None else weights[0])
    angles = gates.angles(inputs, weights).detach()
    expected = simulate.values(gates, angles).numpy()
    outputs = []
    for k in range(len(gates.observables)):
        try:
            form = fourier.closed_form(gates, encoding, k, live[k])
        except LeftOut as reason:
            outputs.append({"output": k, "left_out": str(reason)})
            continue
        error = float(np.abs(form(inputs.numpy(), angles.numpy()) - expected[:, k]).max())
        terms = [{"functions": form.functions(key), "coefficient": c} for key, c in form.terms.items()]
        outputs.append({
            "output": k, "text": str(form) if form.short else None, "frequencies": form.frequencies,
            "terms_total": len(terms), "grid": form.grid, "error": error,
            "terms": terms[:KEPT_TERMS],
        })  # fmt: skip
    found = fourier.features(gates, live)
    kept = None if found is None else {"text": str(found), "count": found.count, "rank": found.rank}
    own = [int(symbol.split()[1]) for symbol in encoding.symbols if symbol.startswith("angle")]
    named = {f"angle {k}": str(gates.gates[gates.owner[k]]) for k in own}
    return {"outputs": outputs, "features": kept, "symbols": named}


def _states(gates: Gates, settings: Settings) -> dict:
    pairs = _affordable(gates, 2, settings.pairs, min(500, settings.pairs), "expressibility")
    first, second = (measures.random_states(gates, pairs, seed) for seed in (51, 52))
    mean, error = measures.entangling_capability(first)
    expressed = measures.expressibility(first, second)
    return {"expressibility": asdict(expressed), "entangling_capability": mean, "entangling_error": error}


def _lie_algebra(gates: Gates) -> dict:
    full = 4**gates.n_wires - 1
    if gates.n_wires > measures.LIE_QUBITS:
        raise LeftOut(f"{gates.n_wires} qubits, at most {measures.LIE_QUBITS} (up to {full:,} dimensions)")
    return {"dimension": measures.lie_dimension(gates), "full": full}


def _gradients(circuit: Circuit, settings: Settings) -> dict:
    if circuit.resized is None:
        raise LeftOut("the circuit does not take n_qubits, so there are no other sizes of it")
    return asdict(
        measures.gradients(circuit, settings.gradient_samples, settings.gradient_qubits, settings.gradient_layers)
    )


def _classical(circuit: Circuit, values_of: Callable, settings: Settings) -> dict:
    if settings.trained is not None:
        source, inputs, weights = settings.trained
        return asdict(regressions(source, inputs, values_of(inputs, weights.expand(len(inputs), -1))))
    source, inputs = audit_inputs(
        circuit, settings.angles, settings.data_dir, settings.image_size, settings.rows, settings.seed
    )
    _, weights = points(circuit, 1, 1000 + settings.seed)
    outputs = values_of(inputs, None if weights is None else weights.expand(len(inputs), -1))
    return asdict(regressions(source, inputs, outputs))


@torch.no_grad()
def microseconds(circuit: Circuit, runner: Callable, least_seconds: float = 0.1) -> float:
    """Time for one image on one core, best of three, in batches of up to 1,024 images."""
    images = max(1, min(1024, 2**20 >> len(_tape_of(circuit).wires)))
    inputs, weights = points(circuit, images, 71, torch.float32, spread=False)
    run = functools.partial(runner, *([inputs] if weights is None else [inputs, weights[0].view(circuit.weight_shape)]))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run()
        best = float("inf")
        for _ in range(3):
            count, started = 0, time.perf_counter()
            while time.perf_counter() - started < least_seconds / 3:
                run()
                count += 1
            best = min(best, (time.perf_counter() - started) / count)
    finally:
        torch.set_num_threads(threads)
    return 1e6 * best / images


def simulability(found: dict) -> list[str]:
    """What it takes to compute this circuit without a quantum computer, in words, line by line."""
    said = [amplitudes_in_words(found["specs"]["qubits"])]
    effect, algebra, closed = (found.get(name) for name in ("effect", "lie_algebra", "closed_form"))
    if effect:
        widest = max(map(sum, effect["inputs_of_output"]), default=0)
        said.append(f"an output depends on at most {widest} of {found['n_inputs']} inputs")
    if algebra:
        size, full = algebra["dimension"], algebra["full"]
        said.append(f"the Lie algebra has {size} of {full} dimensions")
    if closed:
        counts = [output["frequencies"] for output in closed["outputs"] if "frequencies" in output]
        if counts:
            said.append(f"an output has at most {counted(max(counts), 'Fourier coefficient')}")
    on = "compiled" if found["runs_on"] == "compiled" else "on default.qubit"
    said.append(f"{found['microseconds_per_image']:.3g} microseconds an image on one core ({on})")
    return said


def amplitudes_in_words(qubits: int) -> str:
    return f"{2**qubits:,} amplitudes: no computational advantage can follow from this circuit"


def three_lines(
    function: Callable, n_inputs: int, weight_shape: tuple[int, ...] | None = None, name: str | None = None
) -> list[str]:
    """What a circuit is, in three lines for the start of a run: its gates, what its outputs are, what they cost.

    It draws nothing from torch's generators and takes well under a second for circuits of the scripts' size. Larger
    ones get a shorter answer.

    Args:
        function: quantum function of (angles (B, n_inputs)) or (angles, weights).
        weight_shape: of `weights`, None where there are none.
    """
    circuit = Circuit(name or circuit_name(function), function, n_inputs, weight_shape)
    try:
        gates = read_gates(circuit)
    except Unreadable as reason:
        return [f"{circuit.name}: {n_inputs} inputs", f"no closed form: {reason}", amplitudes_in_words(n_inputs)]
    two = sum(len(gate.wires) > 1 for gate in gates.gates)
    first = f"{circuit.name}: {gates.n_wires} qubits, {len(gates.gates)} gates, {two} on several qubits"
    last = amplitudes_in_words(gates.n_wires)
    rows = 3 * (n_inputs + circuit.n_weights + len(gates.linear) + len(gates.gates) + 1)
    if rows * 2**gates.n_wires * len(gates.gates) > WORK / 50:
        return [first, "light cones and closed form: see audit_circuits.py", last]
    with torch.no_grad():
        return _in_three(circuit, gates, first, last)


def _in_three(circuit: Circuit, gates: Gates, first: str, last: str) -> list[str]:
    values_of = values_by(circuit, gates)
    cone, inert = cones(circuit, values_of, gates, 3), inert_gates(gates, 3, PAIR_WORK / 10)
    if inert.gates:
        first += f", {len(inert.gates)} of them without effect"
    if inert.pairs:
        first += f", {2 * len(inert.pairs)} without effect in pairs"
    if circuit.n_weights:
        first += f"; {cone.live_weights} of {circuit.n_weights} weights live"
        found = fourier.features(gates, cone.angles.numpy())
        if found is not None:
            return [first, f"a linear map of {found}, in {found.rank} of these dimensions", last]
    else:
        try:
            encoding = fourier.encoding_of(gates, None)
            texts = [
                str(form) for k, live in enumerate(cone.angles.numpy())
                if (form := fourier.closed_form(gates, encoding, k, live, QUICK_AMPLITUDES)).short
            ]  # fmt: skip
        except LeftOut:
            texts = []
        if len(texts) == len(gates.observables):
            whole = "; ".join(texts)
            more = f"output 0 of {len(texts)} is exactly {texts[0]}"
            return [first, f"exactly {whole}" if len(whole) <= LONGEST_LINE else more, last]
    counts = cone.inputs.sum(1).tolist()
    span = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return [first, f"each output depends on {span} of {circuit.n_inputs} inputs", last]
