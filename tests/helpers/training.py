"""`train_model` on a network of a few hundred weights and a few synthetic images."""

import contextlib

from torch import nn

from DLfunctions import train_model
from qcifar.data.augment import Augmentation
from qcifar.data.loader import EvalLoader, TrainLoader
from qcifar.experiment.recipe import make_optimizer, make_schedule
from qcifar.streams import torch_stream

EPOCHS = 3


def tiny_model():
    with torch_stream(1, "tiny"):  # dropout: a model that draws must resume exactly, too
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(8, 100),
        )  # fmt: skip


def tiny_loaders(synthetic):
    train = TrainLoader(synthetic.train_images[:40], synthetic.train_labels[:40], 8, Augmentation(16), seed=3)
    return train, EvalLoader(synthetic.test_images[:30], synthetic.test_labels[:30], 16, 16)


def train(loaders, run, model=None, select_by="f1", max_lr=0.05, **arguments):
    model = model or tiny_model()
    optimizer = make_optimizer(model, max_lr, 1e-4)
    scheduler = make_schedule(optimizer, max_lr, EPOCHS * len(loaders[0]))
    arguments = {"checkpoint_minutes": 0, "autocast": contextlib.nullcontext()} | arguments
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    return train_model(
        model, *loaders, criterion, optimizer, scheduler, run, epochs=EPOCHS, select_by=select_by, **arguments
    )
