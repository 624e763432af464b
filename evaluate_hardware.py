"""A finished hybrid run with its circuits executed elsewhere: a few shots, noise, a chip's calibration, a real device.

    RUN=runs/cifar100_hybrid_qhead/seed42
    python evaluate_hardware.py $RUN --shots 100,1000,10000
    python evaluate_hardware.py $RUN --noise depolarizing=0.001..0.1,readout=0.01/0.02/0.05 --images 1000
    python evaluate_hardware.py $RUN --fake-backend FakeTorino --shots 1000 --check aer
    python evaluate_hardware.py $RUN --device lightning.qubit --shots 1000
    python evaluate_hardware.py estimate $RUN --backend ibm_torino --images 500 --shots 1000   # asks for no job
    python evaluate_hardware.py $RUN --backend ibm_torino --images 500 --shots 1000    # cost, a question, jobs, scores

The run is one of the head or of the channels whose circuits take part in its answers. Its classical part runs once. The
modes can be asked for together. Writes hardware/ into the run's folder: results.json (an entry for each setting, as
soon as it is found), figures, and jobs/. docs/hardware.md says what the numbers mean. With --backend, the words
`estimate`, `submit`, `poll` and `show` before the run do one step alone. Exit status: 0 if all is there, 3 if jobs are
still to come, 2 for bad input.
"""

import hashlib
from argparse import Namespace
from pathlib import Path

import numpy as np

from qcifar.config import SWITCH, Rule, one_of, own, real, settings_from_constants, text, whole
from qcifar.errors import InputError, run_script
from qcifar.experiment.finished import load, read_run
from qcifar.hardware import evaluate, grammar, on_backend, on_chip
from qcifar.hardware.baseline import baseline_right
from qcifar.hardware.figures import draw
from qcifar.hardware.hybrid import CALIBRATION_IMAGES as CALIBRATED
from qcifar.hardware.hybrid import INSTEAD, read_hybrid
from qcifar.hardware.results import Results
from qcifar.hardware.scores import Scorer
from qcifar.hardware.screen import line_of, table
from qcifar.hardware.service import Runtime
from qcifar.hardware.with_qiskit import chip_class

IMAGES = 0  # first K of the test set; 0 = all
SHOTS = ""  # numbers of outcomes an image, such as 100,1000; 0 = exact; empty: exact where that is possible
REPEATS = 10  # of each number of shots, for the standard error
SEED = 0  # of the samples
NOISE = ""  # sweeps such as depolarizing=0.001..0.1,readout=0.01/0.02: see docs/hardware.md
FAKE_BACKEND = ""  # chips of qiskit-ibm-runtime, such as FakeTorino,FakeManilaV2
CHECK = "none"  # aer: Qiskit Aer samples the circuits of --fake-backend, too
MITIGATE = True  # also with readout errors inverted, values rescaled, noise extrapolated: see docs/hardware.md
CALIBRATION_IMAGES = 0  # training images that --device and --backend execute too, to rescale by; 0 = no rescale there
DEVICE = ""  # any PennyLane device, such as lightning.qubit
BACKEND = ""  # a real machine of the service
SERVICE = "qiskit_ibm_runtime"  # the package with QiskitRuntimeService, SamplerV2 and Batch
IMAGES_PER_JOB = 500  # of --backend
BATCH = False  # True: the jobs of --backend run in one batch
WAIT = 0.0  # minutes to wait for jobs
YES = False  # True agrees to the cost of --backend
TORCH_DEVICE = "auto"  # of the classical part: auto, cpu, cuda or cuda:1
PRECISION = "auto"  # of the classical part; auto is that of the run
DATA_DIR = "./data"  # holds the data set that the run was trained on


def _names(expected):
    return own("", Rule(str, lambda v: isinstance(v, str), expected))


own_rules = {
    "IMAGES": own(0, whole(0)),
    "SHOTS": _names("numbers of shots, such as 100,1000"),
    "REPEATS": own(10, whole(1, 10_000)),
    "NOISE": _names("sweeps, such as depolarizing=0.001..0.1"),
    "FAKE_BACKEND": _names("names of chips, such as FakeTorino"),
    "CHECK": own("none", one_of("none", "aer")),
    "MITIGATE": own(True, SWITCH),
    "CALIBRATION_IMAGES": own(0, Rule(int, lambda v: v in (0, *range(3, CALIBRATED + 1)), f"0, or 3 to {CALIBRATED}")),
    "DEVICE": _names("the name of a PennyLane device"),
    "BACKEND": _names("the name of a backend"),
    "SERVICE": own("qiskit_ibm_runtime", text("the name of a Python package")),
    "IMAGES_PER_JOB": own(500, whole(1)),
    "BATCH": own(False, SWITCH),
    "WAIT": own(0.0, real(0)),
    "YES": own(False, SWITCH),
    "TORCH_DEVICE": own("auto", text("auto, cpu, cuda or cuda:<number>")),
}
steps = ("estimate", "submit", "poll", "show")
arguments = (
    ("step", "?", "estimate, submit, poll or show, of --backend; none: all that the flags ask for"),
    ("run", None, "folder of a finished run, for example runs/cifar100_hybrid_qhead/seed42"),
)


def main(argv=None) -> int:
    cfg = settings_from_constants(globals(), argv, own_rules, arguments)
    shots = grammar.whole_numbers("SHOTS", cfg.shots) if cfg.shots else []
    sweeps = grammar.sweeps(cfg.noise) if cfg.noise else {}
    refuse(cfg, shots)
    run = read_run(Path(cfg.run))
    results = Results(run)
    if cfg.step == "show" and not cfg.backend:
        if not results.entries:
            raise InputError(f"{results.path}: no results yet; --shots, --noise, --fake-backend or --device makes some")
        print(table(results.entries))
        return 0
    if cfg.step == "show":
        return show(run, cfg, shots, results)
    runtime = refuse_unknown_names(cfg, shots)
    ev = evaluation(run, cfg)
    it = measurement(ev, run, cfg, runtime, shots) if cfg.backend else None
    if cfg.step is None:
        for entry in entries(ev, cfg, shots, sweeps):
            results.add(entry)
            print(line_of(entry), flush=True)
    status = backend_step(ev, cfg, it, results) if cfg.backend else 0
    if results.entries and cfg.step in (None, "poll"):
        print(table([one for one in results.entries if one["images"] == len(ev.hybrid.labels)]))
        for name, end in results.content["ends"].items():
            at = "" if end["strength"] is None else f"{end['strength']:.3g}, "
            print(f"the difference from the baseline ends ({name}): {at}{end['why']}")
        draw(results.content, run.folder / "hardware")
        print(f"written: {results.path}, and figures beside it")
    return status


def refuse(cfg, shots: list[int]) -> None:
    """Raise `InputError` for flags that do not go together."""
    if cfg.step not in (None, *steps):
        raise InputError(f"expected {', '.join(steps)} or nothing before the run's folder, got {cfg.step!r}")
    if cfg.step in steps[:3] and not cfg.backend:
        raise InputError(f"{cfg.step} is a step of --backend: name one")
    if cfg.step is None and not (shots or cfg.noise or cfg.fake_backend or cfg.device or cfg.backend):
        raise InputError("nothing to do: expected --shots, --noise, --fake-backend, --device or --backend")
    if cfg.backend and len([count for count in shots if count]) != 1:
        raise InputError(f"BACKEND (--backend): expected one number of shots, such as --shots 1000, got {cfg.shots!r}")
    if cfg.check == "aer" and not cfg.fake_backend:
        raise InputError("CHECK (--check): aer samples the circuits of --fake-backend: name one")


def refuse_unknown_names(cfg, shots: list[int]) -> Runtime | None:
    """Raise `InputError` for a chip, a device or a backend that there is not, before anything loads; the backend."""
    for name in grammar.names(cfg.fake_backend):
        chip_class(name)
    for name in grammar.names(cfg.device):
        evaluate.refuse_unknown_device(name)
    if not cfg.backend:
        return None
    runtime = Runtime(cfg.service, cfg.backend)
    runtime.refuse_too_many(next(count for count in shots if count))
    return runtime


def evaluation(run, cfg) -> evaluate.Evaluation:
    """The run's classical part, and what its answers are with ideal circuits."""
    it = load(run, Namespace(device=cfg.torch_device, precision=cfg.precision, data_dir=cfg.data_dir), **INSTEAD)
    hybrid = read_hybrid(run, it, cfg.images)
    evaluate.refuse_measurements(hybrid.circuits)
    ideal = [evaluate.ideal_values(circuit, circuit.angles) for circuit in hybrid.circuits]
    baseline, none = baseline_right(run, hybrid.index)
    scorer = Scorer(hybrid, ideal, baseline)
    stored = np.load(run.folder / "predictions.npz")["logits"][: len(hybrid.labels)].argmax(1)
    same = int((scorer.ideal_predicted == stored).sum())
    print(
        f"{it.run.mark}{run.folder}: {', '.join(c.name for c in hybrid.circuits)} on {len(stored):,} test images; with "
        f"ideal circuits, {same:,} of them get the class of predictions.npz"
        + (f"; nothing is compared with the baseline: {none}" if none else "")
    )
    name = "/".join(str(run.result[part]) for part in ("experiment", "variant", "seed"))
    return evaluate.Evaluation(hybrid, scorer, cfg.repeats, cfg.seed, cfg.mitigate, name, none)


def entries(ev: evaluate.Evaluation, cfg, shots: list[int], sweeps: dict):
    """Modes 1 to 4, one entry after the other; the ideal circuits first, which all are compared with.

    What cannot be done for these circuits is refused before the first entry.
    """
    for circuit in ev.hybrid.circuits if sweeps else ():
        evaluate.refuse_too_wide(circuit.n_qubits, f"NOISE (--noise), {circuit.name}")
    devices = grammar.names(cfg.device)
    for name in devices:
        evaluate.refuse_device(ev, name)
    chips = [on_chip.chip_of(ev, name) for name in grammar.names(cfg.fake_backend)]
    yield from evaluate.with_shots(ev, [0, *(count for count in shots if count)])
    yield from evaluate.with_noise(ev, sweeps)
    for chip in chips:
        yield from on_chip.on_chip(ev, chip, shots, cfg.check)
    for name in devices:
        yield from evaluate.on_device(ev, name, shots or [0], cfg.calibration_images)


def show(run, cfg, shots: list[int], results: Results) -> int:
    """Where the jobs of --backend stand, and what was found, as both are on disk: nothing is computed or asked for."""
    count = next(count for count in shots if count)
    asked = {"service": cfg.service, "backend": cfg.backend, "shots": count, "images_per_job": cfg.images_per_job}
    asked |= {"calibration": cfg.calibration_images} if cfg.calibration_images else {}
    found = on_backend.on_disk(run.folder / on_backend.FOLDER, cfg.images, **asked, checkpoint=checkpoint_of(run))
    if not found:
        raise InputError(f"{run.folder / on_backend.FOLDER}: no such jobs for {cfg.backend}; `submit` submits them")
    missing = False
    for jobs in found:
        state, images = jobs.state(), on_backend.tested(jobs.plan)
        print(f"{images:,} images, {on_backend.summary(state, len(jobs.all))}")
        entries = [one for one in results.entries if one["images"] == images]
        if entries:
            print(table(entries))
        done = ("backend", cfg.backend, count) in [(one["mode"], one["setting"], one["shots"]) for one in entries]
        if len(state.finished) == len(jobs.all) and not done:
            print("all jobs are finished: `poll` computes the scores")
        missing |= not done
    return 3 if missing else 0


def checkpoint_of(run) -> str:
    return hashlib.sha256((run.folder / "best.pt").read_bytes()).hexdigest()[:12]


def measurement(ev: evaluate.Evaluation, run, cfg, runtime: Runtime, shots: list[int]) -> on_backend.Measurement:
    """The jobs of mode 5, none of them submitted."""
    count, calibrated = next(count for count in shots if count), cfg.calibration_images if cfg.mitigate else 0
    folder = run.folder / on_backend.FOLDER
    return on_backend.open_measurement(ev, runtime, folder, checkpoint_of(run), count, cfg.images_per_job, calibrated)


def backend_step(ev: evaluate.Evaluation, cfg, it: on_backend.Measurement, results: Results) -> int:
    """Mode 5: the step that was asked for, or all of them."""
    state = it.jobs.state()
    if cfg.step == "estimate":
        print(on_backend.cost(it, state))
        return 0
    if cfg.step in (None, "submit") and not on_backend.submit(it, cfg.yes, cfg.batch):
        return 3
    state = on_backend.poll(it, cfg.wait) if cfg.step in (None, "poll") else it.jobs.state()
    print(on_backend.summary(state, len(it.jobs.all)))
    if len(state.finished) < len(it.jobs.all):
        return 3
    entry = on_backend.entry_of(ev, it)
    results.add(entry)
    print(line_of(entry))
    return 0


if __name__ == "__main__":
    run_script(main)
