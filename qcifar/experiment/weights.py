"""The tensors that a network starts from: torchvision's ImageNet weights, or a file in one of the usual forms."""

import difflib
import hashlib
import pickle
import re
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch import nn
from torchvision.models import get_model_weights

from qcifar import distributed
from qcifar.errors import InputError, describe
from qcifar.files import read_checkpoint

CONTAINERS = ("state_dict", "model", "model_state_dict")  # keys under which checkpoints keep a state dict


def weights_fingerprint(name: str, weights: str) -> str | None:
    """SHA-256 of the file that a network starts from, downloaded if need be; None for random weights.

    Raises:
        InputError: there is no such file, it cannot be downloaded, or it is not what its name says.
    """
    if weights == "none":
        return None
    path = _imagenet_file(name) if weights == "imagenet" else Path(weights)
    try:
        return _sha256(path)
    except FileNotFoundError:
        near = difflib.get_close_matches(weights.lower(), ("imagenet", "none"), n=1)
        raise InputError(
            f"--weights {weights}: no such file; "
            + (f"did you mean {near[0]}?" if near else "expected imagenet, none or the path of a state dict")
        ) from None
    except OSError as error:
        raise InputError(
            f"--weights {weights} cannot be read ({error.strerror}); expected a file with a state dict"
        ) from None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_weights(name: str, weights: str, note: Callable[[str], None]) -> dict[str, torch.Tensor]:
    """The state dict of WEIGHTS, a file or "imagenet", as it is stored, out of what it is wrapped in.

    Args:
        note: told of a file whose damage could not be seen.

    Raises:
        InputError: see `weights_fingerprint`; or it holds something else than tensors of real numbers.
    """
    path = _imagenet_file(name) if weights == "imagenet" else Path(weights)
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path, note)
    for key in CONTAINERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    fits = isinstance(state, dict) and all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items())
    if not fits:
        raise InputError(f"--weights {weights}: expected a state dict of {name}, got something else")
    return state


def _read_torch(path: Path, note: Callable[[str], None]) -> dict:
    state = read_checkpoint(path, remedy="name another file with --weights")
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            note(f"warning: {path.name} has torch's old format, which has no checksums: damage to it cannot be seen")
    return state


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(f"--weights {path}: `pip install safetensors` reads this format") from None
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"{path} is damaged or not a safetensors file ({describe(error)})") from None


def _imagenet_file(name: str) -> Path:
    """torchvision's IMAGENET1K_V1 weights on this machine's disk; their name carries the first digits of their hash."""
    try:
        weights = get_model_weights(name).IMAGENET1K_V1
    except AttributeError:
        raise InputError(
            f"torchvision has no IMAGENET1K_V1 weights of {name}; give the path of a state dict with --weights FILE"
        ) from None
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(weights.url).path).name
    with distributed.first_alone():
        if not file.exists():
            _download(weights, name)
    wanted = re.search(r"-([0-9a-f]{8,})\.", file.name)
    got = _sha256(file)
    if wanted and not got.startswith(wanted[1]):
        raise InputError(
            f"{file} is damaged or another file: expected a SHA-256 that begins with {wanted[1]}, got {got[:8]}; "
            f"delete it"
        )
    return file


def _download(weights, name: str) -> None:
    try:
        weights.get_state_dict(progress=distributed.rank() == 0, check_hash=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, HTTPException, pickle.UnpicklingError) as error:
        raise InputError(
            f"the ImageNet weights of {name} could not be downloaded or read ({describe(error)}); give the path of a "
            f"state dict with --weights FILE, or start from random weights with --weights none"
        ) from None


def under_own_names(state: dict[str, torch.Tensor], net: nn.Module, head: str) -> dict[str, torch.Tensor]:
    """`state` under the names of torchvision's network, without the prefix that DataParallel, Lightning, a compiled
    network or the hybrid head's best.pt put before them."""
    # torchvision's own DenseNet files are older than its code: norm.1 -> norm1
    state = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", key): v for key, v in state.items()}
    first = next(iter(net.state_dict()))  # for example conv1.weight
    prefixes = sorted((key[: -len(first)] for key in state if key.endswith("." + first)), key=len)
    if first in state or not prefixes:
        return state
    prefix = prefixes[0]
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    for part in ("weight", "bias"):  # the hybrid head keeps its classifier beside the backbone
        if prefix == "backbone." and f"{head}.{part}" not in own and f"classifier.{part}" in state:
            own[f"{head}.{part}"] = state[f"classifier.{part}"]
    return own
