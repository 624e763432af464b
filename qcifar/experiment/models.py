"""The backbone that all experiments share: its start, its classifier and its first convolution."""

import copy
import difflib
import warnings
from collections.abc import Callable

import torch
import torchvision
from torch import nn
from torchvision.models import get_model, list_models

from qcifar.data.cifar import CLASSES
from qcifar.errors import InputError, describe
from qcifar.experiment.weights import read_weights, under_own_names
from qcifar.streams import torch_stream

RESNETS = ("resnet", "resnext", "wide_resnet")  # how torchvision's names of the networks with a ResNet stem begin


def build_network(cfg, note: Callable[[str], None], classes: int = CLASSES) -> nn.Module:
    """A torchvision classification network whose last layer has `classes` outputs.

    Args:
        cfg: the settings. MODEL_NAME is torchvision's name. WEIGHTS is "imagenet" (torchvision's
            IMAGENET1K_V1, downloaded once), "none" (torchvision's random initialisation) or a file with the
            state dict of this network (see `read_weights`), whose last layer is used if it has `classes`
            outputs, else it starts at random. STEM "cifar" gives a ResNet a 3 x 3 first convolution of stride 1 and no
            max-pooling, as for images of 32 pixels in He et al. (arXiv:1512.03385, section 4.2). Equal
            SEED gives equal weights, whatever was drawn before.
        note: told what of a pretrained network starts at random all the same.

    Returns:
        Network from images (B, 3, S, S) to logits (B, classes), S = IMG_SIZE.

    Raises:
        InputError: no such network, or it cannot take these images; the weights cannot be downloaded,
            read, or do not fit.
    """
    refuse_unknown_network(cfg.model_name, cfg.stem)
    with torch_stream(cfg.seed, "backbone"), warnings.catch_warnings(action="ignore"):  # GoogLeNet's, on its start
        net = get_model(cfg.model_name)
    name, last = _last_linear(net, cfg.model_name)
    with torch_stream(cfg.seed, "classifier"):
        net.set_submodule(name, nn.Linear(last.in_features, classes))
    if cfg.stem == "cifar":
        with torch_stream(cfg.seed, "stem"):
            _give_cifar_stem(net)
    _refuse_unfit(net, cfg.model_name, cfg.img_size, classes)
    if cfg.weights == "none":
        return net
    _load(net, read_weights(cfg.model_name, cfg.weights, note), cfg, note)
    return net


def refuse_unknown_network(name: str, stem: str) -> None:
    """Raise `InputError` for a MODEL_NAME that torchvision does not have, or that has no STEM of this kind."""
    known = list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            f"MODEL_NAME (--model-name): expected one of torchvision's classification networks, for example "
            f"resnet34, got {name!r}" + (f"; did you mean {near[0]}?" if near else "")
        )
    if stem == "cifar" and not name.startswith(RESNETS):
        raise InputError(
            f"STEM (--stem): cifar changes the first layers of a ResNet, ResNeXt or WideResNet, got MODEL_NAME {name}; "
            f"use --stem imagenet, which leaves {name} as torchvision has it"
        )


def split_head(net: nn.Module) -> nn.Linear:
    """Take the classifier, its last linear layer, off `net`, which then gives features (B, in_features)."""
    name, last = _last_linear(net, type(net).__name__)
    net.set_submodule(name, nn.Identity())
    return last


def first_conv(net: nn.Module) -> tuple[str, nn.Conv2d]:
    """Name and module of the convolution that sees the image; `net.set_submodule(name, ...)` replaces it.

    Raises:
        InputError: `net` has no convolution.
    """
    found = next(((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)), None)
    if found is None:
        raise InputError(f"MODEL_NAME (--model-name): {type(net).__name__} has no convolution; take another network")
    return found


def _last_linear(net: nn.Module, called: str) -> tuple[str, nn.Linear]:
    found = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise InputError(
            f"MODEL_NAME (--model-name): {called} has no last linear layer to put {CLASSES} classes on; "
            f"take another network, for example resnet34"
        )
    return found[-1]


def _give_cifar_stem(net: nn.Module) -> None:
    old = net.conv1
    net.conv1 = nn.Conv2d(3, old.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's ResNet
    net.maxpool = nn.Identity()


def _refuse_unfit(net: nn.Module, name: str, img_size: int, classes: int) -> None:
    """Raise `InputError` unless `net` turns images of this size into one tensor of logits; computes nothing."""
    try:
        logits = copy.deepcopy(net).to("meta")(torch.empty(2, 3, img_size, img_size, device="meta"))
    except Exception as error:  # a layer with nothing left to pool, or a network made for one size
        raise InputError(
            f"MODEL_NAME (--model-name) {name} cannot take images of IMG_SIZE {img_size} pixels ({describe(error)}); "
            f"choose another size with --img-size, or another network"
        ) from None
    if getattr(logits, "shape", None) != (2, classes):
        raise InputError(
            f"MODEL_NAME (--model-name) {name}: expected logits in training, got {type(logits).__name__}; "
            f"take a network without auxiliary outputs, for example resnet34"
        )


def _load(net: nn.Module, state: dict[str, torch.Tensor], cfg, note: Callable[[str], None]) -> None:
    name, source, wanted = cfg.model_name, cfg.weights, net.state_dict()
    head, stem = _last_linear(net, name)[0], f"{first_conv(net)[0]}.weight"
    state = under_own_names(state, net, head)
    weight, bias = f"{head}.weight", f"{head}.bias"
    if weight in state and state[weight].shape != wanted[weight].shape:  # another task's classes
        note(
            f"the last layer starts at random: that of WEIGHTS {source} has the shape {tuple(state[weight].shape)}, "
            f"not {tuple(wanted[weight].shape)}"
        )
        state[weight], state[bias] = wanted[weight], wanted[bias]
    if cfg.stem == "cifar" and stem in state and state[stem].shape != wanted[stem].shape:
        was = " x ".join(map(str, state[stem].shape[2:]))
        note(f"STEM cifar: the 3 x 3 first convolution starts at random; the {was} one of WEIGHTS {source} is not used")
        state[stem] = wanted[stem]
    odd = [k for k, v in state.items() if k in wanted and v.is_floating_point() != wanted[k].is_floating_point()]
    if odd:
        raise InputError(
            f"--weights {source} does not fit {name}: {odd[0]}: expected {wanted[odd[0]].dtype}, "
            f"got {state[odd[0]].dtype}"
        )
    try:  # not strict: files from before 2018 lack num_batches_tracked, which torch then fills in
        missing, unknown = net.load_state_dict(state, strict=False)
    except RuntimeError as error:  # wrong shapes, one to a line after the heading
        raise InputError(f"--weights {source} does not fit {name}: {str(error).splitlines()[1]}") from None
    if missing or unknown:
        raise InputError(
            f"--weights {source} does not fit {name}: {len(missing)} keys missing, {len(unknown)} unknown, "
            f"for example {(missing or unknown)[0]}"
        )
    broken = [key for key, value in net.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise InputError(f"--weights {source}: {broken[0]} holds NaN or infinity; take another file")


class OnePixelConv2d(nn.Conv2d):
    """A convolution that takes an image of one pixel as the matrix product that it is.

    All taps but the middle one see padding alone. Where the CPU has no AVX-512, oneDNN computes the gradient of such
    weights image by image; at 32 pixels that is two thirds of a ResNet-34's step.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, 1, 1) -> (B, K, 1, 1)
        if x.shape[2:] != (1, 1):
            return super().forward(x)
        middle = self.weight[:, :, self.kernel_size[0] // 2, self.kernel_size[1] // 2]  # (K, C)
        return nn.functional.linear(x.flatten(1), middle, self.bias)[:, :, None, None]


def on_device(net: nn.Module, device: torch.device) -> nn.Module:
    """`net` on `device`, changed in place to what is computed fastest there."""
    net = net.to(device)
    return for_cpu(net) if device.type == "cpu" else net.to(memory_format=torch.channels_last)


def for_cpu(net: nn.Module) -> nn.Module:
    """`net`, changed in place to what a CPU computes fastest: same parameters, same function up to rounding."""
    for conv in [module for module in net.modules() if type(module) is nn.Conv2d]:
        around = tuple(reach * (size - 1) // 2 for reach, size in zip(conv.dilation, conv.kernel_size, strict=True))
        odd = all(size % 2 for size in conv.kernel_size)
        if odd and conv.groups == 1 and conv.padding == around and conv.padding_mode == "zeros":
            conv.__class__ = OnePixelConv2d  # the module stays itself: hooks, names and parameters
    return net.to(memory_format=torch.channels_last)


def activation_bytes(net: nn.Module, img_size: int) -> int:
    """Bytes that the backward pass keeps for each image, in float32; 0 where that cannot be told without computing."""
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    images = 2  # batch norm needs more than one
    try:
        shadow = copy.deepcopy(net).to("meta").train()
        own = {tensor.untyped_storage()._cdata for tensor in (*shadow.parameters(), *shadow.buffers())}
        x = torch.empty(images, first_conv(net)[1].in_channels, img_size, img_size, device="meta")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = shadow(x)  # stays alive, and with it all that it keeps
    except Exception:  # a layer that needs values
        return 0
    del logits
    return sum(size for storage, size in kept.items() if storage not in own) // images


def count_parameters(module: nn.Module) -> int:
    """Number of trainable numbers in `module`, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())
