"""Networks as the scripts build them, without a script's settings."""

from types import SimpleNamespace

from qcifar.experiment.models import build_network


def network(name, weights="none", seed=42, stem="imagenet", img_size=32, note=print, **more):
    cfg = SimpleNamespace(model_name=name, stem=stem, weights=str(weights), seed=seed, img_size=img_size)
    return build_network(cfg, note, **more)
