"""Randomness in separate streams.

Every stream is a function of (seed, purpose, epoch, step) alone, so it does not matter who else drew
what, on which device, in how many processes, or whether the run was resumed.
"""

import contextlib
import hashlib

import numpy as np
import torch


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
