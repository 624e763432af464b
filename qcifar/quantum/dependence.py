"""How much a network's answers follow from its quantum part: each epoch, and on the test set after training.

It is the network's dependence on that part, not what a network trained without it would reach. Networks with a branch
have `backbone` (images -> features), `classifier`, `branch`, `alpha` and `logits_q(features, x)`.
"""

import math

import torch

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
def branch_dependence(model, loader, autocast, seed: int) -> dict | None:
    """Test accuracy of the trained network without its branch, and with the branch's input of other images.

    None if the branch is off in these weights anyway.
    """
    if not model.branch_on:
        return None
    model.eval()
    logits_cls, feats, hints = [], [], []
    for x, _ in loader.batches():
        with autocast:
            feats.append(model.backbone(x[:, :3]))
            logits_cls.append(model.classifier(feats[-1]).float())
        hints.append(x[:, :, :1, :1])  # what a branch may read beside the features
    logits_cls, feats, hints = map(torch.cat, (logits_cls, feats, hints))

    def whole(order):
        batches = zip(feats[order].split(loader.batch_size), hints[order].split(loader.batch_size), strict=True)
        return logits_cls + model.alpha * torch.cat([model.logits_q(*batch) for batch in batches])

    shuffled = whole(shuffled_order(len(feats), seed).to(feats.device))
    return scores_of(loader.labels, logits_cls, whole(slice(None))) | {
        "top1_input_shuffled": top1(shuffled, loader.labels)
    }


def shuffled_order(n: int, seed: int) -> torch.Tensor:
    """(n,) a permutation that gives each image the quantum part of another one."""
    return torch.from_numpy(stream(seed, "dependence").permutation(n))


def scores_of(labels: torch.Tensor, without: torch.Tensor, whole: torch.Tensor) -> dict:
    """Accuracies in [0, 1] with and without the quantum part, and the numbers of images that it fixes and breaks."""
    right, alone = whole.argmax(1) == labels, without.argmax(1) == labels
    return {
        "top1": top1(whole, labels),
        "top1_branch_off": top1(without, labels),
        "fixed": int((right & ~alone).sum()),
        "broken": int((alone & ~right).sum()),
    }


def top1(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return (logits.argmax(1) == labels).double().mean().item()
