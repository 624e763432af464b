"""Quantum channels: the baseline with a 5-channel conv1 that also sees two maps of circuit outputs.

    python cifar100_quantum_channels.py                                      # the full recipe
    python cifar100_quantum_channels.py --img-size 32 --weights none --epochs 3 --run-dir runs/small
    python cifar100_quantum_channels.py --circuits published --no-align-maps --map-scaling minmax \\
        --extra-channel-init mean                                            # as published
    python cifar100_quantum_channels.py --control shuffled     # other maps in place of the circuits': docs/controls.md

Each image's grey cell means become rotation angles of two circuits, an edge and a texture descriptor
(`qnode_edge`, `qnode_tex`). Their expectation values are computed once per image, cached in
runs/cifar100_quantum_channels/descriptors/, and laid back over the image as channels 4 (QE) and 5 (QT).
Writes runs/cifar100_quantum_channels/seed<SEED>/ with the same files as the baseline.
"""

import qcifar.flags  # noqa: F401  refuses a wrong flag before torch is loaded

# isort: split
import functools
from pathlib import Path

import pennylane as qml
import torch
from torch import nn

from DLfunctions import evaluate, train_model
from qcifar.audit import three_lines
from qcifar.config import SWITCH, one_of, own, real, settings_from_constants, text, whole
from qcifar.device import autocast, set_up_torch
from qcifar.errors import InputError, run_script
from qcifar.experiment.code import descriptor_code
from qcifar.experiment.folder import open_run
from qcifar.experiment.models import build_network, first_conv
from qcifar.experiment.recipe import Prepared, load_parts, make_loaders, make_optimizer, make_schedule, place
from qcifar.experiment.result import report
from qcifar.quantum import controls
from qcifar.quantum.checks import circuit_fingerprint
from qcifar.quantum.dependence import maps_dependence
from qcifar.quantum.descriptors import (
    PREPROCESSING,
    QuantumMaps,
    cached_descriptors,
    chunk_size,
    input_angles,
    note_constant,
    refuse_small_image,
    run_circuit,
)
from qcifar.quantum.layer import circuit_name
from qcifar.quantum.runner import make_runner, runs_on

# run
SEED = 42  # of initial weights, image order and augmentation
DEVICE = "auto"  # auto, cpu, cuda or cuda:1
PRECISION = "auto"  # auto, fp32, tf32 or bf16; auto is bf16 on a GPU that has it, else fp32
RUN_DIR = "./runs"  # where the run folders lie
CHECKPOINT_MINUTES = 5.0  # between checkpoints inside an epoch; 0 = after every step
RESUME = True  # False deletes what the run folder holds and starts over
ACCEPT_CODE = False  # True goes on with a run that other code began, and records that
COMPILE = False  # torch.compile
CUDA_GRAPHS = False  # with COMPILE on one GPU: replay the network's kernels as CUDA graphs
# data
DATASET = "cifar100"  # cifar100 or synthetic
DATA_DIR = "./data"  # holds cifar-100-python/
SPLIT_SEED = 42  # of the stratified train/validation split
VAL_FRACTION = 0.2  # share of the 50,000 training images that validates
IMG_SIZE = 224  # side of the network's input, pixels
TRAIN_LIMIT = 0  # first k training images after a seeded shuffle; 0 = all
EVAL_LIMIT = 0  # likewise for validation and for test
# model
MODEL_NAME = "resnet34"  # torchvision's name of a classification network
STEM = "imagenet"  # first layers: imagenet (as torchvision has them) or cifar (3 x 3, stride 1, no pooling; ResNets)
WEIGHTS = "imagenet"  # imagenet, none or the path of a state dict
# optimizer
EPOCHS = 40  # passes over the training split
BATCH_SIZE = 128  # images a step
MAX_LR = 7e-4  # OneCycle peak
WEIGHT_DECAY = 1e-4  # AdamW
LABEL_SMOOTHING = 0.05  # cross-entropy
SELECT_BY = "f1"  # best epoch on validation by f1 (macro), top1 or loss
ACCUMULATE = 1  # micro-batches a step: less memory, but batch norm sees BATCH_SIZE / ACCUMULATE images at a time
SYNC_BATCHNORM = True  # under torchrun: batch norm over the batch of all processes; False: over each one's slice
# quantum
CONTROL = "quantum"  # quantum, or what makes the maps in the circuits' place: see docs/controls.md
N_QUBITS = 4  # cells of the image, one qubit each: 4 = 2 x 2 (2 standardised cells carry one bit only)
QUANTUM_DEVICE = "fast"  # fast (compiled to torch) or any PennyLane device
CIRCUITS = "default"  # default (no gate without effect) or published
QUANTUM_DEPTH = 1  # layers of each circuit
QUANTUM_IMAGE_SIZE = 28  # side of the grey image whose cells are averaged, pixels
ALIGN_MAPS = True  # maps follow the image's crop and flip; published: False
MAP_SCALING = "fixed"  # fixed keeps [-1, 1]; minmax stretches each map to [0, 1] as published
EXTRA_CHANNEL_INIT = "zero"  # conv1 filters of QE and QT: zero starts as the baseline; mean (of RGB) as published
CIRCUIT_SEED = 0  # of the random features of CONTROL fourier
PLANT = 0.05  # CONTROL planted: probability that the maps name the true class

own_rules = {  # what constants may be that only this experiment has, and their standard values
    "CONTROL": own(
        "quantum",
        one_of(
            "quantum",
            "product",
            "raw",
            "fourier",
            "shuffled",
            "noise",
            "constant",
            "jitter",
            "planted",
        ),
    ),
    "N_QUBITS": own(4, whole(2, 20)),  # the descriptors entangle neighbours
    "QUANTUM_DEVICE": own("fast", text("fast or the name of a PennyLane device")),
    "CIRCUITS": own("default", one_of("default", "published")),
    "QUANTUM_DEPTH": own(1, whole(1, 1000)),
    "QUANTUM_IMAGE_SIZE": own(28, whole(2, 1024)),
    "ALIGN_MAPS": own(True, SWITCH),
    "MAP_SCALING": own("fixed", one_of("fixed", "minmax")),
    "EXTRA_CHANNEL_INIT": own("zero", one_of("zero", "mean")),
    "CIRCUIT_SEED": own(0, whole(0, 2**32 - 1)),
    "PLANT": own(0.05, real(0, 1, open_low=True)),
}

with_circuits = ("quantum", "product", "shuffled", "noise", "constant")  # values of CONTROL that run the circuits
classical = ("raw", "fourier")  # those whose maps `classical_descriptors` makes


def edge_circuit(angles, n_qubits, depth):
    """Ring-entangled: local RY encoding, CNOT ring, then every qubit turned by its own and its neighbour's cell."""
    for _ in range(depth):
        for i in range(n_qubits):
            qml.RY(angles[..., i], wires=i)
        for i in range(n_qubits):
            qml.CNOT(wires=[i, (i + 1) % n_qubits])
        for i in range(n_qubits):  # RZ before RY: after it, the readout along Z would not see RZ
            qml.RZ(angles[..., (i + 1) % n_qubits] / 2, wires=i)
            qml.RY(angles[..., i] / 2, wires=i)
    return [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]


def texture_circuit(angles, n_qubits, depth):
    """Star-entangled: phase encoding, products of cells as ZZ phases (IQP, arXiv:1804.11326), CNOT star, RX."""
    for _ in range(depth):
        for i in range(n_qubits):
            qml.Hadamard(wires=i)
            qml.RZ(angles[..., i], wires=i)
        for i in range(1, n_qubits):
            qml.IsingZZ(angles[..., 0] * angles[..., i], wires=[0, i])
        for i in range(1, n_qubits):
            qml.CNOT(wires=[0, i])
        for i in range(n_qubits):
            qml.RX(0.7 * angles[..., i], wires=i)
    return [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]


def published_edge_circuit(angles, n_qubits, depth):
    """As published. The RZ gates of the last layer commute with the readout and have no effect."""
    for _ in range(depth):
        for i in range(n_qubits):
            qml.RY(angles[..., i], wires=i)
        for i in range(n_qubits):
            qml.CNOT(wires=[i, (i + 1) % n_qubits])
        for i in range(n_qubits):
            qml.RY(angles[..., i] / 2, wires=i)
            qml.RZ(angles[..., (i + 1) % n_qubits] / 2, wires=i)
    return [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]


def published_texture_circuit(angles, n_qubits, depth):
    """As published. At depth 1 it is -sin(0.7 v_i) exactly: nothing but the last RY acts on the readout."""
    for _ in range(depth):
        for i in range(n_qubits):
            qml.Hadamard(wires=i)
            qml.RX(angles[..., i], wires=i)
        for i in range(1, n_qubits):
            qml.CNOT(wires=[0, i])
        for i in range(n_qubits):
            qml.RY(0.7 * angles[..., i], wires=i)
        for i in range(n_qubits - 1):
            qml.CZ(wires=[i, i + 1])
    return [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]


def make_circuits(circuits, n_qubits, depth):
    """The edge and the texture circuit as functions of angles (B, n_qubits)."""
    pair = {
        "default": (edge_circuit, texture_circuit),
        "published": (published_edge_circuit, published_texture_circuit),
    }[circuits]
    return [functools.partial(circuit, n_qubits=n_qubits, depth=depth) for circuit in pair]


def widen_first_conv(net, extra_channels, init):
    """Give the first convolution of `net` `extra_channels` more inputs; its RGB filters stay as they are, in place.

    With "zero" the network's output is unchanged, to the bit; with "mean" each new channel gets the
    mean of the RGB filters.
    """
    name, old = first_conv(net)
    new = nn.utils.skip_init(
        nn.Conv2d, 3 + extra_channels, old.out_channels, old.kernel_size, old.stride, old.padding,
        bias=old.bias is not None,
    )  # fmt: skip
    extra = old.weight.mean(dim=1, keepdim=True) if init == "mean" else torch.zeros_like(old.weight[:, :1])
    with torch.no_grad():
        new.weight.copy_(torch.cat([old.weight, extra.expand(-1, extra_channels, -1, -1)], dim=1))  # (64, 5, 7, 7)
        if old.bias is not None:
            new.bias.copy_(old.bias)
    net.set_submodule(name, new)


def quantum_descriptors(cfg, parts, qnodes, fingerprints, note, name):
    """Edge and texture descriptors (n, n_qubits) of the images of part `name`, cached or newly computed."""
    part = getattr(parts, name)
    descriptors = []
    for kind, qnode, fingerprint in zip(("edge", "tex"), qnodes, fingerprints, strict=True):
        parameters = {
            "circuit": fingerprint,
            "code": descriptor_code(Path(__file__), circuit_name(qnode)),
            "n_qubits": cfg.n_qubits,
            "depth": cfg.quantum_depth,
            "image_size": cfg.quantum_image_size,
            "preprocessing": PREPROCESSING,
            "device": cfg.quantum_device,
            "data": parts.data.fingerprint,
            "split": parts.split.fingerprint,
        }
        folder = Path(cfg.run_dir) / "cifar100_quantum_channels" / "descriptors"
        values = cached_descriptors(folder, name, kind, qnode, part.images, part.index, parameters)
        note_constant(kind, values, note)
        descriptors.append(values)
    return descriptors


def make_maps(cfg, parts, quantum, name):
    """The two maps of the images of part `name`, or what CONTROL puts in their place.

    `quantum` gives the circuits' descriptors of a part.
    """
    part = getattr(parts, name)
    if cfg.control == "planted":
        return controls.PlantedMaps(controls.planted_classes(part.labels, name, cfg.plant, cfg.seed), cfg.img_size)
    if cfg.control not in (*with_circuits, *classical):
        raise ValueError(f"CONTROL {cfg.control}: expected its name in with_circuits or in classical")
    descriptors = classical_descriptors(cfg, part.images) if cfg.control in classical else quantum(name)
    if cfg.control in ("shuffled", "noise", "constant"):
        moments = [(values.mean(), values.std()) for values in quantum("train")]
        descriptors = controls.replaced(descriptors, cfg.control, name, cfg.seed, moments)
    return maps_of(cfg, descriptors, part.images.device)


def classical_descriptors(cfg, images):
    """What CONTROL raw and fourier make of images (n, 3, 32, 32): the angles twice, or random features of them."""
    angles = input_angles(images, cfg.n_qubits, cfg.quantum_image_size)
    return controls.random_features(angles, cfg.circuit_seed) if cfg.control == "fourier" else 2 * [angles]


def maps_of(cfg, descriptors, device):
    """Two sets of descriptors (n, n_qubits) as input channels."""
    descriptors = [values.to(device, torch.float32) for values in descriptors]
    return QuantumMaps(descriptors, cfg.img_size, cfg.align_maps, cfg.map_scaling)


def maps_of_own_images(cfg, qnodes, images):
    """The two maps of images (n, 3, 32, 32) that belong to no part; their descriptors are not cached."""
    if cfg.control in ("quantum", "product"):
        angles = input_angles(images, cfg.n_qubits, cfg.quantum_image_size)
        descriptors = [run_circuit(qnode, angles, "descriptors") for qnode in qnodes]
    elif cfg.control in classical:
        descriptors = classical_descriptors(cfg, images)
    else:
        raise InputError(f"CONTROL {cfg.control} has maps for the images of the data set only")
    return maps_of(cfg, descriptors, images.device)


def prepare(cfg):
    """Everything that is trained and tested, as the constants say."""
    refuse_small_image(cfg.n_qubits, cfg.quantum_image_size)
    controls.refuse_unused(cfg)
    device, precision = set_up_torch(cfg.device, cfg.precision)
    parts = load_parts(cfg, device)
    circuits = make_circuits(cfg.circuits, cfg.n_qubits, cfg.quantum_depth)
    if cfg.control == "product":
        circuits = [controls.without_entanglers(circuit) for circuit in circuits]
    fingerprints = [circuit_fingerprint(circuit, (1, cfg.n_qubits)) for circuit in circuits]
    run = open_run(
        __file__, cfg, "cifar100_quantum_channels", own_rules, device, precision, parts, circuits=fingerprints
    )

    qnodes = [
        make_runner(circuit, cfg.quantum_device, cfg.n_qubits, images=chunk_size(cfg.n_qubits)) for circuit in circuits
    ]
    for circuit in circuits if cfg.control in with_circuits else ():
        for line in three_lines(circuit, cfg.n_qubits):
            run.note(line)
    if cfg.control in with_circuits:
        run.note(f"more about the circuits, into this folder: python audit_circuits.py {run.folder}")
    # Once for each part: a control asks for those of the training images, too.
    quantum = functools.cache(functools.partial(quantum_descriptors, cfg, parts, qnodes, fingerprints, run.note))
    maps = functools.partial(make_maps, cfg, parts, quantum) if cfg.control != "jitter" else None
    train_loader, val_loader, test_loader = make_loaders(parts, cfg, maps)
    model = build_network(cfg, run.note)
    if maps is None:  # the baseline, but for one weight
        run.note(controls.jitter(model, cfg.seed, run.experiment, precision))
    else:
        widen_first_conv(model, 2, cfg.extra_channel_init)
    model = place(model, device, cfg, parts)

    criterion = nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing)
    optimizer = make_optimizer(model, cfg.max_lr, cfg.weight_decay)
    scheduler = make_schedule(optimizer, cfg.max_lr, cfg.epochs * len(train_loader))

    def facts(logits):
        return {
            "control": cfg.control,
            "params_quantum": 0,
            "quantum_device": runs_on(*qnodes) if cfg.control in with_circuits else None,
            "dependence": maps and maps_dependence(model, test_loader, mixed, logits, cfg.seed),
        }

    mixed = autocast(device, precision)
    return Prepared(
        run, parts, model, train_loader, val_loader, test_loader, criterion, optimizer, scheduler, mixed,
        extra_channels=maps and functools.partial(maps_of_own_images, cfg, qnodes), facts=facts,
    )  # fmt: skip


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules)
    it = prepare(cfg)
    if it.run.finished:
        return it.run.show_result()
    model, history = train_model(
        it.model, it.train_loader, it.val_loader, it.criterion, it.optimizer, it.scheduler, it.run,
        epochs=cfg.epochs, select_by=cfg.select_by, autocast=it.autocast, checkpoint_minutes=cfg.checkpoint_minutes,
        accumulate=cfg.accumulate, on_epoch_start=it.on_epoch_start, on_epoch_end=it.on_epoch_end,
    )  # fmt: skip
    with it.run.why_it_ended():  # the one look at the test set
        scores, logits, labels = evaluate(model, it.test_loader, it.criterion, it.autocast, f"{it.run.mark}test")
    return report(it, cfg, history, scores, logits, labels)


if __name__ == "__main__":
    run_script(main)
