"""The scripts as a user runs them, small: their flags, their folders, and what has to come back to the bit."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import cifar100_baseline
import cifar100_hybrid_Qhead
import cifar100_quantum_channels
from qcifar.config import settings_from_constants, variant_of
from qcifar.files import read_checkpoint, write_checkpoint
from tests.helpers import ROOT
from tests.helpers.networks import SMALL_RESNET

SCRIPTS = {
    "baseline": (cifar100_baseline, "cifar100_baseline_det"),
    "channels": (cifar100_quantum_channels, "cifar100_quantum_channels"),
    "head": (cifar100_hybrid_Qhead, "cifar100_hybrid_qhead"),
}
SMALL = (
    f"--dataset synthetic --weights none --model-name {SMALL_RESNET} --img-size 32 --epochs 2 --batch-size 16 "
    "--train-limit 48 --eval-limit 40 --device cpu"
).split()
HEAD = ["--epochs-warmup", "1"]
ONE_EPOCH = {  # with the branch on
    name: ["--epochs", "1", *(["--epochs-warmup", "0"] if name == "head" else [])] for name in SCRIPTS
}
TIMED = {"seconds", "images_per_second"}
MEASURED = {"images_per_second", "train_seconds", "peak_host_mb"}


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it, nothing is tidied up."""


def dying_after(saves):
    """A `write_checkpoint` for DLfunctions after whose `saves`-th file nothing more happens, as after SIGKILL."""
    left = [saves]

    def write_then_die(path, content):
        write_checkpoint(path, content)
        left[0] -= 1
        if left[0] == 0:
            raise Killed

    return write_then_die


def flags(name, run_dir, *more):
    return [*SMALL, *(HEAD if name == "head" else []), "--run-dir", str(run_dir), *more]


def settings(name, run_dir, *more):
    module = SCRIPTS[name][0]
    return settings_from_constants(vars(module), flags(name, run_dir, *more), module.own_rules)


def folder_of(name, run_dir, *more):
    """Where a run of these flags lies."""
    cfg, (module, experiment) = settings(name, run_dir, *more), SCRIPTS[name]
    return Path(run_dir) / experiment / variant_of(cfg, module.own_rules) / f"seed{cfg.seed}"


def prepare(name, run_dir, *more):
    """What a script is about to train."""
    return SCRIPTS[name][0].prepare(settings(name, run_dir, *more))


def run(name, run_dir, *more):
    """Run a script in this process; returns its result and its folder."""
    return SCRIPTS[name][0].main(flags(name, run_dir, *more)), folder_of(name, run_dir, *more)


RESNET = ("--model-name", "resnet18")  # of the kind that the published experiment trains, known to every process


def command(name, run_dir, *more):
    """What a user types."""
    return [sys.executable, str(ROOT / SCRIPTS[name][0].__file__), *flags(name, run_dir, *more)]


def copy_of_the_code(folder):
    """The scripts and qcifar in a folder of their own, to be edited; returns the folder."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("qcifar/**/*.py")]:
        copy = folder / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return folder


def edit(path, old, new):
    """Replace a text that must be there, once."""
    content = path.read_text(encoding="utf-8")
    assert content.count(old) == 1, (path, old)
    path.write_text(content.replace(old, new), encoding="utf-8")


def module_of(path):
    """A script's file as a module of its own, apart from one of the same name that is imported already."""
    spec = importlib.util.spec_from_file_location(f"copy_of_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_file(path, *argv, python_path="", **more):
    """Run a script's file as a user does, on one thread as the tests in this process; returns when it has ended."""
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment = os.environ | threads | {"PYTHONPATH": str(python_path)}
    command = [sys.executable, str(path), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **more)


def stored(folder):
    """What has to come back to the bit: weights, optimizer, metrics without times, logits."""
    last = read_checkpoint(folder / "last.pt")
    history = [{k: v for k, v in row.items() if k not in TIMED} for row in last["progress"]["history"]]
    moments = [state["exp_avg"] for _, state in sorted(last["optimizer"]["state"].items())]
    logits = np.load(folder / "predictions.npz")["logits"]
    result = json.loads((folder / "result.json").read_text())
    result = {k: v for k, v in result.items() if k not in MEASURED}
    return last["model"], moments, history, logits, result


def assert_same(a, b):
    assert a[0].keys() == b[0].keys() and all(torch.equal(a[0][name], b[0][name]) for name in a[0])
    assert len(a[1]) == len(b[1]) and all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))
    assert a[2] == b[2]
    assert np.array_equal(a[3], b[3])
    assert a[4] == b[4]


def as_baseline(state):
    """The head's state dict under the baseline's names."""
    return {key.replace("backbone.", "").replace("classifier.", "fc."): value for key, value in state.items()}
