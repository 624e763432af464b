"""Entries of the comparison: every verdict with its sentence, the family, the edges, and classes and outcomes."""

import json

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmarks.simulate_statistics import draw, expand, usual, worlds
from qcifar.comparison.outcomes import outcomes_of
from qcifar.comparison.statistics import detectable, mcnemar
from qcifar.comparison.verdict import (
    class_differences,
    compare,
    compare_accuracies,
    decide,
    epochs_to,
    secondary,
    with_holm,
)
from qcifar.streams import stream

KEYS = """
seeds n_seeds test_images mean mean_baseline difference interval_seeds interval_seeds_images p_sign_flip p_t p_holm
p_equivalence margin mcnemar detectable rules_out_gain_above rules_out_loss_above verdict why
""".split()
SHAPE = np.array([-0.12, -0.05, -0.02, 0.03, 0.06, 0.10])  # of the differences of six seeds about their mean


def entry(differences, margin=0.5):
    baseline = 80 + np.arange(len(differences)) / 7
    return compare_accuracies(baseline + differences, baseline, range(len(differences)), 10_000, margin)


def decided(differences, margin=0.5, others=()):
    """The first of a family of entries; each of `others` has differences, too."""
    entries = [entry(np.asarray(one), margin) for one in (differences, *others)]
    return decide(entries, [True] * len(entries))[0]


def answers(seeds=6, images=2000, gain=0.0, name="answers"):
    """(S, I) right or wrong, twice: two networks that disagree on some images."""
    rng = stream(0, name, seeds, images)
    baseline = rng.random((seeds, images)) < 0.8
    flipped = rng.random((seeds, images))
    return np.where(baseline, flipped > 0.04, flipped < 0.16 + 5 * gain / 100), baseline


def test_an_entry_has_all_keys_and_can_be_written():
    correct, baseline = answers()
    (found,) = decide([compare(correct, baseline, range(10, 16), 0.5)], [True])
    assert set(found) == {*KEYS, "differences", "identical"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["seeds"], found["n_seeds"], found["test_images"]) == ([10, 11, 12, 13, 14, 15], 6, 2000)
    assert found["difference"] == pytest.approx(100 * (correct.mean() - baseline.mean()))
    assert found["difference"] == pytest.approx(found["mean"] - found["mean_baseline"])
    rows = [{"seed": 10 + k, **mcnemar(correct[k], baseline[k])._asdict()} for k in range(6)]
    assert found["mcnemar"] == rows
    paired = stats.ttest_rel(100 * correct.mean(1), 100 * baseline.mean(1))
    assert found["p_t"] == pytest.approx(paired.pvalue, rel=1e-9)
    assert found["interval_seeds"] == pytest.approx(list(paired.confidence_interval()), rel=1e-9)
    low, high = found["interval_seeds"]
    assert (found["rules_out_gain_above"], found["rules_out_loss_above"]) == (max(high, 0), max(-low, 0))
    wide = found["interval_seeds_images"]
    assert wide[0] <= low + 1e-9 and wide[1] >= high - 1e-9


def test_arrays_that_do_not_fit_are_refused():
    correct, baseline = answers()
    for arrays in ((correct, baseline[:1]), (correct[0], baseline[0]), (correct[:5], baseline[:5])):
        with pytest.raises(ValueError, match="expected"):
            compare(*arrays, range(6), 0.5)


@pytest.mark.parametrize(
    ("differences", "verdict", "why"),
    [
        (SHAPE + 0.9, "better", "Better, by more than the margin of 0.5 points: +0.90 points, [+0.82, +0.98] for other "
         "seeds on these test images, p < 0.001."),
        (SHAPE + 0.2, "better", "Better, but by less than the margin of 0.5 points: +0.20 points, [+0.12, +0.28] for "
         "other seeds on these test images, p 0.002."),
        (SHAPE + 0.5, "better", "Better: +0.50 points, [+0.42, +0.58] for other seeds on these test images, p "
         "< 0.001."),
        (SHAPE - 0.9, "worse", "Worse, by more than the margin of 0.5 points: -0.90 points, [-0.98, -0.82] for other "
         "seeds on these test images, p < 0.001."),
        (SHAPE - 0.2, "worse", "Worse, but by less than the margin of 0.5 points: -0.20 points, [-0.28, -0.12] for "
         "other seeds on these test images, p 0.002."),
        (SHAPE + 0.01, "equivalent", "Within ±0.5 points for other seeds on these test images: 90 % interval [-0.06, "
         "+0.08], p < 0.001. Rules out a gain above 0.09 points and a loss above 0.07 points (95 %)."),
        (5 * SHAPE + 0.3, "not worse", "Not worse by 0.5 points for other seeds on these test images: one-sided 95 % "
         "bound -0.03. Not shown to be better (p 0.12) nor equivalent; 6 seeds could have shown a difference of 0.57."),
        (10 * SHAPE, "undecided", "[-0.84, +0.84] for other seeds on these test images, p 1.00. Rules out a gain above "
         "0.84 points and a loss above 0.84 points; 6 seeds could have shown a difference of 1.14."),
    ],
)  # fmt: skip
def test_every_verdict_with_its_sentence(differences, verdict, why):
    found = decided(differences)
    assert (found["verdict"], found["why"]) == (verdict, why)


def test_holm_can_take_a_verdict_back_and_says_so():
    alone, others = 4 * SHAPE + 0.4, [10 * SHAPE, 10 * SHAPE]
    assert decided(alone)["verdict"] == "better"
    found = decided(alone, others=others)
    assert found["verdict"] == "not worse" and found["p_t"] < 0.05 < found["p_holm"]
    assert f"(p {found['p_t']:.3f} alone, p {found['p_holm']:.3f} after Holm over 3)" in found["why"]
    assert found["detectable"] == pytest.approx(detectable(alone, 0.05 / 3)) and found["detectable"] > 0.5


def test_what_was_added_afterwards_does_not_weaken_the_family():
    entries = [entry(2 * SHAPE + mean) for mean in (0.6, 0.7, 0.8)]
    p = [one["p_t"] for one in entries]
    found = [one["p_holm"] for one in decide(entries, [True, False, True], missing=1)]
    inside = multipletests([p[0], p[2], 1.0], method="holm")[1]
    outside = multipletests([*p, 1.0], method="holm")[1]
    assert found == pytest.approx([inside[0], outside[1], inside[1]])
    sentences = [one["why"] for one in decide(entries, [True, False, True], missing=1)]
    assert ["Holm over 3" in sentences[0], "Holm over 4" in sentences[1]] == [True, True]


def test_one_seed_says_nothing_about_other_seeds():
    correct, baseline = answers(seeds=1)
    (found,) = decide([compare(correct, baseline, [42], 0.5)], [True])
    assert (found["verdict"], found["why"]) == ("undecided", "One seed: says nothing about other seeds.")
    nothing = ["interval_seeds", "interval_seeds_images", "p_t", "p_holm", "p_equivalence", "detectable"]
    assert [found[key] for key in [*nothing, "rules_out_gain_above", "rules_out_loss_above"]] == [None] * 8
    assert found["p_sign_flip"] == 1 and found["mcnemar"][0]["p"] > 0
    (same,) = decide([compare(correct, correct, [42], 0.5)], [True])
    assert same["verdict"] == "undecided"


@pytest.mark.parametrize("seeds", [2, 5])
def test_few_seeds_are_told_what_they_cannot_reach(seeds):
    found = decided(SHAPE[:seeds] + 3)
    assert found["why"].endswith(f"{seeds} seeds cannot reach p < 0.05 by the sign-flip test.")
    assert found["p_sign_flip"] == 2 / 2**seeds > 0.05
    assert "cannot reach" not in decided(SHAPE + 3)["why"]


def test_a_significant_difference_is_told_what_does_not_confirm_it():
    correct, baseline = answers(images=300)
    baseline[:, :2] = np.eye(6, 2, dtype=bool)
    correct[:], correct[:, :2], correct[:, 2:5] = baseline, True, True
    baseline[:, 2:5] = False  # three images that all seeds fix, of 300
    (found,) = decide([compare(correct, baseline, range(6), 0.5)], [True])
    low, high = found["interval_seeds_images"]
    assert found["verdict"] == "better" and low < 0 < high
    assert f"Not shown for other images: [{low:+.2f}, {high:+.2f}] for other seeds and other images." in found["why"]
    outlier = decided([0.01, 0.30, 0.31, 0.32, 0.33, -0.02])
    assert (outlier["verdict"] == "better") == ("does not confirm" in outlier["why"])
    assert outlier["p_t"] < 0.05 <= outlier["p_sign_flip"]


def test_identical_runs_are_equivalent_without_a_spread():
    correct, _ = answers()
    for found, how in (
        (compare(correct, correct, range(6), 0.5), "right and wrong on the same images"),
        (entry(np.zeros(6)), "the same accuracy"),
    ):
        (new,) = decide([found], [True])
        assert (new["verdict"], new["why"]) == ("equivalent", f"Identical: {how} in all 6 seeds.")
        assert (new["interval_seeds"], new["p_t"], new["p_equivalence"]) == ([0, 0], 1, 0)
        assert new["detectable"] is None and json.dumps(new, allow_nan=False)


def test_accuracies_that_are_equal_by_chance_decide_nothing():
    correct, baseline = np.zeros((2, 2, 40), bool)
    correct[:, :10], baseline[:, 5:15] = True, True  # ten of forty each, not the same ones
    (found,) = decide([compare(correct, baseline, [0, 1], 0.5)], [True])
    assert (found["verdict"], found["interval_seeds"], found["p_t"], found["p_equivalence"]) == (
        "undecided", None, None, None,
    )  # fmt: skip
    assert found["why"] == "The difference is 0.00 in each of 2 seeds: no spread to judge it by."
    baseline[:, 5] = False
    (found,) = decide([compare(correct, baseline, [0, 1], 0.5)], [True])
    assert found["why"] == "The difference is +2.50 in each of 2 seeds: no spread to judge it by."
    assert found["verdict"] == "undecided" and json.dumps(found, allow_nan=False)


def test_a_one_sided_interval_rules_out_any_gain():
    found = decided(3 * SHAPE - 0.9, others=[10 * SHAPE] * 9)
    assert found["rules_out_gain_above"] == 0 and str(found["rules_out_gain_above"]) == "0.0"
    undecided = decided(6 * SHAPE - 0.8, others=[10 * SHAPE] * 9)
    assert undecided["verdict"] == "undecided" and "Rules out any gain and a loss above" in undecided["why"]


@pytest.mark.slow
def test_false_verdicts_are_as_rare_as_promised():
    """Made-up runs without a true difference, image by image, through all of it."""
    rng = stream(0, "verdicts")
    sample = draw(usual._replace(image=0.0), 6, 2000, 300, rng)
    wrong = 0
    for k in range(300):
        change = expand(sample, k, rng)
        wrong += decide([compare(change >= 0, change <= 0, range(6), 0.5)], [True])[0]["verdict"] in ("better", "worse")
    assert wrong / 300 < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 300)


def assert_rate(found, expected):
    """A share of made-up comparisons is the expected one, within four standard errors."""
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / len(found)))


@pytest.mark.slow
@pytest.mark.parametrize("world", [usual._replace(image=0.0), worlds[2], worlds[10]._replace(image=0.0)], ids=str)
def test_a_true_null_is_rejected_as_often_as_stated(world):
    """Image by image through `compare` and `decide`: 6 seeds, 2,000 images on which the true difference is zero."""
    rng = stream(0, "true nulls", world.name)
    found = []
    for _ in range(20):
        sample = draw(world, 6, 2000, 100, rng)
        for k in range(100):
            change = expand(sample, k, rng)
            found += decide([compare(change >= 0, change <= 0, range(6), 0.5)], [True])
    assert_rate([one["verdict"] in ("better", "worse") for one in found], 0.05)
    assert_rate([one["p_holm"] < 0.05 for one in found], 0.05)
    assert_rate([one["interval_seeds"][0] <= 0 <= one["interval_seeds"][1] for one in found], 0.95)
    wider = np.mean([one["interval_seeds_images"][0] <= 0 <= one["interval_seeds_images"][1] for one in found])
    assert wider > 0.95 - 4 * np.sqrt(0.05 * 0.95 / len(found))
    assert np.mean([one["p_sign_flip"] < 0.05 for one in found]) < 0.05


@pytest.mark.slow
def test_a_family_with_one_baseline_has_as_few_false_verdicts_as_stated():
    """Six experiments without effect, which all stand against the same runs of the baseline."""
    rng = stream(0, "families")
    false, alone = [], []
    for _ in range(500):
        luck = rng.normal(0, 0.01, size=(7, 6, 1))  # what a seed adds to a network, a share of the images
        right = rng.random((7, 6, 1000)) < rng.choice([0.2, 0.6, 0.95], size=1000) + luck  # networks, seeds, images
        entries = decide([compare(one, right[0], range(6), 0.5) for one in right[1:]], [True] * 6)
        false.append(any(one["verdict"] in ("better", "worse") for one in entries))
        alone.append([one["p_t"] < 0.05 for one in entries])
    assert_rate(np.array(alone)[:, 0], 0.05)
    assert np.mean(false) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / len(false)) < np.any(alone, axis=1).mean()


# ---- secondary outcomes and classes


def runs_outcomes(seeds, shift, name):
    rng = stream(0, "outcomes", name)
    labels = rng.integers(0, 10, 200)
    found = []
    for _ in range(seeds):
        logits = rng.normal(size=(200, 10)).astype(np.float32)
        logits[np.arange(200), labels] += shift
        found.append(outcomes_of(logits, labels))
    return found


def test_secondary_outcomes_are_paired_t_tests_in_their_unit():
    runs, baseline = runs_outcomes(6, 2.0, "a"), runs_outcomes(6, 1.5, "b")
    for k in range(6):
        runs[k]["epochs_to_threshold"], baseline[k]["epochs_to_threshold"] = 5 + k % 2, 7
    rows = {row["outcome"]: row for row in with_holm(secondary(runs, baseline, False))}
    assert list(rows) == ["top5", "f1", "nll", "brier", "ece", "epochs_to_threshold", "spread"]
    for name, factor in {"top5": 100, "f1": 100, "nll": 1, "brier": 1, "ece": 100, "epochs_to_threshold": 1}.items():
        values, others = (factor * np.array([run[name] for run in group]) for group in (runs, baseline))
        expected = stats.ttest_rel(values, others)
        assert rows[name]["p_t"] == pytest.approx(expected.pvalue, rel=1e-9)
        assert rows[name]["interval_seeds"] == pytest.approx(list(expected.confidence_interval()), rel=1e-9)
        assert rows[name]["difference"] == pytest.approx(values.mean() - others.mean(), rel=1e-9)
    p = [row["p_t"] for row in rows.values()]
    assert [row["p_holm"] for row in rows.values()] == pytest.approx(multipletests(p, method="holm")[1], rel=1e-9)
    top1 = [100 * np.array([run["top1"] for run in group]) for group in (runs, baseline)]
    assert rows["spread"]["mean"] == pytest.approx(top1[0].std(ddof=1)) and rows["spread"]["interval_seeds"] is None
    json.dumps(list(rows.values()), allow_nan=False)


def test_a_secondary_outcome_that_a_run_lacks_is_not_compared():
    runs, baseline = runs_outcomes(3, 2.0, "a"), runs_outcomes(3, 1.5, "b")
    runs[1]["epochs_to_threshold"] = None
    row = next(row for row in with_holm(secondary(runs, baseline, False)) if row["outcome"] == "epochs_to_threshold")
    assert (row["difference"], row["p_t"], row["p_holm"], row["interval_seeds"]) == (None, None, None, None)
    single = with_holm(secondary(runs[:1], baseline[:1], False))
    assert [row["p_t"] for row in single] == [None] * 7 and single[0]["difference"] is not None
    json.dumps(single, allow_nan=False)


def test_outcomes_that_are_equal_by_chance_decide_nothing():
    runs, baseline = runs_outcomes(3, 2.0, "a"), runs_outcomes(3, 2.0, "b")
    for run, other in zip(runs, baseline, strict=True):
        run["top5"], run["epochs_to_threshold"], other["epochs_to_threshold"] = other["top5"], 4, 4
    rows = {row["outcome"]: row for row in with_holm(secondary(runs, baseline, False))}
    for name in ("top5", "epochs_to_threshold"):
        assert [rows[name][key] for key in ("difference", "interval_seeds", "p_t", "p_holm")] == [0, None, None, None]
    assert rows["nll"]["interval_seeds"] is not None
    same = {row["outcome"]: row for row in with_holm(secondary(runs, runs, True))}
    assert all(same[name]["interval_seeds"] == [0, 0] and same[name]["p_t"] == 1 for name in ("top5", "nll", "f1"))


def test_epochs_to_a_threshold():
    assert epochs_to([0.1, 0.5, 0.4, 0.6], 0.5) == 2 and epochs_to([0.1, 0.2], 0.5) is None
    assert epochs_to([0.5], 0.5) == 1


def test_class_differences_are_t_tests_with_holm_over_the_classes():
    correct, baseline = answers(images=4000, gain=3.0)
    labels = np.arange(4000) % 8
    labels[labels == 7] = 6  # no image of class 7
    correct[:, labels == 5] = baseline[:, labels == 5]
    rows = class_differences(correct, baseline, labels, [f"class {k}" for k in range(8)])
    assert [row["name"] for row in rows] == [f"class {k}" for k in range(8)]
    p = []
    for k in range(5):
        values, others = (100 * array[:, labels == k].mean(1) for array in (correct, baseline))
        expected = stats.ttest_rel(values, others)
        assert rows[k]["difference"] == pytest.approx(values.mean() - others.mean(), abs=1e-9)
        assert rows[k]["interval_seeds"] == pytest.approx(list(expected.confidence_interval()), rel=1e-9)
        p.append(expected.pvalue)
    assert (rows[5]["difference"], rows[5]["interval_seeds"], rows[5]["p_t"]) == (0, [0, 0], 1)
    assert rows[7] == {"name": "class 7", "difference": None, "interval_seeds": None, "p_t": None, "p_holm": None}
    corrected = multipletests([*p, 1.0, rows[6]["p_t"], 1.0], method="holm")[1]
    assert [row["p_holm"] for row in rows[:5]] == pytest.approx(corrected[:5], rel=1e-9)
    json.dumps(rows, allow_nan=False)


def test_classes_that_are_equal_by_chance_decide_nothing():
    labels = np.arange(40) % 2
    correct, baseline = np.zeros((2, 3, 40), bool)
    correct[:, 0], baseline[:, 2] = True, True  # class 0: one image fixed and one broken, in all seeds
    same, other = class_differences(correct, baseline, labels, ["changed", "identical"])[::-1]
    assert (other["difference"], other["interval_seeds"], other["p_t"], other["p_holm"]) == (0, None, None, None)
    assert (same["difference"], same["interval_seeds"], same["p_t"]) == (0, [0, 0], 1)
