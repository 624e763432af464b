"""The scripts in processes of their own, alone or several together, with SIGKILL at a chosen moment.

Processes are forked from one that has imported torch and PennyLane already (`preload.py`), so that each takes a
second or two and a run can be killed many times in one test.
"""

import functools
import importlib
import multiprocessing
import os
import signal
import socket
import stat
import sys
import threading

from tests.helpers import ROOT


@functools.cache
def _context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.processes", "tests.helpers.preload"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    context.Process(target=print).start()  # starts the server, which reads PYTHONPATH
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def run_processes(count: int, function, *args, limit: float = 120) -> list[int]:
    """Exit codes of `count` processes that call `function(*args)`; when one fails, the others are killed.

    Each finds the variables that torchrun would set, so that scripts join.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [_context().Process(target=_member, args=(rank, count, port, function, args)) for rank in range(count)]
    for process in processes:
        process.start()
    waiting = list(processes)
    while waiting:
        ready = multiprocessing.connection.wait([process.sentinel for process in waiting], timeout=limit)
        waiting = [process for process in waiting if process.sentinel not in ready]
        failed = any(process.exitcode for process in processes if process not in waiting)
        for process in waiting if failed or not ready else []:
            process.kill()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def torchrun_variables(rank: int, count: int, port: int = 29500) -> dict[str, str]:
    """What torchrun puts into the environment of each of its processes on one machine."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    return {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _member(rank, count, port, function, args):
    os.environ |= torchrun_variables(rank, count, port)
    import torch

    torch.set_num_threads(1)
    function(*args)


def run_script(name: str, argv: list[str], moment: tuple | None = None, rank: int = 0) -> None:
    """Run a script to its end or, in process `rank`, to `moment`: see `_kill_at`."""
    module = importlib.import_module(name)
    if moment is not None and int(os.environ["RANK"]) == rank:
        _kill_at(name, *moment)
    for stream in (1, 2):  # log and bars
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    module.main(argv)


def _kill_at(script: str, kind: str, number: float) -> None:
    """Arrange for SIGKILL after `number` seconds, or as the `number`-th event of a kind begins (or ends)."""
    import torch

    import DLfunctions
    import qcifar.data.loader
    import qcifar.files

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def at_call(owner, name, ends=False, only=lambda *args, **kwargs: True):
        original, calls = getattr(owner, name), [0]

        def instead(*args, **kwargs):
            if not only(*args, **kwargs):
                return original(*args, **kwargs)
            calls[0] += 1
            if calls[0] == number and not ends:
                die()
            result = original(*args, **kwargs)
            if calls[0] == number:
                die()
            return result

        setattr(owner, name, instead)

    match kind:
        case "seconds":
            threading.Timer(number, die).start()
        case "step":  # gradients are there, the weights not yet changed
            at_call(torch.optim.AdamW, "step")
        case "writing":  # a temporary file is there, whole or in part, and not yet renamed
            at_call(qcifar.files.os, "fsync", only=lambda file: not stat.S_ISDIR(os.fstat(file).st_mode))
        case "written":  # renamed, and nothing after it done
            at_call(qcifar.files, "_write_whole", ends=True)
        case "validation":  # in the middle
            at_call(qcifar.data.loader, "normalise")
        case "epoch end":
            at_call(DLfunctions, "epoch_row")
        case "test":
            at_call(sys.modules[script], "evaluate", ends=True)
        case _:
            raise ValueError(kind)
