"""`train_model` on a network of a few hundred weights: resume, selection, signals, refusals."""

import contextlib
import csv
import math
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import DLfunctions
from benchmarks.common import HostReads
from DLfunctions import Progress, Stop, evaluate, train_one_epoch
from qcifar.data.augment import Augmentation
from qcifar.data.loader import TrainLoader
from qcifar.device import CoreShare
from qcifar.errors import InputError, Interrupted
from qcifar.experiment.recipe import make_optimizer, make_schedule
from qcifar.files import read_checkpoint, write_checkpoint
from qcifar.quantum.descriptors import QuantumMaps
from qcifar.quantum.layer import QuantumLayer
from tests.helpers import slow
from tests.helpers.runs import tiny_run
from tests.helpers.scripts import TIMED, Killed, dying_after, prepare
from tests.helpers.training import EPOCHS, tiny_loaders, tiny_model, train

UNWATCHED = CoreShare(torch.device("meta"), print)


@pytest.fixture
def loaders(synthetic):
    return tiny_loaders(synthetic)


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal():
    """A shell may have started the tests with SIGINT or SIGHUP ignored, in the background."""
    before = {signum: signal.signal(signum, signal.default_int_handler) for signum in DLfunctions.STOPPING}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def outcome(run, model, history):
    """Everything that has to come back to the bit; seconds do not."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    last = read_checkpoint(run.last_path)
    return weights, last["model"], [{k: v for k, v in row.items() if k not in TIMED} for row in history]


def assert_same(a, b):
    for left, right in zip(a[:2], b[:2], strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert a[2] == b[2]


def test_same_command_twice_is_bit_identical(loaders, tmp_path):
    runs = [tiny_run(tmp_path / name) for name in "ab"]
    first, second = (outcome(run, *train(loaders, run)) for run in runs)
    assert_same(first, second)
    assert len(first[2]) == EPOCHS


@pytest.mark.parametrize("saves", [1, slow(2), 4, slow(5), 6, slow(10), 14])
def test_killed_after_any_checkpoint_and_restarted_is_bit_identical(loaders, tmp_path, monkeypatch, saves):
    calm = tiny_run(tmp_path / "calm")
    expected = outcome(calm, *train(loaders, calm))
    disturbed = tiny_run(tmp_path / "killed")

    monkeypatch.setattr(DLfunctions, "write_checkpoint", dying_after(saves))
    with pytest.raises(Killed):
        train(loaders, disturbed)
    monkeypatch.undo()
    assert_same(expected, outcome(disturbed, *train(loaders, disturbed)))


QUICK = [(signal.SIGINT, "training"), (signal.SIGTERM, "validation")]
SIGNALS = [(signum, where) for signum in DLfunctions.STOPPING for where in ("training", "validation")]


@pytest.mark.parametrize(("signum", "where"), [case if case in QUICK else slow(*case) for case in SIGNALS])
def test_signal_saves_and_the_same_call_goes_on(loaders, tmp_path, monkeypatch, signum, where):
    calm = tiny_run(tmp_path / "calm")
    expected = outcome(calm, *train(loaders, calm))
    run, loader = tiny_run(tmp_path / "stopped"), loaders[0] if where == "training" else loaders[1]
    batches, seen = type(loader).batches, []

    def with_signal(self, *place):
        for batch in batches(self, *place):
            seen.append(1)
            if len(seen) == 3:
                os.kill(os.getpid(), signum)
            yield batch

    monkeypatch.setattr(type(loader), "batches", with_signal)
    with pytest.raises(Interrupted, match="the same command"):
        train(loaders, run, checkpoint_minutes=60)
    monkeypatch.undo()
    assert signal.getsignal(signum) is not None
    assert run.log_path.read_text().splitlines()[-1].startswith(f"stopped by {signum.name}; the run is saved")
    stopped_at = read_checkpoint(run.last_path)["progress"]
    assert (stopped_at["epoch"], stopped_at["step"]) == ((0, 3) if where == "training" else (1, len(loaders[0])))
    assert_same(expected, outcome(run, *train(loaders, run)))


@pytest.mark.parametrize("signum", DLfunctions.STOPPING)
def test_a_signal_that_was_ignored_before_stays_ignored(loaders, tmp_path, monkeypatch, signum):
    """As under nohup, which ignores SIGHUP: the end of the terminal must not stop the run."""
    batches = TrainLoader.batches

    def with_signal(self, *place):
        os.kill(os.getpid(), signum)
        yield from batches(self, *place)

    monkeypatch.setattr(TrainLoader, "batches", with_signal)
    signal.signal(signum, signal.SIG_IGN)
    _, history = train(loaders, tiny_run(tmp_path))
    assert len(history) == EPOCHS and signal.getsignal(signum) is signal.SIG_IGN


@pytest.mark.parametrize("select_by", ["f1", "top1", "loss"])
def test_selection_takes_the_first_best_epoch_and_returns_its_weights(loaders, tmp_path, select_by):
    run, kept = tiny_run(tmp_path), []
    watched = tiny_model()

    def keep(epoch, row):
        kept.append({name: value.clone() for name, value in watched.state_dict().items()})

    model, history = train(loaders, run, watched, select_by, on_epoch_end=keep)
    values = np.array([row[f"val_{select_by}"] for row in history])
    best = int(values.argmin() if select_by == "loss" else values.argmax())
    assert read_checkpoint(run.best_path)["epoch"] == best
    assert all(torch.equal(value, kept[best][name]) for name, value in model.state_dict().items())


def test_metrics_csv_and_callbacks(loaders, tmp_path):
    run, started = tiny_run(tmp_path), []
    _, history = train(
        loaders, run, on_epoch_start=started.append, on_epoch_end=lambda epoch, row: row.update(alpha=epoch / 10)
    )
    with run.metrics_path.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["alpha"]) for row in rows] == [0.0, 0.1, 0.2]
    assert [float(row["val_f1"]) for row in rows] == [row["val_f1"] for row in history]
    assert started[:EPOCHS] == [0, 1, 2] and started[EPOCHS:] == [read_checkpoint(run.best_path)["epoch"]]
    log = run.log_path.read_text()
    assert log.count("SYNTHETIC DATA") == log.count("\n") == 1 + EPOCHS


def test_schedule_is_one_cycle_stepped_per_batch(loaders, tmp_path):
    _, history = train(loaders, tiny_run(tmp_path))
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([weight], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=EPOCHS * 5)
    rates = []
    for _ in range(EPOCHS * 5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [row["lr"] for row in history] == rates[4::5]


def test_a_step_waits_for_nothing(loaders):
    """One read at the epoch's end, however many steps it has; augmentation and descriptors' maps included."""
    maps = QuantumMaps([torch.rand(40, 4), torch.rand(40, 4)], 16, True, "minmax")
    loader = TrainLoader(loaders[0].images, loaders[0].labels, 4, Augmentation(16), 3, maps)
    model = nn.Sequential(nn.Conv2d(5, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 100))
    optimizer = make_optimizer(model, 1e-3, 0.0)
    with HostReads() as reads:
        train_one_epoch(
            model, loader, nn.CrossEntropyLoss(), optimizer, make_schedule(optimizer, 1e-3, 10), Progress(), title="",
            autocast=contextlib.nullcontext(), accumulate=2, cores=UNWATCHED, stop=Stop(), save=None,
            save_every=math.inf,
        )  # fmt: skip
    assert len(loader) == 10 and list(reads.places.values()) == [1], reads.places
    assert "in refuse_divergence" in next(iter(reads.places))


def test_accumulation_adds_up_to_the_same_gradient(tmp_path):
    """Four micro-batches of a network without batch norm statistics: the step of the whole batch."""
    seen, losses, recipes = [], [], []
    for accumulate in (1, 4):
        it = prepare("baseline", tmp_path, "--train-limit", "16", "--accumulate", str(accumulate))
        it.model.eval()
        it.model.train = lambda mode=True: None
        optimizer = SimpleNamespace(
            param_groups=it.optimizer.param_groups, zero_grad=it.optimizer.zero_grad,
            step=lambda it=it: seen.append([parameter.grad.clone() for parameter in it.model.parameters()]),
        )  # fmt: skip
        now = Progress()
        train_one_epoch(
            it.model, it.train_loader, it.criterion, optimizer, SimpleNamespace(step=lambda: None), now, title="",
            autocast=it.autocast, accumulate=accumulate, cores=UNWATCHED, stop=Stop(), save=None, save_every=math.inf,
        )  # fmt: skip
        losses.append(now.loss_sum.item() / 16)
        recipes.append(it.run.config["recipe"])
    for a, b in zip(*seen, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert recipes[0] != recipes[1]


def test_evaluate_scores_against_numpy(loaders):
    model = tiny_model()
    scores, logits, labels = evaluate(model, loaders[1], nn.CrossEntropyLoss(), contextlib.nullcontext())
    order = np.argsort(-logits, axis=1)
    assert scores["top1"] == np.mean(order[:, 0] == labels)
    assert scores["top5"] == np.mean((order[:, :5] == labels[:, None]).any(axis=1))
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    assert scores["loss"] == pytest.approx(-log_p[np.arange(len(labels)), labels].mean(), rel=1e-5)
    assert logits.shape == (30, 100) and logits.dtype == np.float32


def test_divergence_is_an_error_not_a_number(loaders, tmp_path):
    run, model = tiny_run(tmp_path), tiny_model()
    with torch.no_grad():
        model[-1].bias[0] = float("nan")
    with pytest.raises(InputError, match="not finite.*--max-lr"):
        train(loaders, run, model)
    assert not any(path.exists() for path in (run.metrics_path, run.best_path, run.last_path))
    assert "the loss of epoch 1 is not finite" in run.log_path.read_text().splitlines()[-1]
    with pytest.raises(InputError, match="30 images have logits that are not finite"):
        evaluate(model, loaders[1], nn.CrossEntropyLoss(), contextlib.nullcontext())


FULL = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.19 GiB of which 5 are free."


@pytest.mark.parametrize("where", ["training", "validation"])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("kernel failed\nat line 3"), "RuntimeError: kernel failed"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (
            torch.OutOfMemoryError(FULL),
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB; --accumulate 2",
        ),
    ],
)
def test_log_says_in_one_line_why_a_run_ended(loaders, tmp_path, monkeypatch, error, line, where):
    def failing(self, *place):
        raise error
        yield

    run = tiny_run(tmp_path)
    monkeypatch.setattr(type(loaders[where == "validation"]), "batches", failing)
    full = isinstance(error, torch.OutOfMemoryError)
    with pytest.raises(InputError if full else type(error)) as caught:
        train(loaders, run)
    last = run.log_path.read_text().splitlines()[-1]
    assert last.startswith(line) and "GPU 0" not in last
    assert str(caught.value) == last if full else caught.value is error


def test_memory_that_is_full_in_a_circuit_names_the_remedy_too(loaders, tmp_path):
    def forward(x):
        raise torch.OutOfMemoryError(FULL)

    layer = QuantumLayer(lambda inputs, weights: forward(inputs), torch.zeros(1))
    run, model = tiny_run(tmp_path), nn.Sequential(nn.Flatten(), nn.Linear(768, 100), layer)
    with pytest.raises(InputError, match=r"^the circuit <lambda> failed .*20\.00 MiB; --accumulate 2"):
        train(loaders, run, model)


def test_a_log_that_cannot_be_written_hides_nothing(loaders, tmp_path, monkeypatch):
    run = tiny_run(tmp_path)

    def batches(self, *place):
        run.log_path.unlink()
        run.log_path.mkdir()
        raise ValueError("the reason")
        yield

    monkeypatch.setattr(type(loaders[0]), "batches", batches)
    with pytest.raises(ValueError, match="the reason"):
        train(loaders, run)


def test_a_trained_run_says_so_and_its_best_epoch_is_checked(loaders, tmp_path):
    run = tiny_run(tmp_path)
    expected = outcome(run, *train(loaders, run))
    assert_same(expected, outcome(run, *train(loaders, run)))
    assert (
        run.log_path.read_text().splitlines()[-1].endswith("all 3 epochs are trained; continuing with the best of them")
    )
    best = read_checkpoint(run.best_path)
    other = (best["epoch"] + 1) % EPOCHS
    write_checkpoint(run.best_path, best | {"epoch": other})
    message = rf"best\.pt: expected the best epoch, {best['epoch'] + 1}, got epoch {other + 1}; --no-resume starts"
    with pytest.raises(InputError, match=message) as caught:
        train(loaders, run)
    assert run.log_path.read_text().splitlines()[-1] == str(caught.value)
    write_checkpoint(run.best_path, {"identity": run.identity, "model": best["model"]})
    with pytest.raises(InputError, match=r"best\.pt: .*got epoch none"):
        train(loaders, run)


def test_damaged_and_foreign_checkpoints_are_refused(loaders, tmp_path):
    run = tiny_run(tmp_path)
    train(loaders, run)
    run.give_back()
    with pytest.raises(InputError, match=r"precision fp32 -> bf16"):
        train(loaders, tiny_run(tmp_path, precision="bf16"))
    with pytest.raises(InputError, match="does not fit this model"):
        train(loaders, run, nn.Sequential(nn.Flatten(), nn.Linear(768, 100)))
    whole = run.last_path.read_bytes()
    run.last_path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"last\.pt is damaged"):
        train(loaders, run)
    run.last_path.write_bytes(run.best_path.read_bytes())
    with pytest.raises(InputError, match="does not say where training stopped"):
        train(loaders, run)
    write_checkpoint(run.last_path, {"model": {}})
    with pytest.raises(InputError, match="not a checkpoint of this test bench"):
        train(loaders, run)


@pytest.mark.parametrize("how", ["deleted", "renamed"])
@pytest.mark.parametrize("moment", ["end of epoch", "step"])
def test_two_runs_never_mix_in_one_folder(loaders, tmp_path, monkeypatch, how, moment):
    """The folder goes away, and another run begins in its place while the first one trains on."""
    run, second, done = tiny_run(tmp_path / "run"), tiny_run(tmp_path / "run", precision="bf16"), []

    def another_begins(*given):
        if done:
            return
        done.append(shutil.rmtree(run.folder) if how == "deleted" else run.folder.rename(tmp_path / "elsewhere"))
        second.begin()
        done.append({path: path.read_bytes() for path in run.folder.iterdir()})

    batches = TrainLoader.batches

    def step(self, *place):
        another_begins()
        yield from batches(self, *place)

    if moment == "step":
        monkeypatch.setattr(TrainLoader, "batches", step)
    with pytest.raises(InputError, match="run was deleted or renamed during the run, which ends here"):
        train(loaders, run, on_epoch_end=another_begins if moment == "end of epoch" else None)
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == done[1]
    second.give_back()


def test_a_deleted_config_ends_a_run_with_the_reason(loaders, tmp_path):
    run = tiny_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"config\.json was deleted during the run, which ends here; start it again"):
        train(loaders, run, on_epoch_end=lambda epoch, row: run.config_path.unlink())


@pytest.mark.parametrize("how", ["deleted", "renamed"])
def test_a_folder_that_goes_away_during_training_is_not_made_again(loaders, tmp_path, how):
    run = tiny_run(tmp_path / "run")

    def end_of_epoch(epoch, row):
        if how == "renamed":
            run.folder.rename(tmp_path / "elsewhere")
        else:
            shutil.rmtree(run.folder)

    with pytest.raises(InputError, match="run was deleted or renamed during the run, which ends here"):
        train(loaders, run, on_epoch_end=end_of_epoch, checkpoint_minutes=60)
    assert not run.folder.exists()
