"""One run on several processes, started by `torchrun`; on one process every function here is trivial.

    torchrun --nproc-per-node 4 cifar100_baseline.py
    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-endpoint HOST:29500 cifar100_baseline.py

All processes run the same program. A step's batch is the one that a single process would see, and rank r
of W takes the r-th of W equal slices of it. Files are written by rank 0; RUN_DIR must be a folder that
all of them see. Whatever decides what comes next (does a file exist, did a signal arrive) is decided by
rank 0 or by all together, so that no process waits for one that went another way.
"""

import os
from collections.abc import Callable
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from qcifar.errors import InputError


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def started_by_torchrun() -> bool:
    """Whether torchrun started several processes.

    Raises:
        InputError: WORLD_SIZE is in the environment, but not with what torchrun sets beside it.
    """
    if os.environ.get("WORLD_SIZE", "").strip() in ("", "1"):
        return False
    needed = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT")
    wrong = [name for name in needed if not os.environ.get(name, "").strip().isdigit()]
    if wrong or not os.environ.get("MASTER_ADDR"):
        found = ", ".join(f"{name}={os.environ.get(name, '')!r}" for name in (*needed, "MASTER_ADDR"))
        raise InputError(
            f"the environment is not one that torchrun makes ({found}); `unset WORLD_SIZE` runs one process"
        )
    return True


def local_rank() -> int:
    """This process's number on its machine, as torchrun says."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def join(device: torch.device) -> None:
    """Join the other processes that torchrun started, with NCCL between GPUs and gloo between CPUs.

    Raises:
        InputError: the others could not be reached.
    """
    if not started_by_torchrun() or dist.is_initialized():
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the processes of torchrun could not reach each other: {error}") from None


def from_first(value):
    """Rank 0's `value` on every process: for what is read from disk or from a clock."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def each(value) -> list:
    """Every process's `value`, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def say(text: str) -> None:
    """Print `text` once, above any bar."""
    if rank() == 0:
        tqdm.write(text)


def wait() -> None:
    """Return when all processes have come here."""
    largest(0)


def on_first(action: Callable[[], None]) -> None:
    """Call `action` on rank 0; all processes go on when it is done, or raise its `InputError`."""
    problem = None
    if rank() == 0:
        try:
            action()
        except InputError as error:
            problem = str(error)
    if problem := from_first(problem):
        raise InputError(problem)


@contextmanager
def first_alone():
    """The block runs on rank 0 first, then on the others: for what downloads a file that is missing."""
    if rank() > 0:
        wait()
    yield
    if rank() == 0:
        wait()


def largest(*values: int) -> list[int]:
    """The largest of each of `values` over all processes."""
    if world_size() == 1:
        return list(values)
    together = torch.tensor(values)
    dist.all_reduce(together, op=dist.ReduceOp.MAX)
    return together.tolist()


def sum_of(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` added up over all processes, in place. Exact where all but one of them hold zeros."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def one_each(value: torch.Tensor) -> torch.Tensor:
    """A scalar of each process, (world_size,), in the order of ranks."""
    slots = torch.zeros(world_size(), dtype=value.dtype, device=value.device)
    slots[rank()] = value
    return sum_of(slots)


def gather_rows(collected: list[tuple[slice, torch.Tensor]], count: int, device: torch.device) -> torch.Tensor:
    """The float32 rows that the processes hold among them, each at its places: (count, width) on each of them."""
    if world_size() == 1:
        return torch.cat([rows for _, rows in collected])
    (width,) = largest(collected[0][1].shape[1] if collected else 0)
    together = torch.zeros(count, width, device=device)
    for places, rows in collected:
        together[places] = rows
    return sum_of(together)  # every row is zero on all processes but one: exact


def my_slice(count: int) -> slice:
    """This process's part of `count` things that divide evenly."""
    share = count // world_size()
    return slice(rank() * share, (rank() + 1) * share)


def replicate(model: nn.Module) -> nn.Module:
    """`model` as DistributedDataParallel over the parameters that learn now; itself on one process."""
    if world_size() == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    network = DistributedDataParallel(model, broadcast_buffers=False)
    network.register_comm_hook(None, average_in_rank_order)
    return network


def average_in_rank_order(state, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """DistributedDataParallel hook: the mean of a bucket over processes, always added up from rank 0 on.

    A ring or tree adds in an order that depends on a gradient's place in the bucket, and buckets are laid
    out anew after the first step; so a resumed run would differ in the last bit. Here each process adds up
    one part of the bucket and hands it round: as many bytes as a ring moves. On GPUs the rest of the
    backward pass queues behind each exchange; that overlap is the price of the fixed order.
    """
    flat, processes = bucket.buffer(), world_size()
    share = -(-flat.numel() // processes)
    sent = torch.cat((flat, flat.new_zeros(share * processes - flat.numel())))
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    parts = received.view(processes, share).unbind(0)
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    dist.all_gather_into_tensor(sent, total.div_(processes))
    done = torch.futures.Future(devices=[flat.device] if flat.is_cuda else [])
    done.set_result(sent[: flat.numel()])
    return done


def without_exchange(network: nn.Module):
    """Context in which a backward pass only adds to this process's gradients."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def share_buffers(model: nn.Module) -> None:
    """Give every process rank 0's running statistics of batch norm."""
    if world_size() > 1:
        for buffer in model.buffers():
            if buffer.numel():
                dist.broadcast(buffer, src=0)


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Batch norm over the batch of all processes: torch's SyncBatchNorm on GPUs, `SyncBatchNorm` on CPUs.

    torch's waits on the host three times a layer, for the counts of images that the processes had.
    """
    if world_size() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm  # same parameters, buffers and arguments
    return model


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over equal batches on all processes, for CPUs, where torch has none.

    Mean and variance are two differentiable sums over processes; the running variance is unbiased over
    the whole batch, as in `nn.BatchNorm2d`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        dtype, x = x.dtype, x.to(self.running_mean.dtype)  # statistics in float32 also under autocast
        count = x.numel() // x.shape[1] * world_size()
        mean = _Sum.apply(x.sum((0, 2, 3))) / count  # (C,)
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(dtype)


class _Sum(torch.autograd.Function):
    """Sum over processes; so is its gradient."""

    @staticmethod
    def forward(ctx, tensor):
        return sum_of(tensor.clone())

    @staticmethod
    def backward(ctx, gradient):
        return sum_of(gradient.clone())
