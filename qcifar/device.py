"""Device, precision, and the switches that make torch deterministic."""

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from qcifar import distributed
from qcifar.errors import InputError

FAIR_SHARE = 0.6  # of its threads' time that a process gets where it is alone, at least
LOOK_SECONDS = 5.0


def set_up_torch(device: str, precision: str) -> tuple[torch.device, str]:
    """Choose device and precision, make torch deterministic before the first CUDA call, join torchrun's processes.

    Args:
        device: "auto" (CUDA where there is one, else CPU), "cpu", "cuda" or "cuda:1". Under torchrun, "auto"
            and "cuda" are the GPU of this process's local rank, and a number is refused.
        precision: "auto" (bf16 on CUDA that has it, else fp32), "fp32", "tf32" or "bf16".

    Returns:
        (device, precision) with every "auto" resolved.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only so
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it times kernels and picks, differently each run
    chosen = _choose_device(device)
    on_cuda = chosen.type == "cuda"
    if on_cuda:
        chosen = torch.device("cuda", chosen.index or 0)
        torch.cuda.set_device(chosen)  # else GPU 0 is touched, too
    has_bf16 = on_cuda and torch.cuda.is_bf16_supported(including_emulation=False)  # cuDNN does not emulate it
    if precision == "auto":
        precision = "bf16" if has_bf16 else "fp32"
    if precision == "bf16" and on_cuda and not has_bf16:
        raise InputError(f"PRECISION bf16: {torch.cuda.get_device_name(chosen)} does not have it; use fp32 or tf32")
    if precision == "tf32" and not on_cuda:
        raise InputError(f"PRECISION tf32 needs a CUDA device, got {chosen}; use fp32 or bf16")
    # TF32 for convolutions only. Matrix products stay fp32: the augmentation interpolates with
    # them, and in this network only the last layer is one.
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = False
    reuse_freed_memory()
    distributed.join(chosen)
    return chosen, precision


def reuse_freed_memory() -> bool:
    """Let glibc keep up to 2 GiB of freed memory for the next step; whether it could be told so.

    Otherwise it hands the activations of every step back to the kernel, which clears the pages anew for the
    next one: up to a quarter of a step on a CPU at 32 pixels. (`man 3 mallopt`.)
    """
    trim_threshold, mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**25))


def _choose_device(name: str) -> torch.device:
    several = distributed.started_by_torchrun()
    if several and name.startswith("cuda:"):
        raise InputError(f"DEVICE {name}: all processes of torchrun would share it; --device cuda gives each its own")
    mine = f"cuda:{distributed.local_rank()}" if several else "cuda"
    if name == "auto":
        name = mine if torch.cuda.is_available() else "cpu"
    elif name == "cuda":
        name = mine
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"DEVICE (--device): expected auto, cpu, cuda or cuda:<number>, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"DEVICE {name}: {torch.cuda.device_count()} CUDA devices here; use --device cpu")
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The one autocast context of a run: bfloat16 where `precision` says so, else inactive."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could still take on `device`; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    found = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        kilobytes = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found.append(int(kilobytes["MemAvailable"].split()[0]) * 2**10)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (highest := limit.read_text().strip()).isdigit():  # of a container
        found.append(int(highest) - int(used.read_text()))
    return min(found, default=None)


def cores_at_hand() -> int:
    """Cores that this process may use, not those that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CoreShare:
    """One line of warning where the threads of this process do not get the cores that they need.

    Threads of several processes that wait for each other on the same cores slow all of them, up to tenfold.

    Args:
        device: only a CPU is looked at.
        warn: told in one line: at once of more threads than cores, or, after the first seconds of steps, that
            other processes use the cores.
    """

    def __init__(self, device: torch.device, warn: Callable[[str], None]):
        self.threads, self.warn, self.steps = torch.get_num_threads(), warn, 0
        self.looking = device.type == "cpu"
        cores = cores_at_hand()
        if self.looking and self.threads > cores:
            self.looking = False
            warn(f"warning: {self.threads} threads on {cores} cores are slow; use OMP_NUM_THREADS={cores}")

    def step(self) -> None:
        """After each training step; the first two are not counted, since they allocate and compile."""
        if not self.looking:
            return
        self.steps += 1
        wall, used = time.monotonic(), time.process_time()
        if self.steps == 2:
            self.since = wall, used
        elif self.steps > 2 and wall - self.since[0] > LOOK_SECONDS:
            self.looking = False
            share = (used - self.since[1]) / (wall - self.since[0]) / self.threads
            if share < FAIR_SHARE:
                self.warn(
                    f"warning: other processes use the cores: this one gets {share:.0%} of the time of its "
                    f"{self.threads} threads; run one at a time, or each with OMP_NUM_THREADS=1"
                )
