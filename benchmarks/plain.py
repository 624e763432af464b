"""The plain way to train a torchvision network on CIFAR-100, as tutorials have it, to compare ours with.

Pillow images, torchvision's transforms, a DataLoader with worker processes, torch's defaults, and `.item()` after each
step. `benchmarks/training.py` runs it in a process of its own, where none of our settings (determinism, how memory is
reused) reach it.
"""

import multiprocessing
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet34
from torchvision.transforms.functional import to_pil_image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


class Pillow(Dataset):
    """CIFAR images as Pillow has them, through the published augmentation, one at a time."""

    def __init__(self, images, labels, size):
        self.images, self.labels = [to_pil_image(image) for image in images.cpu()], labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, scale=(0.6, 1.0), ratio=(0.75, 1.33)),
                transforms.RandomHorizontalFlip(),
                transforms.RandAugment(2, 7),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
                transforms.RandomErasing(0.25, scale=(0.02, 0.08), ratio=(0.3, 3.3)),
            ]
        )

    def __len__(self):
        return len(self.images)

    def __getitem__(self, place):
        return self.transform(self.images[place]), self.labels[place]


def pillow_loader(images, labels, size: int, batch_size: int, workers: int, pin_memory: bool = False) -> DataLoader:
    """Shuffled batches of (B, 3, size, size), made by worker processes that stay from one pass to the next."""
    return DataLoader(
        Pillow(images, labels, size), batch_size, shuffle=True, num_workers=workers, persistent_workers=True,
        pin_memory=pin_memory, drop_last=True,
    )  # fmt: skip


def in_own_process(images, labels, size: int, batch_size: int, workers: int, device: str) -> Callable[[], None]:
    """A callable that trains ResNet-34 for one pass over `images`, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    given = (theirs, images.cpu(), labels.cpu(), size, batch_size, workers, device)
    process = context.Process(target=_serve, args=given)
    process.start()  # ends when our end of the pipe is closed, or with us
    theirs.close()

    def one_pass():
        ours.send("go")
        ours.recv()

    return one_pass


def _serve(pipe, images, labels, size, batch_size, workers, device) -> None:
    loader = pillow_loader(images, labels, size, batch_size, workers, device != "cpu")
    net = resnet34(weights=None, num_classes=100).to(device)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.05)
    optimizer = torch.optim.AdamW(net.parameters(), lr=7e-4, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=7e-4, total_steps=10**7)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send(_train_one_pass(net, loader, criterion, optimizer, scheduler, device))


def _train_one_pass(net, loader, criterion, optimizer, scheduler, device) -> tuple[float, float]:
    """Mean loss and accuracy."""
    net.train()
    loss_sum, correct, seen = 0.0, 0, 0
    for x, labels in loader:
        x, labels = x.to(device), labels.to(device)
        optimizer.zero_grad()
        logits = net(x)
        loss = criterion(logits, labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        loss_sum += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        seen += len(labels)
    return loss_sum / seen, correct / seen
