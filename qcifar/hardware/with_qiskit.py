"""What needs Qiskit and its friends (requirements-hardware.txt): circuits in its form, chips, transpiling, Aer.

Only this file and `service.py` import them, and only when they are called.
"""

import importlib
import io
from collections.abc import Sequence

import numpy as np

from qcifar.errors import InputError, describe, did_you_mean
from qcifar.hardware.gates import Portable

INSTALL = "pip install -r requirements-hardware.txt"
SEEDS = 10  # of the transpiler; the circuit with the fewest gates on two qubits is taken
PACKAGES = {"qiskit": "qiskit", "qiskit_aer": "qiskit-aer", "qiskit_ibm_runtime": "qiskit-ibm-runtime"}


def needed(module: str):
    """Import a module of Qiskit's. Raises `InputError` with what to install."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = PACKAGES.get(module.split(".")[0], module.split(".")[0])
        if (error.name or "").split(".")[0] != module.split(".")[0]:
            raise InputError(f"{module} cannot be imported: {describe(error)}") from None
        raise InputError(f"{package} is not installed: {INSTALL}") from None
    except ImportError as error:
        raise InputError(f"{module} cannot be imported: {describe(error)}; {INSTALL}") from None


def to_qiskit(circuit: Portable, measure: bool = True):
    """A `QuantumCircuit` with a `Parameter` for each of `circuit.parameters`, and a register `c` of all qubits.

    Qubit k is Qiskit's qubit k and is measured into bit k. Qiskit writes bit 0 last, at the right end of a word of
    bits and as the lowest bit of its integer; PennyLane has qubit 0 first: see `from_qiskit_order`.
    """
    qiskit = needed("qiskit")
    symbols = [qiskit.circuit.Parameter(name) for name in circuit.parameters]
    n = circuit.n_qubits
    made = qiskit.QuantumCircuit(qiskit.QuantumRegister(n, "q"), name=circuit.name)
    for gate in circuit.gates:
        getattr(made, gate.name)(*(angle.of(symbols) for angle in gate.angles), *gate.wires)
    if measure:
        made.add_register(qiskit.ClassicalRegister(n, "c"))
        made.measure(range(n), range(n))
    return made


def qpy_bytes(circuit: Portable) -> bytes:
    """The circuit with its parameters and measurements as Qiskit's QPY."""
    file = io.BytesIO()
    needed("qiskit.qpy").dump(to_qiskit(circuit), file)
    return file.getvalue()


def two_qubit_gates(circuit) -> int:
    return sum(len(one.qubits) == 2 and one.operation.name not in ("barrier", "measure") for one in circuit.data)


def chip_class(name: str) -> type:
    """What makes a chip as qiskit-ibm-runtime remembers it, which takes seconds. Raises `InputError`."""
    provider = needed("qiskit_ibm_runtime.fake_provider")
    known = {n for n in dir(provider) if n.startswith("Fake") and not n.startswith("FakeProvider")}
    known = {n for n in known if isinstance(getattr(provider, n), type)}
    if name not in known:
        hint = did_you_mean(name, known, f"expected one of {', '.join(sorted(known)[:6])}, ...")
        raise InputError(f"FAKE_BACKEND (--fake-backend): no chip {name} among {len(known)}; {hint}")
    return getattr(provider, name)


def readout_errors(backend, qubits: Sequence[int]) -> list[list[float]] | None:
    """Of each qubit [probability of reading 1 for a 0, 0 for a 1], as the backend was calibrated; None: not known."""
    try:
        calibrated = backend.properties() if hasattr(backend, "properties") else None
        if calibrated is not None:
            names = ("prob_meas1_prep0", "prob_meas0_prep1")
            return [[float(calibrated.qubit_property(qubit, name)[0]) for name in names] for qubit in qubits]
        return [[float(backend.target["measure"][(qubit,)].error)] * 2 for qubit in qubits]
    except Exception:  # what a backend says of itself, or not, is its own
        return None


def transpiled(circuit: Portable, backend, seeds: int = SEEDS, seed: int = 0):
    """The circuit in the chip's gates and on its wires, the best of several transpiler seeds.

    Returns:
        The `QuantumCircuit`, and {"seed", "layout", "depth", "depth_before", "two_qubit_gates",
        "two_qubit_gates_before", "qiskit", "backend", "qubits"}: the seed and the version change the circuit.

    Raises:
        InputError: the chip has too few qubits, or the circuit cannot be transpiled.
    """
    qiskit = needed("qiskit")
    if backend.num_qubits < circuit.n_qubits:
        raise InputError(
            f"{backend.name} has {backend.num_qubits} qubits, the circuit {circuit.name} needs {circuit.n_qubits}; "
            f"expected a larger chip"
        )
    before, best = to_qiskit(circuit), None
    for number in range(seed, seed + seeds):
        try:
            made = qiskit.transpile(before, backend, optimization_level=3, seed_transpiler=number)
        except Exception as error:  # Qiskit's passes raise what they like
            raise InputError(f"{circuit.name} cannot be transpiled for {backend.name}: {describe(error)}") from error
        # The last: between equally good places Qiskit chooses anew each time, whatever the seed.
        score = two_qubit_gates(made), made.depth(), made.layout.final_index_layout() if made.layout else []
        if best is None or score < best[0]:
            best = score, number, made
    _, number, made = best
    return made, {
        "backend": backend.name,
        "qubits": backend.num_qubits,
        "seed": number,
        "seeds": seeds,
        "layout": made.layout.final_index_layout() if made.layout else list(range(circuit.n_qubits)),
        "depth_before": before.depth(),
        "depth": made.depth(),
        "two_qubit_gates_before": two_qubit_gates(before),
        "two_qubit_gates": two_qubit_gates(made),
        "qiskit": qiskit.__version__,
    }


def in_order(made, circuit: Portable, values: np.ndarray) -> np.ndarray:
    """Columns of `circuit.values` in the order of the parameters of a Qiskit circuit, (B, P)."""
    place = {name: k for k, name in enumerate(circuit.parameters)}
    return np.ascontiguousarray(values[:, [place[parameter.name] for parameter in made.parameters]])


def from_qiskit_order(columns: np.ndarray) -> np.ndarray:
    """(B, 2^n) by Qiskit's integers -> by PennyLane's, whose most significant bit is qubit 0."""
    n = columns.shape[1].bit_length() - 1
    return columns[:, [int(f"{state:0{n}b}"[::-1], 2) for state in range(2**n)]]


def counts_of(data, n_qubits: int) -> np.ndarray:
    """(images, 2^n) int64 from the data of a PUB's result; the circuit is one of `to_qiskit`."""
    bits = data.c
    packed = bits.array  # (images, shots, bytes), the most significant byte first
    packed = packed.reshape(-1, *packed.shape[-2:]) if packed.ndim > 2 else packed[None]
    outcome = np.zeros(packed.shape[:2], dtype=np.int64)
    for byte in np.moveaxis(packed, -1, 0):
        outcome = outcome * 256 + byte
    size = 2**n_qubits
    rows = np.arange(len(outcome))[:, None] * size
    counts = np.bincount((rows + outcome).ravel(), minlength=len(outcome) * size)
    return from_qiskit_order(counts.reshape(len(outcome), size))


def aer_counts(made, circuit: Portable, values: np.ndarray, backend, shots: int, seed: int) -> np.ndarray:
    """(images, 2^n) int64: the circuit sampled by Qiskit Aer with the chip's noise; without noise for None.

    Raises:
        InputError: Aer fails.
    """
    aer = needed("qiskit_aer")
    noise = None if backend is None else needed("qiskit_aer.noise").NoiseModel.from_backend(backend)
    simulator = aer.AerSimulator(method="density_matrix", noise_model=noise, seed_simulator=seed)
    columns = in_order(made, circuit, values)
    binds = {parameter: columns[:, k].tolist() for k, parameter in enumerate(made.parameters)}
    try:
        result = simulator.run(made, parameter_binds=[binds] if binds else None, shots=shots).result()
        if not result.success:
            raise RuntimeError(result.status)
        found = [result.get_counts(k) for k in range(len(values))]
    except Exception as error:
        raise InputError(f"Qiskit Aer failed on {circuit.name}: {describe(error)}") from error
    counts = np.zeros((len(values), 2**circuit.n_qubits), dtype=np.int64)
    for row, one in zip(counts, found, strict=True):
        for word, count in one.items():
            row[int(word, 2)] += count
    return from_qiskit_order(counts)


def active_qubits(made) -> int:
    """How many qubits of the chip a transpiled circuit touches."""
    return len({qubit for one in made.data for qubit in one.qubits if one.operation.name != "barrier"})
