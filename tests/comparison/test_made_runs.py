"""Made-up run folders have what real ones have, so that tests which use them say something about real runs."""

import csv
import json

import numpy as np
import pytest

from qcifar.comparison.runs import find_runs
from qcifar.files import read_npz
from tests.helpers.made_runs import BASELINE, CHANNELS, HEAD, write_run

KINDS = {"baseline": BASELINE, "channels": CHANNELS, "head": HEAD}


def contents(folder):
    """result.json, config.json, columns of metrics.csv, and arrays of predictions.npz."""
    result, config = (json.loads((folder / f"{name}.json").read_text()) for name in ("result", "config"))
    with (folder / "metrics.csv").open(newline="") as file:
        columns = next(csv.reader(file))
    return result, config, columns, read_npz(folder / "predictions.npz", ("index", "label", "logits", "dataset"))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", KINDS.values())
def test_files_have_the_entries_of_a_real_run(calm, tmp_path, experiment):
    (real,) = [folder for result, folder in calm.values() if result["experiment"] == experiment]
    real, made = contents(real), contents(write_run(tmp_path, experiment, 0))
    assert made[0].keys() == real[0].keys()
    assert made[1].keys() == real[1].keys() and made[1]["constants"].keys() == real[1]["constants"].keys()
    assert made[1]["own"] == real[1]["own"]
    hardware = {"threads", "instructions", "gpu"}  # one on a CPU, the other on a GPU
    assert made[1]["identity"].keys() - hardware == real[1]["identity"].keys() - hardware
    assert made[2] == real[2]
    assert {name: (a.dtype.kind, a.ndim) for name, a in made[3].items()} == {
        name: (a.dtype.kind, a.ndim) for name, a in real[3].items()
    }


def test_scores_are_those_asked_for_and_paired_runs_agree_on_most_images(tmp_path):
    for experiment in (BASELINE, HEAD):
        for seed in range(2):
            write_run(tmp_path, experiment, seed, top1=0.8 if experiment == BASELINE else 0.83, images=1000)
    runs, left_out = find_runs([tmp_path])
    assert left_out == [] and [round(run.top1, 6) for run in runs] == [80, 80, 83, 83]
    assert len({run.recipe for run in runs}) == 1
    baseline, head = (runs[k].predictions for k in (0, 2))
    apart = (baseline.correct != head.correct).mean()
    assert 0.03 < apart < 0.2  # real pairs: about 0.1
    other = (baseline.correct != runs[1].predictions.correct).mean()
    assert apart < other  # another seed differs more than another branch


def test_a_variant_sets_its_constants_and_changes_reach_the_result(tmp_path):
    folder = write_run(tmp_path, HEAD, 3, "n_qubits=8,angle_scaling=none", epochs=2, dataset="synthetic", alpha=0.25)
    result, config, _, predictions = contents(folder)
    assert folder == tmp_path / HEAD / "n_qubits=8,angle_scaling=none" / "seed3"
    assert (config["constants"]["N_QUBITS"], config["identity"]["ANGLE_SCALING"]) == (8, "none")
    assert (result["dataset"], result["alpha"], str(predictions["dataset"])) == ("synthetic", 0.25, "synthetic")
    other = contents(write_run(tmp_path, BASELINE, 3, constants={"MAX_LR": 0.1}))
    assert other[0]["recipe"] == other[1]["recipe"] != result["recipe"]


def test_the_same_call_writes_the_same_bytes(tmp_path):
    first, second = (write_run(tmp_path / name, CHANNELS, 1) for name in ("a", "b"))
    for name in ("metrics.csv", "predictions.npz", "result.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert np.array_equal(contents(first)[3]["logits"], contents(second)[3]["logits"])
