"""Hybrid head: a variational quantum circuit beside the classical head of the baseline.

    python cifar100_hybrid_Qhead.py                                          # the full recipe
    python cifar100_hybrid_Qhead.py --img-size 32 --weights none --epochs 3 --epochs-warmup 1 --run-dir runs/small
    python cifar100_hybrid_Qhead.py --schedule per_phase --alpha-start 0.5 --angle-scaling none   # as published
    python cifar100_hybrid_Qhead.py --control fourier      # a classical twin in the circuit's place: docs/controls.md

logits = logits_cls + alpha * logits_q, alpha = sigmoid(alpha_raw). Phase A (the first EPOCHS_WARMUP
epochs) has the quantum branch off and frozen and trains the baseline to the bit; in phase B everything
learns. Alpha is on the screen, in metrics.csv and in result.json. Writes
runs/cifar100_hybrid_qhead/seed<SEED>/ with the same files as the baseline.
"""

import qcifar.flags  # noqa: F401  refuses a wrong flag before torch is loaded

# isort: split
import functools
import math
from dataclasses import replace

import pennylane as qml
import torch
from torch import nn

from DLfunctions import evaluate, train_model
from qcifar.audit import three_lines
from qcifar.config import noise, one_of, own, real, settings_from_constants, text, whole
from qcifar.device import autocast, set_up_torch
from qcifar.errors import InputError, run_script
from qcifar.experiment.folder import open_run
from qcifar.experiment.models import build_network, split_head
from qcifar.experiment.recipe import Prepared, load_parts, make_loaders, make_optimizer, make_schedule, place
from qcifar.experiment.result import report
from qcifar.hardware.training import refuse_noise, start_epoch, under_noise
from qcifar.quantum import controls
from qcifar.quantum.checks import check_layer, circuit_fingerprint
from qcifar.quantum.dependence import branch_dependence, branch_share, match_gain
from qcifar.quantum.layer import QuantumLayer
from qcifar.quantum.runner import make_runner, refuse_other_method, runs_on
from qcifar.streams import torch_stream

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
CONTROL = "quantum"  # quantum, or what stands in the circuit's place: see docs/controls.md
N_QUBITS = 4  # width of the circuit
QUANTUM_DEVICE = "fast"  # fast (compiled to torch) or any PennyLane device
N_LAYERS = 2  # of StronglyEntanglingLayers
EPOCHS_WARMUP = 5  # length of phase A, of the EPOCHS in all; 0 = phase B from the start
SCHEDULE = "shared"  # shared: one OneCycle; per_phase: as published, a new optimizer and cycle for phase B
ALPHA_START = 0.1  # alpha at the start of phase B; published: 0.5
ANGLE_SCALING = "tanh"  # tanh bounds the angles by pi; none leaves them unbounded as published
DIFF_METHOD = "backprop"  # fast has no other; a PennyLane device: backprop, adjoint, parameter-shift or best
QUANTUM_NOISE = "none"  # none, or strengths such as depolarizing=0.01,readout=0.02: see docs/noise.md
SHOTS = 0  # measurements of each image in training and evaluation; 0 = exact expectation values
CIRCUIT_SEED = 0  # of the weights that CONTROL frozen draws
PLANT = 0.05  # CONTROL planted: probability that the branch names the true class

own_rules = {  # what constants may be that only this experiment has, and their standard values
    "CONTROL": own(
        "quantum",
        one_of(
            "quantum",
            "fourier",
            "linear",
            "tanh",
            "mlp",
            "product",
            "frozen",
            "off",
            "jitter",
            "planted",
        ),
    ),
    "N_QUBITS": own(4, whole(1, 20)),
    "QUANTUM_DEVICE": own("fast", text("fast or the name of a PennyLane device")),
    "N_LAYERS": own(2, whole(1, 1000)),
    "EPOCHS_WARMUP": own(5, whole(0)),
    "SCHEDULE": own("shared", one_of("shared", "per_phase"), changes_recipe=True),
    "ALPHA_START": own(0.1, real(0, 1, open_low=True, open_high=True)),
    "ANGLE_SCALING": own("tanh", one_of("tanh", "none")),
    "DIFF_METHOD": own("backprop", one_of("backprop", "adjoint", "parameter-shift", "best")),
    "QUANTUM_NOISE": own("none", noise()),
    "SHOTS": own(0, whole(0)),
    "CIRCUIT_SEED": own(0, whole(0, 2**32 - 1)),
    "PLANT": own(0.05, real(0, 1, open_low=True)),
}


def head_circuit(angles, weights, n_qubits):
    """Angle encoding, then layers of general rotations and CNOT rings; read out along Z."""
    qml.AngleEmbedding(angles, wires=range(n_qubits))  # RX
    qml.StronglyEntanglingLayers(weights, wires=range(n_qubits))
    return [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]


def make_circuit(n_qubits, n_layers):
    """The circuit as a function of angles (B, n_qubits) and weights, and the shape (n_layers, n_qubits, 3) of these."""
    circuit = functools.partial(head_circuit, n_qubits=n_qubits)
    return circuit, qml.StronglyEntanglingLayers.shape(n_layers, n_qubits)


class Branch(nn.Module):
    """The quantum branch: features (B, F) -> angles -> circuit -> logits_q (B, classes), in float32 throughout.

    Args:
        features, classes: of the classical head.
        circuit: layer from angles (B, n_qubits) to expectation values (B, n_qubits), or what stands in its place.
        n_qubits: width of the circuit.
        bounded: True: angles pi * tanh(pre_q); False: pre_q itself.
    """

    def __init__(self, features, classes, circuit, n_qubits, bounded):
        super().__init__()
        self.pre_q = nn.Linear(features, n_qubits)
        self.circuit = circuit
        self.post_q = nn.Linear(n_qubits, classes)
        self.register_buffer("gain", torch.tensor(1.0))  # other than 1 for controls only
        self.bounded = bounded

    def forward(self, feats, x):
        angles = self.pre_q(feats.float())  # (B, n_qubits)
        if self.bounded:
            angles = math.pi * torch.tanh(angles)
        return self.post_q(self.gain * self.circuit(angles))


class HybridNet(nn.Module):
    """Backbone with a classical head and a branch beside it, fused by a learned gate.

    Args:
        net: the baseline network without its last layer.
        classifier: that layer, the classical head.
        branch: (features (B, F), x) -> logits_q (B, classes).
    """

    def __init__(self, net, classifier, branch):
        super().__init__()
        self.classifier = classifier
        self.backbone = net
        self.branch = branch
        self.alpha_raw = nn.Parameter(torch.tensor(-20.0))  # phase A: alpha = 2e-9
        self.branch_on = False

    @property
    def alpha(self):
        return torch.sigmoid(self.alpha_raw)

    def logits_q(self, feats, x):
        with torch.autocast(x.device.type, enabled=False):
            return self.branch(feats, x)

    def forward(self, x):
        feats = self.backbone(x[:, :3])  # (B, 512)
        logits = self.classifier(feats)  # (B, 100)
        if not self.branch_on:
            return logits  # the circuit is not evaluated
        return logits + self.alpha * self.logits_q(feats, x)

    def start_epoch(self, epoch, epochs_warmup, alpha_start):
        """Phase A before epoch `epochs_warmup`: branch off and frozen; phase B from then on."""
        self.branch_on = epoch >= epochs_warmup
        for parameter in (*self.branch.parameters(), self.alpha_raw):
            parameter.requires_grad_(self.branch_on)
        if epoch == epochs_warmup:
            self.alpha_raw.data.fill_(math.log(alpha_start / (1 - alpha_start)))


def make_branch(cfg, control, head, circuit, weight_shape):
    """The branch with the circuit, or with what `control` puts in its place between the same two linear layers."""
    if control == "planted":
        return controls.PlantedBranch(head.out_features)
    if control == "product":
        circuit = controls.without_entanglers(circuit)
    runner = make_runner(circuit, cfg.quantum_device, cfg.n_qubits, weight_shape, cfg.diff_method, cfg.batch_size)
    runner = under_noise(runner, circuit, weight_shape, cfg)
    with torch_stream(cfg.seed, "quantum"):  # the same draws for all controls
        weights = 2 * math.pi * torch.rand(weight_shape)  # radians
        layer = QuantumLayer(runner, weights)
        bounded = cfg.angle_scaling == "tanh" and control not in ("linear", "tanh")
        branch = Branch(head.in_features, head.out_features, layer, cfg.n_qubits, bounded)
    with torch_stream(cfg.seed, "control"):
        if control == "fourier":
            branch.circuit = controls.Fourier(cfg.n_qubits)
        elif control == "mlp":
            branch.circuit = controls.mlp(cfg.n_qubits, controls.live_weights(layer, cfg.n_qubits))
        elif control in ("linear", "tanh"):
            branch.circuit = {"linear": nn.Identity, "tanh": nn.Tanh}[control]()
    if control == "frozen":
        with torch_stream(cfg.circuit_seed, "frozen"):
            branch.circuit = QuantumLayer(runner, 2 * math.pi * torch.rand(weight_shape), learns=False)
    return branch


def prepare(cfg):
    """Everything that is trained and tested, as the constants say."""
    if cfg.epochs_warmup > cfg.epochs:
        raise InputError(
            f"EPOCHS_WARMUP (--epochs-warmup): expected from 0 to EPOCHS {cfg.epochs}, got {cfg.epochs_warmup}; "
            f"a short run takes --epochs-warmup 1"
        )
    refuse_other_method(cfg.quantum_device, cfg.diff_method)
    controls.refuse_unused(cfg)
    refuse_noise(cfg)
    device, precision = set_up_torch(cfg.device, cfg.precision)
    parts = load_parts(cfg, device)
    circuit, weight_shape = make_circuit(cfg.n_qubits, cfg.n_layers)
    fingerprint = circuit_fingerprint(circuit, (2, cfg.n_qubits), weight_shape)
    run = open_run(__file__, cfg, "cifar100_hybrid_qhead", own_rules, device, precision, parts, circuits=[fingerprint])

    hints = functools.partial(controls.planted_hints, cfg, parts) if cfg.control == "planted" else None
    train_loader, val_loader, test_loader = make_loaders(parts, cfg, hints)
    net = build_network(cfg, run.note)
    if cfg.control in ("off", "jitter"):  # no branch
        model, branch = net, None
        if cfg.control == "jitter":
            run.note(controls.jitter(net, cfg.seed, run.experiment, precision))
    else:
        classifier = split_head(net)
        branch = make_branch(cfg, cfg.control, classifier, circuit, weight_shape)
        model = HybridNet(net, classifier, branch)
    model = place(model, device, cfg, parts)

    criterion = nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing)
    optimizer = make_optimizer(model, cfg.max_lr, cfg.weight_decay)
    cycles = (cfg.epochs_warmup, cfg.epochs - cfg.epochs_warmup) if cfg.schedule == "per_phase" else (cfg.epochs,)
    scheduler = make_schedule(optimizer, cfg.max_lr, *(epochs * len(train_loader) for epochs in cycles))
    it = Prepared(
        run, parts, model, train_loader, val_loader, test_loader, criterion, optimizer, scheduler,
        autocast(device, precision), extra_channels=hints and controls.refuse_own_images,
        facts=lambda logits: {"control": cfg.control, "branch_on": False},
    )  # fmt: skip
    return it if branch is None else with_branch(it, cfg, circuit, weight_shape)


def with_branch(it, cfg, circuit, weight_shape):
    """What the branch adds to training and to the results."""
    model, device = it.model, it.train_loader.images.device
    layer = getattr(model.branch, "circuit", None)
    quantum = layer if isinstance(layer, QuantumLayer) else None
    if quantum is not None:
        check_layer(quantum, cfg.n_qubits, device, it.run.note)
        shown = controls.without_entanglers(circuit) if cfg.control == "product" else circuit
        for line in three_lines(shown, cfg.n_qubits, weight_shape):
            it.run.note(line)
        it.run.note(f"more about the circuit, into this folder: python audit_circuits.py {it.run.folder}")
    twin = None
    if cfg.control != "quantum":
        learning = sum(weight.numel() for weight in layer.parameters()) if layer is not None else 0
        it.run.note(f"CONTROL {cfg.control}: {learning} weights learn in the circuit's place")
        twin = make_branch(cfg, "quantum", model.classifier, circuit, weight_shape).to(device).eval()
        weights = twin.circuit.weights
        if cfg.control == "fourier" and (warning := controls.outside_fourier(circuit, weights, cfg.n_qubits)):
            it.run.note(warning)

    def on_epoch_start(epoch):
        model.start_epoch(epoch, cfg.epochs_warmup, cfg.alpha_start)
        for part in (model, twin) if twin is not None else (model,):
            start_epoch(part, epoch)
        if epoch == cfg.epochs_warmup and twin is not None:
            match_gain(model, twin, it.train_loader, epoch, cfg.plant)

    def facts(logits):
        return {
            "control": cfg.control,
            "params_quantum": 0 if quantum is None else sum(weight.numel() for weight in quantum.parameters()),
            "quantum_device": None if quantum is None else runs_on(quantum.runner),
            "alpha": model.alpha.item(),
            "branch_on": model.branch_on,  # False if the best epoch lies in phase A
            "dependence": branch_dependence(model, it.test_loader, it.autocast, logits, cfg.seed),
        }

    def on_epoch_end(epoch, row):
        row.update(alpha=model.alpha.item(), **branch_share(model, it.val_loader, it.criterion, it.autocast))

    return replace(it, on_epoch_start=on_epoch_start, on_epoch_end=on_epoch_end, facts=facts)


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
