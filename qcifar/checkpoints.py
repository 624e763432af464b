"""What a checkpoint must hold: one description of progress, model, optimizer and schedule, for last.pt and best.pt.

torch loads much that does not fit: a moment of another shape ends in a crash of its fused kernels, and NaN in what
looks like a divergence. So each state is compared with that of the fresh object before it is loaded.
"""

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import OneCycleLR

from qcifar.distributed import world_size

# Entries of a row of metrics.csv that the rest of a run reads; an experiment may add others.
ROW = {"epoch": int, "dataset": str} | dict.fromkeys(
    "train_loss train_top1 val_loss val_top1 val_top5 val_f1 lr seconds images images_per_second".split(), float
)
PROGRESS = ("epoch", "step", "loss_sum", "correct", "lr", "seconds", "history", "best_epoch", "best_value")
MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # of AdamW
TAKEN = {"last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step"}  # change with the steps


def check_progress(progress: Any, epochs: int, steps: int, best: Any) -> None:
    """Raise `ValueError` unless `progress` says where a run is.

    Args:
        epochs, steps: of the whole run, and of each epoch.
        best: history -> (epoch from 0, value) of the best row.
    """
    if not isinstance(progress, dict) or progress.keys() != set(PROGRESS):
        raise ValueError(f"expected {', '.join(PROGRESS)}, got {_shown(progress)}")

    def need(name, fits, expected):
        if not fits:
            raise ValueError(f"{name}: expected {expected}, got {_shown(progress[name])}")

    epoch, step = progress["epoch"], progress["step"]
    need("epoch", _is_whole(epoch) and 0 <= epoch <= epochs, f"a whole number from 0 to {epochs}")
    need("step", _is_whole(step) and 0 <= step <= (steps if epoch < epochs else 0), f"a whole number from 0 to {steps}")
    for name, dtype in (("loss_sum", torch.float64), ("correct", torch.int64)):
        try:
            check_like(progress[name], torch.zeros(world_size(), dtype=dtype) if step else None, name)
        except ValueError:
            need(name, False, f"{dtype} ({world_size()},)" if step else "nothing before the first step")
    for name in ("lr", "seconds"):
        need(name, _is_number(progress[name]) and progress[name] >= 0, "a number from 0")
    rows = progress["history"]
    need("history", isinstance(rows, list) and len(rows) == epoch, f"{epoch} rows")
    for number, row in enumerate(rows, 1):
        need("history", isinstance(row, dict) and _is_row(row) and row["epoch"] == number, f"scores of epoch {number}")
    found = progress["best_epoch"], progress["best_value"]
    for name, value, expected in zip(("best_epoch", "best_value"), found, best(rows), strict=True):
        need(name, type(value) is type(expected) and value == expected, f"{expected}, by the history")


def _is_row(row: dict) -> bool:
    fits = {int: _is_whole, float: _is_number, str: lambda value: isinstance(value, str)}
    return all(name in row and fits[kind](row[name]) for name, kind in ROW.items())


def _is_whole(value: Any) -> bool:
    return type(value) is int  # not bool


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _shown(value: Any) -> str:
    if torch.is_tensor(value):
        return f"{value.dtype} {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_like(found: Any, like: Any, where: str) -> None:
    """Raise `ValueError` unless `found` has the form of `like`: keys, lengths, types, shapes; and is finite."""
    if torch.is_tensor(like):
        _check_tensor(found, like.shape, like.dtype, where)
        if not _is_finite(found) and _is_finite(like):
            raise ValueError(f"{where} holds NaN or infinity")
        return
    if _is_number(like):
        if not (_is_whole(found) if _is_whole(like) else _is_number(found)):
            raise ValueError(f"{where}: expected a number as {like!r}, got {_shown(found)}")
        return
    if type(found) is not type(like):
        raise ValueError(f"{where}: expected {type(like).__name__}, got {_shown(found)}")
    if isinstance(like, dict):
        if found.keys() != like.keys():
            odd = sorted(map(str, found.keys() ^ like.keys()))
            raise ValueError(f"{where} has other entries: {', '.join(odd[:4])}{' ...' if len(odd) > 4 else ''}")
        for name in like:
            check_like(found[name], like[name], f"{where}.{name}")
    elif isinstance(like, list | tuple):
        if len(found) != len(like):
            raise ValueError(f"{where}: expected {len(like)} entries, got {len(found)}")
        for number, (one, other) in enumerate(zip(found, like, strict=True)):
            check_like(one, other, f"{where}[{number}]")


def _check_tensor(found: Any, shape: torch.Size, dtype: torch.dtype, where: str) -> None:
    if not torch.is_tensor(found) or (found.shape, found.dtype, found.layout) != (shape, dtype, torch.strided):
        raise ValueError(f"{where}: expected {dtype} {tuple(shape)}, got {_shown(found)}")


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())


def check_model(state: Any, model: torch.nn.Module) -> None:
    """Raise `ValueError` unless `state` holds finite weights of `model`."""
    fresh = model.state_dict()
    check_like(dict(state) if isinstance(state, dict) else state, dict(fresh), "model")


def check_optimizer(state: Any, optimizer: torch.optim.Optimizer, moments: Any) -> None:
    """Raise `ValueError` unless `state` has the groups of `optimizer`, and the states of `moments` parameters.

    Those are not known to a fresh optimizer: they have the shapes of the parameters, or none.
    """
    fresh = optimizer.state_dict()
    if not isinstance(state, dict) or state.keys() != fresh.keys():
        raise ValueError(f"expected {', '.join(fresh)}, got {_shown(state)}")
    check_like(state["param_groups"], fresh["param_groups"], "param_groups")
    parameters = {}
    for group, found, saved in zip(optimizer.param_groups, state["param_groups"], fresh["param_groups"], strict=True):
        if found["params"] != saved["params"]:
            raise ValueError("param_groups: the parameters are numbered in another way")
        parameters |= {number: (p, group) for number, p in zip(saved["params"], group["params"], strict=True)}
    if not isinstance(state["state"], dict) or not state["state"].keys() <= parameters.keys():
        raise ValueError(f"state: expected the numbers of parameters, got {_shown(state['state'])}")
    if not _is_whole(moments) or len(state["state"]) != moments:
        raise ValueError(f"state: expected those of {moments} parameters, got {len(state['state'])}")
    for number, entries in state["state"].items():
        _check_moments(entries, *parameters[number], f"state[{number}]")


def _check_moments(entries: Any, parameter: torch.Tensor, group: dict, where: str) -> None:
    wanted = MOMENTS | ({"max_exp_avg_sq"} if group.get("amsgrad") else set())
    if not isinstance(entries, dict) or ("betas" in group and entries.keys() != wanted):
        raise ValueError(f"{where}: expected {', '.join(sorted(wanted))}, got {_shown(entries)}")
    for name, value in entries.items():
        if "betas" in group:
            single = name == "step"
            _check_tensor(
                value, torch.Size() if single else parameter.shape, torch.float32 if single else parameter.dtype,
                f"{where}.{name}",
            )  # fmt: skip
        if torch.is_tensor(value) and not _is_finite(value):
            raise ValueError(f"{where}.{name} holds NaN or infinity")


def check_schedule(state: Any, schedule: Any, taken: int) -> None:
    """Raise `ValueError` unless `state` is that of `schedule` after `taken` steps."""
    fresh = schedule.state_dict()
    check_like(state, fresh, "schedule")
    count = state.get("taken", state.get("last_epoch") if isinstance(schedule, OneCycleLR) else taken)
    if count != taken:
        raise ValueError(f"expected the state after {taken} steps, got that after {count}")
    if isinstance(schedule, OneCycleLR):
        for name in fresh.keys() - TAKEN:
            if state[name] != fresh[name]:
                raise ValueError(f"schedule.{name}: expected {_shown(fresh[name])}, got {_shown(state[name])}")
