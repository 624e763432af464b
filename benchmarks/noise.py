"""How fast exact noise is, beside PennyLane's default.mixed with torch broadcasting, in one process.

    python benchmarks/noise.py                    # one thread, about ten minutes
    python benchmarks/noise.py --images 1000      # quicker
    python benchmarks/noise.py --max-qubits 4

The head's circuit, 2 layers, after each gate depolarizing, amplitude and phase damping on each of its qubits. Both
take turns, so that a busy machine slows both alike; compare the ratios. default.mixed gets as many images at once as
it is fastest with and, on 6 qubits, a tenth of the images; its time is scaled.

Writes benchmarks/results/noise_<threads>_threads.md.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pennylane as qml
import torch

from benchmarks.common import conditions, in_turns, save
from cifar100_hybrid_Qhead import make_circuit
from qcifar.compiler import CompiledCircuit
from qcifar.config import settings_from_constants, whole
from qcifar.device import reuse_freed_memory
from qcifar.errors import run_script
from qcifar.hardware.engine import NoisyCircuit
from qcifar.hardware.noise import NoiseModel

THREADS = 1  # of torch
IMAGES = 10000  # in all
MAX_QUBITS = 6  # widest circuit
REPEATS = 3  # turns; the median counts
BATCH = 128  # images of a training step

own_rules = {"THREADS": whole(1, 1024), "IMAGES": whole(1), "MAX_QUBITS": whole(4, 6), "REPEATS": whole(1),
             "BATCH": whole(1)}  # fmt: skip
strengths = {"depolarizing": 0.01, "amplitude_damping": 0.005, "phase_damping": 0.005}


def in_pennylane(circuit, n_qubits: int):
    """The same noise by `qml.noise.add_noise` on default.mixed."""

    def noise(op, **kwargs):
        for wire in op.wires:
            qml.DepolarizingChannel(strengths["depolarizing"], wires=wire)
            qml.AmplitudeDamping(strengths["amplitude_damping"], wires=wire)
            qml.PhaseDamping(strengths["phase_damping"], wires=wire)

    node = qml.QNode(circuit, qml.device("default.mixed", wires=n_qubits), interface="torch", diff_method="backprop")
    noisy = qml.noise.add_noise(node, qml.NoiseModel({qml.BooleanFn(lambda op: True): noise}))
    return lambda *arguments: torch.stack(noisy(*arguments), dim=-1)


def in_chunks(run, inputs, weights, size: int) -> torch.Tensor:
    return torch.cat([run(part, weights) for part in inputs.split(size)])


def best_chunk(run, inputs, weights) -> int:
    """Images at once with which `run` takes least time for each."""
    taken = {}
    for size in dict.fromkeys(min(size, len(inputs)) for size in (20, 100, 500, 2500)):
        start = time.perf_counter()
        run(inputs[:size], weights)
        taken[size] = (time.perf_counter() - start) / size
    return min(taken, key=taken.get)


def compared(n_qubits: int, images: int, repeats: int) -> str:
    """One row: seconds of both for all images, ratio, largest difference."""
    circuit, shape = make_circuit(n_qubits, 2)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(images, n_qubits, generator=generator, dtype=torch.float64)
    weights = 6 * torch.rand(shape, generator=generator, dtype=torch.float64)
    ours, theirs = NoisyCircuit(circuit, n_qubits, NoiseModel.uniform(**strengths)), in_pennylane(circuit, n_qubits)
    with torch.no_grad():
        fewer = inputs if n_qubits < 6 else inputs[: -(-images // 10)]
        size = best_chunk(theirs, fewer, weights)
        difference = (ours(inputs[:16], weights) - theirs(inputs[:16], weights)).abs().max().item()
        runs = {
            "ours": lambda: ours(inputs, weights),
            "outcomes": lambda: ours.probabilities(inputs, weights),
            "theirs": lambda: in_chunks(theirs, fewer, weights, size),
        }
        taken = in_turns(runs, repeats)
        taken["theirs"] *= images / len(fewer)
    ratio = taken["theirs"] / taken["ours"]
    print(f"{n_qubits} qubits: {ratio:.0f} times", file=sys.stderr, flush=True)
    return (
        f"| {n_qubits} | {taken['ours']:.3f} | {taken['outcomes']:.3f} | {taken['theirs']:.2f} ({size}) | {ratio:.0f}× "
        f"| {difference:.0e} |"
    )


def training_step(n_qubits: int, batch: int, repeats: int) -> str:
    """One row: milliseconds of forward and backward, ideal and compiled, under noise, and with shots."""
    circuit, shape = make_circuit(n_qubits, 2)
    inputs, weights = torch.randn(batch, n_qubits, requires_grad=True), torch.rand(shape, requires_grad=True)
    runs = {
        "ideal": CompiledCircuit(circuit, n_qubits, shape),
        "noisy": NoisyCircuit(circuit, n_qubits, NoiseModel.uniform(**strengths), torch.float32),
        "mixed": in_pennylane(circuit, n_qubits),
    }
    taken = in_turns(
        {name: lambda run=run: run(inputs, weights).sum().backward() for name, run in runs.items()}, repeats
    )
    ideal, noisy, mixed = (1e3 * taken[name] for name in runs)
    return f"| {n_qubits} | {ideal:.2f} | {noisy:.2f} | {mixed:.0f} | {mixed / noisy:.0f}× |"


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules)
    torch.set_num_threads(cfg.threads)
    reuse_freed_memory()
    widths = [n for n in (4, 6) if n <= cfg.max_qubits]
    rows = [compared(n, cfg.images, cfg.repeats) for n in widths]
    steps = [training_step(n, cfg.batch, cfg.repeats) for n in widths]
    text = [
        f"{conditions(torch.device('cpu'))}, PennyLane {qml.__version__}. The head's circuit, 2 layers; noise after "
        f"each gate: {', '.join(f'{name} {value}' for name, value in strengths.items())}. float64.",
        "",
        f"| qubits | values of {cfg.images:,} images, s | their outcomes' probabilities, s "
        "| default.mixed, values, s (images at once) | ratio of values | largest difference |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Forward and backward, batch {cfg.batch}, ms (ideal and noisy in float32):",
        "",
        "| qubits | ideal, compiled | under noise | default.mixed, backprop | ratio |",
        "| --- | --- | --- | --- | --- |",
        *steps,
    ]
    save(f"noise_{cfg.threads}_threads", "\n".join(text))


if __name__ == "__main__":
    run_script(main)
