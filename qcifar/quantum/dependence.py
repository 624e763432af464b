"""How much a network's answers follow from its quantum part: each epoch, and on the test set after training.

It is the network's dependence on that part, not what a network trained without it would reach. Networks with a branch
have `backbone` (images -> features), `classifier`, `branch`, `alpha` and `logits_q(features, x)`.
"""

import math

import numpy as np
import torch

from qcifar import distributed
from qcifar.quantum.controls import PlantedBranch, matched_gain
from qcifar.streams import stream

IMAGES = 1024  # of validation, for what is measured each epoch


def first_images(loader, most: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of whole batches of an `EvalLoader` with at least `most` images, or of all."""
    inputs, seen = [], 0
    for x, places in loader.batches():
        inputs.append(x)
        seen = places.stop
        if seen >= most:
            break
    return torch.cat(inputs), loader.labels[:seen]


def covariance_share(part: torch.Tensor, total: torch.Tensor) -> float:
    """Share of `part` in the variance of `total` over images, classes added up; shares of all parts add up to 1.

    Args:
        part, total: (n, classes) logits; `total` is `part` and what else the network adds.

    Returns:
        Cov(part, total) / Var(total). Below 0 if the part works against the rest.
    """
    part, total = part.double(), total.double()
    variance = total.var(0).sum()
    return ((part - part.mean(0)) * (total - total.mean(0))).sum().item() / (len(part) - 1) / variance.item()


@torch.no_grad()
def match_gain(model, quantum, loader, epoch: int, plant: float) -> None:
    """Let the branch's logits vary over the first batch of `epoch` as those of the circuit's branch do.

    Args:
        quantum: the branch with the circuit, as it starts phase B.
        plant: see `PlantedBranch`; a batch may hold none of its images, so what is expected counts.
    """
    model.eval()
    x, _ = next(loader.batches(epoch))
    feats = model.backbone(x[:, :3])
    with torch.autocast(x.device.type, enabled=False):
        wanted = quantum(feats, x)
    given = model.logits_q(feats, x)
    places = distributed.my_slice(loader.batch_size)  # several processes have a slice of the batch each, and one gain
    wanted, given = (distributed.gather_rows([(places, one)], loader.batch_size, x.device) for one in (wanted, given))
    if isinstance(model.branch, PlantedBranch):
        gain = math.sqrt(wanted.var(0).sum().item() / (plant * (1 - plant / wanted.shape[1])))
    else:
        gain = matched_gain(wanted, given)
    model.branch.gain.fill_(gain)


def branch_share(model, loader, criterion, autocast) -> dict[str, float]:
    """Share of alpha * logits_q in the logits' variance, and norm of the gradient of what is in the circuit's place.

    Both on the first 1,024 validation images; 0 while the branch is off.
    """
    if not model.branch_on:
        return {"branch_share": 0.0, "circuit_gradient": 0.0}
    model.eval()
    x, labels = first_images(loader, IMAGES)
    with torch.no_grad(), autocast:
        feats = model.backbone(x[:, :3])
        logits_cls = model.classifier(feats).float()
    part = model.alpha * model.logits_q(feats, x)
    learning = [w for name, w in model.branch.named_parameters() if name.startswith("circuit.") and w.requires_grad]
    gradients = torch.autograd.grad(criterion(logits_cls + part, labels), learning) if learning else []
    return {
        "branch_share": covariance_share(part.detach(), logits_cls + part.detach()),
        "circuit_gradient": math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients)),
    }


@torch.inference_mode()
def branch_dependence(model, loader, autocast, logits: np.ndarray, seed: int) -> dict | None:
    """Test accuracy of the trained network without its branch, with the branch's input of other images, and with the
    branch's logits at their mean over the images, where they say nothing of an image and only shift the classes.

    Args:
        logits: (n, classes) of the whole network on the loader's images.

    Returns:
        See `scores_of`; None if the branch is off in these weights anyway.
    """
    if not model.branch_on:
        return None
    model.eval()
    without, feats, hints = [], [], []
    for x, _ in loader.batches():
        with autocast:
            feats.append(model.backbone(x[:, :3]))
            without.append(model.classifier(feats[-1]).float())
        hints.append(x[:, :, :1, :1])  # what a branch may read beside the features
    without, feats, hints = map(torch.cat, (without, feats, hints))
    order = shuffled_order(len(feats), seed).to(feats.device)
    batches = zip(feats[order].split(loader.batch_size), hints[order].split(loader.batch_size), strict=True)
    shuffled = without + model.alpha * torch.cat([model.logits_q(*batch) for batch in batches])
    part = torch.from_numpy(logits).to(without) - without  # circuits may be slow: they are not asked again
    return scores_of(logits, without, shuffled, without + part.mean(0), loader.labels)


@torch.inference_mode()
def maps_dependence(model, loader, autocast, logits: np.ndarray, seed: int) -> dict:
    """Test accuracy of the trained network with its maps at their mean over the images, and with those of others.

    Args:
        logits: (n, classes) of the network on the loader's images.

    Returns:
        See `scores_of`; without the maps' part of an image and with the maps at a constant are one thing.
    """
    model.eval()
    n = len(loader.images)
    mean = sum(x[:, 3:].sum(0) for x, _ in loader.batches()) / n  # (P, S, S)
    order = shuffled_order(n, seed).to(loader.images.device)
    at_mean, shuffled = [], []
    for x, places in loader.batches():
        others = loader.extra(order[places], *loader.matrices)  # (B, P, S, S)
        for maps, found in ((mean.expand_as(others), at_mean), (others, shuffled)):
            with autocast:
                found.append(model(torch.cat([x[:, :3], maps], dim=1)).float())
    at_mean, shuffled = torch.cat(at_mean), torch.cat(shuffled)
    return scores_of(logits, at_mean, shuffled, at_mean, loader.labels)


def shuffled_order(n: int, seed: int) -> torch.Tensor:
    """(n,) a permutation that gives each image the quantum part of another one."""
    return torch.from_numpy(stream(seed, "dependence").permutation(n))


def scores_of(
    logits: np.ndarray, without: torch.Tensor, shuffled: torch.Tensor, constant: torch.Tensor, labels: torch.Tensor
) -> dict:
    """Accuracies in [0, 1], and how many images the quantum part fixes and breaks.

    Args:
        logits, without, shuffled, constant: (n, classes) of the network as it is, without what its quantum part says
            of an image ("top1_without"), with the quantum part of another image ("top1_shuffled"), and with its mean
            over the images ("top1_constant").
        labels: (n,).
    """
    labels = labels.cpu()
    right, alone, mixed, shifted = (
        torch.as_tensor(values).cpu().argmax(1) == labels for values in (logits, without, shuffled, constant)
    )
    return {
        "top1": right.double().mean().item(),
        "top1_without": alone.double().mean().item(),
        "top1_shuffled": mixed.double().mean().item(),
        "top1_constant": shifted.double().mean().item(),
        "fixed": int((right & ~alone).sum()),
        "broken": int((alone & ~right).sum()),
    }
