"""Statistics against SciPy, statsmodels and published examples; and against the truth of made-up runs."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from benchmarks.simulate_statistics import (
    _exact,
    draw,
    evaluate,
    expand,
    false_verdicts,
    squares_of,
    stopping_rejects,
    usual,
    worlds,
)
from qcifar.comparison.statistics import (
    Interval,
    crossed_half_width,
    crossed_interval,
    detectable,
    detectable_in_sd,
    equivalence,
    holm,
    mcnemar,
    not_below,
    same_spread,
    sign_flip,
    squares,
    t_columns,
    t_interval,
    t_power,
    t_test,
)
from qcifar.streams import stream

# Student (1908): hours of sleep gained by two drugs, ten patients; the second less the first.
SLEEP_1 = np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0])
SLEEP_2 = np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4])
SLEEP = SLEEP_2 - SLEEP_1
# Fisher (1935), The Design of Experiments: Darwin's maize, crossed less self-fertilised, eighths of an inch, 15 pairs.
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])


def with_mean_and_sd(n, mean, sd):
    values = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return mean + sd * values / values.std(ddof=1)


def test_paired_t_is_students():
    """The published values: t = 4.0621, p = 0.00283, mean 1.58, interval 0.70 to 2.46."""
    assert t_test(SLEEP) == pytest.approx(0.002833, abs=5e-7)
    assert t_interval(SLEEP) == pytest.approx((0.7001142, 2.4598858), abs=5e-7)
    found = stats.ttest_rel(SLEEP_2, SLEEP_1)
    assert t_test(SLEEP) == found.pvalue and t_interval(SLEEP, 0.9) == tuple(found.confidence_interval(0.9))


def test_columns_are_single_tests():
    differences = stream(0, "columns").normal(size=(6, 5))
    differences[:, 2], differences[:, 3] = 0.0, 0.25
    low, high, p = t_columns(differences)
    for k in range(5):
        single = t_interval(differences[:, k]), t_test(differences[:, k])
        assert single == ((None, None) if k == 3 else (Interval(low[k], high[k]), p[k]))
    assert (low[2], high[2], p[2]) == (0, 0, 1) and np.isnan([low[3], high[3], p[3]]).all()


def test_sign_flip_is_fishers():
    """Fisher counts 863 of 32,768 choices of signs whose sum is at least the one found, 314."""
    assert MAIZE.sum() == 314 and sign_flip(MAIZE) == 2 * 863 / 2**15


@pytest.mark.parametrize("n", [2, 5, 6, 9])
def test_sign_flip_is_scipys_permutation_test(n):
    differences = np.round(stream(0, "flip", n).normal(0.5, size=n), 1)
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    ).pvalue
    assert sign_flip(differences) == pytest.approx(expected, rel=1e-12)


def test_sign_flip_has_a_smallest_p():
    assert [sign_flip(np.arange(1, n + 1)) for n in (1, 2, 5, 6)] == [1, 0.5, 2 / 32, 2 / 64]
    assert sign_flip(np.zeros(6)) == 1
    assert sign_flip(np.array([0.1, 0.2, -0.3])) == 1  # their sum is not zero to the last digit


def test_beyond_twenty_seeds_signs_are_drawn_the_same_each_time():
    differences = stream(0, "many").normal(0.4, size=24)
    found = sign_flip(differences)
    assert found == sign_flip(differences) == pytest.approx(t_test(differences), rel=0.15)
    assert sign_flip(np.ones(40)) == pytest.approx(1 / (2**20 + 1))


def test_mcnemar_by_hand():
    """1 fixed and 9 broken: 2 (1 + 10) / 2^10; nothing fixed or broken: 1; and SciPy's binomial test."""
    both, neither = [True] * 5, [False] * 5
    correct = np.array(both + neither + [True] + [False] * 9)
    baseline = np.array(both + neither + [False] + [True] * 9)
    assert mcnemar(correct, baseline) == (1, 9, pytest.approx(22 / 1024, rel=1e-12))
    assert mcnemar(correct, correct) == (0, 0, 1.0)
    correct, baseline = stream(0, "mcnemar").random((2, 10_000)) < [[0.8], [0.79]]
    fixed, broken, p = mcnemar(correct, baseline)
    assert (fixed, broken) == ((correct > baseline).sum(), (correct < baseline).sum())
    assert p == pytest.approx(stats.binomtest(fixed, fixed + broken).pvalue, rel=1e-9)


def test_equivalence_is_that_of_lakens():
    """Lakens 2017 (TOSTER, paired): n 65, means 5.83 and 5.75, sd 1.17 and 1.29, r 0.75, bounds 0.4 sd of differences.

    t is 3.96 against the lower and -2.49 against the upper bound, p 0.008.
    """
    sd = np.sqrt(1.17**2 + 1.29**2 - 2 * 0.75 * 1.17 * 1.29)
    differences = with_mean_and_sd(65, 0.08, sd)
    assert equivalence(differences, 0.4 * sd) == pytest.approx(stats.t.sf(2.489, 64), abs=1e-5)
    assert round(equivalence(differences, 0.4 * sd), 3) == 0.008
    assert not_below(differences, 0.4 * sd) == pytest.approx(stats.t.sf(3.960, 64), abs=1e-6)


@pytest.mark.parametrize("margin", [0.3, 0.5, 1.0])
def test_equivalence_is_the_90_percent_interval_inside_the_margin(margin):
    for k in range(20):
        differences = stream(0, "tost", k).normal(0.1 * (k % 5), 0.4, size=6)
        low, high = t_interval(differences, 0.9)
        assert (equivalence(differences, margin) < 0.05) == (-margin < low and high < margin)
        assert (not_below(differences, margin) < 0.05) == (-margin < low)


def test_holm_is_the_textbooks_and_statsmodels():
    """0.01, 0.04, 0.03 and 0.005 become 0.03, 0.06, 0.06 and 0.02."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    p = stream(0, "holm").random(30) ** 3
    assert holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1], rel=1e-12)


def test_a_comparison_without_p_counts_in_the_family():
    assert holm([0.02, None, 0.03]) == [pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([None]) == [None] and holm([]) == [] and holm([0.7, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize(("seeds", "level"), [(3, 0.05), (5, 0.05), (6, 0.05), (6, 0.05 / 3), (20, 0.01), (50, 0.05)])
def test_detectable_is_statsmodels_power(seeds, level):
    """`solve_power` itself stops at wrong values for few seeds; the power that it solves for is right."""
    effect = detectable_in_sd(seeds, level)
    assert TTestPower().power(effect, seeds, level) == pytest.approx(0.8, abs=1e-5)
    differences = with_mean_and_sd(seeds, 3.0, 0.5)
    assert detectable(differences, level) == pytest.approx(0.5 * effect, rel=1e-12)
    assert t_power(0.0, seeds, level) == pytest.approx(level, abs=1e-5)


def test_detectable_where_statsmodels_has_none():
    assert detectable_in_sd(6, 0.05) == pytest.approx(1.434545, abs=1e-5)
    rng, effect = stream(0, "power"), detectable_in_sd(2, 0.05 / 6)
    p = stats.ttest_1samp(rng.normal(effect, size=(20_000, 2)), 0.0, axis=1).pvalue
    assert (p < 0.05 / 6).mean() == pytest.approx(0.8, abs=0.012)


def test_same_spread_is_pitmans_formula():
    """t = (F - 1) √(n - 2) / (2 √(F (1 - r²))), F the ratio of the variances and r the correlation."""
    ratio, r = SLEEP_1.var(ddof=1) / SLEEP_2.var(ddof=1), np.corrcoef(SLEEP_1, SLEEP_2)[0, 1]
    t = (ratio - 1) * np.sqrt(8) / (2 * np.sqrt(ratio * (1 - r**2)))
    assert same_spread(SLEEP_1, SLEEP_2) == pytest.approx(2 * stats.t.sf(abs(t), 8), rel=1e-9)
    assert same_spread(SLEEP_1[:2], SLEEP_2[:2]) is None and same_spread(SLEEP_1, SLEEP_1) is None


def made_up(seeds=6, images=300):
    rng = stream(0, "crossed", seeds, images)
    rates = 0.1 + 0.2 * rng.random((1, images)) + 0.1 * rng.random((seeds, 1))
    return (rng.random((seeds, images)) < rates).astype(int) - (rng.random((seeds, images)) < 0.2)


def test_mean_squares_are_those_of_statsmodels():
    differences = made_up(4, 30)
    seed, image = np.indices(differences.shape)
    frame = pd.DataFrame({"d": differences.ravel(), "seed": seed.ravel(), "image": image.ravel()})
    expected = anova_lm(ols("d ~ C(seed) + C(image)", frame).fit())["mean_sq"]
    found = squares(differences)
    assert (found.seed, found.image, found.rest) == pytest.approx(tuple(expected), rel=1e-9)
    assert found.mean == pytest.approx(differences.mean(), rel=1e-12)


def test_crossed_interval_is_its_formula():
    differences = made_up()
    mean, seed, image, rest = squares(differences)
    assert seed > rest and image > rest  # no component is negative
    error = 100 * np.sqrt((seed - rest) / 300 / 6 + (image - rest) / 6 / 300 + rest / 1800)
    expected = 100 * mean + stats.t.ppf([0.025, 0.975], 5) * error
    assert crossed_interval(differences) == pytest.approx(expected, rel=1e-9)


def test_crossed_interval_is_never_narrower_than_that_of_these_images():
    for k in range(50):
        differences = stream(0, "wider", k).integers(-1, 2, size=(2 + k % 5, 40))
        by_seed = t_interval(100 * differences.mean(1))
        if by_seed is not None:
            low, high = crossed_interval(differences)
            assert low <= by_seed.low + 1e-9 and high >= by_seed.high - 1e-9


def test_what_does_not_exist_is_none():
    one, none, equal = np.array([0.3]), np.zeros(6), 0.2 + np.zeros(6) + np.arange(6) * 1e-14
    for values in (one, equal):
        found = t_interval(values), t_test(values), equivalence(values, 0.5), not_below(values, 0.5)
        assert found == (None, None, None, None) and detectable(values, 0.05) is None
    assert (t_interval(none), t_test(none), equivalence(none, 0.5), not_below(none, 0.5)) == ((0, 0), 1, 0, 0)
    assert detectable(none, 0.05) is None
    assert crossed_interval(np.zeros((6, 40), int)) == (0, 0)
    for shape in ((1, 40), (6, 1)):
        assert crossed_interval(np.zeros(shape, int)) is None
    assert crossed_interval(np.ones((6, 40), int)) is None


# ---- made-up runs with known truth


def test_made_up_mean_squares_are_those_of_made_up_images():
    rng = stream(0, "expand")
    sample = draw(usual._replace(image=0.9, group=1.0), 4, 2000, 30, rng)
    drawn = np.array([squares_of(sample, rng)[2] for _ in range(40)])  # (40, 30) of the images
    for k in range(3):
        found = [squares(expand(sample, k, rng)) for _ in range(40)]
        differences = expand(sample, k, rng)
        assert differences.shape == (4, 2000) and np.allclose(100 * differences.mean(1), sample.differences[k])
        short = squares_of(sample, rng)
        assert found[0].mean == pytest.approx(short.mean[k]) and found[0].seed == pytest.approx(short.seed[k])
        by_image = np.array([one.image for one in found])
        assert by_image.mean() == pytest.approx(drawn[:, k].mean(), abs=4 * by_image.std() / np.sqrt(20))
        assert by_image.std() == pytest.approx(drawn[:, k].std(), rel=0.6)
        half = crossed_half_width(found[0], 4, 2000)
        assert 100 * (found[0].mean - half) <= t_interval(sample.differences[k]).low


def assert_as_promised(world, seeds, repeats):
    """Within four standard errors of what the methods promise; what they do not promise is left out."""
    row = evaluate(world, seeds, 10_000, repeats)
    error, symmetric = 4 * np.sqrt(0.05 * 0.95 / repeats), world.shape != "skewed"
    assert row.t_covers == pytest.approx(0.95, abs=error)
    assert row.crossed_covers > 0.95 - error and row.satterthwaite_covers > 0.95 - error
    assert row.flip_rejects < 0.05 + error and (seeds >= 6 or row.flip_rejects == 0)
    if symmetric:
        assert row.equivalent < 0.05 + error
    if world.shape == "normal":
        assert row.power == pytest.approx(0.8, abs=2 * error)
    if not (world.seed or world.group):
        assert row.one_rejects < 0.05 + error
    return row, error


def test_methods_keep_their_promises():
    row, error = assert_as_promised(usual, 6, 1000)
    assert row.bca_covers == pytest.approx(0.86, abs=0.02 + error)


@pytest.mark.slow
@pytest.mark.parametrize("world", worlds, ids=lambda world: world.name)
def test_methods_keep_their_promises_in_every_world(world):
    row, error = assert_as_promised(world, 6, 4000)
    assert row.bca_covers == pytest.approx(0.86, abs=0.02 + error)  # not 0.95: it is not used
    if world.seed == 0.4:
        assert 0.14 < row.pooled_rejects < 0.25  # not 0.05: it is not used
    if world.image == 0.9:
        assert row.t_covers_others < 0.93 < row.crossed_covers  # one interval does not speak for both populations


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 10])
def test_methods_keep_their_promises_with_other_numbers_of_seeds(seeds):
    assert_as_promised(usual, seeds, 4000)


def test_holm_holds_for_comparisons_with_one_baseline():
    with_holm, without = false_verdicts(6, 6, 2000)
    assert with_holm < 0.05 + 0.02 < 0.15 < without


def test_adding_seeds_until_a_verdict_comes_finds_what_is_not_there():
    assert stopping_rejects(3, 12, 2000) > 0.12


@pytest.mark.parametrize(("lost", "covers"), [(2, 0.89), (10, 0.47)])
def test_rare_failures_break_the_t_interval_as_the_page_says(lost, covers):
    rng = stream(0, "failures", lost)
    differences = rng.normal(0.1 * lost, 0.35, size=(20_000, 6)) - lost * (rng.random((20_000, 6)) < 0.1)
    low, high, _ = t_columns(differences.T)
    assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(covers, abs=0.015)


def test_the_many_mcnemar_tests_at_once_are_single_ones():
    for fixed, broken in stream(0, "many mcnemar").integers(0, 60, size=(40, 2)):
        correct = np.repeat([True, False], [fixed, broken])
        assert _exact(fixed, broken) == (mcnemar(correct, ~correct).p < 0.05)
