"""What a circuit can and cannot do, before anything is trained.

    python audit_circuits.py                                        # the scripts' circuits with their constants
    python audit_circuits.py --circuits published                   # the published descriptor circuits
    python audit_circuits.py my_circuits.py:ansatz --n-qubits 4     # any PennyLane function of (angles[, weights])
    python audit_circuits.py runs/cifar100_hybrid_qhead/seed42      # a run's circuits, into audit/ of its folder

Prints a table for each circuit: gates and weights without effect, which output depends on what, exact closed forms,
expressibility, entangling capability, gradient variance, what it takes to simulate it, and how classical the map is
on real images (of a finished run of the head: on the angles that it makes of them, with its trained weights). Writes
runs/audit/<circuit>/ (of a run: audit/<circuit>/ in its folder) with audit.txt, audit.json and plots. docs/audit.md
explains each line.
"""

import qcifar.flags  # noqa: F401  refuses a wrong flag before torch is loaded

# isort: split
import gc
import itertools
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from tqdm import tqdm

from qcifar.audit import Settings, audit
from qcifar.audit.plots import text_drawing, write_plots
from qcifar.audit.source import WITHOUT_CIRCUIT, Circuit, Sizes, circuits_of, circuits_that_ran
from qcifar.audit.words import as_text
from qcifar.config import Rule, one_of, own, settings_from_constants, text, whole
from qcifar.data.cifar import at_hand
from qcifar.device import cores_at_hand, set_up_torch
from qcifar.errors import InputError, run_script
from qcifar.experiment.code import ROOT
from qcifar.experiment.finished import load, read_config, read_run, script_of
from qcifar.files import read_json, write_json, write_whole

SEED = 42  # of the images and, for the regressions, of the weights
DATA_DIR = "./data"  # holds cifar-100-python/; without it, the synthetic images are taken
N_QUBITS = 0  # inputs of the circuit; 0 = as the file says, or 4
N_LAYERS = 0  # of a circuit that takes n_layers or weights; 0 = as the file says, or 2
QUANTUM_DEPTH = 0  # of a circuit that takes depth; 0 = as the file says, or 1
CIRCUITS = "file"  # file (as it says), default or published: of the descriptor circuits
WEIGHT_SHAPE = "auto"  # such as 2,4,3; auto tries the usual ones
QUANTUM_IMAGE_SIZE = 28  # side of the grey image whose cells are averaged, pixels
ANGLES = "auto"  # inputs of the regressions: auto (a run's own, images', random) or an npz with inputs (rows, N)
PAIRS = 5000  # of random states, for expressibility
GRADIENT_SAMPLES = 200  # random points for each gradient variance
IMAGES = 2000  # rows of the regressions
OUTPUT = ""  # a folder for each circuit is made there; empty: runs/audit, or audit/ of the run

own_rules = {  # what constants may be that only this verb has, and their standard values
    "N_QUBITS": own(0, whole(0, 16)),
    "N_LAYERS": own(0, whole(0, 1000)),
    "QUANTUM_DEPTH": own(0, whole(0, 1000)),
    "CIRCUITS": own("file", one_of("file", "default", "published")),
    "WEIGHT_SHAPE": own("auto", text("auto or a shape such as 2,4,3")),
    "QUANTUM_IMAGE_SIZE": own(28, whole(2, 1024)),
    "ANGLES": own("auto", text("auto or the path of an npz with inputs (rows, N)")),
    "PAIRS": own(5000, whole(100)),
    "GRADIENT_SAMPLES": own(200, whole(10)),
    "IMAGES": own(2000, whole(20)),
    "OUTPUT": own("", Rule(str, lambda v: isinstance(v, str), "a folder")),
}
arguments = (("circuit", "?", "FILE.py:name, or the folder of a run; none means the scripts' circuits"),)

# Where the scripts make their circuits. They are loaded as anybody's file, not imported.
scripts = ("cifar100_hybrid_Qhead.py:make_circuit", "cifar100_quantum_channels.py:make_circuits")
asked: list[tuple[Circuit, Settings, Path]] = []  # here, since forked processes inherit it: circuits cannot be pickled
sizes_of_a_run = ("n_qubits", "n_layers", "quantum_depth", "circuits")  # settings that its constants decide


def circuits_of_run(folder: Path, cfg) -> list[Circuit]:
    """The circuits of a run, as its script makes them now from the run's constants.

    Raises:
        InputError: no run, a run without circuits, sizes that the command line gives, or circuits edited since.
    """
    run = read_config(folder)
    constants, fingerprints = run.config["constants"], run.config["identity"].get("circuits")
    control = constants.get("CONTROL")
    path = folder / "result.json"
    ran_none = path.exists() and read_json(path).get("quantum_device", "") is None  # also a control of one's own
    if not fingerprints or control in WITHOUT_CIRCUIT or ran_none:
        why = f"CONTROL {control} has none" if fingerprints else "expected one of the hybrid scripts"
        raise InputError(f"{folder}: this run has no circuit; {why}")
    if given := [name for name in sizes_of_a_run if getattr(cfg, name) not in (0, "file")]:
        raise InputError(f"--{given[0].replace('_', '-')}: the sizes are those of the run {folder}; leave it out")
    cfg.quantum_image_size = constants.get("QUANTUM_IMAGE_SIZE", cfg.quantum_image_size)
    script = ROOT / f"{script_of(run)}.py"
    found = circuits_that_ran(script, Sizes.of_run(constants), fingerprints, control)
    if not found:
        commit = run.config.get("git_commit")
        raise InputError(
            f"{folder}: none of its circuits is one that {script.name} makes now: the script was edited since; undo "
            f"that (the run is of commit {commit}), or name a function: python audit_circuits.py {script.name}:name"
        )
    return found


def trained(folder: Path, cfg) -> tuple[str, torch.Tensor, torch.Tensor] | None:
    """`Settings.trained` of a finished run of the head; None where best.pt or its data set is not at hand."""
    run = read_config(folder)
    constants = run.config["constants"]
    whole = all((folder / name).is_file() for name in ("result.json", "best.pt"))
    wanted = "ALPHA_START" in constants and cfg.angles == "auto"
    if not (wanted and whole and at_hand(constants["DATASET"], cfg.data_dir)):
        return None
    where = SimpleNamespace(device="cpu", precision="fp32", data_dir=cfg.data_dir)
    try:
        it = load(read_run(folder), where)
    except InputError as error:
        print(f"note: {error}; the regressions are on angles of random features\n")
        return None
    layer, angles = it.model.branch.circuit, []
    layer.register_forward_pre_hook(lambda module, arguments: angles.append(arguments[0]))
    enough = -(-min(cfg.images, len(it.test_loader.images)) // it.test_loader.batch_size)
    with torch.inference_mode():
        batches = itertools.islice(it.test_loader.batches(), enough)
        for x, _ in tqdm(batches, total=enough, leave=False, desc="angles of test images", delay=1.0):
            it.model.logits_q(it.model.backbone(x), x)
    found = torch.cat(angles)[: cfg.images].double()
    when = "trained weights" if it.model.branch_on else "weights as drawn: the best epoch lies in phase A"
    if constants.get("QUANTUM_NOISE", "none") != "none" or constants.get("SHOTS"):
        when += ", ideal circuit"
    name = {"cifar100": "CIFAR-100", "synthetic": "synthetic"}[constants["DATASET"]]
    source = f"angles of {len(found)} {name} test images in this run, {when}"
    return source, found, layer.weights.detach().double().flatten()


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules, arguments)
    set_up_torch("cpu", "fp32")
    torch.set_num_threads(1)  # small tensors: threads that wait for each other cost more than they save
    run = Path(cfg.circuit) if cfg.circuit and Path(cfg.circuit).is_dir() else None
    output = Path(cfg.output or (run / "audit" if run else "runs/audit"))
    if run:
        circuits = circuits_of_run(run, cfg)
    else:
        targets = [cfg.circuit] if cfg.circuit else [str(ROOT / script) for script in scripts]
        sizes = Sizes(cfg.n_qubits, cfg.n_layers, cfg.quantum_depth, cfg.circuits, cfg.weight_shape)
        circuits = [circuit for target in targets for circuit in circuits_of(target, sizes)]
    settings = Settings(
        cfg.pairs, cfg.gradient_samples, rows=cfg.images, angles=cfg.angles, data_dir=cfg.data_dir,
        image_size=cfg.quantum_image_size, seed=cfg.seed, trained=trained(run, cfg) if run else None,
    )  # fmt: skip
    asked[:] = [(circuit, settings, output / circuit.name) for circuit in circuits]
    processes = min(len(asked), cores_at_hand()) if sys.platform == "linux" else 1
    if processes == 1:
        for place in range(len(asked)):
            found, said = audited(place)
            print(said)
            drawn(place, found)
    else:
        side_by_side(processes)


def side_by_side(processes: int) -> None:
    """Audit and draw all of `asked`, and print what is found in their order."""
    gc.freeze()  # the processes need not look through what was imported, nor copy it
    try:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            drawings = []  # jobs of their own, so that no core waits while the last circuit is drawn
            for place, (found, said) in enumerate(pool.imap(audited, range(len(asked)))):
                drawings.append(pool.apply_async(drawn, (place, found)))
                print(said)
            for drawing in drawings:
                drawing.get()
    finally:
        gc.unfreeze()


def audited(place: int) -> tuple[dict, str]:
    """Audit the circuit at a place of `asked`, write its numbers, and return them and what is printed of it."""
    circuit, settings, folder = asked[place]
    found = audit(circuit, settings)
    table = as_text(found, text_drawing(circuit))
    write_json(folder / "audit.json", found)
    write_whole(folder / "audit.txt", lambda file: file.write(f"{table}\n".encode()))
    return found, f"{table}\n\n{folder}/ has this as audit.txt and audit.json; plots follow\n"


def drawn(place: int, found: dict) -> None:
    """Write the plots of an audited circuit."""
    circuit, _, folder = asked[place]
    write_plots(folder, circuit, found)


if __name__ == "__main__":
    run_script(main)
