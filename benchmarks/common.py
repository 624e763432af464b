"""What the benchmarks share: what a script is about to train, turns of timing, and the hardware."""

import importlib
import os
import platform
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qcifar.config import settings_from_constants
from qcifar.device import cores_at_hand
from qcifar.distributed import started_by_torchrun
from qcifar.errors import InputError
from qcifar.experiment.identity import git_commit
from qcifar.experiment.recipe import Prepared

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "baseline": "cifar100_baseline",
    "channels": "cifar100_quantum_channels",
    "head": "cifar100_hybrid_Qhead",
}


def begin(script: str, argv: list[str]) -> Prepared:
    """What a script trains under these flags, so that what is measured is not a copy of it."""
    if started_by_torchrun():
        raise InputError("benchmarks run on one process; start this with python, not torchrun")
    module = importlib.import_module(SCRIPTS[script])
    return module.prepare(settings_from_constants(vars(module), argv, module.own_rules))


class HostReads(TorchDispatchMode):
    """Counts, by place in our code, what makes the host wait for a GPU: values read from tensors, copies across.

    On a CPU the same values are read, though nothing waits. Code under `torch.compile` is not seen.
    """

    by_value = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim")

    def __init__(self):
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in self.by_value or (name in ("_to_copy", "copy_") and self._crosses(name, args, result)):
            self.places[f"{name} at {self._place()}"] += 1
        return result

    @staticmethod
    def _crosses(name, args, result) -> bool:
        """Whether a copy leaves the GPU, or enters it from memory that is not pinned."""
        source = args[1] if name == "copy_" else args[0]
        leaves = source.device.type != "cpu" and result.device.type == "cpu"
        return leaves or (source.device.type == "cpu" and result.device.type != "cpu" and not source.is_pinned())

    @staticmethod
    def _place() -> str:
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(str(ROOT) + os.sep)]
        ours = [frame for frame in frames if "/benchmarks/" not in frame.filename and "/.venv/" not in frame.filename]
        if not ours:
            return "a thread of torch's own"
        return f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].lineno} in {ours[-1].name}"


def in_turns(runs: dict, repeats: int, span: float = 0.0) -> dict[str, float]:
    """Median seconds a call of each of `runs` (name -> callable), taken in turns; the first turn does not count.

    Each turn of each makes one call untimed, which finds the caches as the others left them, then calls
    for at least `span` seconds.
    """
    times = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            if span:
                run()
            calls, start = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - start < span:
                run()
                calls += 1
            if turn:
                times[name].append((time.perf_counter() - start) / calls)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def conditions(device: torch.device) -> str:
    """Date, commit, hardware and versions, for the head of a table."""
    cores = f"{_processor()}, {cores_at_hand()} cores, {torch.get_num_threads()} threads"
    hardware = torch.cuda.get_device_name(device) + ", " + cores if device.type == "cuda" else cores
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return f"`{command}` on {time.strftime('%Y-%m-%d')}, commit {_commit()}, {hardware}, torch {torch.__version__}"


def _commit() -> str:
    """Short, with "+" where the code that ran differs from it."""
    commit = git_commit()
    return commit[:7] + ("+" if commit.endswith("+") else "")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak_memory_of(program: str) -> float:
    """What `program` (Python) prints last, as a number, in a fresh process that finds the repository."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def save(name: str, text: str) -> None:
    """Print `text` and keep it as benchmarks/results/<name>.md."""
    path = ROOT / "benchmarks" / "results" / f"{name}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"kept in {path.relative_to(ROOT)}", file=sys.stderr)
