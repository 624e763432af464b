"""A finished hybrid run in two: what its circuits are given and how its answers follow from what they return.

The classical part runs once. Then only circuits are repeated: on a simulator with noise, on a device, in jobs. For the
head, what follows the circuit is one small layer. For the channels it is the whole network, which has to look at each
new set of maps.
"""

import contextlib
import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from qcifar.data.loader import EvalLoader
from qcifar.errors import InputError
from qcifar.experiment.finished import FinishedRun, script_of
from qcifar.experiment.recipe import Prepared
from qcifar.files import read_npz, write_npz
from qcifar.hardware.gates import along_z
from qcifar.quantum import controls
from qcifar.quantum.checks import circuit_fingerprint
from qcifar.quantum.descriptors import QuantumMaps, input_angles
from qcifar.quantum.layer import QuantumLayer, circuit_name

CALIBRATION_IMAGES = 512  # of the training set, for what mitigation has to fit
# For `load`: whatever ran the circuits in training, a device that may be slow or paid for, is not needed here, and
# making it ready already executes circuits.
INSTEAD = {"quantum_device": "fast", "diff_method": "backprop", "quantum_noise": "none", "shots": 0}
EXPECTED = (
    "expected the head with CONTROL quantum, product or frozen, or the channels with quantum, product or shuffled"
)


@dataclass(frozen=True)
class Circuit:
    """One circuit of a run, with its trained weights in it."""

    name: str
    function: Callable  # quantum function of angles (B, n_qubits); its values are read along Z
    n_qubits: int
    angles: torch.Tensor  # (K, n_qubits) float64, radians: those of the K test images
    calibration: torch.Tensor  # likewise, of some training images


@dataclass(frozen=True)
class Hybrid:
    """What evaluation needs of a run."""

    circuits: tuple[Circuit, ...]
    labels: torch.Tensor  # (K,)
    index: np.ndarray  # (K,) place of each image in the published file
    logits: Callable[[Sequence[torch.Tensor]], torch.Tensor]  # values (K, outputs) of each circuit -> (K, classes)
    share: Callable[[Sequence[torch.Tensor]], torch.Tensor] | None  # likewise -> alpha * logits_q; None: channels


def read_hybrid(run: FinishedRun, it: Prepared, images: int) -> Hybrid:
    """Run the classical part of a run on its first test images.

    Args:
        it: the run as its script prepares it with `INSTEAD`, with the weights of its best epoch.
        images: K; 0 takes all.

    Raises:
        InputError: more images than there are; no circuit, or one whose values reach no answer.
    """
    there = len(it.test_loader.images)
    if images > there:
        raise InputError(f"IMAGES (--images): expected at most the {there} test images of this run, got {images}")
    images = images or there
    layer = getattr(getattr(it.model, "branch", None), "circuit", None)
    if isinstance(layer, QuantumLayer):
        return _head(run, it, layer, images)
    control = it.run.config["constants"].get("CONTROL")
    if isinstance(getattr(it.test_loader, "extra", None), QuantumMaps) and control in (
        "quantum",
        "product",
        "shuffled",
    ):
        return _channels(run, it, images, control)
    named = f"CONTROL {control}" if control else run.config["experiment"]
    raise InputError(f"{run.folder}: no circuit whose values reach this run's answers ({named}); {EXPECTED}")


@torch.inference_mode()
def _head(run: FinishedRun, it: Prepared, layer: QuantumLayer, images: int) -> Hybrid:
    model = it.model
    if not model.branch_on:
        raise InputError(
            f"{it.run.folder}: its best epoch lies in phase A, where the branch is off: no circuit takes part in its "
            f"answers; train longer, or with --epochs-warmup 0"
        )
    folder, images_of = run.folder / "hardware", it.test_loader.batch_size
    feats, hints, without = _features(it, it.test_loader, images, folder / f"features_test_{images}.npz")
    angles = _given_to(layer, model, feats, hints)
    taught = EvalLoader(it.parts.train.images[:CALIBRATION_IMAGES], None, images_of, it.run.identity["IMG_SIZE"])
    more, marks, _ = _features(it, taught, CALIBRATION_IMAGES, folder / "features_train.npz")
    calibration = _given_to(layer, model, more, marks)
    weights = layer.weights.detach().double().cpu()
    function = _function_of(layer.runner)

    def bound(angles):
        return function(angles, weights.to(angles.device))

    bound.__name__ = circuit_name(function)
    n = angles.shape[1]

    @torch.inference_mode()
    def share(values):
        with _in_place_of(layer, lambda angles: values[0].to(feats.device, torch.float32)):
            return (model.alpha * model.logits_q(feats, hints)).cpu()

    circuit = Circuit(bound.__name__, along_z(bound, n), n, angles, calibration)
    return Hybrid((circuit,), it.test_loader.labels[:images].cpu(), it.parts.test.index[:images],
                  lambda values: without + share(values), share)  # fmt: skip


def _features(it: Prepared, loader: EvalLoader, images: int, cache: Path):
    """Features, what a branch may read beside them, and the classical head's logits, of the first images.

    They are kept in `cache`, with the SHA-256 of the weights: with a large network they take minutes.
    """
    device, images = loader.images.device, min(images, len(loader.images))
    key = _hash_of(it.model, it.run.identity.get("precision"), loader.images[:images])
    if cache.exists():
        stored = read_npz(cache, ("key", "feats", "hints", "without"))
        if str(stored["key"]) == key:
            feats, hints, without = (torch.from_numpy(stored[name]) for name in ("feats", "hints", "without"))
            return feats.to(device), hints.to(device), without
    feats, hints, without, seen = [], [], [], 0
    batches = -(-images // loader.batch_size)
    for x, places in tqdm(loader.batches(), total=batches, leave=False, desc="classical part", delay=1.0):
        with it.autocast:
            feats.append(it.model.backbone(x[:, :3]).float())
            without.append(it.model.classifier(feats[-1]).float().cpu())
        hints.append(x[:, :, :1, :1])
        seen = places.stop
        if seen >= images:
            break
    feats, hints, without = torch.cat(feats)[:images], torch.cat(hints)[:images], torch.cat(without)[:images]
    arrays = {"feats": feats.cpu().numpy(), "hints": hints.cpu().numpy(), "without": without.numpy()}
    write_npz(cache, key=np.array(key), **arrays)
    return feats, hints, without


def _hash_of(model: torch.nn.Module, precision, images: torch.Tensor) -> str:
    digest = hashlib.sha256(f"{precision} {images.device.type}".encode())
    for tensor in (*model.state_dict().values(), images):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _in_place_of(layer: QuantumLayer, answer: Callable):
    """`answer` gives the values of `layer`; the trained circuit is not run, which takes minutes on a device."""
    layer.forward = answer
    try:
        yield
    finally:
        del layer.forward  # the class's own is there again


def _given_to(layer: QuantumLayer, model, feats: torch.Tensor, hints: torch.Tensor) -> torch.Tensor:
    """The angles (K, n) that `layer` is given for these features, float64 on the CPU."""
    seen: list[torch.Tensor] = []

    def answer(angles):
        seen.append(angles)
        return feats.new_zeros(len(angles), model.branch.post_q.in_features)

    with _in_place_of(layer, answer):
        model.logits_q(feats, hints)
    return seen[0].detach().double().cpu().clone()


def _function_of(runner: Callable) -> Callable:
    """The quantum function that a runner was made from."""
    recorded = getattr(runner, "recorded", None)
    return next(iter(recorded)) if recorded is not None else runner.func


@torch.inference_mode()
def _channels(run: FinishedRun, it: Prepared, images: int, control: str) -> Hybrid:
    constants, maps = it.run.config["constants"], it.test_loader.extra
    n, size = constants["N_QUBITS"], constants["QUANTUM_IMAGE_SIZE"]
    functions = _descriptor_circuits(run, it, control)
    angles = input_angles(it.parts.test.images, n, size)
    if control == "shuffled":
        (angles,) = controls.replaced([angles], control, "test", constants["SEED"], None)
    angles, taught = angles[:images], input_angles(it.parts.train.images[:CALIBRATION_IMAGES], n, size)
    circuits = tuple(Circuit(circuit_name(f), along_z(f, n), n, angles, taught) for f in functions)
    part = it.test_loader.images[:images]

    @torch.inference_mode()
    def logits(values):
        descriptors = [one.to(part.device, torch.float32) for one in values]
        extra = QuantumMaps(descriptors, it.run.identity["IMG_SIZE"], maps.align, maps.scaling)
        loader = EvalLoader(part, None, it.test_loader.batch_size, it.run.identity["IMG_SIZE"], extra)
        found = []
        for x, _ in tqdm(loader.batches(), total=len(loader), leave=False, desc="network", delay=1.0):
            with it.autocast:
                found.append(it.model(x).float().cpu())
        return torch.cat(found)

    return Hybrid(circuits, it.test_loader.labels[:images].cpu(), it.parts.test.index[:images], logits, None)


def _descriptor_circuits(run: FinishedRun, it: Prepared, control: str) -> list[Callable]:
    """The circuits of the channels' script, which must be those that the run was trained with."""
    constants = it.run.config["constants"]
    script = importlib.import_module(script_of(run))
    functions = script.make_circuits(constants["CIRCUITS"], constants["N_QUBITS"], constants["QUANTUM_DEPTH"])
    if control == "product":
        functions = [controls.without_entanglers(function) for function in functions]
    found = [circuit_fingerprint(function, (1, constants["N_QUBITS"])) for function in functions]
    if found != it.run.identity["circuits"]:
        raise InputError(
            f"{run.folder}: make_circuits of {script.__name__}.py gives other circuits than those of the run"
        )
    return functions
