"""result.json and predictions.npz: the chosen epoch, the scores as they came, and what the run cost."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qcifar.experiment.result import peak_host_mb, report
from tests.helpers.scripts import prepare, settings

# (epoch, val_top1, val_f1, val_loss): the first best epoch is another one by each score.
ROWS = [(1, 0.5, 0.4, 2.0), (2, 0.5, 0.3, 1.0), (3, 0.4, 0.6, 3.0), (4, 0.2, 0.6, 1.0)]
HISTORY = [
    {"epoch": epoch, "val_top1": top1, "val_f1": f1, "val_loss": loss, "seconds": 2.0, "images": 48}
    for epoch, top1, f1, loss in ROWS
]
SCORES = {"top1": 0.25, "top5": 0.75, "f1": 0.125, "loss": 1.5}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare("baseline", tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(("select_by", "best"), [("top1", 0), ("f1", 2), ("loss", 1)])
def test_result_names_the_first_best_epoch_and_the_scores(prepared, tmp_path, select_by, best):
    prepared.run.begin()
    cfg = settings("baseline", tmp_path, "--epochs", "4", "--select-by", select_by)
    logits, labels = np.arange(4000, dtype=np.float32).reshape(40, 100), np.arange(40)
    result = report(prepared, cfg, HISTORY, SCORES, logits, labels)
    assert result == json.loads(prepared.run.result_path.read_text())
    epoch, top1, f1, loss = ROWS[best]
    assert (result["best_epoch"], result["selected_by"]) == (epoch, select_by)
    assert (result["val_top1"], result["val_f1"], result["val_loss"]) == (top1, f1, loss)
    assert {key: result[f"test_{key}"] for key in SCORES} == SCORES
    assert (result["train_seconds"], result["images_per_second"]) == (8.0, 24.0)
    assert (result["train_images"], result["test_images"], result["processes"]) == (48, 40, 1)
    assert re.fullmatch("[0-9a-f]{6}", result["recipe"])
    with np.load(prepared.run.predictions_path) as file:
        assert np.array_equal(file["logits"], logits) and np.array_equal(file["label"], labels)
        assert np.array_equal(file["index"], prepared.parts.test.index) and file["dataset"] == "synthetic"
    assert "test top1 0.2500" in prepared.run.log_path.read_text()


def test_what_an_experiment_adds_is_asked_for_after_training_and_counts(prepared, tmp_path):
    facts, asked = {"alpha": 0.25, "params_quantum": 24}, []
    it = replace(prepared, facts=lambda: asked.append(it.run.predictions_path.exists()) or facts)
    it.run.begin()
    result = report(it, settings("baseline", tmp_path), HISTORY, SCORES, np.zeros((40, 100)), np.zeros(40, int))
    assert asked == [True] and facts.items() <= result.items()
    plain = report(prepared, settings("baseline", tmp_path), HISTORY, SCORES, np.zeros((40, 100)), np.zeros(40, int))
    assert (plain["alpha"], plain["params_quantum"], plain["quantum_device"]) == (None, None, None)
    assert plain["peak_device_mb"] is None  # there is no GPU


def test_most_memory_is_at_least_what_is_held_now():
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("asks Linux")
    import resource

    held = int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    assert held <= peak_host_mb() < 2**20
