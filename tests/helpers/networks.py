"""Networks as the scripts build them, without a script's settings."""

from types import SimpleNamespace

import torch

from qcifar.experiment.models import build_network

NAME, SEED = "resnet18", 7


def network(name, weights="none", seed=42, stem="imagenet", img_size=32, note=print, **more):
    cfg = SimpleNamespace(model_name=name, stem=stem, weights=str(weights), seed=seed, img_size=img_size)
    return build_network(cfg, note, **more)


def assert_equal_states(got, expected, but=()):
    assert set(got) == set(expected)
    assert [key for key in expected if key not in but and not torch.equal(got[key], expected[key])] == []
