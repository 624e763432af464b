"""Modes 1, 2 and 4 of `evaluate_hardware.py`: shots, noise, any PennyLane device.

Each yields entries of results.json as they are found. The circuits alone are repeated; `Scorer` says what their values
mean for the run's answers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pennylane as qml
import torch
from tqdm import tqdm

from qcifar.config import NOISE
from qcifar.device import free_memory
from qcifar.errors import InputError, describe, did_you_mean
from qcifar.errors import count as counted
from qcifar.hardware.engine import NoisyCircuit, density_bytes
from qcifar.hardware.gates import signs_of
from qcifar.hardware.hybrid import Circuit, Hybrid
from qcifar.hardware.mitigation import Rescale, extrapolate, invert_readout
from qcifar.hardware.noise import NoiseModel
from qcifar.hardware.scores import Scorer
from qcifar.hardware.shots import sample
from qcifar.quantum.checks import count_measurements
from qcifar.quantum.layer import stack_values
from qcifar.quantum.runner import make_qnode
from qcifar.streams import stream

NUMBERS_PER_CHUNK = 2**22  # of states or density matrices that are held at once
SCALES = (1.0, 2.0, 3.0)  # of the noise, for its extrapolation to zero


@dataclass(frozen=True)
class Evaluation:
    """A run that is evaluated, and how."""

    hybrid: Hybrid
    scorer: Scorer
    repeats: int
    seed: int  # of the samples
    mitigate: bool
    run: str  # experiment, variant and seed
    no_baseline: str = ""  # why there is no run of the baseline to compare with

    def entry(self, mode: str, setting: str, shots: int, repeats: list[list[torch.Tensor]], **more) -> dict:
        """One entry of results.json; see `Scorer.score`."""
        return {
            "mode": mode, "setting": setting, "images": len(self.hybrid.labels), "shots": shots,
            "sampling_seed": self.seed if shots else None, "scores": self.scorer.score(repeats), "sweep": None,
            "strength": None, "channels": None, "mitigated": {}, "no_baseline": self.no_baseline or None, **more,
        }  # fmt: skip


def chunked(run: Callable, angles: torch.Tensor, numbers: int, title: str) -> torch.Tensor:
    """`run` on `angles` (K, n) in chunks, whose states have this many numbers an image."""
    size = max(1, NUMBERS_PER_CHUNK // numbers)
    chunks = tqdm(angles.split(size), leave=False, desc=title, delay=1.0, disable=len(angles) <= size)
    return torch.cat([run(chunk) for chunk in chunks])


def refuse_measurements(circuits: list[Circuit]) -> None:
    """Raise `InputError` for a circuit that measures before its end, whose outcomes are not those of one state."""
    for circuit in circuits:
        if number := count_measurements(circuit.function, circuit.n_qubits, None):
            raise InputError(
                f"the circuit {circuit.name} measures {counted(number, 'time')} before its end: expected "
                f"gates and expectation values only; it is trained and tested with exact values and runs nowhere else"
            )


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


def draws(ev: Evaluation, probabilities: list[torch.Tensor], shots: int, what: str) -> Iterator[list[torch.Tensor]]:
    """Of each repeat, frequencies (K, 2^n) of each circuit from `shots` outcomes an image; one exact one for 0 shots.

    Each repeat and circuit has a stream of its own, which depends on `what`, too.
    """
    for repeat in range(ev.repeats if shots else 1):
        yield [
            sample(each, shots, stream(ev.seed, "shots", what, shots, repeat, k))
            for k, each in enumerate(probabilities)
        ]


def sampled(ev: Evaluation, probabilities: list[torch.Tensor], shots: int, what: str) -> list[list[torch.Tensor]]:
    """Of each repeat, the values of each circuit; see `draws`."""
    return [
        [values_from(c, frequencies) for c, frequencies in zip(ev.hybrid.circuits, one, strict=True)]
        for one in draws(ev, probabilities, shots, what)
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
                mitigated=scores_of(ev, [[corrected for _, corrected in found]]),
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
    confusions = noise.confusions(range(circuit.n_qubits))
    corrected = mitigations(circuit, found, probabilities(circuit.calibration), confusions)
    gates = {name: strength for name, strength in channels.items() if name != "readout" and strength}
    if gates and all(strength * SCALES[-1] <= NOISE[name] for name, strength in gates.items()):
        scaled = [values_from(circuit, probabilities(circuit.angles, factor)) for factor in SCALES[1:]]
        corrected["zero noise"] = extrapolate(torch.stack([values, *scaled]), SCALES)
    return values, corrected


def mitigations(
    circuit: Circuit, found: torch.Tensor, calibration: torch.Tensor | None, confusions: Sequence[np.ndarray] | None
) -> dict[str, torch.Tensor]:
    """Corrected values (K, outputs) by name, of the noisy outcomes of the test images.

    Args:
        found, calibration: noisy frequencies (K, 2^n), of the test images and of the first of the training images that
            the circuit has for this; None: none were executed.
        confusions: (2, 2) of each qubit, see `NoiseModel.confusion`; None: not known.
    """
    corrected, values = {}, values_from(circuit, found)
    if calibration is not None:
        corrected["rescaled"] = rescaled(circuit, values, values_from(circuit, calibration))
    errors = [np.linalg.det(confusion) for confusion in confusions or ()]
    if any(error < 1 for error in errors) and min(errors) > 0.01:  # at 1/2 an outcome says nothing
        corrected["readout"] = values_from(circuit, invert_readout(found, confusions))
    return corrected


def rescaled(circuit: Circuit, values: torch.Tensor, calibration: torch.Tensor) -> torch.Tensor:
    """Values (K, outputs) on the line that brings those of the training images nearest to their ideal values.

    Where they are sampled, those of the training images must be sampled alike: the line is flatter then.
    """
    return Rescale.fit(calibration, ideal_values(circuit, circuit.calibration[: len(calibration)]))(values)


def scores_of(ev: Evaluation, mitigated: list[list[dict[str, torch.Tensor]]]) -> dict[str, dict]:
    """{how: scores}, where all circuits have values corrected in this way.

    Args:
        mitigated: of each repeat and circuit, corrected values by name.
    """
    names = [name for name in mitigated[0][0] if all(name in one for repeat in mitigated for one in repeat)]
    return {name: ev.scorer.score([[one[name] for one in repeat] for repeat in mitigated]) for name in names}


def refuse_unknown_device(name: str) -> None:
    """Raise `InputError` unless a plugin that is installed has a device of this name."""
    known = qml.plugin_devices
    if name not in known:
        hint = did_you_mean(name, known, f"expected one of {', '.join(sorted(known))}, or install its plugin")
        raise InputError(f"DEVICE (--device): no device {name}; {hint}")


def refuse_device(ev: Evaluation, name: str) -> None:
    """Raise `InputError` where a device cannot be made for the circuits of the run."""
    for circuit in ev.hybrid.circuits:
        _seeded_node(circuit, name, 0)


def on_device(ev: Evaluation, name: str, shots: list[int], calibration: int = 0) -> Iterator[dict]:
    """Any PennyLane device, exact (0 shots) and with shots as it draws them, from a seed where it takes one.

    Args:
        calibration: training images that it executes, too, for the rescale; 0 = no rescale.
    """
    for count in shots:
        start, repeats, mitigated, seeded = time.perf_counter(), [], [], True
        for repeat in range(ev.repeats if count else 1):
            values, corrected = [], []
            for circuit in ev.hybrid.circuits:
                seed = stream(ev.seed, "device", name, circuit.name, count, repeat).integers(2**31)
                node, took = _seeded_node(circuit, name, int(seed))
                seeded &= took
                node = qml.set_shots(node, shots=count) if count else node
                values.append(_on_device(node, circuit, circuit.angles, name, count))
                if ev.mitigate and calibration:
                    taught = _on_device(node, circuit, circuit.calibration[:calibration], name, count)
                    corrected.append({"rescaled": rescaled(circuit, values[-1], taught)})
            repeats.append(values)
            mitigated.append(corrected)
        more = {"mitigated": scores_of(ev, mitigated)} if ev.mitigate and calibration else {}
        entry = ev.entry("device", name, count, repeats, seconds=time.perf_counter() - start, **more)
        yield entry if seeded else entry | {"sampling_seed": None}


def _seeded_node(circuit: Circuit, name: str, seed: int):
    """The circuit on a device, and whether the device's samples follow from `seed`; real ones take none."""
    try:
        return make_qnode(circuit.function, name, circuit.n_qubits, seed=seed), True
    except InputError:
        return make_qnode(circuit.function, name, circuit.n_qubits), False


def _on_device(node, circuit: Circuit, angles: torch.Tensor, name: str, shots: int) -> torch.Tensor:
    def run(angles):
        return stack_values(node(angles), len(angles)).double()

    try:
        return chunked(run, angles, 2 ** (circuit.n_qubits + 1), f"{name}, {circuit.name}")
    except Exception as error:  # plugins raise what they like
        how = f"with {shots} shots" if shots else "without shots"
        raise InputError(f"the circuit {circuit.name} failed on {name} {how}: {describe(error)}") from error
