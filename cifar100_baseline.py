"""Baseline: torchvision ResNet-34 on CIFAR-100, deterministic.

    python cifar100_baseline.py                                      # the full recipe
    python cifar100_baseline.py --img-size 32 --weights none --epochs 3 --run-dir runs/small
    python cifar100_baseline.py --dataset synthetic --weights none --img-size 32 --epochs 3 --run-dir runs/demo

Writes runs/cifar100_baseline_det/seed<SEED>/ (config.json, metrics.csv, result.json, predictions.npz,
last.pt, best.pt, log.txt). If it is interrupted, the same command continues it. The other two
experiments are this script plus a quantum part: `diff` them.
"""

import qcifar.flags  # noqa: F401  refuses a wrong flag before torch is loaded

# isort: split
from torch import nn

from DLfunctions import evaluate, train_model
from qcifar.config import settings_from_constants
from qcifar.device import autocast, set_up_torch
from qcifar.errors import run_script
from qcifar.experiment.folder import open_run
from qcifar.experiment.models import build_network
from qcifar.experiment.recipe import Prepared, load_parts, make_loaders, make_optimizer, make_schedule, place
from qcifar.experiment.result import report

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

own_rules = {}  # what constants may be that only this experiment has: none; those above are the recipe


def prepare(cfg):
    """Everything that is trained and tested, as the constants say."""
    device, precision = set_up_torch(cfg.device, cfg.precision)
    parts = load_parts(cfg, device)
    run = open_run(__file__, cfg, "cifar100_baseline_det", own_rules, device, precision, parts)

    train_loader, val_loader, test_loader = make_loaders(parts, cfg)
    model = place(build_network(cfg, run.note), device, cfg, parts)

    criterion = nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing)
    optimizer = make_optimizer(model, cfg.max_lr, cfg.weight_decay)
    scheduler = make_schedule(optimizer, cfg.max_lr, cfg.epochs * len(train_loader))
    return Prepared(
        run, parts, model, train_loader, val_loader, test_loader, criterion, optimizer, scheduler,
        autocast(device, precision),
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
