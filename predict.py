"""Own images through a finished run: the five likeliest classes, with and without its quantum branch.

    python predict.py runs/cifar100_hybrid_qhead/seed42 cat.jpg
    python predict.py runs/cifar100_quantum_channels/seed42 photos/ --output photos.csv

A run has to have its best.pt; its script has to lie beside this file. A folder gives a CSV with one line for each image
(its sub-folders are not entered), by default predict_<folder>.csv in the run's folder; nothing else there changes.

The networks were trained on CIFAR-100's originals of 32 x 32 pixels. So the whole image is first made 32 x 32 (bicubic,
antialiased; other shapes are squeezed), and then treated as the run treats its test images (enlarged to 1.15 IMG_SIZE,
cropped to IMG_SIZE). Transparent pixels become white. What shows none of the 100 classes gets five of them all the
same.

Without the branch means: for the head, logits_q left out; for the channels, both maps zero, which is what an input
that is not there gives to the filters of the first convolution. It shows how much this network leans on its branch, not
what a network that was trained without it would say.
"""

import ast
import importlib
import math
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from qcifar.comparison.outcomes import CLASS_NAMES
from qcifar.config import Rule, flag, own, settings_from_constants
from qcifar.data.loader import EvalLoader, ExtraChannels
from qcifar.errors import InputError, describe, run_script
from qcifar.experiment.identity import differences
from qcifar.experiment.recipe import SPLIT_FILE, Prepared
from qcifar.files import read_checkpoint, read_json, write_csv

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
# Of a config.json and a result.json: what is needed here, and of which type.
needed = {"experiment": str, "variant": str, "constants": dict, "identity": dict}


class FinishedRun(NamedTuple):
    folder: Path
    config: dict  # config.json
    result: dict  # result.json


def read_run(folder: Path) -> FinishedRun:
    """The run in `folder`. Raises `InputError` unless it is finished and has its best.pt."""
    expected = "expected the folder of a finished run, for example runs/cifar100_baseline_det/seed42"
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: {expected}")
    if not (folder / "config.json").exists():
        raise InputError(f"{folder} holds no run (no config.json): {expected}")
    config = read_json(folder / "config.json")
    wrong = [name for name, kind in needed.items() if not isinstance(config.get(name), kind)]
    if wrong:
        raise InputError(f"{folder / 'config.json'} is not one of this test bench ({wrong[0]} is missing): {expected}")
    if not (folder / "result.json").exists():
        raise InputError(f"{folder} is not finished (no result.json): the command that began it continues it")
    if not (folder / "best.pt").exists():
        raise InputError(
            f"{folder} has no best.pt: a sweep drops checkpoints unless it is told --keep best; train the run again"
        )
    result = read_json(folder / "result.json")
    if not isinstance(result.get("best_epoch"), int):
        raise InputError(f"{folder / 'result.json'} is not one of this test bench (no best_epoch): {expected}")
    return FinishedRun(folder, config, result)


def script_of(run: FinishedRun) -> str:
    """Name of the module beside this file that opens runs of the experiment; of several, of the one that made this."""
    experiment, code = run.config["experiment"], run.config["identity"].get("own_code")
    found = [path for path in sorted(Path(__file__).parent.glob("*.py")) if experiment in experiments_of(path)]
    if not found:
        raise InputError(f"{run.folder}: no script in {Path(__file__).parent} opens runs of {experiment}; put it there")
    made = [path for path in found if isinstance(code, dict) and path.name in code]
    return (made or found)[0].stem


def experiments_of(script: Path) -> set[str]:
    """The names that a script hands to `open_run`."""
    try:
        tree = ast.parse(script.read_bytes())
    except (SyntaxError, ValueError):
        return set()
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and "open_run" in ast.unparse(node.func)]
    return {part.value for call in calls for part in call.args if isinstance(part, ast.Constant)}


def settings_of(run: FinishedRun, script, cfg, scratch: str):
    """The run's constants, with what training alone needs left out.

    RESUME False: `prepare` does not look at the run's own files, which were made on this or another machine and by
    this or other code; only training would take the folder or delete anything. All weights come from best.pt, so those
    that the run started from are not needed, and no memory for a backward pass.
    """
    given = run.config["constants"]
    texts = [f"{flag(name)}={value}" for name, value in given.items() if not isinstance(value, bool)]
    texts += [f"--{'' if value else 'no-'}{flag(name)[2:]}" for name, value in given.items() if isinstance(value, bool)]
    try:
        settings = settings_from_constants(vars(script), texts, script.own_rules)
    except InputError as error:
        raise InputError(f"{run.folder / 'config.json'} does not fit {script.__name__}.py now: {error}") from None
    settings.run_dir, settings.data_dir = str(run_dir_of(run, settings, scratch)), cfg.data_dir
    settings.device, settings.precision = cfg.device, cfg.precision
    if cfg.precision == "auto" and run.config["identity"].get("precision") in ("fp32", "bf16"):
        settings.precision = run.config["identity"]["precision"]
    settings.weights, settings.resume, settings.compile, settings.cuda_graphs = "none", False, False, False
    trained = min(settings.batch_size, run.config.get("images", {}).get("train", settings.batch_size))
    settings.accumulate = max(1, math.gcd(settings.batch_size, trained) // 2)
    return settings


def run_dir_of(run: FinishedRun, settings, scratch: str) -> Path:
    """RUN_DIR of a run that lies where its script put it; else `scratch`, where split and caches are made anew."""
    parts = [run.config["experiment"], *filter(None, [run.config["variant"]]), f"seed{settings.seed}"]
    lies = run.folder.resolve()
    run_dir = lies.parents[len(parts) - 1] if len(lies.parents) >= len(parts) else Path(scratch)
    return run_dir if run_dir.joinpath(*parts) == lies and (run_dir / SPLIT_FILE).exists() else Path(scratch)


def load(run: FinishedRun, cfg) -> Prepared:
    """What the run's script prepares, with the weights of the run's best epoch.

    Raises:
        InputError: the script is not there or cannot prepare; it has other circuits now; best.pt is of another run.
    """
    script = importlib.import_module(script_of(run))
    with tempfile.TemporaryDirectory() as scratch:
        it = script.prepare(settings_of(run, script, cfg, scratch))
    before = run.config["identity"]
    if before.get("circuits") != it.run.identity.get("circuits"):
        raise InputError(f"{run.folder}: the circuit of {script.__name__}.py is another one now; undo the change")
    _, edited = differences(before, it.run.identity)
    if edited:
        print(f"note: since this run, {', '.join(edited)} changed; its predictions may have changed, too")
    load_best(run, it)
    return it


def load_best(run: FinishedRun, it: Prepared) -> None:
    """Give the prepared model the weights of best.pt. Raises `InputError` if it is of another run or does not fit."""
    path, remedy = run.folder / "best.pt", "train the run again"
    saved = read_checkpoint(path, it.test_loader.images.device, remedy)
    known = isinstance(saved, dict) and isinstance(saved.get("identity"), dict)
    if not known or differences(saved["identity"], run.config["identity"])[0]:
        raise InputError(f"{path} is not of the run that config.json beside it describes; {remedy}")
    if saved.get("epoch") != run.result["best_epoch"] - 1:
        raise InputError(f"{path} is not of the best epoch, {run.result['best_epoch']}, of result.json; {remedy}")
    if it.on_epoch_start:
        it.on_epoch_start(saved["epoch"])
    try:
        it.model.load_state_dict(saved["model"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise InputError(f"{path} does not fit the network that its script builds now: {first}") from None
    it.model.eval()


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
        nothing = maps and (lambda *place: torch.zeros_like(maps(*place)))
        found["without_"] = _through_network(it, images, nothing)
    if was_on is not None:
        it.model.branch_on = was_on
    return found


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
        show(names[0], ways, "both maps zero" if it.extra_channels else "logits_q left out")
    if output is not None:
        write_csv(output, rows_of(names, ways))
        changed = sum(a[0][0] != b[0][0] for a, b in zip(*ways.values(), strict=True)) if len(ways) > 1 else 0
        without = f"; without the branch, {changed} of them have another first class" if len(ways) > 1 else ""
        print(f"{len(names)} images -> {output}{without}")


if __name__ == "__main__":
    run_script(main)
