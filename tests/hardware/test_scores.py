"""Intervals against statsmodels, paired comparisons, and where a difference ends."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from qcifar.hardware.scores import against, paired_interval, where_it_ends, wilson
from qcifar.streams import stream


@pytest.mark.parametrize(("right", "n"), [(0, 10), (3, 10), (10, 10), (8290, 10000)])
def test_wilson_is_statsmodels(right, n):
    np.testing.assert_allclose(wilson(right, n), proportion_confint(right, n, method="wilson"), atol=1e-12)


def test_the_paired_interval_covers():
    """95 % of made-up differences, also where few images change."""
    draw, n = stream(0, "paired"), 1000
    for more, less in ((0.06, 0.06), (0.01, 0.003), (0.001, 0.001)):
        drawn = draw.multinomial(n, [more, less, 1 - more - less], size=2000)
        ends = np.array([paired_interval(fixed, broken, n) for fixed, broken, _ in drawn])
        covered = ((ends[:, 0] <= more - less) & (more - less <= ends[:, 1])).mean()
        assert covered > 0.935, (more, less, covered)
    low, high = paired_interval(0, 0, n)
    assert low < 0 < high  # no image changed: that is not certainty


def test_against_counts_images():
    reference = np.array([True, True, False, False, False])
    right = np.array([[True, False, True, True, False], [True, True, False, False, False]])
    found = against(right, reference)
    assert (found["fixed"], found["broken"], found["difference"]) == (1, 0.5, 10.0)
    assert found["p"] == 1.0 and found["interval"][0] < 10 < found["interval"][1]


def test_where_a_difference_ends():
    ideal = {"difference": 0.4, "interval": [0.1, 0.7]}
    strengths = [0.001, 0.01, 0.1]
    found = where_it_ends(strengths, [0.4, 0.2, -0.2], ideal)
    assert found["strength"] == pytest.approx(10**-1.5) and found["why"] == "between 0.01 and 0.1"
    assert where_it_ends(strengths, [-0.1, 0.2, 0.3], ideal)["strength"] == 0.001
    assert where_it_ends(strengths, [0.4, 0.3, 0.1], ideal)["strength"] is None
    unsure = where_it_ends(strengths, [0.4, 0.3, 0.0], ideal | {"interval": [-0.1, 0.9]})
    assert "holds 0 already" in unsure["why"]
    worse = where_it_ends(strengths, [0.1, 0.1, 0.1], {"difference": 0.0, "interval": [-1, 1]})
    assert worse == {"strength": None, "why": "the ideal circuits are not better than the baseline on these images"}
