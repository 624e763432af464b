"""Device and precision: what is chosen, what is refused, and how freed memory is used again."""

import itertools
import mmap
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from qcifar.device import CoreShare, autocast, set_up_torch
from qcifar.errors import InputError
from tests.helpers import ROOT
from tests.helpers.processes import torchrun_variables


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [
        ("cpu", "tf32", "PRECISION tf32 needs a CUDA device, got cpu; use fp32 or bf16"),
        ("tpu", "auto", "DEVICE (--device): expected auto, cpu, cuda or cuda:<number>, got 'tpu'"),
        ("meta", "auto", "DEVICE (--device): expected auto, cpu, cuda or cuda:<number>, got 'meta'"),
        ("cuda:99", "auto", "CUDA devices here; use --device cpu"),
    ],
)
def test_what_is_not_there_is_refused(device, precision, expected):
    with pytest.raises(InputError) as caught:
        set_up_torch(device, precision)
    assert expected in str(caught.value)


def test_auto_is_the_cpu_in_single_precision_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert set_up_torch("auto", "auto") == (torch.device("cpu"), "fp32")
    assert set_up_torch("cpu", "bf16") == (torch.device("cpu"), "bf16")
    assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
    assert not torch.backends.cuda.matmul.allow_tf32


def test_products_are_rounded_to_bf16_only_where_the_precision_says_so():
    a = torch.randn(8, 8)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(torch.device("cpu"), precision):
            assert (a @ a).dtype == dtype


def test_one_gpu_for_all_processes_is_refused(monkeypatch):
    for name, value in torchrun_variables(0, 2).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="DEVICE cuda:0: all processes of torchrun would share it"):
        set_up_torch("cuda:0", "auto")


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_used_again():
    """After the first round hardly a page is new to the process; without the switch most are, as a rule."""
    program = """
import resource, torch
from qcifar.device import reuse_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        [torch.ones(2**20) for _ in range(40)]  # 160 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert reuse_freed_memory()
new_pages()
print(new_pages())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5 * 40 * 2**22 / mmap.PAGESIZE / 10


def test_more_threads_than_cores_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    said = []
    CoreShare(torch.device("cuda"), said.append)
    assert said == []
    CoreShare(torch.device("cpu"), said.append).step()
    (line,) = said
    assert line.startswith("warning: 999 threads on ") and "OMP_NUM_THREADS=" in line


@pytest.mark.parametrize(("share", "warned"), [(0.95, False), (0.5, True)])
def test_a_process_that_gets_half_of_its_cores_says_so_once(monkeypatch, share, warned):
    said, seconds = [], itertools.count()
    watch = CoreShare(torch.device("cpu"), said.append)
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr("qcifar.device.time.monotonic", lambda: now.time)
    monkeypatch.setattr("qcifar.device.time.process_time", lambda: now.time * share * watch.threads)
    for now.time, _ in zip(seconds, range(20), strict=False):
        watch.step()
    assert len(said) == warned
    assert not warned or f"this one gets {share:.0%} of the time of its {watch.threads} threads" in said[0]
