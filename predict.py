"""Own images through a finished run: the five likeliest classes, with and without its quantum branch.

    python predict.py runs/cifar100_hybrid_qhead/seed42 cat.jpg
    python predict.py runs/cifar100_quantum_channels/seed42 photos/ --output photos.csv

A run has to have its best.pt; its script has to lie beside this file. A folder gives a CSV with one line for each image
(its sub-folders are not entered), by default predict_<folder>.csv in the run's folder; nothing else there changes.

The networks were trained on CIFAR-100's originals of 32 x 32 pixels. So the whole image is first made 32 x 32 (bicubic,
antialiased; other shapes are squeezed), and then treated as the run treats its test images (enlarged to 1.15 IMG_SIZE,
cropped to IMG_SIZE). Transparent pixels become white. What shows none of the 100 classes gets five of them all the
same.

Without the branch means what it means in `dependence` of result.json: for the head, logits_q left out; for the
channels, both maps at their mean over the test images. It shows how much this network leans on its branch, not what a
network that was trained without it would say.
"""

import functools
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from qcifar.comparison.outcomes import CLASS_NAMES
from qcifar.config import Rule, flag, own, settings_from_constants
from qcifar.data.loader import EvalLoader, ExtraChannels
from qcifar.errors import InputError, describe, run_script
from qcifar.experiment.finished import load, read_run
from qcifar.experiment.recipe import Prepared
from qcifar.files import write_csv

DEVICE = "auto"  # auto, cpu, cuda or cuda:1
PRECISION = "auto"  # auto is that of the run, except that tf32 needs a GPU
DATA_DIR = "./data"  # holds the data set that the run was trained on
OUTPUT = ""  # the CSV; empty: one for a folder only, in the run's folder

own_rules = {"OUTPUT": own("", Rule(str, lambda v: isinstance(v, str), "a file"))}
arguments = (
    ("run", None, "folder of a finished run, for example runs/cifar100_baseline_det/seed42"),
    ("images", None, "an image, or a folder of images"),
)
side = 32  # of CIFAR-100's originals, pixels
best = 5  # classes that are shown


def read_image(path: Path) -> torch.Tensor:
    """An image as CIFAR-100 would hold it: (3, 32, 32) uint8.

    Raises:
        InputError: no such file, not an image, damaged, too large for Pillow, or with values out of range.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images and odd metadata
            with Image.open(path) as file:
                picture = as_rgb(ImageOps.exif_transpose(file)).resize((side, side), Image.Resampling.BICUBIC)
    except UnidentifiedImageError:
        raise InputError(f"{path} is not an image that Pillow knows") from None
    except Exception as error:  # what its forty decoders raise for a damaged file
        raise InputError(f"{path} cannot be read as an image ({describe(error)})") from None
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any of Pillow's modes with 8 bits a colour, on white where it is transparent."""
    if picture.mode[0] in "IF":  # 16 or 32 bits, which Pillow would clip
        white = 1 if picture.mode == "F" else 2**16 - 1
        values = np.asarray(picture, dtype=np.float32) / white
        if not (values.min() >= 0 and values.max() <= 1):  # also NaN
            raise ValueError(f"mode {picture.mode}: expected grey from 0 to {white}")
        picture = Image.fromarray((255 * values).round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def read_images(path: Path) -> tuple[list[str], torch.Tensor]:
    """Names and (n, 3, 32, 32) uint8 of an image, or of those in a folder, by name; others there are printed.

    Raises:
        InputError: see `read_image`; no image in the folder.
    """
    if not path.is_dir():
        return [path.name], read_image(path)[None]
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    names, images = [], []
    for file in tqdm(files, unit="img", leave=False, desc="images", delay=1.0):
        try:
            images.append(read_image(file))
            names.append(file.name)
        except InputError as error:
            tqdm.write(f"left out: {error}")
    if not images:
        raise InputError(
            f"no image in {path}: {len(files)} files, none of which can be read (sub-folders do not count)"
        )
    return names, torch.stack(images)


@torch.inference_mode()
def logits_of(it: Prepared, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Logits (n, 100) float32 of images (n, 3, 32, 32) uint8, on the CPU.

    Returns:
        {"": logits}, and where there is a branch (the head's, or maps as further channels) also {"without_": logits}.

    Raises:
        InputError: the circuit fails, or a logit is not finite.
    """
    images = images.to(it.test_loader.images.device)
    maps = it.extra_channels(images) if it.extra_channels else None
    found = {"": _through_network(it, images, maps)}
    was_on = getattr(it.model, "branch_on", None)
    if was_on is not None:
        it.model.branch_on = False
    if was_on is not None or maps is not None:
        at_mean = maps and functools.partial(_repeated, mean_maps(it))
        found["without_"] = _through_network(it, images, at_mean)
    if was_on is not None:
        it.model.branch_on = was_on
    return found


def mean_maps(it: Prepared) -> torch.Tensor:
    """(P, S, S): what the further channels show on average over the run's test images."""
    loader = it.test_loader
    places = torch.arange(len(loader.images), device=loader.images.device).split(loader.batch_size)
    return sum(loader.extra(batch, *loader.matrices).sum(0) for batch in places) / len(loader.images)


def _repeated(maps: torch.Tensor, places: torch.Tensor, *matrices: torch.Tensor) -> torch.Tensor:
    """`maps` (P, S, S) for each of `places` (B,): further channels that say nothing of an image."""
    return maps.expand(len(places), *maps.shape)


def _through_network(it: Prepared, images: torch.Tensor, maps: ExtraChannels | None) -> torch.Tensor:
    loader = EvalLoader(images, None, it.test_loader.batch_size, it.run.identity["IMG_SIZE"], maps)
    rows = []
    for x, _ in tqdm(loader.batches(), total=len(loader), unit="batch", leave=False, desc="network", delay=1.0):
        with it.autocast:
            rows.append(it.model(x).to("cpu", torch.float32))
    logits = torch.cat(rows)
    if not bool(logits.isfinite().all()):
        raise InputError(f"{it.run.experiment}: logits are not finite; this run cannot predict")
    return logits


def likeliest(logits: torch.Tensor, dataset: str) -> list[list[tuple[str, float]]]:
    """For each row of logits (n, 100) the classes of largest probability, [(name, probability), ...], largest first."""
    found = logits.double().softmax(1).topk(best)
    names = CLASS_NAMES if dataset == "cifar100" else [f"class {k}" for k in range(logits.shape[1])]
    return [
        [(names[place], value) for place, value in zip(places, values, strict=True)]
        for places, values in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]


def rows_of(names: list[str], ways: dict[str, list]) -> list[dict]:
    """Lines of the CSV: file, class_1, probability_1, ..., and with a branch the same as without_class_1, ...

    Args:
        ways: "" and, with a branch, "without_" -> what `likeliest` returns.
    """
    rows = [{"file": name} for name in names]
    for way, found in ways.items():
        for row, classes in zip(rows, found, strict=True):
            for rank, (name, probability) in enumerate(classes, 1):
                row |= {f"{way}class_{rank}": name, f"{way}probability_{rank}": f"{probability:.6f}"}
    return rows


def refuse_output(path: Path) -> None:
    """Raise `InputError` if `path` is a folder, or a file that was not written here."""
    if path.is_dir():
        raise InputError(f"{flag('OUTPUT')} {path} is a folder: expected the name of a CSV file")
    if path.exists() and not path.read_bytes().startswith(b"file,class_1,"):
        raise InputError(f"{path} is there and not a table of predict.py; name another file with {flag('OUTPUT')}")


def show(name: str, ways: dict[str, list], how: str) -> None:
    """Print one image's classes; `how` says what without the branch means."""
    print(name + (f"\n   {'with the branch':<26}    without it ({how})" if len(ways) > 1 else ""))
    for rank in range(best):
        cells = [f"{found[0][rank][0]:<18} {100 * found[0][rank][1]:5.1f} %" for found in ways.values()]
        print(f"{rank + 1}  " + "    ".join(cells))


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules, arguments)
    run, source = read_run(Path(cfg.run)), Path(cfg.images)
    output = Path(cfg.output) if cfg.output else None
    if output is None and source.is_dir():
        output = run.folder / f"predict_{source.resolve().name}.csv"
    if output is not None:
        refuse_output(output)
    names, images = read_images(source)
    it = load(run, cfg)

    ways = {way: likeliest(logits, it.run.dataset) for way, logits in logits_of(it, images).items()}
    print(f"{it.run.mark}{run.folder}, weights of epoch {run.result['best_epoch']}")
    if getattr(it.model, "branch_on", True) is False:
        print("its best epoch lies in phase A, where the branch is off: with it and without it are the same")
    if not source.is_dir():
        show(names[0], ways, "both maps at their mean" if it.extra_channels else "logits_q left out")
    if output is not None:
        write_csv(output, rows_of(names, ways))
        changed = sum(a[0][0] != b[0][0] for a, b in zip(*ways.values(), strict=True)) if len(ways) > 1 else 0
        without = f"; without the branch, {changed} of them have another first class" if len(ways) > 1 else ""
        print(f"{len(names)} images -> {output}{without}")


if __name__ == "__main__":
    run_script(main)
