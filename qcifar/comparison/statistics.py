"""Paired differences over seeds, and over seeds and images: intervals, tests, and what they can detect.

A difference is a run's value less that of the baseline's run with the same seed, in percentage points where it is
one of accuracies. docs/statistics.md says why these methods, whom each interval speaks of, and how they do in
simulations. Results that do not exist are None, never NaN.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.weightstats import DescrStatsW

from qcifar.streams import stream

MOST_SIGNS = 2**26  # drawn at all
MOST_EXHAUSTIVE = 20  # seeds of which all 2^n signs are tried; beyond, as many are drawn


class Interval(NamedTuple):
    low: float
    high: float


class McNemar(NamedTuple):
    fixed: int  # images that the baseline has wrong and the run right
    broken: int  # the other way round
    p: float  # exact, two-sided


def no_spread(differences: np.ndarray) -> np.ndarray:
    """Whether differences (S, ...) are equal over the seeds, up to what rounding does to accuracies that are equal."""
    differences = np.asarray(differences, np.float64)
    return np.ptp(differences, axis=0) <= 1e-9 * np.maximum(1.0, np.abs(differences).max(axis=0))


def t_columns(
    differences: np.ndarray, level: float = 0.95, identical: np.ndarray | bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Student's paired t for each column at once.

    Args:
        differences: (S, K), S seeds of K things that are compared.
        identical: (K,), or one for all: whether differences that are all zero come of answers that are the same. If
            not, as many are right by chance; only the caller knows.

    Returns:
        low, high (K,) of the interval of the mean, and two-sided p (K,). NaN where the seeds have no spread: then
        the true spread is only known to be smaller than one image. Identical answers give [0, 0] and p = 1.
    """
    differences = np.asarray(differences, np.float64)
    seeds, columns = differences.shape
    low, high, p = np.full((3, columns), np.nan)
    if seeds < 2:
        return low, high, p
    constant = no_spread(differences)
    if (~constant).any():
        found = stats.ttest_1samp(differences[:, ~constant], 0.0)
        low[~constant], high[~constant] = found.confidence_interval(level)
        p[~constant] = found.pvalue
    zero = constant & (np.abs(differences).max(axis=0) <= 1e-9) & identical
    low[zero], high[zero], p[zero] = 0.0, 0.0, 1.0
    return low, high, p


def t_interval(differences: np.ndarray, level: float = 0.95, identical: bool = True) -> Interval | None:
    """Student's interval of the mean of paired differences (S,): other seeds, these test images.

    mean ± t(S-1) · sd / √S (Student 1908). None for fewer than two seeds, and where all differences are equal and
    not zero, or zero and not `identical` (see `t_columns`).
    """
    (low,), (high,), _ = t_columns(np.reshape(differences, (-1, 1)), level, identical)
    return None if math.isnan(low) else Interval(float(low), float(high))


def t_test(differences: np.ndarray, identical: bool = True) -> float | None:
    """Two-sided p of Student's paired t test of differences (S,); None as in `t_interval`."""
    _, _, (p,) = t_columns(np.reshape(differences, (-1, 1)), identical=identical)
    return None if math.isnan(p) else float(p)


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p of Fisher's test that the signs of the differences (S,) are as good as any others (Fisher 1935).

    The share of all 2^S choices of signs whose mean is as far from zero as the one found, so never below 2/2^S. It
    assumes that a true difference of zero would be symmetric about zero, and nothing else. Beyond 20 seeds, 2^20
    choices (fewer beyond 64 seeds) are drawn from a fixed seed and the one found is counted among them (Phipson & Smyth
    2010).
    """
    differences = np.asarray(differences, np.float64)
    differences = differences[differences != 0]  # the sign of zero changes no sum
    if not len(differences):
        return 1.0
    found = abs(differences.sum()) - 1e-9 * np.abs(differences).sum()  # equal sums may round differently
    if len(differences) <= MOST_EXHAUSTIVE:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        return float((np.abs(sums) >= found).mean())
    rng, as_far = stream(0, "sign flip", len(differences)), 0
    blocks = max(1, min(2**MOST_EXHAUSTIVE, MOST_SIGNS // len(differences)) // 2**14)
    draws = blocks * 2**14
    for _ in range(blocks):
        signs = 2 * rng.integers(0, 2, size=(2**14, len(differences)), dtype=np.int8) - 1
        as_far += np.count_nonzero(np.abs(signs @ differences) >= found)
    return (as_far + 1) / (draws + 1)


class Squares(NamedTuple):
    """The mean of differences (S, I) and the mean squares of their analysis of variance without replication."""

    mean: np.ndarray
    seed: np.ndarray  # S - 1 degrees of freedom
    image: np.ndarray  # I - 1
    rest: np.ndarray  # (S - 1)(I - 1)


def squares(differences: np.ndarray) -> Squares:
    """Of differences (S, I): seeds × images, one observation for each."""
    differences = np.asarray(differences, np.float64)
    seeds, images = differences.shape
    by_seed, by_image, mean = differences.mean(1), differences.mean(0), differences.mean()
    seed = images * ((by_seed - mean) ** 2).sum()
    image = seeds * ((by_image - mean) ** 2).sum()
    rest = ((differences - mean) ** 2).sum() - seed - image
    return Squares(mean, seed / (seeds - 1), image / (images - 1), rest / ((seeds - 1) * (images - 1)))


def crossed_half_width(found: Squares, seeds: int, images: int, level: float = 0.95) -> np.ndarray:
    """Half the interval's width, from the mean squares; see `crossed_interval`."""
    seed, image = np.maximum(found.seed - found.rest, 0.0), np.maximum(found.image - found.rest, 0.0)
    rest = np.broadcast_to(found.rest, np.shape(found.seed))
    variance = (seed + image + rest) / (seeds * images)  # σ²_seed/S + σ²_image/I + σ²_rest/(S I)
    return stats.t.isf((1 - level) / 2, seeds - 1) * np.sqrt(variance)


def crossed_interval(differences: np.ndarray, level: float = 0.95) -> Interval | None:
    """Interval of the mean over other seeds and other images of the kind.

    Seeds and images are crossed random effects, d[s, i] = μ + seed[s] + image[i] + rest[s, i] (Scheffé 1959, ch. 7;
    for readers × cases: Obuchowski & Rockette 1995). The variance of the grand mean is
    σ²_seed/S + σ²_image/I + σ²_rest/(S·I), with σ²_seed = (MS_seed - MS_rest)/I, σ²_image = (MS_image - MS_rest)/S and
    σ²_rest = MS_rest; a negative component counts as zero. Student's t with S - 1 degrees of freedom, so that it is
    never narrower than `t_interval`; Satterthwaite's would cover, too, but could be.

    Args:
        differences: (S, I) of each seed and image, right less right in the baseline: -1, 0 or 1.

    Returns:
        In percentage points. None for fewer than two seeds or images, and where no difference differs from another
        and they are not all zero.
    """
    differences = np.asarray(differences)
    seeds, images = differences.shape
    if seeds < 2 or images < 2 or (np.ptp(differences) == 0 and differences.any()):
        return None
    found = squares(differences)
    half = crossed_half_width(found, seeds, images, level)
    return Interval(float(100 * (found.mean - half)), float(100 * (found.mean + half)))


def mcnemar(correct: np.ndarray, correct_baseline: np.ndarray) -> McNemar:
    """McNemar's exact test of one pair of runs (I,): this pair, other images of the kind (McNemar 1947)."""
    correct, correct_baseline = np.asarray(correct, bool), np.asarray(correct_baseline, bool)
    fixed, broken = int((correct & ~correct_baseline).sum()), int((correct_baseline & ~correct).sum())
    p = float(statsmodels_mcnemar([[0, fixed], [broken, 0]], exact=True).pvalue)
    return McNemar(fixed, broken, min(p, 1.0))


def equivalence(differences: np.ndarray, margin: float) -> float | None:
    """The larger p of two one-sided t tests, that the mean of differences (S,) is above -margin and below margin.

    Schuirmann 1987. Below 0.05 exactly where Student's 90 % interval lies inside the margin. 0 for differences that
    are all zero; None as in `t_interval`.
    """
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2 or no_spread(differences):
        return 0.0 if t_test(differences) == 1.0 else None
    return float(DescrStatsW(differences).ttost_mean(-margin, margin)[0])


def not_below(differences: np.ndarray, margin: float) -> float | None:
    """p of the one-sided t test that the mean of differences (S,) is above -margin; 0 and None as in `equivalence`."""
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2 or no_spread(differences):
        return 0.0 if t_test(differences) == 1.0 else None
    return float(stats.ttest_1samp(differences, -margin, alternative="greater").pvalue)


def detectable(differences: np.ndarray, level: float, power: float = 0.8) -> float | None:
    """The smallest true difference that as many seeds with this spread find with `power`.

    By the two-sided paired t test at `level`. The spread is the one observed over the seeds (S,), which few seeds
    tell only roughly. None where there is no spread.
    """
    differences = np.asarray(differences, np.float64)
    if len(differences) < 2 or no_spread(differences):
        return None
    return float(detectable_in_sd(len(differences), level, power) * differences.std(ddof=1))


@functools.lru_cache
def detectable_in_sd(seeds: int, level: float, power: float = 0.8) -> float:
    """`detectable` as a multiple of the standard deviation of the differences."""
    highest = 1.0
    while t_power(highest, seeds, level) < power:
        highest *= 2
    return float(optimize.brentq(lambda effect: t_power(effect, seeds, level) - power, 0.0, highest))


def t_power(effect: float, seeds: int, level: float) -> float:
    """Power of the two-sided paired t test for a true difference of `effect` standard deviations.

    P(|T| > c) of the noncentral t, as the mean over the χ distribution of the observed spread of a normal's two
    tails, at 4,000 equally likely spreads. SciPy's and statsmodels' own (TTestPower) give NaN or stop at a wrong
    value for few seeds at small levels.
    """
    likely = np.sqrt(_chi_square_quantiles(seeds - 1) / (seeds - 1))  # (4000,) observed / true spread
    critical, shift = stats.t.isf(level / 2, seeds - 1), effect * math.sqrt(seeds)
    return float((stats.norm.cdf(shift - critical * likely) + stats.norm.cdf(-shift - critical * likely)).mean())


@functools.lru_cache
def _chi_square_quantiles(freedom: int) -> np.ndarray:
    return stats.chi2.ppf((np.arange(4000) + 0.5) / 4000, freedom)


def same_spread(values: np.ndarray, values_baseline: np.ndarray) -> float | None:
    """Two-sided p that values (S,) and the baseline's, paired by seed, vary equally (Pitman 1939, Morgan 1939).

    Equal variances mean that sums and differences of the pairs are uncorrelated. None for fewer than three seeds,
    and where sums or differences have no spread.
    """
    values, values_baseline = np.asarray(values, np.float64), np.asarray(values_baseline, np.float64)
    sums, differences = values + values_baseline, values - values_baseline
    if len(values) < 3 or no_spread(sums) or no_spread(differences):
        return None
    return float(stats.pearsonr(sums, differences).pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p values of one family of comparisons (Holm 1979).

    None passes through, and counts in the family as p = 1: a family is what was to be compared, and does not get
    smaller, and its corrections weaker, because a comparison has too few runs. (statsmodels' `multipletests` gives the
    same, but collects garbage on each call, which takes longer than all else here.)
    """
    given = [1.0 if p is None else p for p in p_values]
    adjusted, largest = [0.0] * len(given), 0.0
    for rank, place in enumerate(sorted(range(len(given)), key=given.__getitem__)):
        largest = adjusted[place] = max(largest, min(1.0, (len(given) - rank) * given[place]))
    return [None if p is None else new for p, new in zip(p_values, adjusted, strict=True)]
