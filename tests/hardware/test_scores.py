"""Intervals against statsmodels and by simulation, paired comparisons, and where a difference ends."""

import math

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from qcifar.hardware.results import ends_of
from qcifar.hardware.scores import accuracy_interval, against, paired_interval, where_it_ends
from qcifar.streams import stream


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (8290, 10000)])
def test_one_repeat_has_the_interval_of_wilson(right, n):
    ones = np.arange(n)[None] < right
    np.testing.assert_allclose(accuracy_interval(ones), proportion_confint(right, n, method="wilson"), atol=1e-12)
    np.testing.assert_allclose(accuracy_interval(ones.repeat(5, 0)), accuracy_interval(ones), atol=1e-12)


def bonett_price(fixed, broken, n):
    more, less = (fixed + 1) / (n + 2), (broken + 1) / (n + 2)
    half = 1.959963984540054 * math.sqrt((more + less - (more - less) ** 2) / (n + 2))
    return more - less - half, more - less + half


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (12, 30)])
def test_one_repeat_has_the_interval_of_bonett_and_price(fixed, broken):
    differences = np.repeat([1.0, -1.0, 0.0], [fixed, broken, 200 - fixed - broken])
    np.testing.assert_allclose(paired_interval(differences), bonett_price(fixed, broken, 200), atol=1e-12)


def covered(intervals, truth):
    low, high = np.array(intervals).T
    return ((low <= truth) & (truth <= high)).mean()


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 3, 10])
@pytest.mark.parametrize(("near", "lasting"), [(0.1, 0.0), (0.02, 0.0), (0.02, 0.01)])
def test_the_intervals_cover_for_other_images_and_other_shots(repeats, near, lasting):
    """95 %, neither much less nor much more, whatever the number of repeats.

    A share `near` of the images lies close to a border, so that shots turn their answer, each with a probability of its
    own; a share `lasting` is turned whatever the shots. A mean over repeats in a formula for one draw covers 99 %.
    """
    draw, n, times = stream(0, "paired", repeats), 2000, 600
    ends, shares = [], []
    for _ in range(times):
        turned = np.where(draw.random(n) < near, 0.6 * draw.random(n), 0.0)
        turned = np.where(draw.random(n) < lasting, 1.0, turned)
        reference = draw.random(n) < 0.3
        right = np.where(draw.random((repeats, n)) < turned, ~reference, reference)
        ends.append(against(right, reference)["interval"])
        shares.append(accuracy_interval(right))
    mean = lasting + (1 - lasting) * near * 0.3  # of `turned`
    assert 0.93 < covered(ends, 100 * mean * 0.4) < (0.985 if repeats == 1 else 0.98)
    assert 0.93 < covered(shares, 0.3 + 0.4 * mean) < 0.975


def test_no_change_is_not_certainty():
    low, high = paired_interval(np.zeros(1000))
    assert low < 0 < high and high == pytest.approx(bonett_price(0, 0, 1000)[1])
    low, high = paired_interval(np.full(1000, 0.1))  # all alike
    assert low < 0.1 < high
    low, high = accuracy_interval(np.array([[True] * 50, [False] * 50]))
    assert low < 0.5 < high and high - low > 0.15  # as 100 draws, not as infinitely many


def test_against_counts_images():
    reference = np.array([True, True, False, False, False])
    right = np.array([[True, False, True, True, False], [True, True, False, False, False]])
    found = against(right, reference)
    assert (found["fixed"], found["broken"], found["difference"]) == (1, 0.5, 10.0)
    assert found["p"] == 1.0 and found["interval"][0] < 10 < found["interval"][1]


def differences(*middle, half=0.3):
    return [{"difference": one, "interval": [one - half, one + half]} for one in middle]


STRENGTHS = [0.001, 0.01, 0.1]
IDEAL = {"difference": 0.8, "interval": [0.5, 1.1]}


def test_where_a_difference_ends_has_an_interval():
    found = where_it_ends(STRENGTHS, differences(0.8, 0.4, -0.4), IDEAL)
    assert found["strength"] == pytest.approx(10**-1.5)
    low, high = found["interval"]  # where 0.3 less, and 0.3 more, would end
    assert low == pytest.approx(10 ** (-2 + 0.1 / 0.8)) and high == pytest.approx(10 ** (-2 + 0.7 / 0.8))
    assert found["why"] == f"between 0.01 and 0.1; 95 %, other images: from {low:.3g} to {high:.3g}"
    open_end = where_it_ends(STRENGTHS, differences(0.8, 0.4, -0.2), IDEAL)
    assert open_end["interval"][1] is None and open_end["why"].endswith("to beyond the largest strength")
    below = where_it_ends(STRENGTHS, differences(0.2, 0.1, -0.5), IDEAL)
    assert below["interval"][0] == 0.0 and 0.01 < below["strength"] < below["interval"][1] < 0.1
    assert where_it_ends(STRENGTHS, differences(-0.1, 0.2, 0.3), IDEAL)["strength"] == 0.001
    never = where_it_ends(STRENGTHS, differences(0.8, 0.7, 0.6), IDEAL)
    assert (never["strength"], never["interval"]) == (None, None)


def test_where_a_difference_ends_that_is_uncertain_or_not_there():
    unsure = where_it_ends(STRENGTHS, differences(0.4, 0.3, 0.0), IDEAL | {"interval": [-0.1, 0.9]})
    assert "holds 0 already" in unsure["why"] and unsure["interval"] == [0.0, None]
    worse = where_it_ends(STRENGTHS, differences(0.1, 0.1, 0.1), {"difference": 0.0, "interval": [-1, 1]})
    assert worse["strength"] is worse["interval"] is None
    assert worse["why"] == "the ideal circuits are not better than the baseline on these images"


@pytest.mark.slow
def test_the_interval_of_where_it_ends_covers():
    """A difference of 2 points that falls to -2 on a line, images drawn anew: 95 % of the intervals hold its end."""
    draw, n, times, strengths = stream(0, "ends"), 4000, 200, list(np.geomspace(0.001, 0.1, 9))
    hits = 0
    for _ in range(times):
        chance = draw.random(n)  # the same images at each strength
        found = []
        for place in range(9):
            fixed, broken = 0.06 + 0.02 * (1 - place / 4), 0.06
            right = np.where(chance < fixed, 1, np.where(chance > 1 - broken, -1, 0))
            found.append(against(right[None] > 0, right < 0))
        ideal = {"difference": 2.0, "interval": [1.0, 3.0]}
        low, high = where_it_ends(strengths, found, ideal)["interval"]
        hits += low <= 0.01 <= (high or math.inf)
    assert 0.91 < hits / times < 0.99


def entry(mode, base, strength=None, **more):
    sweep = None if strength is None else "depolarizing=0.01/0.1"
    made = {"mode": mode, "images": 30, "sweep": sweep, "strength": strength, "scores": {"against_baseline": base}}
    return made | more


def test_a_missing_end_says_why():
    why = "no finished run cifar100_baseline_det/seed42 in the same run directory"
    rows = [entry("ideal", None, no_baseline=why), entry("noise", None, 0.01, no_baseline=why)]
    expected = {"strength": None, "interval": None, "why": f"not known: {why}"}
    assert ends_of(rows) == {"depolarizing=0.01/0.1, 30 images": expected}
    (end,) = ends_of(rows[1:]).values()
    assert end["why"] == "the ideal circuits were not computed on these images"
    both = [
        entry("ideal", IDEAL),
        *(entry("noise", d, s) for d, s in zip(differences(0.5, -0.5), (0.01, 0.1), strict=True)),
    ]
    (end,) = ends_of(both).values()
    assert 0.01 < end["interval"][0] < end["strength"] < end["interval"][1] < 0.1
