"""Whether the statistics of the comparison keep their promises: runs with known truth, made up by the thousand.

    python benchmarks/simulate_statistics.py                  # under a minute on one thread
    python benchmarks/simulate_statistics.py --repeats 500    # quicker, and coarser

Made-up comparisons have the shape of real ones: seeds × 10,000 images, each image right or wrong. How often does an
interval hold the truth, a test reject what is true, and a difference of the size that `detectable` names get found?
Writes benchmarks/results/statistics.md; docs/statistics.md explains it.
"""

import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from scipy import stats

from benchmarks.common import conditions, save
from qcifar.comparison.statistics import Squares, crossed_half_width, detectable_in_sd, holm, sign_flip, t_columns
from qcifar.config import settings_from_constants, whole
from qcifar.errors import run_script
from qcifar.streams import stream

REPEATS = 4000  # made-up comparisons in each row
IMAGES = 10_000  # in the test set

own_rules = {"REPEATS": whole(100, 100_000), "IMAGES": whole(100)}

# Images are easy (70 %), or hard (30 %): two networks disagree on 4 % of the easy and 30 % of the hard ones, which is
# about 12 % of all. Half of the hard ones are of the kind that a branch may fix, half of the kind that it may break.
# All are spread over 20 groups, like superclasses.
groups = 20
shares = np.repeat([0.7, 0.15, 0.15], groups) / groups  # (60,) of the cells, hardness × group
disagree = np.repeat([0.04, 0.3, 0.3], groups)
kind = np.repeat([0.0, 1.0, -1.0], groups)
margin = 0.5  # points


class World(NamedTuple):
    """How runs differ where the true difference, over all seeds and all images of the kind, is zero."""

    name: str
    seed: float = 0.0  # points: standard deviation of the true difference from seed to seed
    image: float = 0.0  # how much more often than not the branch fixes the one half of hard images and breaks the other
    group: float = 0.0  # points: standard deviation of what a seed does to a group of images
    shape: str = "normal"  # of the seeds' differences; or "heavy": Student's t, 3 degrees of freedom; or "skewed"


worlds = (
    World("no effects"),
    World("seeds 0.2", seed=0.2),
    World("seeds 0.4", seed=0.4),
    World("seeds 1.0", seed=1.0),
    World("images 0.15", image=0.15),
    World("images 0.3", image=0.3),
    World("images 0.9", image=0.9),
    World("seeds 0.2, images 0.15", seed=0.2, image=0.15),
    World("seeds 0.4, images 0.3", seed=0.4, image=0.3),
    World("seeds 0.2, images 0.9", seed=0.2, image=0.9),
    World("seeds 0.2, images 0.15, groups 1", seed=0.2, image=0.15, group=1.0),
    World("heavy tails: seeds 0.4, images 0.15", seed=0.4, image=0.15, shape="heavy"),
    World("skewed: seeds 0.4, images 0.15", seed=0.4, image=0.15, shape="skewed"),
)
usual = next(world for world in worlds if world.name == "seeds 0.2, images 0.15")


class Sample(NamedTuple):
    """R made-up comparisons of S seeds with the baseline."""

    images: np.ndarray  # (R, 60) in each cell
    fixed: np.ndarray  # (R, S, 60) images in each cell
    broken: np.ndarray  # (R, S, 60)
    truth: np.ndarray  # (R,) points: the true difference on these images

    @property
    def differences(self) -> np.ndarray:
        """(R, S) points."""
        return 100 * (self.fixed - self.broken).sum(2) / self.images.sum(1)[:, None]


def draw(world: World, seeds: int, images: int, repeats: int, rng: np.random.Generator) -> Sample:
    """Images of each cell are drawn, then for each seed how many of them are fixed and broken; exact."""
    places = rng.multinomial(images, shares, size=repeats)  # (R, 60)
    seed = world.seed / 100 * _standard(world.shape, (repeats, seeds, 1), rng)
    group = np.tile(world.group / 100 * rng.normal(size=(repeats, seeds, groups)), 3)
    net = world.image * disagree * kind + (seed + group) * disagree / (shares @ disagree)
    net = np.clip(net, -disagree, disagree)  # (R, S, 60) fixed less broken
    fixed = rng.binomial(places[:, None], (disagree + net) / 2)
    broken = rng.binomial(places[:, None] - fixed, (disagree - net) / (2 - disagree - net))
    return Sample(places, fixed, broken, 100 * places @ (world.image * disagree * kind) / images)


def _standard(shape: str, size: tuple, rng: np.random.Generator) -> np.ndarray:
    """Mean 0, standard deviation 1."""
    if shape == "heavy":
        return rng.standard_t(3, size) / np.sqrt(3)
    if shape == "skewed":
        return rng.exponential(size=size) - 1
    return rng.normal(size=size)


def squares_of(sample: Sample, rng: np.random.Generator) -> Squares:
    """Mean squares of seeds × images, without making the images.

    Which images of a cell are fixed or broken is independent from seed to seed. So the sum over images of the product
    of two seeds' differences has a known mean and variance, and is as good as normal: nearly all of the 10,000
    images add to it.
    """
    places = np.maximum(sample.images, 1)[:, None]  # (R, 1, 60)
    net, any_change = sample.fixed - sample.broken, sample.fixed + sample.broken
    spread = any_change / places - (net / places) ** 2  # (R, S, 60) variance inside a cell
    repeats, seeds, _ = net.shape
    images = sample.images.sum(1)
    products, noise = np.zeros(repeats), np.zeros(repeats)
    for s in range(seeds):
        for other in range(s):
            products += (net[:, s] * net[:, other] / places[:, 0]).sum(1)
            weights = places[:, 0] ** 2 / np.maximum(places[:, 0] - 1, 1)
            noise += (weights * spread[:, s] * spread[:, other]).sum(1)
    products += np.sqrt(noise) * rng.normal(size=repeats)
    changed, by_seed = any_change.sum((1, 2)), net.sum(2)  # (R,), (R, S)
    mean = by_seed.sum(1) / (seeds * images)
    correction = seeds * images * mean**2
    seed = (by_seed**2).sum(1) / images - correction
    image = (changed + 2 * products) / seeds - correction
    rest = changed - correction - seed - image
    return Squares(mean, seed / (seeds - 1), image / (images - 1), rest / ((seeds - 1) * (images - 1)))


def expand(sample: Sample, which: int, rng: np.random.Generator) -> np.ndarray:
    """(S, I) differences of one of the made-up comparisons, image by image: -1, 0 or 1."""
    parts = []
    for places, fixed, broken in zip(sample.images[which], sample.fixed[which].T, sample.broken[which].T, strict=True):
        rank = rng.random((len(fixed), places)).argsort(1)  # another order for each seed
        parts.append((rank < fixed[:, None]).astype(np.int8) - (rank >= (places - broken)[:, None]))
    return np.concatenate(parts, axis=1)


def satterthwaite(found: Squares, seeds: int, images: int) -> np.ndarray:
    """Half the width of the crossed interval with Satterthwaite's degrees of freedom, to compare."""
    sums = np.maximum(found.seed + found.image - found.rest, np.maximum(found.rest, 0))
    parts = found.seed**2 / (seeds - 1) + found.image**2 / (images - 1) + found.rest**2 / (seeds - 1) / (images - 1)
    return stats.t.isf(0.025, sums**2 / parts) * np.sqrt(sums / (seeds * images))


def bootstrap_covers(centred: np.ndarray, method: str, rng: np.random.Generator) -> float:
    """Share of rows whose bootstrap interval over seeds holds 0, the truth of `centred` (R, S)."""
    low, high = stats.bootstrap(
        (centred,), np.mean, axis=1, n_resamples=999, method=method, rng=rng
    ).confidence_interval
    return float(((low <= 0) & (high >= 0)).mean())


class Row(NamedTuple):
    """Shares of the comparisons; t, flip, bca, equivalent and power with these images, the others with any images."""

    t_covers: float  # interval_seeds holds the true difference on these images
    flip_rejects: float  # that truth, by the sign-flip test
    crossed_covers: float  # interval_seeds_images holds 0, the true difference over all images
    satterthwaite_covers: float  # the same with Satterthwaite's degrees of freedom
    t_covers_others: float  # interval_seeds, if it were taken for other images
    equivalent: float  # TOST accepts a difference that is exactly the margin
    power: float  # a difference of the size of `detectable` is found
    bca_covers: float  # BCa bootstrap over seeds, not used
    one_rejects: float  # McNemar for one seed, p < 0.05
    pooled_rejects: float  # McNemar pooled over seeds, not used


def evaluate(world: World, seeds: int, images: int, repeats: int) -> Row:
    rng = stream(0, "statistics", world.name, seeds, images)
    sample = draw(world, seeds, images, repeats, rng)
    found, differences = squares_of(sample, rng), sample.differences
    centred = differences - sample.truth[:, None]
    shift = detectable_in_sd(seeds, 0.05) * np.sqrt(centred.var(1, ddof=1).mean())  # the true spread
    low, high, _ = t_columns(centred.T)
    low_others, high_others, _ = t_columns(differences.T)
    low_once, high_once, _ = t_columns(centred.T + margin, 0.9)  # `equivalence` accepts where it lies inside the margin
    fixed, broken = sample.fixed.sum(2), sample.broken.sum(2)  # (R, S)
    return Row(
        t_covers=((low <= 0) & (high >= 0)).mean(),
        flip_rejects=np.mean([sign_flip(row) < 0.05 for row in centred]),
        crossed_covers=(np.abs(found.mean) <= crossed_half_width(found, seeds, images)).mean(),
        satterthwaite_covers=(np.abs(found.mean) <= satterthwaite(found, seeds, images)).mean(),
        t_covers_others=((low_others <= 0) & (high_others >= 0)).mean(),
        equivalent=((high_once < margin) & (low_once > -margin)).mean(),
        power=(t_columns(centred.T + shift)[2] < 0.05).mean(),
        bca_covers=bootstrap_covers(centred, "BCa", rng),
        one_rejects=_exact(fixed, broken).mean(),
        pooled_rejects=_exact(fixed.sum(1), broken.sum(1)).mean(),
    )


def _exact(fixed: np.ndarray, broken: np.ndarray) -> np.ndarray:
    """Whether McNemar's exact test has p < 0.05."""
    return 2 * stats.binom.cdf(np.minimum(fixed, broken), fixed + broken, 0.5) < 0.05


def false_verdicts(comparisons: int, seeds: int, repeats: int) -> tuple[float, float]:
    """Share of families with a false `better` or `worse`, with Holm and without: several experiments, one baseline."""
    rng = stream(0, "statistics", "family", comparisons, seeds)
    runs = rng.normal(size=(repeats, comparisons, seeds)) - rng.normal(size=(repeats, 1, seeds))
    p = stats.ttest_1samp(runs, 0.0, axis=2).pvalue  # (R, comparisons)
    return np.mean([min(holm(row.tolist())) < 0.05 for row in p]), (p.min(1) < 0.05).mean()


def stopping_rejects(first: int, last: int, repeats: int) -> float:
    """How often a true difference of zero gets p < 0.05 if seeds are added, one by one, until it does."""
    rng = stream(0, "statistics", "stopping", first, last)
    runs = rng.normal(size=(repeats, last))
    looks = [stats.ttest_1samp(runs[:, :seeds], 0.0, axis=1).pvalue < 0.05 for seeds in range(first, last + 1)]
    return np.any(looks, axis=0).mean()


columns = {
    "t_covers": "t interval covers",
    "flip_rejects": "sign-flip rejects",
    "crossed_covers": "crossed interval covers",
    "satterthwaite_covers": "the same, Satterthwaite",
    "equivalent": "TOST accepts ±0.5",
    "power": "power at `detectable`",
    "one_rejects": "McNemar, one seed, rejects",
    "pooled_rejects": "McNemar, pooled, rejects",
    "bca_covers": "BCa covers",
    "t_covers_others": "t interval covers other images",
}


def table(rows: dict[tuple[str, int], Row]) -> str:
    """Markdown; percent."""
    lines = ["| the world (points) | n | " + " | ".join(columns.values()) + " |", "| --- |" + " ---: |" * 11]
    for (name, seeds), row in rows.items():
        lines.append(f"| {name} | {seeds} | " + " | ".join(f"{100 * getattr(row, key):.1f}" for key in columns) + " |")
    return "\n".join(lines)


def detectable_table() -> str:
    """Markdown; points, for the standard deviation of the differences over seeds and their number."""
    spreads, comparisons = (0.2, 0.4, 0.8), (1, 3, 6)
    head = [f"sd {spread:g}, m {m}" for m in comparisons for spread in spreads]
    lines = ["| n | " + " | ".join(head) + " |", "| --- |" + " ---: |" * len(head)]
    for seeds in (3, 4, 5, 6, 8, 10, 12, 20, 30):
        cells = [f"{spread * detectable_in_sd(seeds, 0.05 / m):.2f}" for m in comparisons for spread in spreads]
        lines.append(f"| {seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules)
    torch.set_num_threads(1)
    cases = [(world, seeds) for world in worlds for seeds in ((3, 6, 10) if world is usual else (6,))]
    rows = {(world.name, seeds): evaluate(world, seeds, cfg.images, cfg.repeats) for world, seeds in cases}
    with_holm, without = false_verdicts(6, 6, cfg.repeats)
    text = [
        f"{conditions(torch.device('cpu'))}. {cfg.repeats:,} made-up comparisons a row on {cfg.images:,} images. "
        "Percent; "
        f"the standard error of 5 or 95 is {100 * (0.05 * 0.95 / cfg.repeats) ** 0.5:.1f}, of 80 "
        f"{100 * (0.8 * 0.2 / cfg.repeats) ** 0.5:.1f}.",
        table(rows),
        f"Six experiments without effect and one baseline, six seeds: {100 * with_holm:.1f} % of such families have a "
        f"false `better` or `worse` with Holm, {100 * without:.1f} % without.",
        f"Seeds added from 3 up to 12 until p < 0.05: {100 * stopping_rejects(3, 12, cfg.repeats):.1f} % of true zeros "
        "become a difference.",
        "Smallest true difference (points) found with 80 % power by n seeds, Holm over m comparisons at worst:",
        detectable_table(),
    ]
    save("statistics", "\n\n".join(text))


if __name__ == "__main__":
    run_script(main)
