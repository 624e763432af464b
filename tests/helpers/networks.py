"""Networks as the scripts build them, without a script's settings, and a small one that torchvision does not have."""

from types import SimpleNamespace

import torch
from torchvision.models._api import register_model
from torchvision.models.resnet import BasicBlock, ResNet

from qcifar.experiment.models import build_network

NAME, SEED = "resnet18", 7
SMALL_RESNET, SMALL_FEATURES = "resnet10_narrow", 64  # MODEL_NAME in this process and in those forked by processes.py


class NarrowResNet(ResNet):
    """A ResNet of one block a stage, an eighth as wide: 0.1 million weights, where a ResNet-18 has 11."""

    def __init__(self, num_classes):
        super().__init__(BasicBlock, [1, 1, 1, 1])
        self.fc = torch.nn.Linear(SMALL_FEATURES, num_classes)

    def _make_layer(self, block, planes, *more, **how):
        return super()._make_layer(block, planes // 8, *more, **how)


def narrow_resnet(num_classes=1000):
    return NarrowResNet(num_classes)


narrow_resnet.__module__ = "torchvision.models.resnet"  # the scripts take what lies there
register_model(SMALL_RESNET)(narrow_resnet)


def network(name, weights="none", seed=42, stem="imagenet", img_size=32, note=print, **more):
    cfg = SimpleNamespace(model_name=name, stem=stem, weights=str(weights), seed=seed, img_size=img_size)
    return build_network(cfg, note, **more)


def assert_equal_states(got, expected, but=()):
    assert set(got) == set(expected)
    assert [key for key in expected if key not in but and not torch.equal(got[key], expected[key])] == []
