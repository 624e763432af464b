"""A start for fine-tuning where ImageNet weights cannot be had: the bench's network, trained on a folder of images.

    python studies/pretrain.py tiny-imagenet-200/train weights/resnet34_tiny_imagenet_32px.pt
    python studies/pretrain.py tiny-imagenet-200/train weights/try.pt --epochs 1 --limit 5000
    python cifar100_baseline.py --img-size 32 --weights weights/resnet34_tiny_imagenet_32px.pt

The folder has one sub-folder of images for each class, as torchvision's ImageFolder wants it. Images are reduced to
32 x 32 with a box filter once and kept in memory (3 KB each); from there on everything is the bench's own: loader,
augmentation, AdamW with one OneCycle, evaluation. VAL_FRACTION of the images, stratified, are held out and scored after
each epoch. Writes the state dict in half precision after the last epoch; the same command gives the same file on the
same machine. Not resumable: it is an hour, once.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from DLfunctions import evaluate
from qcifar.config import own, real, settings_from_constants, text, whole
from qcifar.data.augment import Augmentation
from qcifar.data.loader import EvalLoader, TrainLoader
from qcifar.device import autocast, set_up_torch
from qcifar.errors import InputError, run_script
from qcifar.experiment.models import build_network, on_device
from qcifar.experiment.recipe import make_optimizer, make_schedule
from qcifar.files import write_checkpoint

SEED = 0  # of initial weights, image order and augmentation
DEVICE = "auto"  # auto, cpu, cuda or cuda:1
PRECISION = "auto"  # auto, fp32, tf32 or bf16; auto is bf16 on a GPU that has it, else fp32
MODEL_NAME = "resnet34"  # torchvision's name of a classification network
STEM = "imagenet"  # imagenet, or cifar: 3 x 3, stride 1, no pooling
IMG_SIZE = 32  # side of the network's input, pixels
LIMIT = 0  # images, the first of a seeded shuffle; 0 = all
VAL_FRACTION = 0.02  # share that is held out and scored
EPOCHS = 9  # passes over the other images
BATCH_SIZE = 128  # images a step
MAX_LR = 1.5e-3  # OneCycle peak
WEIGHT_DECAY = 0.05  # AdamW
LABEL_SMOOTHING = 0.1  # cross-entropy

own_rules = {"LIMIT": own(0, whole(0)), "MODEL_NAME": own("resnet34", text()), "VAL_FRACTION": real(0, 0.5)}
arguments = (
    ("images", None, "folder with one sub-folder of images for each class"),
    ("output", None, "file for the state dict, for --weights of the scripts"),
)
side = 32  # of the images in memory, as CIFAR-100 has them


def read_images(folder: Path, limit: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Images (n, 3, 32, 32) uint8, labels (n,) int64 and the number of classes of an ImageFolder.

    Raises:
        InputError: no such folder, no classes in it, or a file that is not an image, by name.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected one sub-folder of images for each class")
    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: expected one sub-folder of images for each class ({error})") from None
    order = torch.randperm(len(found.samples), generator=torch.Generator().manual_seed(seed)).tolist()
    order = order[: limit or None]
    images = torch.empty(len(order), 3, side, side, dtype=torch.uint8)
    for place, number in enumerate(tqdm(order, desc="reading", unit="img", leave=False)):
        path, _ = found.samples[number]
        try:
            with Image.open(path) as file:
                images[place] = pil_to_tensor(file.convert("RGB").resize((side, side), Image.Resampling.BOX))
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"{path} cannot be read as an image ({error}); delete it or replace it") from None
    return images, torch.tensor([found.targets[number] for number in order]), len(found.classes)


def held_out(labels: torch.Tensor, fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of the images that train and of those that are scored, stratified."""
    if fraction == 0:
        return torch.arange(len(labels)), torch.arange(0)
    try:
        parts = train_test_split(range(len(labels)), test_size=fraction, stratify=labels, random_state=seed)
    except ValueError as error:
        raise InputError(f"VAL_FRACTION {fraction}: {len(labels)} images cannot be split so ({error})") from None
    return torch.tensor(parts[0]), torch.tensor(parts[1])


def train(model, train_loader, val_loader, cfg, mixed) -> None:
    """All epochs, with a line after each."""
    criterion = nn.CrossEntropyLoss(label_smoothing=cfg.label_smoothing)
    optimizer = make_optimizer(model, cfg.max_lr, cfg.weight_decay)
    scheduler = make_schedule(optimizer, cfg.max_lr, cfg.epochs * len(train_loader))
    for epoch in range(cfg.epochs):
        model.train()
        total = 0.0
        for x, labels in tqdm(
            train_loader.batches(epoch), total=len(train_loader), desc=f"epoch {epoch + 1}/{cfg.epochs}", leave=False
        ):
            optimizer.zero_grad(set_to_none=True)
            with mixed:
                loss = criterion(model(x), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.detach()
        mean = float(total) / len(train_loader)
        if not mean < float("inf"):
            raise InputError(f"the loss of epoch {epoch + 1} is not finite: training diverged; lower MAX_LR (--max-lr)")
        line = f"epoch {epoch + 1}/{cfg.epochs}  train loss {mean:.4f}"
        if len(val_loader.images):
            scores, _, _ = evaluate(model, val_loader, criterion, mixed, "held out")
            line += f"  held out top1 {scores['top1']:.4f} (n = {len(val_loader.images)})"
        print(line, flush=True)


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules, arguments)
    cfg.weights = "none"
    output = Path(cfg.output)
    if not output.parent.is_dir():
        raise InputError(f"{output}: there is no folder {output.parent}; make it first")
    device, precision = set_up_torch(cfg.device, cfg.precision)
    images, labels, classes = read_images(Path(cfg.images), cfg.limit, cfg.seed)
    ours, theirs = held_out(labels, cfg.val_fraction, cfg.seed)
    if len(ours) < 2:
        raise InputError(f"{cfg.images}: expected at least two images to train on, got {len(ours)}")
    print(f"{len(ours)} training and {len(theirs)} held-out images of {classes} classes; {device}, {precision}")
    parts = [(images[part].to(device), labels[part].to(device)) for part in (ours, theirs)]
    train_loader = TrainLoader(*parts[0], cfg.batch_size, Augmentation(cfg.img_size), cfg.seed)
    val_loader = EvalLoader(*parts[1], cfg.batch_size, cfg.img_size)
    model = on_device(build_network(cfg, print, classes), device)
    train(model, train_loader, val_loader, cfg, autocast(device, precision))
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    write_checkpoint(output, state)
    print(f"{output}: {cfg.model_name} with {classes} classes")


if __name__ == "__main__":
    run_script(main)
