"""Checkpoints of the wrong form: each is named in one line, with a way out, before anything is trained."""

import csv
import math

import numpy as np
import pytest
import torch

import DLfunctions
from qcifar.errors import InputError
from qcifar.files import read_checkpoint, write_checkpoint
from tests.helpers.runs import tiny_run
from tests.helpers.scripts import Killed, dying_after
from tests.helpers.training import EPOCHS, tiny_loaders, train

STOPPED: dict[str, bytes] = {}  # files of a run that was stopped


@pytest.fixture
def loaders(synthetic):
    return tiny_loaders(synthetic)


@pytest.fixture
def stopped(loaders, tmp_path):
    """Makes the folder of a run that was stopped in its second epoch; it is trained once for all tests of a file."""
    if not STOPPED:
        run, saves = tiny_run(tmp_path), 8  # 5 steps and the end of an epoch, and 2 steps more

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DLfunctions, "write_checkpoint", dying_after(saves))
            with pytest.raises(Killed):
                train(loaders, run)
        run.give_back()
        STOPPED.update({path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()})
        assert read_checkpoint(run.last_path)["progress"]["step"] == 2

    def make():
        for name, content in STOPPED.items():
            (tmp_path / name).write_bytes(content)
        return tiny_run(tmp_path)

    return make


@pytest.mark.parametrize(
    "progress",
    [
        3, [1], {"epoch": "one"}, {"epoch": -1}, {"epoch": 99}, {"epoch": True}, {"epoch": 0}, {"step": 10**6},
        {"step": 1.0}, {"step": 0}, {"history": None}, {"history": [{}]}, {"history": [3]}, {"history": "a"},
        {"history": []}, {"unknown": 1}, {"loss_sum": None}, {"correct": None}, {"loss_sum": 1.0},
        {"loss_sum": torch.zeros(0, dtype=torch.float64)}, {"loss_sum": torch.ones(1, 3, dtype=torch.float64)},
        {"loss_sum": torch.full((1,), math.nan, dtype=torch.float64)}, {"correct": torch.zeros(1)}, {"lr": None},
        {"lr": "a"}, {"seconds": "x"}, {"seconds": math.nan}, {"best_value": "x"}, {"best_value": math.nan},
        {"best_value": 2.0}, {"best_epoch": 7}, {"best_epoch": -1}, {"best_epoch": False},
    ],
)  # fmt: skip
def test_a_checkpoint_of_the_wrong_form_is_one_line(loaders, stopped, progress):
    run = stopped()
    saved = read_checkpoint(run.last_path)
    changed = saved["progress"] | progress if isinstance(progress, dict) else progress
    write_checkpoint(run.last_path, saved | {"progress": changed})
    expected = r"last\.pt does not say where to continue .*--no-resume starts the run over"
    with pytest.raises(InputError, match=expected) as caught:
        train(loaders, run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["val_f1", "seconds", "train_loss", "epoch", "dataset"])
@pytest.mark.parametrize("value", [math.nan, (), None, True])
def test_a_row_of_the_wrong_form_is_one_line(loaders, stopped, entry, value):
    run = stopped()
    saved = read_checkpoint(run.last_path)
    saved["progress"]["history"][0][entry] = value
    write_checkpoint(run.last_path, saved)
    with pytest.raises(InputError, match=r"last\.pt does not say where .*history: expected scores of epoch 1, got"):
        train(loaders, run)


def put(*path, value):
    """What puts `value` at a place of a checkpoint."""

    def change(saved):
        for name in path[:-1]:
            saved = saved[name]
        saved[path[-1]] = value

    return change


GROUP, FIRST, BIAS = ("optimizer", "param_groups", 0), ("optimizer", "state", 0), ("model", "6.bias")
WRONG = {
    "model": [
        put("model", value=[1]), put(*BIAS, value=3), put(*BIAS, value=torch.ones(100).long()),
        put(*BIAS, value=torch.ones(99)), put(*BIAS, value=torch.full((100,), math.nan)),
        put("model", "1.running_var", value=torch.full((8,), math.inf)), put("model", "7.bias", value=torch.ones(1)),
        put(*BIAS, value=torch.ones(100).double()), lambda saved: saved["model"].pop("6.bias"),
    ],
    "optimizer": [
        put(*GROUP, "lr", value="a"), put(*GROUP, "lr", value=None), put(*GROUP, "betas", value=3),
        put(*GROUP, "betas", value=(0.9, "x")), put(*GROUP, "eps", value=math.nan), put(*GROUP, value={}),
        put(*GROUP, "params", value=[0, 1, 2, 3, 5, 4]), put(*GROUP, "fused", value=None),
        put("optimizer", "state", value={}), lambda saved: saved["optimizer"]["state"].pop(3),
        put(*FIRST, "exp_avg", value=torch.zeros(3)), put(*FIRST, "exp_avg_sq", value=torch.ones(()).double()),
        put(*FIRST, "step", value=3), put(*FIRST, "step", value=torch.full((), math.nan)),
        put(*FIRST, value={}), put("moments", value="x"), put("optimizer", "state", 99, value={}),
    ],
    "scheduler": [
        put("scheduler", "_schedule_phases", value="x"), put("scheduler", "_schedule_phases", value=[]),
        put("scheduler", "last_epoch", value="x"), put("scheduler", "last_epoch", value=1),
        put("scheduler", "total_steps", value=1), put("scheduler", "base_lrs", value=[1.0]),
        put("scheduler", "_last_lr", value=[None]), put("scheduler", "more", value=1),
    ],
}  # fmt: skip
for part, changes in WRONG.items():
    changes += [put(part, value=content) for content in (None, 3, [], {"state": 1})]


@pytest.mark.parametrize(("part", "change"), [(part, change) for part in WRONG for change in WRONG[part]])
def test_a_state_of_the_wrong_form_is_one_line(loaders, stopped, part, change):
    run = stopped()
    saved = read_checkpoint(run.last_path)
    change(saved)
    write_checkpoint(run.last_path, saved)
    expected = rf"last\.pt does not fit this {part}: .*--no-resume starts the run over"
    with pytest.raises(InputError, match=expected) as caught:
        train(loaders, run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", WRONG["model"])
def test_best_weights_of_the_wrong_form_are_named_before_training_goes_on(loaders, stopped, change):
    run = stopped()
    saved = read_checkpoint(run.best_path)
    change(saved)
    write_checkpoint(run.best_path, saved)
    with pytest.raises(InputError, match=r"best\.pt does not fit this model: .*--no-resume starts the run over"):
        train(loaders, run)
    assert "continuing" not in run.log_path.read_text()


@pytest.mark.parametrize("epoch", ["x", True, None, 2, -1])
def test_a_best_epoch_of_the_wrong_form_is_one_line(loaders, stopped, epoch):
    run = stopped()
    write_checkpoint(run.best_path, read_checkpoint(run.best_path) | {"epoch": epoch})
    with pytest.raises(InputError, match=r"best\.pt: expected the best epoch, 1, got"):
        train(loaders, run)
    run.best_path.unlink()
    with pytest.raises(InputError, match=r"best\.pt: no such file; --no-resume starts the run over"):
        train(loaders, run)


def test_metrics_are_written_again_when_a_run_goes_on(loaders, stopped):
    run = stopped()
    lines = run.metrics_path.read_text()
    run.metrics_path.write_text("garbage")
    _, history = train(loaders, run)
    assert run.metrics_path.read_text().startswith(lines) and len(history) == EPOCHS
    run.metrics_path.write_text("garbage")
    train(loaders, run)  # all epochs are trained
    assert len(run.metrics_path.read_text().splitlines()) == 1 + EPOCHS


def test_what_a_callback_adds_comes_back_from_a_checkpoint(loaders, tmp_path):
    """NumPy's numbers and tensors, which a checkpoint may not hold, also in some rows only."""
    run = tiny_run(tmp_path)

    def add(epoch, row):
        row["mine"] = np.float64(epoch) if epoch else torch.ones(())
        if epoch:
            row["late"] = epoch

    _, history = train(loaders, run, on_epoch_end=add)
    assert [row["mine"] for row in history] == [1.0, 1.0, 2.0]
    assert read_checkpoint(run.last_path)["progress"]["history"] == history
    with run.metrics_path.open() as file:
        assert [row["late"] for row in csv.DictReader(file)] == ["", "1", "2"]
