"""Hybrid head: a variational quantum circuit beside the classical head of the baseline.

    python cifar100_hybrid_Qhead.py                                          # the full recipe
    python cifar100_hybrid_Qhead.py --img-size 32 --weights none --epochs 3 --epochs-warmup 1 --run-dir runs/small
    python cifar100_hybrid_Qhead.py --schedule per_phase --alpha-start 0.5 --angle-scaling none   # as published

logits = logits_cls + alpha * logits_q, alpha = sigmoid(alpha_raw). Phase A (the first EPOCHS_WARMUP
epochs) has the quantum branch off and frozen and trains the baseline to the bit; in phase B everything
learns. Alpha is on the screen, in metrics.csv and in result.json. Writes
runs/cifar100_hybrid_qhead/seed<SEED>/ with the same files as the baseline.
"""

import qcifar.flags  # noqa: F401  refuses a wrong flag before torch is loaded

# isort: split
import functools
import math

import pennylane as qml
import torch
from torch import nn

from DLfunctions import evaluate, train_model
from qcifar.config import one_of, own, real, settings_from_constants, text, whole
from qcifar.device import autocast, set_up_torch
from qcifar.errors import InputError, run_script
from qcifar.experiment.folder import open_run
from qcifar.experiment.models import build_network, split_head
from qcifar.experiment.recipe import Prepared, load_parts, make_loaders, make_optimizer, make_schedule, place
from qcifar.experiment.result import report
from qcifar.quantum.checks import check_layer, circuit_fingerprint
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
N_QUBITS = 4  # width of the circuit
QUANTUM_DEVICE = "fast"  # fast (compiled to torch) or any PennyLane device
N_LAYERS = 2  # of StronglyEntanglingLayers
EPOCHS_WARMUP = 5  # length of phase A, of the EPOCHS in all; 0 = phase B from the start
SCHEDULE = "shared"  # shared: one OneCycle; per_phase: as published, a new optimizer and cycle for phase B
ALPHA_START = 0.1  # alpha at the start of phase B; published: 0.5
ANGLE_SCALING = "tanh"  # tanh bounds the angles by pi; none leaves them unbounded as published
DIFF_METHOD = "backprop"  # fast has no other; a PennyLane device: backprop, adjoint, parameter-shift or best


own_rules = {  # what constants may be that only this experiment has, and their standard values
    "N_QUBITS": own(4, whole(1, 20)),
    "QUANTUM_DEVICE": own("fast", text("fast or the name of a PennyLane device")),
    "N_LAYERS": own(2, whole(1, 1000)),
    "EPOCHS_WARMUP": own(5, whole(0)),
    "SCHEDULE": own("shared", one_of("shared", "per_phase"), changes_recipe=True),
    "ALPHA_START": own(0.1, real(0, 1, open_low=True, open_high=True)),
    "ANGLE_SCALING": own("tanh", one_of("tanh", "none")),
    "DIFF_METHOD": own("backprop", one_of("backprop", "adjoint", "parameter-shift", "best")),
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


class HybridNet(nn.Module):
    """Backbone with a classical head and a quantum branch, fused by a learned gate.

    Args:
        net: the baseline network; its last layer becomes the classical head.
        circuit: layer from angles (B, n_qubits) to expectation values (B, n_qubits).
        n_qubits: width of the circuit.
        angle_scaling: "tanh": angles pi * tanh(pre_q); "none": pre_q itself.
    """

    def __init__(self, net, circuit, n_qubits, angle_scaling):
        super().__init__()
        self.classifier = split_head(net)
        self.backbone = net
        self.pre_q = nn.Linear(self.classifier.in_features, n_qubits)
        self.circuit = circuit
        self.post_q = nn.Linear(n_qubits, self.classifier.out_features)
        self.alpha_raw = nn.Parameter(torch.tensor(-20.0))  # phase A: alpha = 2e-9
        self.bounded = angle_scaling == "tanh"
        self.branch_on = False

    @property
    def alpha(self):
        return torch.sigmoid(self.alpha_raw)

    def forward(self, x):
        feats = self.backbone(x)  # (B, 512)
        logits = self.classifier(feats)  # (B, 100)
        if not self.branch_on:
            return logits  # the circuit is not evaluated
        with torch.autocast(x.device.type, enabled=False):  # the branch is float32 throughout
            angles = self.pre_q(feats.float())  # (B, n_qubits)
            if self.bounded:
                angles = math.pi * torch.tanh(angles)
            return logits + self.alpha * self.post_q(self.circuit(angles))

    def start_epoch(self, epoch, epochs_warmup, alpha_start):
        """Phase A before epoch `epochs_warmup`: branch off and frozen; phase B from then on."""
        self.branch_on = epoch >= epochs_warmup
        for parameter in (*self.pre_q.parameters(), *self.circuit.parameters(), *self.post_q.parameters()):
            parameter.requires_grad_(self.branch_on)
        self.alpha_raw.requires_grad_(self.branch_on)
        if epoch == epochs_warmup:
            self.alpha_raw.data.fill_(math.log(alpha_start / (1 - alpha_start)))


def prepare(cfg):
    """Everything that is trained and tested, as the constants say."""
    if cfg.epochs_warmup > cfg.epochs:
        raise InputError(
            f"EPOCHS_WARMUP (--epochs-warmup): expected from 0 to EPOCHS {cfg.epochs}, got {cfg.epochs_warmup}; "
            f"a short run takes --epochs-warmup 1"
        )
    refuse_other_method(cfg.quantum_device, cfg.diff_method)
    device, precision = set_up_torch(cfg.device, cfg.precision)
    parts = load_parts(cfg, device)
    circuit, weight_shape = make_circuit(cfg.n_qubits, cfg.n_layers)
    fingerprint = circuit_fingerprint(circuit, (2, cfg.n_qubits), weight_shape)
    run = open_run(__file__, cfg, "cifar100_hybrid_qhead", own_rules, device, precision, parts, circuits=[fingerprint])

    train_loader, val_loader, test_loader = make_loaders(parts, cfg)
    net = build_network(cfg, run.note)
    runner = make_runner(circuit, cfg.quantum_device, cfg.n_qubits, weight_shape, cfg.diff_method, cfg.batch_size)
    with torch_stream(cfg.seed, "quantum"):
        weights = 2 * math.pi * torch.rand(weight_shape)  # radians
        model = HybridNet(net, QuantumLayer(runner, weights), cfg.n_qubits, cfg.angle_scaling)
    model = place(model, device, cfg, parts)
    check_layer(model.circuit, cfg.n_qubits, device, run.note)

    criterion = nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing)
    optimizer = make_optimizer(model, cfg.max_lr, cfg.weight_decay)
    cycles = (cfg.epochs_warmup, cfg.epochs - cfg.epochs_warmup) if cfg.schedule == "per_phase" else (cfg.epochs,)
    scheduler = make_schedule(optimizer, cfg.max_lr, *(epochs * len(train_loader) for epochs in cycles))
    return Prepared(
        run, parts, model, train_loader, val_loader, test_loader, criterion, optimizer, scheduler,
        autocast(device, precision),
        on_epoch_start=lambda epoch: model.start_epoch(epoch, cfg.epochs_warmup, cfg.alpha_start),
        on_epoch_end=lambda epoch, row: row.update(alpha=model.alpha.item()),
        facts=lambda: {
            "control": "quantum",
            "params_quantum": model.circuit.weights.numel(),
            "quantum_device": runs_on(runner),
            "alpha": model.alpha.item(),
            "branch_on": model.branch_on,  # False if the best epoch lies in phase A
        },
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
