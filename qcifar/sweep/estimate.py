"""What a plan will take, from finished runs in its run directory: time by their speed, disk by their files."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import torch

from qcifar.errors import InputError
from qcifar.files import read_json
from qcifar.sweep.plan import Job
from qcifar.sweep.screen import duration
from qcifar.sweep.store import CHECKPOINTS, Sweep

SAME_SIZE = ("DATASET", "IMG_SIZE", "MODEL_NAME", "STEM")  # constants on which the time of an image depends
TRAINING_IMAGES = {"cifar100": 50_000, "synthetic": 4_000}  # before the split
RESULTS = 5_000_000  # bytes of a full run without checkpoints: logits of 10,000 images, tables, log


@dataclass(frozen=True)
class Measured:
    """A finished run: images/s of its training, bytes of its files by name."""

    folder: Path
    variant: str
    speed: float
    sizes: dict[str, int]


def images(job: Job) -> int:
    """How many images the job trains on in all its epochs."""
    constants = job.constants
    part = round((1 - constants["VAL_FRACTION"]) * TRAINING_IMAGES[constants["DATASET"]])
    return constants["EPOCHS"] * (min(part, constants["TRAIN_LIMIT"]) or part)


def measured(sweep: Sweep, job: Job) -> Measured | None:
    """A finished run of the job's experiment and size, of its variant if there is one; None: there is none."""
    found = []
    for path in sorted((sweep.plan.run_dir / job.experiment).glob("**/seed*/result.json")):
        try:
            result, constants = read_json(path), read_json(path.with_name("config.json")).get("constants", {})
            if any(constants.get(name) != job.constants.get(name) for name in SAME_SIZE):
                continue
            sizes = {file.name: file.stat().st_size for file in path.parent.iterdir() if file.is_file()}
            found.append(Measured(path.parent, result["variant"], float(result["images_per_second"]), sizes))
        except (InputError, AttributeError, KeyError, TypeError, ValueError):
            continue  # compare_runs.py names it
    return min(found, key=lambda run: run.variant != job.variant, default=None)


def parameters(name: str) -> int | None:
    """Parameters of one of torchvision's networks with 100 classes; None for a name that it does not know."""
    from torchvision.models import get_model  # takes seconds, and nothing but a dry run needs it

    try:
        with torch.device("meta"):
            return sum(weights.numel() for weights in get_model(name, num_classes=100).parameters())
    except (ValueError, TypeError):
        return None


def disk(job: Job, keep: str, run: Measured | None) -> int | None:
    """Bytes that the finished run will hold; None: unknown network.

    best.pt has the weights, last.pt also AdamW's two moments: four times the parameters, in float32.
    """
    count = parameters(job.constants["MODEL_NAME"])
    by_name = {"last.pt": 12 * count, "best.pt": 4 * count, "others": RESULTS} if count else {}
    if run is not None:
        by_name |= {"others": 0} | run.sizes
    if not by_name or (run is None and count is None):
        return None
    return sum(size for name, size in by_name.items() if name not in CHECKPOINTS[keep])


def describe(sweep: Sweep, keep: str, at_once: int) -> list[str]:
    """Every command that is still to be run, with its estimate, and what all take together."""
    lines, seconds, size, unknown, sources = [], 0.0, 0, set(), {}
    todo = [job for job in sweep.plan.jobs if not sweep.finished(job)]
    for job in todo:
        key = (job.experiment, job.variant, *(job.constants.get(name) for name in SAME_SIZE))
        if key not in sources:
            sources[key] = measured(sweep, job)
        run = sources[key]
        space = disk(job, keep, run)
        if run is None:
            unknown.add(job.experiment)
        else:
            seconds += images(job) / run.speed
        size += space or 0
        time = "no finished run to estimate from yet" if run is None else duration(images(job) / run.speed)
        lines.append(f"{shlex.join(job.command)}  # {time}, {megabytes(space)}")
    lines.append(f"{len(sweep.plan.jobs) - len(todo)} of {len(sweep.plan.jobs)} runs are finished, {len(todo)} to do")
    for run in {run.folder: run for run in sources.values() if run}.values():
        lines.append(f"estimated from {run.folder}: {run.speed:,.0f} images/s, {megabytes(sum(run.sizes.values()))}")
    if unknown:
        lines.append(f"no finished run of this size yet: {', '.join(sorted(unknown))}; the first one gives an estimate")
    elif todo:
        how = f"{at_once} at a time as fast as those runs: {duration(seconds / min(at_once, len(todo)))}"
        lines.append(f"training in all: {duration(seconds)}; {how} (without start, validation and test)")
    lines.append(f"disk in all: {megabytes(size)} (--keep {keep})")
    return lines


def megabytes(size: int | None) -> str:
    return "unknown size" if size is None else f"{size / 1e6:,.0f} MB"
