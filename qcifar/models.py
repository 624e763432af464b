"""The backbone that all three experiments share."""

import pickle
from http.client import HTTPException
from pathlib import Path

import torch
from torch import nn
from torchvision.models import get_model, get_model_weights

from qcifar import distributed
from qcifar.data import CLASSES
from qcifar.errors import InputError, describe
from qcifar.files import read_checkpoint
from qcifar.seeding import torch_stream


def build_resnet(name: str, weights: str, seed: int, classes: int = CLASSES) -> nn.Module:
    """A torchvision ResNet whose last layer has `classes` outputs.

    Args:
        name: torchvision's name, for example "resnet34".
        weights: "imagenet" (torchvision's IMAGENET1K_V1, downloaded once), "none" (torchvision's
            random initialisation) or the path of a state dict of this network. Its `fc` is used if
            it has `classes` outputs, else the last layer starts at random.
        seed: equal seeds give equal weights, whatever was drawn before.

    Returns:
        Network from images (B, 3, S, S) to logits (B, classes).

    Raises:
        InputError: the weights cannot be downloaded, read, or do not fit.
    """
    with torch_stream(seed, "backbone"):
        model = get_model(name)
    with torch_stream(seed, "classifier"):
        model.fc = nn.Linear(model.fc.in_features, classes)
    if weights == "none":
        return model
    if weights == "imagenet":
        with distributed.first_alone():
            state = _imagenet_state(name)
    else:
        state = read_checkpoint(Path(weights), remedy="name another file with --weights")
    _load(model, state, name, weights)
    return model


def _imagenet_state(name: str) -> dict[str, torch.Tensor]:
    try:
        return get_model_weights(name).IMAGENET1K_V1.get_state_dict(
            progress=distributed.rank() == 0, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, EOFError, HTTPException, pickle.UnpicklingError) as error:
        raise InputError(
            f"the ImageNet weights of {name} could not be downloaded or read ({describe(error)}); give the path of a "
            f"state dict with --weights FILE, or start from random weights with --weights none"
        ) from None


def _load(model: nn.Module, state: dict, name: str, source: str) -> None:
    wanted = model.state_dict()
    fits = isinstance(state, dict) and all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items())
    if not fits:
        raise InputError(f"--weights {source}: expected a state dict of {name}, got something else")
    state = {key.removeprefix("module."): value for key, value in state.items()}  # saved under DataParallel
    if "fc.weight" in state and state["fc.weight"].shape != wanted["fc.weight"].shape:
        state["fc.weight"], state["fc.bias"] = wanted["fc.weight"], wanted["fc.bias"]  # another task's classes
    try:  # not strict: files from before 2018 lack num_batches_tracked, which torch then fills in
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # wrong shapes, one to a line after the heading
        raise InputError(f"--weights {source} does not fit {name}: {str(error).splitlines()[1]}") from None
    if missing or unknown:
        raise InputError(
            f"--weights {source} does not fit {name}: {len(missing)} keys missing, {len(unknown)} unknown, "
            f"for example {(missing or unknown)[0]}"
        )
    broken = [key for key, value in model.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise InputError(f"--weights {source}: {broken[0]} holds NaN or infinity; take another file")


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers in `module`, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())
