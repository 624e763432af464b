"""Randomness in separate streams, and the switches that make torch deterministic.

Every stream is a function of (seed, purpose, epoch, step) alone, so it does not matter who else drew
what, on which device, in how many processes, or whether the run was resumed.
"""

import contextlib
import ctypes
import hashlib
import os

import numpy as np
import torch

from qcifar import distributed
from qcifar.errors import InputError


def stream_seed(seed: int, *purpose: str | int) -> int:
    """128-bit key of a stream: BLAKE2b of the seed and the purpose, for example `(42, "order", 3)`."""
    digest = hashlib.blake2b(
        repr((int(seed), *(p if isinstance(p, str) else int(p) for p in purpose))).encode(), digest_size=16
    ).digest()
    return int.from_bytes(digest, "little")


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """NumPy generator (Philox) of the stream `purpose`."""
    return np.random.Generator(np.random.Philox(key=stream_seed(seed, *purpose)))


def seed_torch(seed: int, *purpose: str | int) -> None:
    """Point torch's global generators (CPU and CUDA) at the stream `purpose`."""
    torch.manual_seed(stream_seed(seed, *purpose) % 2**63)


@contextlib.contextmanager
def torch_stream(seed: int, *purpose: str | int):
    """Draw torch's CPU random numbers from the stream `purpose` inside the block, then put back."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, *purpose) % 2**63)
        yield


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
        raise InputError(f"PRECISION bf16: {torch.cuda.get_device_name(chosen)} has none; use fp32 or tf32")
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
