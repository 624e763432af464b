"""Test images on the page: with their two maps, and those that a branch gets right or wrong in most seeds."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib.colors
import numpy as np
from PIL import Image

from qcifar.comparison.outcomes import CLASS_NAMES
from qcifar.comparison.runs import FinishedRun, Predictions
from qcifar.comparison.series import Pair, Series, predictions_of
from qcifar.errors import InputError, count
from qcifar.files import read_npz

SHEET_IMAGES = 24
SHEET_GROUPS = 3  # whose maps are shown
SHOWN = 12  # images that are fixed, and as many that are broken
MAP_COLOURS = "PuOr"  # orange is negative, purple positive
WITH_CIRCUITS = ("quantum", "product")  # controls whose networks see the circuits' maps


@dataclass(frozen=True)
class Picture:
    """One image of the page; `uri` holds its pixels."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Tile:
    """A test image, its maps where there are some, and what is said below."""

    picture: Picture | None  # None where the images are not there
    maps: tuple[Picture, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Changed:
    """Images that one comparison changes in most seeds."""

    label: str
    seeds: int
    images: int  # of the test set
    fixed: int  # in more than half of the seeds
    broken: int
    fixed_tiles: tuple[Tile, ...]  # the first of them
    broken_tiles: tuple[Tile, ...]


def class_name(number: int, dataset: str) -> str:
    return CLASS_NAMES[number].replace("_", " ") if dataset == "cifar100" else f"class {number}"


def picture(pixels: np.ndarray, alt: str) -> Picture:
    """PNG of (rows, columns, 3) uint8 as a data URI."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), alt)


def map_picture(values: np.ndarray, name: str) -> Picture:
    """Expectation values (N,) from -1 to 1 on their grid of cells, one pixel each."""
    rows = max(r for r in range(1, int(len(values) ** 0.5) + 1) if len(values) % r == 0)
    pixels = matplotlib.colormaps[MAP_COLOURS]((1 + values.reshape(rows, -1)) / 2, bytes=True)[..., :3]
    return picture(pixels, f"{name}: {', '.join(f'{value:+.2f}' for value in values)}")


def scale_colours() -> str:
    """The colours of the maps from -1 to 1, as stops of a CSS gradient."""
    return ", ".join(matplotlib.colors.to_hex(matplotlib.colormaps[MAP_COLOURS](k / 8)) for k in range(9))


def find_descriptors(run: FinishedRun) -> dict[str, dict] | None:
    """The caches of the two maps that a run saw of the test images, {"edge": arrays, "tex": arrays}.

    None where one is not there, and for a control that puts something else in the maps' place: its identity names the
    circuits, too, but its network never saw their maps.
    """
    if run.control not in WITH_CIRCUITS:
        return None
    top = next((path for path in run.folder.parents if path.name == run.experiment), None)
    identity = run.config["identity"]
    circuits = identity.get("circuits")
    if top is None or not isinstance(circuits, list) or len(circuits) != 2:
        return None
    wanted = {"n_qubits": "N_QUBITS", "depth": "QUANTUM_DEPTH", "image_size": "QUANTUM_IMAGE_SIZE"}
    wanted = {name: identity.get(constant) for name, constant in wanted.items()}
    wanted["data"] = identity.get("dataset_fingerprint")
    found = {}
    for kind, circuit in zip(("edge", "tex"), circuits, strict=True):
        for path in sorted((top / "descriptors").glob(f"test_q_{kind}_*.npz")):
            if kind not in found and (arrays := _cache(path, wanted | {"circuit": circuit})):
                found[kind] = arrays
    return found if len(found) == 2 else None


def _cache(path: Path, wanted: dict) -> dict | None:
    """Arrays of a cache that was made with `wanted`; None for any other, and for one that is not whole."""
    try:
        arrays = read_npz(path, ("qvec", "index", "parameters"))
        parameters = json.loads(str(arrays["parameters"]))
        fits = all(parameters[name] == value for name, value in wanted.items())
    except (InputError, ValueError, KeyError, TypeError):
        return None
    qvec, index = arrays["qvec"], arrays["index"]
    whole = qvec.ndim == 2 and index.shape == qvec.shape[:1] and len(index) and np.isfinite(qvec).all()
    return arrays if fits and whole else None


def contact_sheet(series: list[Series], images: dict[str, np.ndarray]) -> tuple[list[str], list[Tile]]:
    """Labels of the groups whose maps are shown, and tiles of images spread over the test set."""
    known = [(one, found) for one in series if (found := find_descriptors(one.group.first))][:SHEET_GROUPS]
    if not known or known[0][0].group.first.dataset not in images:
        return [], []
    dataset = known[0][0].group.first.dataset
    known = [(one, found) for one, found in known if one.group.first.dataset == dataset]
    pixels, predictions = images[dataset], predictions_of(known[0][0].group.first)
    labels = (
        {} if predictions is None else dict(zip(predictions.index.tolist(), predictions.label.tolist(), strict=True))
    )
    rows = [
        {kind: dict(zip(arrays["index"].tolist(), arrays["qvec"], strict=True)) for kind, arrays in found.items()}
        for _, found in known
    ]
    shared = sorted(set.intersection(*(set(row[kind]) for row in rows for kind in row)))
    shared = [place for place in shared if 0 <= place < len(pixels)]
    chosen = [shared[k] for k in np.linspace(0, len(shared) - 1, min(SHEET_IMAGES, len(shared))).round().astype(int)]
    tiles = []
    for place in chosen:
        name = class_name(labels[place], dataset) if place in labels else f"image {place}"
        maps = [
            map_picture(row[kind][place], f"{short} of {one.label}")
            for (one, _), row in zip(known, rows, strict=True)
            for kind, short in (("edge", "QE"), ("tex", "QT"))
        ]
        tiles.append(Tile(picture(pixels[place], f"test image {place}, {name}"), tuple(maps), (name,)))
    return [one.label for one, _ in known], tiles


def changed_images(pair: Pair, images: dict[str, np.ndarray]) -> Changed | None:
    """What the branch fixed and broke in most seeds; None without predictions of the same images."""
    both = [(predictions_of(mine), predictions_of(theirs)) for mine, theirs in pair.runs]
    both = [(mine, theirs) for mine, theirs in both if mine is not None and theirs is not None]
    if not both or any(not np.array_equal(one.index, both[0][0].index) for runs in both for one in runs):
        return None
    mine, theirs = (np.stack([runs[k].correct for runs in both]) for k in (0, 1))  # (S, I)
    fixed, broken = (mine & ~theirs).sum(0), (theirs & ~mine).sum(0)  # (I,) numbers of seeds
    gain = np.mean([m.true_probability.astype(float) - t.true_probability for m, t in both], axis=0)  # (I,)
    most = len(both) // 2 + 1
    kept = {}
    for name, seeds, order in (("fixed", fixed, -gain), ("broken", broken, gain)):
        places = np.flatnonzero(seeds >= most)
        places = places[np.lexsort((order[places], -seeds[places]))][:SHOWN]
        kept[name] = tuple(
            _changed_tile(both, place, int(seeds[place]), pair.entry["dataset"], images) for place in places
        )
    numbers = [int((seeds >= most).sum()) for seeds in (fixed, broken)]
    return Changed(pair.label, len(both), mine.shape[1], *numbers, kept["fixed"], kept["broken"])


def _changed_tile(
    both: list[tuple[Predictions, Predictions]], place: int, seeds: int, dataset: str, images: dict
) -> Tile:
    first = both[0][0]
    number, true = int(first.index[place]), class_name(int(first.label[place]), dataset)
    differing = [runs for runs in both if runs[0].correct[place] != runs[1].correct[place]]
    said = [_most_common([int(runs[k].predicted[place]) for runs in differing]) for k in (1, 0)]
    names = [class_name(answer, dataset) for answer in said]
    pixels = images.get(dataset)
    shown = (
        picture(pixels[number], f"test image {number}, {true}") if pixels is not None and number < len(pixels) else None
    )
    lines = (true, f"baseline: {names[0]}", f"branch: {names[1]}", f"{seeds} of {count(len(both), 'seed')}")
    return Tile(shown, (), (f"image {number}: {true}" if shown is None else true, *lines[1:]))


def _most_common(answers: list[int]) -> int:
    return int(np.bincount(answers).argmax())


def confused_pairs(series: list[Series], most: int = 30) -> list[dict]:
    """The pairs (true, predicted) of classes that the first group confuses most, with the mean share in each group.

    Returns:
        {"true", "predicted", "shares"}: percent of the images of the true class, one number for each of `series`,
        None where a group has no predictions.
    """
    shares = [mean_confusion(one, np.arange(len(CLASS_NAMES))) for one in series]
    if not series or shares[0] is None:
        return []
    wrong = shares[0].copy()
    np.fill_diagonal(wrong, 0)
    dataset = series[0].group.first.dataset
    found = []
    for place in np.argsort(-wrong, axis=None, kind="stable")[:most]:
        true, predicted = divmod(int(place), len(wrong))
        if wrong[true, predicted] > 0:
            values = [None if share is None else float(share[true, predicted]) for share in shares]
            names = [class_name(k, dataset) for k in (true, predicted)]
            found.append({"true": names[0], "predicted": names[1], "shares": values})
    return found


def mean_confusion(one: Series, of: np.ndarray) -> np.ndarray | None:
    """Percent of the images of each true class (rows) that are taken for each class, mean over the group's runs.

    Args:
        of: (100,) class -> what is counted in its place: itself, or its superclass.
    """
    found = []
    for run in one.group.runs:
        predictions = predictions_of(run)
        if predictions is not None and max(predictions.label.max(), predictions.predicted.max()) < len(of):
            size = int(of.max()) + 1
            places = of[predictions.label] * size + of[predictions.predicted]
            found.append(np.bincount(places, minlength=size**2).reshape(size, size))
    if not found:
        return None
    counts = np.mean(found, axis=0)
    return 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
