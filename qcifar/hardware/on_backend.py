"""Mode 5 of `evaluate_hardware.py`: a real machine. First the cost, then jobs, then the scores."""

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from qcifar.errors import InputError
from qcifar.files import read_json, read_npz, write_json, write_npz, write_whole
from qcifar.hardware.evaluate import Evaluation, mitigations, scores_of, values_from
from qcifar.hardware.gates import portable
from qcifar.hardware.jobs import Jobs, State, key_of
from qcifar.hardware.qasm import qasm
from qcifar.hardware.service import Prepared, Runtime, load_circuits, save_circuits
from qcifar.hardware.with_qiskit import readout_errors

FOLDER = Path("hardware") / "jobs"  # in the run's folder
PAUSE = 10.0  # seconds between two questions whether jobs are done


@dataclass(frozen=True)
class Measurement:
    """What is measured where, with its folder: jobs, circuits as they were submitted, their angles."""

    jobs: Jobs
    runtime: Runtime
    details: list[dict]  # of each circuit, see `with_qiskit.transpiled`


def open_measurement(
    ev: Evaluation,
    runtime: Runtime,
    folder: Path,
    checkpoint: str,
    shots: int,
    images_per_job: int,
    calibration: int = 0,
) -> Measurement:
    """The measurement of these circuits, images and shots on this backend; begun, or as it was left.

    The circuits are transpiled once and kept, and so are the angles: one that goes on elsewhere sends the same ones.

    Args:
        folder: where measurements lie; each has a folder of its own there.
        checkpoint: hash of the run's weights.
        calibration: training images that are measured after the test images, for the rescale.
    """
    there = [portable(circuit.function, circuit.n_qubits) for circuit in ev.hybrid.circuits]
    angles = [torch.cat([one.angles, one.calibration[:calibration]]) for one in ev.hybrid.circuits]
    values = [one.values(each) for one, each in zip(there, angles, strict=True)]
    plan = {
        "service": runtime.module.__name__, "backend": runtime.name, "shots": shots,
        "images": len(angles[0]), "images_per_job": images_per_job,
        "outcomes": [2**one.n_qubits for one in there],
        "circuits": [hashlib.sha256(qasm(one, 3).encode()).hexdigest()[:12] for one in there],
        "checkpoint": checkpoint,
    }  # fmt: skip
    if calibration:
        plan["calibration"] = len(angles[0]) - len(ev.hybrid.labels)
    jobs = Jobs(folder / key_of(plan), plan)
    circuits, inputs = jobs.folder / "circuits.qpy", jobs.folder / "angles.npz"
    if not circuits.exists():
        made, details = zip(*(runtime.transpiled(one) for one in there), strict=True)
        for detail in details:  # as of now: a machine is calibrated anew every few hours
            detail["readout"] = readout_errors(runtime.backend, detail["layout"])
        write_json(jobs.folder / "transpiled.json", {"circuits": list(details)})
        write_npz(inputs, **{f"circuit_{k}": one for k, one in enumerate(values)})
        write_whole(circuits, lambda file: file.write(save_circuits(list(made))))
    jobs.begin()
    runtime.folder = jobs.folder
    made, details = load_circuits(circuits.read_bytes()), read_json(jobs.folder / "transpiled.json")["circuits"]
    kept = read_npz(inputs, tuple(f"circuit_{k}" for k in range(len(there))))
    runtime.circuits = tuple(
        Prepared(one, circuit, kept[f"circuit_{k}"]) for k, (one, circuit) in enumerate(zip(there, made, strict=True))
    )
    return Measurement(jobs, runtime, details)


def on_disk(folder: Path, images: int, **asked) -> list[Jobs]:
    """The measurements in `folder` whose plans say what was asked for; neither network nor service is needed.

    Args:
        images: 0 = any number; how many the whole test set has is not known here.
    """
    plans = [read_json(path) for path in sorted(folder.glob("*/plan.json"))]
    found = [one for one in plans if asked.items() <= one.items() and images in (0, tested(one))]
    return [Jobs(folder / key_of(plan), plan) for plan in found]


def tested(plan: dict) -> int:
    """How many of a plan's images are test images; they come first."""
    return plan["images"] - plan.get("calibration", 0)


def cost(it: Measurement, state: State) -> str:
    """What submitting the jobs that are not with the service takes, in one line."""
    plan, missing = it.jobs.plan, [*state.unknown, *state.not_submitted]
    executions = sum(job.last - job.first for job in missing) * plan["shots"]
    more = f" and {plan['calibration']:,} training images" if "calibration" in plan else ""
    return (
        f"{plan['backend']}: {tested(plan):,} images{more}, {len(plan['outcomes'])} circuit(s), {plan['shots']:,} "
        f"shots; to submit: {len(missing)} of {len(it.jobs.all)} jobs, {executions:,} executions, at least "
        f"{it.runtime.least_seconds(executions):,.0f} s of QPU time"
    )


def summary(state: State, count: int) -> str:
    """Where the jobs stand, in one line."""
    parts = {
        "finished": state.finished, "with the service": state.submitted, "submitted or not": state.unknown,
        "not submitted": state.not_submitted,
    }  # fmt: skip
    said = ", ".join(f"{len(jobs)} {name}" for name, jobs in parts.items() if jobs)
    failed = "".join(f"; job {number + 1} failed before: {why}" for number, why in sorted(state.reasons.items()))
    return f"{count} jobs: {said}{failed}"


def submit(it: Measurement, yes: bool, together: bool) -> bool:
    """Submit what is missing, after somebody agreed to its cost; whether all jobs are with the service.

    Raises:
        InputError: nobody can be asked.
    """
    if found := it.jobs.recover(it.runtime):
        print(f"found by their tags: {found} job(s) whose ids were lost")
    state = it.jobs.state()
    if not state.unknown and not state.not_submitted:
        return True
    print(cost(it, state))
    if not yes:
        try:
            answer = input("submit these jobs? [y/N] ")
        except EOFError:
            raise InputError("nobody to ask whether to submit: --yes agrees to the cost") from None
        if answer.strip().lower() not in ("y", "yes"):
            print("nothing submitted")
            return False
    with it.runtime.batch(together):
        it.jobs.submit(it.runtime)
    return True


def poll(it: Measurement, minutes: float) -> State:
    """Take in what is done, until nothing is left to wait for or the time is over."""
    end = time.monotonic() + 60 * minutes
    while True:
        state = it.jobs.poll(it.runtime)
        if not state.submitted or time.monotonic() >= end:
            return state
        time.sleep(min(PAUSE, max(0.0, end - time.monotonic())))


def entry_of(ev: Evaluation, it: Measurement) -> dict:
    """The entry of results.json, when all jobs are finished."""
    shots, images = it.jobs.plan["shots"], len(ev.hybrid.labels)
    values, corrected = [], []
    for circuit, counts, detail in zip(ev.hybrid.circuits, it.jobs.counts(), it.details, strict=True):
        frequencies = torch.from_numpy(counts / shots)
        taught = frequencies[images:] if len(counts) > images else None
        errors = detail.get("readout")
        confusions = errors and [np.array([[1 - one, zero], [one, 1 - zero]]) for one, zero in errors]
        values.append(values_from(circuit, frequencies[:images]))
        corrected.append(mitigations(circuit, frequencies[:images], taught, confusions))
    details = [{"circuit": c.name, **d} for c, d in zip(ev.hybrid.circuits, it.details, strict=True)]
    more = {"mitigated": scores_of(ev, [corrected])} if ev.mitigate else {}
    made = ev.entry("backend", it.runtime.name, shots, [values], details=details, jobs=it.jobs.ids(), **more)
    return {**made, "sampling_seed": None, "service": it.jobs.plan["service"]}
