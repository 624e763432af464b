"""Modes 1 to 4 of `evaluate_hardware.py`: shots, noise, a chip's calibration, any PennyLane device.

Each yields entries of results.json as they are found. The circuits alone are repeated; `Scorer` says what their values
mean for the run's answers.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pennylane as qml
import torch
from tqdm import tqdm

from qcifar.device import free_memory
from qcifar.errors import InputError, describe
from qcifar.hardware import with_qiskit
from qcifar.hardware.engine import NoisyCircuit, density_bytes
from qcifar.hardware.gates import portable, signs_of
from qcifar.hardware.grammar import CHANNELS
from qcifar.hardware.hybrid import Circuit, Hybrid
from qcifar.hardware.mitigation import Rescale, extrapolate, invert_readout
from qcifar.hardware.noise import NoiseModel
from qcifar.hardware.scores import Scorer
from qcifar.hardware.shots import sample
from qcifar.quantum.layer import stack_values
from qcifar.quantum.runner import make_qnode
from qcifar.streams import stream

NUMBERS_PER_CHUNK = 2**22  # of states or density matrices that are held at once
SCALES = (1.0, 2.0, 3.0)  # of the noise, for its extrapolation to zero
CHECKED = 10  # images that Aer samples too: it builds each one's circuit anew
CHECK_SHOTS = 4000
CHECK_FAILS = 1e-6  # p below which no chance explains the difference


@dataclass(frozen=True)
class Evaluation:
    """A run that is evaluated, and how."""

    hybrid: Hybrid
    scorer: Scorer
    repeats: int
    seed: int  # of the samples
    mitigate: bool

    def entry(self, mode: str, setting: str, shots: int, repeats: list[list[torch.Tensor]], **more) -> dict:
        """One entry of results.json; see `Scorer.score`."""
        return {
            "mode": mode, "setting": setting, "images": len(self.hybrid.labels), "shots": shots,
            "sampling_seed": self.seed if shots else None, "scores": self.scorer.score(repeats), "sweep": None,
            "strength": None, "channels": None, "mitigated": {}, **more,
        }  # fmt: skip


def chunked(run: Callable, angles: torch.Tensor, numbers: int, title: str) -> torch.Tensor:
    """`run` on `angles` (K, n) in chunks, whose states have this many numbers an image."""
    size = max(1, NUMBERS_PER_CHUNK // numbers)
    chunks = tqdm(angles.split(size), leave=False, desc=title, delay=1.0, disable=len(angles) <= size)
    return torch.cat([run(chunk) for chunk in chunks])


@torch.inference_mode()
def ideal_probabilities(circuit: Circuit, angles: torch.Tensor) -> torch.Tensor:
    """(K, 2^n) float64 of all outcomes, by PennyLane's state vectors. Raises `InputError` if it fails."""

    def outcomes(angles):
        for operation in qml.tape.make_qscript(circuit.function)(angles).operations:
            qml.apply(operation)
        return qml.probs(wires=range(circuit.n_qubits))

    node = qml.QNode(outcomes, qml.device("default.qubit", wires=circuit.n_qubits), interface="torch", diff_method=None)

    numbers = 2 ** (circuit.n_qubits + 1)
    try:
        return chunked(lambda chunk: node(chunk).reshape(len(chunk), -1), angles, numbers, circuit.name)
    except Exception as error:  # somebody's circuit
        raise InputError(f"the circuit {circuit.name} failed on default.qubit: {describe(error)}") from error


def ideal_values(circuit: Circuit, angles: torch.Tensor) -> torch.Tensor:
    """(K, outputs) float64."""
    return values_from(circuit, ideal_probabilities(circuit, angles))


def values_from(circuit: Circuit, frequencies: torch.Tensor) -> torch.Tensor:
    """(K, outputs) from probabilities or frequencies (K, 2^n)."""
    return frequencies @ torch.from_numpy(signs_of(circuit.function, circuit.n_qubits))


def sampled(ev: Evaluation, probabilities: list[torch.Tensor], shots: int, what: str) -> list[list[torch.Tensor]]:
    """Of each repeat, the values of each circuit from `shots` outcomes an image; one exact repeat for 0 shots.

    Each repeat and circuit has a stream of its own, which depends on `what`, too.
    """
    circuits = ev.hybrid.circuits
    if shots == 0:
        return [[values_from(c, p) for c, p in zip(circuits, probabilities, strict=True)]]
    return [
        [
            values_from(c, sample(p, shots, stream(ev.seed, "shots", what, shots, repeat, k)))
            for k, (c, p) in enumerate(zip(circuits, probabilities, strict=True))
        ]
        for repeat in range(ev.repeats)
    ]


def with_shots(ev: Evaluation, shots: list[int]) -> Iterator[dict]:
    """The ideal circuits, read out a finite number of times."""
    probabilities = [ideal_probabilities(circuit, circuit.angles) for circuit in ev.hybrid.circuits]
    for count in shots:
        start = time.perf_counter()
        repeats = sampled(ev, probabilities, count, "ideal")
        if count == 0:
            yield ev.entry("ideal", "no noise", 0, repeats, seconds=time.perf_counter() - start)
        else:
            yield ev.entry("shots", "no noise", count, repeats, seconds=time.perf_counter() - start)


def refuse_too_wide(n_qubits: int, what: str) -> None:
    """Raise `InputError` where one exact density matrix does not fit into memory."""
    needed, free = density_bytes(n_qubits, 1), free_memory(torch.device("cpu"))
    if free is not None and 4 * needed > free:  # the engine holds it before and after a gate, and makes outcomes of it
        raise InputError(
            f"{what}: an exact density matrix of {n_qubits} qubits takes {needed:,} bytes an image, and four are held "
            f"at once; {free:,} bytes are free; expected fewer qubits, or samples (--shots, --device)"
        )


@torch.inference_mode()
def noisy_probabilities(noisy: NoisyCircuit, angles: torch.Tensor, n_qubits: int, title: str) -> torch.Tensor:
    """(K, 2^n) float64, readout errors included."""
    return chunked(noisy.probabilities, angles, 4**n_qubits, title)


def with_noise(ev: Evaluation, sweeps: dict[str, list[dict[str, float]]]) -> Iterator[dict]:
    """Every sweep of strengths, exact."""
    for circuit in ev.hybrid.circuits:
        refuse_too_wide(circuit.n_qubits, f"NOISE (--noise), {circuit.name}")
    for sweep, settings in sweeps.items():
        for channels in settings:
            start = time.perf_counter()
            found = [_under_noise(ev, circuit, channels) for circuit in ev.hybrid.circuits]
            swept = [strength for name, strength in channels.items() if len({one[name] for one in settings}) > 1]
            yield ev.entry(
                "noise",
                "+".join(f"{name}={strength:.6g}" for name, strength in channels.items()),
                0,
                [[values for values, _ in found]],
                sweep=sweep,
                strength=(swept or list(channels.values()))[0],
                channels=channels,
                mitigated=scores_of(ev, [corrected for _, corrected in found]),
                seconds=time.perf_counter() - start,
            )


def _under_noise(ev: Evaluation, circuit: Circuit, channels: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Values of the test images, and corrected ones by name."""
    noise = NoiseModel.uniform(**channels)

    def probabilities(angles, factor=1.0):
        noisy = NoisyCircuit(circuit.function, circuit.n_qubits, noise if factor == 1.0 else noise.scaled(factor))
        return noisy_probabilities(noisy, angles, circuit.n_qubits, circuit.name)

    found = probabilities(circuit.angles)
    values = values_from(circuit, found)
    if not ev.mitigate:
        return values, {}
    corrected = mitigations(circuit, found, probabilities(circuit.calibration), noise, range(circuit.n_qubits))
    gates = {name: strength for name, strength in channels.items() if name != "readout" and strength}
    if gates and all(strength * SCALES[-1] <= CHANNELS[name] for name, strength in gates.items()):
        scaled = [values_from(circuit, probabilities(circuit.angles, factor)) for factor in SCALES[1:]]
        corrected["zero noise"] = extrapolate(torch.stack([values, *scaled]), SCALES)
    return values, corrected


def mitigations(circuit: Circuit, found, calibration, noise: NoiseModel, qubits) -> dict[str, torch.Tensor]:
    """Corrected values (K, outputs) by name, of the noisy outcomes of the test images.

    Args:
        found, calibration: noisy frequencies (K, 2^n), of the test images and of the training images that are fitted.
        qubits: what the noise model calls the circuit's.
    """
    fitted = Rescale.fit(values_from(circuit, calibration), ideal_values(circuit, circuit.calibration))
    corrected = {"rescaled": fitted(values_from(circuit, found))}
    errors = [np.linalg.det(noise.confusion(qubit)) for qubit in qubits]
    if any(error < 1 for error in errors) and min(errors) > 0.01:  # at 1/2 an outcome says nothing
        corrected["readout"] = values_from(circuit, invert_readout(found, noise, qubits))
    return corrected


def scores_of(ev: Evaluation, mitigated: list[dict[str, torch.Tensor]]) -> dict[str, dict]:
    """{how: scores} where all circuits have values corrected in this way."""
    names = [name for name in (mitigated[0] if mitigated else {}) if all(name in one for one in mitigated)]
    return {name: ev.scorer.score([[one[name] for one in mitigated]]) for name in names}


def on_fake_backend(ev: Evaluation, name: str, shots: list[int], check: str) -> Iterator[dict]:
    """A chip's calibration: exact, and with each number of shots."""
    backend, start = with_qiskit.fake_backend(name), time.perf_counter()
    probabilities, mitigated, details = [], [], []
    for circuit in ev.hybrid.circuits:
        there = portable(circuit.function, circuit.n_qubits)
        made, chosen = with_qiskit.transpiled(there, backend)
        refuse_too_wide(with_qiskit.active_qubits(made), f"{name}, {circuit.name}")
        noise = NoiseModel.from_qiskit(backend)
        symbols = sorted(made.parameters, key=lambda parameter: parameter.name)
        noisy = NoisyCircuit.from_qiskit(made, noise, inputs=symbols)
        wide = with_qiskit.active_qubits(made)

        def run(angles, there=there, made=made, noisy=noisy, wide=wide):
            columns = torch.from_numpy(with_qiskit.in_order(made, there, there.values(angles)))
            return noisy_probabilities(noisy, columns, wide, name)

        found = run(circuit.angles)
        probabilities.append(found)
        details.append({"circuit": circuit.name, **chosen})
        if check == "aer":
            details[-1]["aer"] = check_with_aer(ev, circuit, there, made, backend, found)
        if ev.mitigate:
            mitigated.append(mitigations(circuit, found, run(circuit.calibration), noise, chosen["layout"]))
    for count in [0, *(s for s in shots if s)]:
        more = {"mitigated": scores_of(ev, mitigated)} if count == 0 else {}
        repeats = sampled(ev, probabilities, count, name)
        yield ev.entry("fake", name, count, repeats, details=details, seconds=time.perf_counter() - start, **more)


def check_with_aer(ev: Evaluation, circuit: Circuit, there, made, backend, found: torch.Tensor) -> dict:
    """How far Aer's samples of the first images are from our probabilities.

    Returns:
        Pearson's chi-square over all cells that expect 5 or more, its degrees of freedom and p.
    """
    from scipy import stats

    columns = there.values(circuit.angles[:CHECKED])
    counts = with_qiskit.aer_counts(made, there, columns, backend, CHECK_SHOTS, ev.seed)
    expected = CHECK_SHOTS * found[: len(counts)].numpy()
    common = expected >= 5
    rest = np.where(common, 0, expected).sum(1), np.where(common, 0, counts).sum(1)  # one more cell of each image
    observed, wanted = (
        np.append(counts[common], rest[1][rest[0] >= 5]),
        np.append(expected[common], rest[0][rest[0] >= 5]),
    )
    square, free = float(((observed - wanted) ** 2 / wanted).sum()), int(len(wanted) - len(counts))
    p = float(stats.chi2.sf(square, free))
    if p < CHECK_FAILS:
        raise InputError(
            f"Aer's samples of {circuit.name} differ from our probabilities: chi-square {square:.0f} on {free} degrees "
            f"of freedom, p {p:.1e}; nothing is reported. Please report it, with the chip and the run's config.json"
        )
    return {
        "images": len(counts), "shots": CHECK_SHOTS, "chi_square": square, "degrees_of_freedom": free,
        "p": p,
    }  # fmt: skip


def on_device(ev: Evaluation, name: str, shots: list[int]) -> Iterator[dict]:
    """Any PennyLane device, exact (0 shots) and with shots as it draws them, from a seed where it takes one."""
    for count in shots:
        start, repeats, seeded = time.perf_counter(), [], True
        for repeat in range(ev.repeats if count else 1):
            values = []
            for circuit in ev.hybrid.circuits:
                seed = stream(ev.seed, "device", name, circuit.name, count, repeat).integers(2**31)
                node, took = _seeded_node(circuit, name, int(seed))
                seeded &= took
                node = qml.set_shots(node, shots=count) if count else node
                values.append(_on_device(node, circuit, name, count))
            repeats.append(values)
        entry = ev.entry("device", name, count, repeats, seconds=time.perf_counter() - start)
        yield entry if seeded else entry | {"sampling_seed": None}


def _seeded_node(circuit: Circuit, name: str, seed: int):
    """The circuit on a device, and whether the device's samples follow from `seed`; real ones take none."""
    try:
        return make_qnode(circuit.function, name, circuit.n_qubits, seed=seed), True
    except InputError:
        return make_qnode(circuit.function, name, circuit.n_qubits), False


def _on_device(node, circuit: Circuit, name: str, shots: int) -> torch.Tensor:
    def run(angles):
        return stack_values(node(angles), len(angles)).double()

    try:
        return chunked(run, circuit.angles, 2 ** (circuit.n_qubits + 1), f"{name}, {circuit.name}")
    except Exception as error:  # plugins raise what they like
        how = f"with {shots} shots" if shots else "without shots"
        raise InputError(f"the circuit {circuit.name} failed on {name} {how}: {describe(error)}") from error
