"""What is published of a plan: everything that somebody needs to do the statistics again."""

import csv

import numpy as np
import pytest
from scipy import stats

from qcifar.comparison.packed import read_packed
from qcifar.comparison.runs import read_run
from qcifar.errors import InputError
from qcifar.files import read_json, write_npz
from qcifar.sweep.plan import read_plan
from qcifar.sweep.store import Sweep, store
from studies import publish
from tests.helpers import ROOT
from tests.helpers.made_runs import BASELINE, HEAD, write_run

PLAN = """
run_dir = "{run_dir}"
[decided]
outcome = "test_top1"
margin = 0.5
seeds = "0-2"
family = "all"
[[runs]]
script = "baseline"
[[runs]]
script = "head"
CONTROL = ["quantum", "jitter"]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The file of a plan whose runs are finished and published, and their run directory."""
    folder = tmp_path_factory.mktemp("study")
    top, path = folder / "runs", folder / "try.toml"
    path.write_text(PLAN.format(run_dir=top))
    store(Sweep(read_plan(path, ROOT), ROOT, 1))
    for seed in range(3):
        write_run(top, BASELINE, seed, top1=0.80)
        write_run(top, HEAD, seed, top1=0.81 + 0.01 * seed)
        write_run(top, HEAD, seed, "control=jitter", top1=0.80, control="jitter")
    assert publish.main([str(path)]) == 3
    return path, top


@pytest.mark.slow
def test_everything_is_there_and_small(study):
    path, top = study
    folder = path.with_suffix("")
    figures = {file.name for file in (folder / "figures").iterdir()}
    assert figures and all(name.endswith(".svg") for name in figures)
    names = {"summary.json", "summary.csv", "index.html", "plan.json", "runs.csv", "predictions.npz", "figures"}
    assert {file.name for file in folder.iterdir()} == names
    assert read_json(folder / "plan.json") == read_json(top / "plans" / "try.json")
    with (folder / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and {row["seed"] for row in rows} == {"0", "1", "2"}
    assert (
        float(rows[0]["test_top1"]) == 0.8
        and rows[0]["weights"] == read_run(top / HEAD / "seed0").config["identity"]["WEIGHTS"]
    )


@pytest.mark.slow
def test_predictions_are_those_of_the_runs(study):
    path, top = study
    packed = read_packed(path.with_suffix("") / "predictions.npz")
    assert packed.predicted.shape == packed.true_probability.shape == (9, 200)
    run = read_run(top / HEAD / "seed2")
    expected = run.predictions
    row = next(k for k in range(9) if (packed.experiment[k], packed.variant[k], packed.seed[k]) == (HEAD, "", 2))
    assert np.array_equal(packed.predicted[row], expected.predicted) and np.array_equal(packed.label, expected.label)
    np.testing.assert_allclose(packed.true_probability[row], expected.true_probability, atol=1e-3)


def test_the_summary_follows_from_the_published_predictions(study):
    folder = study[0].with_suffix("")
    packed, summary = read_packed(folder / "predictions.npz"), read_json(folder / "summary.json")
    assert len(summary["comparisons"]) == 2
    for entry in summary["comparisons"]:
        ours = packed.correct(entry["experiment"], entry["variant"], entry["seeds"])
        theirs = packed.correct(BASELINE, "", entry["seeds"])
        differences = 100 * (ours.mean(1) - theirs.mean(1))
        assert entry["difference"] == pytest.approx(differences.mean())
        if differences.std():
            low, high = stats.ttest_1samp(differences, 0).confidence_interval()
            assert entry["interval_seeds"] == pytest.approx([low, high])


def test_a_run_that_is_not_there_and_arrays_that_do_not_fit(study, tmp_path):
    packed = read_packed(study[0].with_suffix("") / "predictions.npz")
    with pytest.raises(InputError, match="seed 7: expected one such run, got 0"):
        packed.correct(BASELINE, "", [7])
    arrays = vars(packed) | {"label": packed.label[:-1]}
    write_npz(tmp_path / "cut.npz", **arrays)
    with pytest.raises(InputError, match=r"label of the shape \(200,\), got \(199,\)"):
        read_packed(tmp_path / "cut.npz")


def test_a_plan_without_runs_is_named(tmp_path):
    path = tmp_path / "none.toml"
    path.write_text(PLAN.format(run_dir=tmp_path / "runs"))
    with pytest.raises(InputError, match="holds no plan none: python sweep.py"):
        publish.main([str(path)])
