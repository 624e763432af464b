"""How fast circuits run: compiled, in PennyLane, and in other libraries, side by side in one process.

    python benchmarks/quantum.py                       # all tables on one thread, about ten minutes
    python benchmarks/quantum.py --threads 2           # on two
    python benchmarks/quantum.py --max-qubits 6        # quicker
    pip install -r benchmarks/requirements.txt         # adds tensorcircuit-ng (jax, jit + vmap) and pyqtorch

Medians of alternating repetitions, so that a busy machine slows all of them alike; compare the ratios.
Writes benchmarks/results/quantum_<threads>_threads.md.
"""

import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pennylane as qml
import torch

from benchmarks.common import begin, conditions, in_turns, peak_memory_of, save
from cifar100_hybrid_Qhead import make_circuit
from cifar100_quantum_channels import make_circuits
from qcifar.compiler import CompiledCircuit
from qcifar.config import settings_from_constants, whole
from qcifar.device import reuse_freed_memory
from qcifar.errors import run_script
from qcifar.quantum.descriptors import cached_descriptors, chunk_size

THREADS = 1  # of torch, and of jax where that is one
MAX_QUBITS = 12  # widest descriptors
REPEATS = 7  # of each measurement; the median counts
BATCH = 128  # images in a step of the head
COMPILE = True  # also the head under torch.compile, which needs a C++ compiler and minutes

own_rules = {"THREADS": whole(1, 1024), "MAX_QUBITS": whole(4, 14), "REPEATS": whole(1), "BATCH": whole(1)}


class Row:
    """Names of the ways to run a circuit, with their precision; ratios are against `ours`."""

    ours = "compiled, float32"
    exact = "compiled, float64"
    inductor = "compiled, float32, under torch.compile"
    broadcast = "default.qubit, broadcasting, complex128"
    backprop = "default.qubit, backprop, complex128"
    loop = "lightning.qubit, loop, complex128"
    adjoint = "lightning.qubit, adjoint, complex128"
    jax = "tensorcircuit-ng, jax jit+vmap, complex64"
    pyqtorch = "pyqtorch, complex64"


def descriptors(n_qubits: int, repeats: int) -> dict[str, float]:
    """Images a second through the edge and the texture circuit, for each way to run them."""
    circuits = make_circuits("default", n_qubits, 1)
    batch = chunk_size(n_qubits)
    angles = torch.randn(batch, n_qubits, dtype=torch.float64)
    few = angles[:8].numpy()
    fast = [CompiledCircuit(circuit, n_qubits) for circuit in circuits]
    exact = [CompiledCircuit(circuit, n_qubits).double() for circuit in circuits]
    nodes = [_node(circuit, "default.qubit", n_qubits, "torch") for circuit in circuits]
    loops = [_node(circuit, "lightning.qubit", n_qubits, "numpy") for circuit in circuits]
    images = {Row.ours: batch, Row.exact: batch, Row.broadcast: batch, Row.loop: min(8, batch)}
    with torch.inference_mode():
        runs = {
            Row.ours: lambda: [circuit(angles) for circuit in fast],
            Row.exact: lambda: [circuit(angles) for circuit in exact],
            Row.broadcast: lambda: [node(angles) for node in nodes],
            Row.loop: lambda: [node(row) for node in loops for row in few],
        }
        peers = {Row.jax: _tensorcircuit_descriptors, Row.pyqtorch: _pyqtorch_descriptors}
        for name, make in peers.items():
            if peer := make(n_qubits, angles):
                runs[name], images[name] = peer, batch
        seconds = in_turns(runs, repeats, span=0.05)
    return {name: images[name] / taken for name, taken in seconds.items()}


def head(n_qubits: int, n_layers: int, batch: int, repeats: int, inductor_too: bool) -> dict[str, float]:
    """Milliseconds for forward and backward through the head's circuit, for each way to run it."""
    circuit, shape = make_circuit(n_qubits, n_layers)
    inputs = torch.randn(batch, n_qubits, requires_grad=True)
    weights = torch.rand(shape, requires_grad=True)
    fast, exact = CompiledCircuit(circuit, n_qubits, shape), CompiledCircuit(circuit, n_qubits, shape).double()
    broadcast = _node(circuit, "default.qubit", n_qubits, "torch", "backprop")
    adjoint = _node(circuit, "lightning.qubit", n_qubits, "torch", "adjoint")

    def step(run):
        values = run(inputs, weights)
        values = values if isinstance(values, torch.Tensor) else torch.stack(tuple(values), -1)
        values.sum().backward()
        inputs.grad = weights.grad = None

    runs = {
        Row.ours: lambda: step(fast),
        Row.exact: lambda: step(exact),
        Row.backprop: lambda: step(broadcast),
    }
    if inductor_too and n_qubits * n_layers <= 48:  # beyond, compiling takes minutes
        torch._dynamo.reset()
        inductor = torch.compile(CompiledCircuit(circuit, n_qubits, shape))
        runs[Row.inductor] = lambda: step(inductor)
    if n_qubits * n_layers <= 16:  # seconds a step beyond that
        runs[Row.adjoint] = lambda: step(adjoint)
    peer = _tensorcircuit_head(n_qubits, n_layers, inputs, weights)
    if peer:
        runs[Row.jax] = peer
    return {name: 1e3 * seconds for name, seconds in in_turns(runs, repeats, span=0.05).items()}


def _node(circuit, device: str, n_qubits: int, interface: str, diff_method: str | None = None) -> qml.QNode:
    return qml.QNode(circuit, qml.device(device, wires=n_qubits), interface=interface, diff_method=diff_method)


def _tensorcircuit():
    """tensorcircuit with its jax backend, or None where it is not installed."""
    if torch.get_num_threads() == 1:  # read when jax makes its thread pool
        os.environ |= {"NPROC": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    try:
        import jax
        import tensorcircuit as tc
    except ImportError:
        return None
    tc.set_backend("jax")
    return jax, tc


def _signs(n: int) -> np.ndarray:
    """Eigenvalues of Z on each wire, (n, 2^n)."""
    return 1.0 - 2.0 * ((np.arange(2**n) >> np.arange(n)[::-1, None]) & 1)


def _jax_readout(n: int):
    """All <Z> from one state: several times faster in jax than `expectation_ps` for one wire after the other."""
    import jax.numpy as jnp

    signs = jnp.asarray(_signs(n), dtype="float32")
    return lambda state: signs @ (jnp.real(state) ** 2 + jnp.imag(state) ** 2)


def _tensorcircuit_descriptors(n: int, angles: torch.Tensor):
    """A callable that runs both circuits on all of `angles`, written gate by gate as in the script."""
    if not (modules := _tensorcircuit()):
        return None
    jax, tc, read_z = *modules, _jax_readout(n)

    def edge(v):
        c = tc.Circuit(n)
        for i in range(n):
            c.ry(i, theta=v[i])
        for i in range(n):
            c.cnot(i, (i + 1) % n)
        for i in range(n):
            c.rz(i, theta=v[(i + 1) % n] / 2)
            c.ry(i, theta=v[i] / 2)
        return read_z(c.state())

    def texture(v):
        c = tc.Circuit(n)
        for i in range(n):
            c.h(i)
            c.rz(i, theta=v[i])
        for i in range(1, n):
            c.rzz(0, i, theta=v[0] * v[i])
        for i in range(1, n):
            c.cnot(0, i)
        for i in range(n):
            c.rx(i, theta=0.7 * v[i])
        return read_z(c.state())

    both = [jax.jit(jax.vmap(circuit)) for circuit in (edge, texture)]
    values = jax.numpy.asarray(angles.numpy(), dtype="float32")
    for run, circuit in zip(both, make_circuits("default", n, 1), strict=True):  # the same circuits, or no comparison
        np.testing.assert_allclose(run(values[:3]), CompiledCircuit(circuit, n)(angles[:3]).numpy(), atol=1e-4)
    return lambda: [run(values).block_until_ready() for run in both]


def _tensorcircuit_head(n: int, n_layers: int, inputs: torch.Tensor, weights: torch.Tensor):
    """A callable for value and both gradients of the head's circuit, summed over the batch."""
    if not (modules := _tensorcircuit()):
        return None
    jax, tc, read_z = *modules, _jax_readout(n)

    def circuit(x, w):
        c = tc.Circuit(n)
        for i in range(n):
            c.rx(i, theta=x[i])
        for layer in range(n_layers):
            for i in range(n):
                c.rz(i, theta=w[layer, i, 0])
                c.ry(i, theta=w[layer, i, 1])
                c.rz(i, theta=w[layer, i, 2])
            span = layer % (n - 1) + 1  # PennyLane's default ranges
            for i in range(n):
                c.cnot(i, (i + span) % n)
        return read_z(c.state())

    batch = jax.vmap(circuit, in_axes=(0, None))
    step = jax.jit(jax.value_and_grad(lambda x, w: batch(x, w).sum(), argnums=(0, 1)))
    x, w = (jax.numpy.asarray(value.detach().numpy()) for value in (inputs, weights))
    compiled = CompiledCircuit(make_circuit(n, n_layers)[0], n, tuple(weights.shape))
    np.testing.assert_allclose(batch(x[:3], w), compiled(inputs[:3], weights).detach().numpy(), atol=1e-4)
    return lambda: jax.block_until_ready(step(x, w))


def _pyqtorch_descriptors(n: int, angles: torch.Tensor):
    """A callable that runs both circuits on all of `angles` in pyqtorch, in complex64."""
    try:
        import pyqtorch as pyq
    except ImportError:
        return None
    edge = [pyq.RY(i, f"v{i}") for i in range(n)] + [pyq.CNOT(i, (i + 1) % n) for i in range(n)]
    texture = [gate for i in range(n) for gate in (pyq.H(i), pyq.RZ(i, f"v{i}"))]
    for i in range(n):
        edge += [pyq.RZ(i, f"half{(i + 1) % n}"), pyq.RY(i, f"half{i}")]
    for i in range(1, n):
        texture += [pyq.CNOT(0, i), pyq.RZ(i, f"product{i}"), pyq.CNOT(0, i)]
    texture += [pyq.CNOT(0, i) for i in range(1, n)] + [pyq.RX(i, f"turn{i}") for i in range(n)]
    signs = torch.from_numpy(_signs(n)).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's about complex modules
        circuits = [pyq.QuantumCircuit(n, gates).to(torch.complex64) for gates in (edge, texture)]
    zero = pyq.zero_state(n).to(torch.complex64)

    def run(circuit, v):
        values = {f"v{i}": v[:, i] for i in range(n)} | {f"half{i}": v[:, i] / 2 for i in range(n)}
        values |= {f"product{i}": v[:, 0] * v[:, i] for i in range(n)} | {f"turn{i}": 0.7 * v[:, i] for i in range(n)}
        state = circuit.run(state=zero, values=values).flatten(0, -2)
        return (signs @ (state.real.square() + state.imag.square())).mT

    values = angles.float()
    for circuit, definition in zip(circuits, make_circuits("default", n, 1), strict=True):
        assert torch.allclose(run(circuit, values[:3]), CompiledCircuit(definition, n)(values[:3]), atol=1e-4)
    return lambda: [run(circuit, values) for circuit in circuits]


def memory(n_qubits: int, n_layers: int, batch: int) -> float:
    """Megabytes by which one forward and backward pass of the head raises the peak of a fresh process."""
    return peak_memory_of(
        "import torch\n"
        "from cifar100_hybrid_Qhead import make_circuit\n"
        "from qcifar.compiler import CompiledCircuit\n"
        "from qcifar.experiment.result import peak_host_mb\n"
        f"function, shape = make_circuit({n_qubits}, {n_layers})\n"
        f"x, w = torch.randn({batch}, {n_qubits}, requires_grad=True), torch.rand(shape, requires_grad=True)\n"
        f"circuit = CompiledCircuit(function, {n_qubits}, shape)\n"
        "circuit(x[:2], w).sum().backward(); before = peak_host_mb()\n"
        "circuit(x, w).sum().backward(); print(peak_host_mb() - before)\n"
    )


def precompute(n_qubits: int) -> float:
    """Seconds from 60,000 images to the caches of both descriptors on disk; the middle one of three."""
    images, index = torch.randint(0, 256, (60_000, 3, 32, 32), dtype=torch.uint8), np.arange(60_000)
    circuits = [CompiledCircuit(circuit, n_qubits) for circuit in make_circuits("default", n_qubits, 1)]
    parameters, seconds = {"n_qubits": n_qubits, "image_size": 28}, []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            start = time.perf_counter()
            for kind, circuit in zip(("edge", "tex"), circuits, strict=True):
                cached_descriptors(Path(folder), "train", kind, circuit, images, index, parameters)
            seconds.append(time.perf_counter() - start)
    return sorted(seconds)[1]


def training_step(n_qubits: int, batch: int, repeats: int) -> float:
    """Seconds of the head's training step over the baseline's, ResNet-34 at 32 pixels, 2 layers, fp32, branch on."""
    flags = f"--device cpu --precision fp32 --dataset synthetic --weights none --img-size 32 --batch-size {batch}"
    flags += f" --train-limit {batch} --epochs 1 --no-resume"
    with tempfile.TemporaryDirectory() as folder:
        common = [*flags.split(), "--run-dir", folder]
        both = {
            "baseline": begin("baseline", common),
            "head": begin("head", [*common, "--epochs-warmup", "0", "--n-qubits", str(n_qubits)]),
        }
    both["head"].on_epoch_start(0)
    assert both["head"].model.branch_on
    images, labels = next(both["baseline"].train_loader.batches(0))

    def step(it):
        it.optimizer.zero_grad(set_to_none=True)
        it.criterion(it.model(images), labels).backward()
        it.optimizer.step()

    ratios = []
    for turn in range(repeats + 1):
        taken = {}
        for name in both if turn % 2 else reversed(both):
            start = time.perf_counter()
            step(both[name])
            taken[name] = time.perf_counter() - start
        if turn:
            ratios.append(taken["head"] / taken["baseline"])
    return float(np.median(ratios))


def markdown(title: str, unit: str, columns: dict[str, dict[str, float]], more_is_better: bool) -> str:
    """A table with one row for each way to run; in brackets how many times faster `Row.ours` is."""
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    lines = [f"| {title}, {unit} | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    for name in names:
        cells = []
        for values in columns.values():
            if name not in values:
                cells.append("–")
                continue
            ours, theirs = values[Row.ours], values[name]
            ratio = ours / theirs if more_is_better else theirs / ours
            cells.append(f"{theirs:,.4g}" + ("" if name == Row.ours else f" ({ratio:.3g}×)"))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules)
    torch.set_num_threads(cfg.threads)
    reuse_freed_memory()  # as in the experiments, for every way to run a circuit
    widths = [n for n in (4, 6, 8, 10, 12, 14) if n <= cfg.max_qubits]
    table_1 = {f"N={n}": _shown(f"N={n}", descriptors(n, cfg.repeats)) for n in widths}
    sizes = [(n, layers) for n, layers in ((4, 2), (8, 2), (8, 6), (10, 6)) if n <= cfg.max_qubits]
    table_2 = {
        f"N={n} L={layers}": _shown(f"N={n} L={layers}", head(n, layers, cfg.batch, cfg.repeats, cfg.compile))
        for n, layers in sizes
    }
    text = "\n\n".join(
        [
            f"{conditions(torch.device('cpu'))}, PennyLane {qml.__version__}. "
            f"In brackets: `{Row.ours}` is that many times faster. "
            "PennyLane's devices compute in double precision only.",
            markdown("Descriptors, both circuits, depth 1", "images/s", table_1, more_is_better=True),
            markdown(f"Head, forward + backward, batch {cfg.batch}", "ms", table_2, more_is_better=False),
            "Training step of ResNet-34 at 32 pixels, head / baseline, medians of alternating steps: "
            + ", ".join(f"{training_step(n, cfg.batch, 5 * cfg.repeats):.3f} at N={n}" for n in (4, 8))
            + ".",
            "60,000 random images, both circuits, from images to caches on disk: "
            + ", ".join(f"{precompute(n):.1f} s at N={n}" for n in (4, 10))
            + ".",
            f"Memory of the head at N=10 L=6, forward + backward: {memory(10, 6, cfg.batch):.0f} MB.",
        ]
    )
    save(f"quantum_{cfg.threads}_threads", text)


def _shown(title: str, values: dict[str, float]) -> dict[str, float]:
    print(title, {name: float(f"{value:.4g}") for name, value in values.items()}, file=sys.stderr, flush=True)
    return values


if __name__ == "__main__":
    run_script(main)
