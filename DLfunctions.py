"""The one training loop of all three experiments: train, select on validation, never lose a step.

`train_model` takes a model, loaders, a loss, an optimizer and a per-batch schedule and returns the
model of the best epoch with the history. It knows nothing of quantum circuits: what an experiment
does at an epoch's start or adds to its row comes as a callback.
"""

import contextlib
import functools
import itertools
import math
import signal
import sys
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score
from tqdm import tqdm

from qcifar.checkpoints import check_model, check_optimizer, check_progress, check_schedule
from qcifar.device import CoreShare
from qcifar.distributed import (
    from_first,
    gather_rows,
    largest,
    one_each,
    rank,
    replicate,
    share_buffers,
    without_exchange,
    world_size,
)
from qcifar.errors import InputError, Interrupted
from qcifar.events import EventFile
from qcifar.files import read_checkpoint, write_checkpoint, write_csv
from qcifar.streams import seed_torch

SIGN = {"f1": 1, "top1": 1, "loss": -1}  # whether more is better
START_OVER = "--no-resume starts the run over"
# A closed terminal sends SIGHUP, Slurm SIGUSR1 (--signal); Windows has neither.
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
REFRESH_SECONDS = 0.5 if sys.stderr.isatty() else 5.0  # of the bar: each refresh waits for the device


@dataclass
class Progress:
    """Where a run is. `step` batches of `epoch` are done; the sums are theirs."""

    epoch: int = 0
    step: int = 0
    loss_sum: torch.Tensor | None = None  # () float64, on the device: summed over this process's images
    correct: torch.Tensor | None = None  # () int64, likewise
    lr: float = 0.0  # of the last step
    seconds: float = 0.0  # spent on these steps, also before an interruption
    history: list[dict] = field(default_factory=list)  # one row an epoch
    best_epoch: int = -1
    best_value: float = -math.inf  # larger is better


def train_model(
    model, train_loader, val_loader, criterion, optimizer, scheduler, run, *,
    epochs, select_by, autocast, checkpoint_minutes, accumulate=1, on_epoch_start=None, on_epoch_end=None,
):  # fmt: skip
    """Train for `epochs` epochs, or go on where `run` was stopped, and return the best epoch's model.

    Args:
        model: network from (B, C, S, S) to logits (B, classes), on the device of the loaders.
        criterion: (logits, labels) -> mean loss; also the validation loss.
        optimizer, scheduler: the schedule is stepped after every batch.
        run: the folder with metrics.csv, last.pt, best.pt and log.txt.
        select_by: what decides the best epoch on validation: "f1" (macro), "top1" or "loss".
        autocast: context manager around each forward pass.
        checkpoint_minutes: time between checkpoints inside an epoch; 0 means after every step.
        accumulate: micro-batches of equal size that a step's gradient is averaged over.
        on_epoch_start: called with the epoch's number (from 0) at its start and, resumed, before its state is restored.
        on_epoch_end: called with (epoch, row); may add entries to the row of metrics.csv.

    Returns: the model with the weights of the best epoch, and the history, one dict an epoch.

    Raises:
        InputError: the checkpoint is damaged or of another run; the loss is not finite.
        Interrupted: a signal of `STOPPING` arrived; the state is saved.
    """
    begin_epoch, end_epoch = on_epoch_start or (lambda epoch: None), on_epoch_end or (lambda epoch, row: None)
    cores = CoreShare(train_loader.images.device, run.note)
    stateful = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    run.begin()
    with run.why_it_ended():
        now = resumed(run, stateful, train_loader, begin_epoch, epochs, select_by)
        events = EventFile(run.events_folder, now.history)

        def save():
            refuse_divergence(now)  # never over a good checkpoint
            write_checkpoint(run.last_path, checkpoint(stateful, now, run))

        with stop_on_signals() as stop:
            while now.epoch < epochs:
                if now.step == 0:
                    begin_epoch(now.epoch)
                try:
                    train_one_epoch(
                        replicate(model),  # anew each epoch, since a phase may change what learns
                        train_loader, criterion, optimizer, scheduler, now,
                        title=f"{run.mark}epoch {now.epoch + 1}/{epochs}", autocast=autocast,
                        accumulate=accumulate, cores=cores, stop=stop, save=save, save_every=60 * checkpoint_minutes,
                    )  # fmt: skip
                    share_buffers(model)
                    scores, _, _ = evaluate(model, val_loader, criterion, autocast, f"{run.mark}validation", stop)
                except Interrupted:
                    save()
                    raise
                row = epoch_row(now, len(train_loader) * train_loader.batch_size, scores) | {"dataset": run.dataset}
                end_epoch(now.epoch, row)
                now = next_epoch(run, model, now, row, SIGN[select_by] * scores[select_by], events)
                save()  # after best.pt: what lies on disk is never ahead of its best model
                run.log(describe(row, epochs))
                stop.check()
        load_best(run, model, now, begin_epoch, train_loader.images.device)
    return model, now.history


def next_epoch(run, model, now, row, value, events):
    """Write metrics.csv and the event, and best.pt where `value` is the best so far; return where the run is then."""
    run.refuse_if_gone()
    best_epoch, best_value = now.best_epoch, now.best_value
    if value > best_value:
        best_epoch, best_value = now.epoch, value
        write_checkpoint(run.best_path, {"model": model.state_dict(), "epoch": now.epoch, "identity": run.identity})
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}
    history = [*now.history, plain]  # a checkpoint may not hold NumPy's numbers, which a callback may have added
    write_csv(run.metrics_path, history)
    events.add(row)
    return Progress(epoch=now.epoch + 1, history=history, best_epoch=best_epoch, best_value=best_value)


def resumed(run, stateful, loader, begin_epoch, epochs, select_by):
    """Where the checkpoint of `run` left off, with every state restored; the beginning where there is none."""
    if not from_first(run.last_path.exists()):
        return Progress()
    saved = load_checkpoint(run.last_path, run, loader.images.device)
    if "progress" not in saved:
        raise InputError(f"{run.last_path} does not say where training stopped; {START_OVER}")
    try:
        check_progress(saved["progress"], epochs, len(loader), functools.partial(best_of, select_by=select_by))
    except ValueError as error:
        raise InputError(f"{run.last_path} does not say where to continue ({error}); {START_OVER}") from None
    now = Progress(**saved["progress"])
    if now.step:
        now.loss_sum, now.correct = now.loss_sum[rank()], now.correct[rank()]
    begin_epoch(now.epoch)
    restore(stateful, saved, run.last_path, now.epoch * len(loader) + now.step)
    if now.epoch:
        read_best(run, stateful["model"], now, loader.images.device)  # before hours of training end in its refusal
        write_csv(run.metrics_path, now.history)
    if now.epoch < epochs:
        run.log(f"continuing from epoch {now.epoch + 1}, step {now.step} of {len(loader)}")
    else:
        run.log(f"all {epochs} epochs are trained; continuing with the best of them")
    return now


def best_of(history, select_by):
    """(epoch from 0, value) of the first row with the best validation score, as it is selected; (-1, -inf) of none."""
    values = [SIGN[select_by] * row[f"val_{select_by}"] for row in history]
    return (values.index(max(values)), max(values)) if values else (-1, -math.inf)


def train_one_epoch(
    network, loader, criterion, optimizer, scheduler, now, *, title, autocast, accumulate, cores, stop, save, save_every
):  # fmt: skip
    """Run the steps of epoch `now.epoch` from `now.step` on, keeping `now` true after every step.

    Nothing waits for the device inside a step; loss and accuracy are read when the bar is refreshed.
    Of several processes each trains on its slice of every batch, and `network` averages the gradients.
    """
    network.train()
    if now.step == 0:
        now.loss_sum = torch.zeros((), dtype=torch.float64, device=loader.images.device)
        now.correct = torch.zeros((), dtype=torch.int64, device=loader.images.device)
    size = loader.batch_size  # of all processes together
    started = refreshed = saved = time.monotonic()
    before = now.seconds
    with tqdm(
        total=len(loader) * size, initial=now.step * size, unit="img", leave=False, mininterval=REFRESH_SECONDS,
        desc=title, disable=rank() > 0,
    ) as bar:  # fmt: skip
        for x, labels in loader.batches(now.epoch, now.step):
            # For models that draw: none can shift another step, and each process draws its own.
            seed_torch(loader.seed, "model", now.epoch, now.step, *([rank()] if rank() else []))
            optimizer.zero_grad(set_to_none=True)
            parts = list(zip(x.chunk(accumulate), labels.chunk(accumulate), strict=True))
            for number, (images, wanted) in enumerate(parts):
                with nullcontext() if number + 1 == len(parts) else without_exchange(network):
                    with autocast:
                        logits = network(images)  # (B / accumulate, classes)
                        loss = criterion(logits, wanted)
                    (loss / len(parts)).backward()
                now.loss_sum += loss.detach().double() * len(wanted)
                now.correct += (logits.detach().argmax(1) == wanted).sum()
            now.lr = optimizer.param_groups[0]["lr"]
            optimizer.step()
            scheduler.step()
            now.step += 1
            clock = time.monotonic()
            now.seconds = before + clock - started
            if clock - refreshed > REFRESH_SECONDS:
                seen, refreshed = now.step * len(labels), clock
                loss_text, top1_text = f"{now.loss_sum.item() / seen:.3f}", f"{now.correct.item() / seen:.3f}"
                bar.set_postfix(loss=loss_text, top1=top1_text, refresh=False)
            bar.update(size)
            cores.step()
            if stop.check(save_due=clock - saved >= save_every and now.step < len(loader)):
                save()
                saved = time.monotonic()
    refuse_divergence(now)  # also waits for the device, so that the seconds are whole
    now.seconds = before + time.monotonic() - started


def refuse_divergence(now):
    """Raise `InputError` if the sum of the epoch's losses so far is not finite."""
    if now.loss_sum is not None and not math.isfinite(one_each(now.loss_sum).sum().item()):
        raise InputError(f"the loss of epoch {now.epoch + 1} is not finite: training diverged; lower MAX_LR (--max-lr)")


@torch.inference_mode()
def evaluate(model, loader, criterion, autocast, name="test", stop=None):
    """Score `model` on all images of `loader`, the batches dealt out to the processes in turns.

    Returns:
        scores: dict with mean "loss", "top1" and "top5" accuracy in [0, 1] and macro "f1" (over the
            classes that occur in labels or predictions).
        logits: (n, classes) float32 array, in the loader's order.
        labels: (n,) int64 array.

    Raises:
        InputError: a logit is not finite.
    """
    model.eval()
    collected = []  # (places, logits) of this process's batches
    mine = loader.batches(rank(), world_size())
    with tqdm(
        total=len(loader.images), unit="img", leave=False, desc=name, delay=1.0, mininterval=REFRESH_SECONDS,
        disable=rank() > 0,
    ) as bar:  # fmt: skip
        for _ in range(math.ceil(len(loader) / world_size())):  # so that all processes stop after the same round
            for x, places in itertools.islice(mine, 1):
                with autocast:
                    logits = model(x).to(torch.float32, copy=True)  # CUDA graphs write the next ones over them
                collected.append((places, logits))
            bar.update(min(loader.batch_size * world_size(), bar.total - bar.n))
            if stop is not None:
                stop.check()
    logits = gather_rows(collected, len(loader.images), loader.images.device)  # (n, classes)
    loss = criterion(logits, loader.labels).item()
    logits, labels = logits.cpu().numpy(), loader.labels.cpu().numpy()
    if not np.isfinite(logits).all():
        bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        raise InputError(f"{name}: {len(bad)} images have logits that are not finite, the first at place {bad[0]}")
    predicted = logits.argmax(axis=1)
    scores = {
        "loss": loss,
        "top1": float(accuracy_score(labels, predicted)),
        "top5": float(top_k_accuracy_score(labels, logits, k=5, labels=np.arange(logits.shape[1]))),
        "f1": float(f1_score(labels, predicted, average="macro")),
    }
    return scores, logits, labels


def epoch_row(now, images, scores):
    """The row of metrics.csv for the epoch that `now` has completed, with `images` trained on."""
    return {
        "epoch": now.epoch + 1,
        "train_loss": one_each(now.loss_sum).sum().item() / images,
        "train_top1": one_each(now.correct).sum().item() / images,
        "val_loss": scores["loss"],
        "val_top1": scores["top1"],
        "val_top5": scores["top5"],
        "val_f1": scores["f1"],
        "lr": now.lr,
        "seconds": now.seconds,
        "images": images,
        "images_per_second": images / now.seconds,
    }


def describe(row, epochs):
    """One line for the screen and log.txt."""
    text = (
        f"epoch {row['epoch']}/{epochs}  train loss {row['train_loss']:.4f} top1 {row['train_top1']:.4f}  "
        f"val loss {row['val_loss']:.4f} top1 {row['val_top1']:.4f} f1 {row['val_f1']:.4f}  "
        f"lr {row['lr']:.2e}  {row['images_per_second']:.0f} img/s"
    )
    return text + (f"  alpha {row['alpha']:.3g}" if "alpha" in row else "")


def checkpoint(stateful, now, run):
    """Everything that the rest of a run depends on, as tensors and plain values; called by all processes together."""
    run.refuse_if_gone()
    progress = dict(vars(now))
    if now.loss_sum is not None:
        progress |= {"loss_sum": one_each(now.loss_sum), "correct": one_each(now.correct)}
    states = {name: target.state_dict() for name, target in stateful.items()}
    moments = len(states["optimizer"]["state"])  # of how many parameters
    return {"identity": run.identity, "progress": progress, "moments": moments} | states


def load_checkpoint(path, run, device):
    """Read a checkpoint of `run`. Raises `InputError` for one of any other."""
    saved = read_checkpoint(path, device, START_OVER)
    known = isinstance(saved, dict) and {"identity", "model"} <= saved.keys()
    if not known or not isinstance(saved["identity"], dict):
        raise InputError(f"{path} is not a checkpoint of this test bench; {START_OVER}")
    run.refuse_other_identity(path, saved["identity"])
    return saved


def read_best(run, model, now, device):
    """best.pt of `now`, checked; inside an epoch it may be that epoch's already, which will be trained once more."""
    best = load_checkpoint(run.best_path, run, device)
    found = best.get("epoch")
    if type(found) is not int or found not in (now.best_epoch, now.epoch):
        got = found + 1 if type(found) is int else "none"
        raise InputError(
            f"{run.best_path}: expected the best epoch, {now.best_epoch + 1}, got epoch {got}; {START_OVER}"
        )
    check_state("model", best["model"], run.best_path, lambda state: check_model(state, model))
    return best


def load_best(run, model, now, begin_epoch, device):
    """Give `model` the weights of the best epoch of `now.history`. Raises `InputError` where best.pt is of another."""
    best = read_best(run, model, now, device)
    begin_epoch(best["epoch"])
    restore({"model": model}, best, run.best_path)


def restore(stateful, saved, path, taken=0):
    """Load each state of `saved` into its object, after `taken` steps. Raises `InputError` where one does not fit."""
    checks = {
        "model": check_model,
        "optimizer": lambda state, target: check_optimizer(state, target, saved.get("moments")),
        "scheduler": lambda state, target: check_schedule(state, target, taken),
    }
    for name, target in stateful.items():
        check_state(name, saved.get(name), path, lambda state, name=name, target=target: checks[name](state, target))
    for name, target in stateful.items():
        check_state(name, saved[name], path, target.load_state_dict)


def check_state(name, state, path, check):
    """Raise `InputError` where `check(state)` finds, or torch does, that it is not one of this `name`."""
    try:
        check(state)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise InputError(f"{path} does not fit this {name}: {first}; {START_OVER}") from None


class Stop:
    """Remembers a signal of `STOPPING` until the step is done."""

    signum: int | None = None

    def check(self, save_due=False):
        """Whether any process finds a checkpoint due. Raises `Interrupted` if a signal arrived at any."""
        signum, save_due = largest(self.signum or 0, int(save_due))
        if signum:
            name = signal.Signals(signum).name
            how = "the same command (without --no-resume) continues it"
            raise Interrupted(signum, f"stopped by {name}; the run is saved, and {how}")
        return bool(save_due)


@contextlib.contextmanager
def stop_on_signals():
    """Yield a `Stop` that SIGINT, SIGTERM, SIGHUP and SIGUSR1 set; a second one interrupts at once, unsaved."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread only
        return

    def handle(signum, frame):
        if stop.signum is not None:
            raise KeyboardInterrupt
        stop.signum = signum

    # One that is ignored stays so: under nohup, the terminal's end must not stop the run.
    caught = [number for number in STOPPING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
