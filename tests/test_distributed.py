"""Several processes train on the images, and to the weights, that one process would: gloo on CPUs."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from cifar100_quantum_channels import make_circuits
from DLfunctions import Progress, Stop, evaluate, train_one_epoch
from qcifar import distributed
from qcifar.data.augment import Augmentation
from qcifar.data.cifar import load_dataset
from qcifar.data.loader import EvalLoader, TrainLoader
from qcifar.device import CoreShare, set_up_torch
from qcifar.errors import InputError
from qcifar.files import read_checkpoint, read_json, write_checkpoint, write_json
from qcifar.quantum.descriptors import input_angles, run_circuit
from qcifar.quantum.runner import make_runner
from qcifar.streams import stream
from tests.helpers import ROOT
from tests.helpers.networks import network
from tests.helpers.processes import run_processes, run_script, torchrun_variables
from tests.helpers.scripts import RESNET, SCRIPTS, as_baseline, assert_same, flags, folder_of, prepare, stored

CPU = torch.device("cpu")


def test_alone_a_process_is_the_first_and_everything_is_its_own():
    x, net = torch.arange(6.0).view(3, 2), small_net()
    assert (distributed.rank(), distributed.world_size(), distributed.my_slice(12)) == (0, 1, slice(0, 12))
    assert (
        distributed.from_first("a") == "a" and distributed.each("a") == ["a"] and distributed.largest(3, -1) == [3, -1]
    )
    assert distributed.sum_of(x) is x and distributed.one_each(torch.tensor(5)).tolist() == [5]
    rows = [(slice(0, 1), x[:1]), (slice(1, 3), x[1:])]
    assert torch.equal(distributed.gather_rows(rows, 3, CPU), x)
    assert distributed.replicate(net) is net and distributed.synchronise_batchnorm(net, CPU) is net
    assert type(net[1]) is nn.BatchNorm2d
    with distributed.first_alone(), distributed.without_exchange(net):
        distributed.share_buffers(net)


def test_what_the_first_process_refuses_is_refused_and_an_accident_is_not_hidden():
    def refuse():
        raise InputError("no such file")

    def fail():
        raise ZeroDivisionError

    done = []
    distributed.on_first(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(InputError, match="no such file"):
        distributed.on_first(refuse)
    with pytest.raises(ZeroDivisionError):
        distributed.on_first(fail)


def test_others_that_cannot_be_reached_are_named(monkeypatch):
    def refuse(backend):
        raise RuntimeError("connect() timed out")

    for name, value in torchrun_variables(0, 2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "init_process_group", refuse)
    with pytest.raises(InputError, match=r"timed out"):
        distributed.join(CPU)


@pytest.mark.parametrize("wrong", [{"RANK": ""}, {"WORLD_SIZE": "two"}, {"MASTER_ADDR": ""}])
def test_an_environment_that_torchrun_did_not_make_is_refused(monkeypatch, wrong):
    for name, value in (torchrun_variables(0, 2) | wrong).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"not one that torchrun makes .*`unset WORLD_SIZE` runs one process"):
        distributed.started_by_torchrun()


@pytest.mark.parametrize(("size", "several"), [(None, False), ("", False), ("1", False), ("2", True)])
def test_several_processes_are_known_by_what_torchrun_sets(monkeypatch, size, several):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in (torchrun_variables(0, 2) if size == "2" else {}).items():
        monkeypatch.setenv(name, value)
    if size is not None:
        monkeypatch.setenv("WORLD_SIZE", size)
    assert distributed.started_by_torchrun() == several


def test_batch_norm_over_processes_is_torchs_where_there_is_one(images):
    x = images[:8].double()
    plain, ours = nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    ours.__class__ = distributed.SyncBatchNorm
    expected, found = plain(x), ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-10)
    assert torch.equal(ours.eval()(x), ours(x)) and ours.num_batches_tracked == 1


def loaders():
    data = load_dataset("synthetic", "unused")
    train = TrainLoader(data.train_images[:60], data.train_labels[:60], 12, Augmentation(32), 7)
    return train, EvalLoader(data.test_images[:50], data.test_labels[:50], 12, 32)


def small_net():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 225, 100)
    )


def gradients(network, x, labels):
    network.zero_grad()
    nn.functional.cross_entropy(network(x), labels).backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


def member(folder):
    """What one process finds; the test compares it with a single process."""
    set_up_torch("cpu", "fp32")
    rank, count = distributed.rank(), distributed.world_size()
    train, test = loaders()
    batches = list(train.batches(2))
    model = network("resnet18", seed=0)
    scores, logits, _ = evaluate(model, test, nn.CrossEntropyLoss(), torch.autocast("cpu", enabled=False))
    angles = torch.from_numpy(stream(0, "angles").normal(size=(600, 12)))
    edge = make_runner(make_circuits("default", 12, 1)[0], "fast", 12)  # 64 images a chunk

    plain = distributed.synchronise_batchnorm(small_net(), CPU)
    net = distributed.replicate(plain)
    x, labels = batches[0]
    first, second, third = (gradients(net, x, labels) for _ in range(3))  # torch lays buckets out anew after one step
    assert all(torch.equal(a, b) and torch.equal(b, c) for a, b, c in zip(first, second, third, strict=True))
    found = {
        "batches": batches,
        "scores": scores,
        "logits": torch.from_numpy(logits),
        "edge": run_circuit(edge, angles, "edge"),
        "angles": input_angles(load_dataset("synthetic", "unused").train_images[:1100], 4, 28),  # in three chunks
        "gradients": first,
        "statistics": plain[1].running_var,
    }
    torch.save(found, folder / f"{rank}.pt")
    assert distributed.from_first(rank) == 0 and distributed.largest(rank, -rank) == [count - 1, 0]
    assert distributed.one_each(torch.tensor(rank)).tolist() == list(range(count))
    assert distributed.each(f"rank {rank}") == [f"rank {k}" for k in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_processes_together_do_what_one_does(count, tmp_path):
    assert run_processes(1, member, tmp_path) == [0]
    alone = torch.load(tmp_path / "0.pt")
    assert run_processes(count, member, tmp_path) == [0] * count
    together = [torch.load(tmp_path / f"{rank}.pt") for rank in range(count)]
    for step, (x, labels) in enumerate(alone["batches"]):  # invariant 1: the slices of one batch, in order
        assert torch.equal(x, torch.cat([found["batches"][step][0] for found in together]))
        assert torch.equal(labels, torch.cat([found["batches"][step][1] for found in together]))
    for found in together:
        assert torch.equal(found["logits"], alone["logits"]) and found["scores"] == alone["scores"]
        assert torch.equal(found["edge"], alone["edge"]) and torch.equal(found["angles"], alone["angles"])
        torch.testing.assert_close(found["gradients"], alone["gradients"], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found["statistics"], alone["statistics"], rtol=1e-5, atol=1e-7)
        pairs = zip(found["gradients"], together[0]["gradients"], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)  # every process has the same, to the bit


def synchronised(folder):
    set_up_torch("cpu", "fp32")
    norm = distributed.synchronise_batchnorm(batch_norm(), CPU)
    x, weights = images_and_weights()
    mine = distributed.my_slice(len(x))
    x = x[mine].requires_grad_()
    y = norm(x)
    (y * weights[mine]).sum().backward()
    by_weight, by_bias = (distributed.sum_of(parameter.grad) for parameter in norm.parameters())
    norm.eval()
    found = [y, x.grad, norm(x)], [by_weight, by_bias, norm.running_mean, norm.running_var]
    torch.save(found, folder / f"{distributed.rank()}.pt")


def batch_norm():
    norm = nn.BatchNorm2d(5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 6.0))
        norm.bias.copy_(torch.arange(5.0))
    return norm


def images_and_weights():
    rng = stream(1, "batch norm")
    return (torch.from_numpy(rng.normal(2, 3, size=(8, 5, 4, 4))) for _ in range(2))


@pytest.mark.slow
def test_synchronised_batch_norm_is_batch_norm_of_the_whole_batch(tmp_path):
    assert run_processes(2, synchronised, tmp_path) == [0, 0]
    norm = batch_norm()
    x, weights = images_and_weights()
    x.requires_grad_()
    y = norm(x)
    (y * weights).sum().backward()
    statistics = [norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
    norm.eval()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for place, expected in enumerate((y, x.grad, norm(x))):
        torch.testing.assert_close(torch.cat([part[place] for part, _ in found]), expected, rtol=1e-10, atol=1e-10)
    for place, expected in enumerate(statistics):
        for _, shared in found:
            torch.testing.assert_close(shared[place], expected, rtol=1e-10, atol=1e-10)


TWENTY_STEPS = [*RESNET, *"--epochs 1 --batch-size 16 --train-limit 320 --max-lr 1e-5".split()]


def change(folder):
    """How far training has moved the weights that all scripts share, as one vector."""
    before = network("resnet18").state_dict()
    after = read_checkpoint(folder / "last.pt")["model"]
    after = as_baseline(after)
    names = [key for key in before if before[key].shape == after[key].shape and key.endswith(("weight", "bias"))]
    return torch.cat([(after[key] - before[key]).flatten().double() for key in names])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_weights_after_twenty_steps_are_those_of_one_process(name, tmp_path):
    """What training changed differs by less than 5 %; on other images it would be by more than half.

    At a small rate: at the default one Adam makes rounding grow, between one thread and two as well.
    """
    module = SCRIPTS[name][0]
    more = [*TWENTY_STEPS, *(["--epochs-warmup", "0"] if name == "head" else [])]
    changes, results, descriptors = [], [], []
    for count, images in ((1, []), (2, []), (1, ["--split-seed", "7"])):
        folder = tmp_path / f"{count}{images}"
        assert run_processes(count, run_script, module.__name__, flags(name, folder, *more, *images)) == [0] * count
        run_folder = folder_of(name, folder, *more, *images)
        changes.append(change(run_folder))
        results.append(json.loads((run_folder / "result.json").read_text()))
        caches = sorted(folder.glob("*/descriptors/*.npz"))
        descriptors.append([np.load(path)["qvec"] for path in caches])
    one, two, others = changes
    assert (two - one).norm() < 0.05 * one.norm() < 0.1 * (others - one).norm()
    assert results[0]["val_loss"] == pytest.approx(results[1]["val_loss"], abs=1e-4)
    assert (results[0]["processes"], results[1]["processes"]) == (1, 2)
    assert results[0]["recipe"] != results[1]["recipe"]
    assert all(np.array_equal(a, b) for a, b in zip(descriptors[0], descriptors[1], strict=True))
    assert len(descriptors[0]) == (6 if name == "channels" else 0)


def accumulated(folder):
    """Gradients of one step in three micro-batches, with an exchange at the last one only."""
    set_up_torch("cpu", "fp32")
    network, (train, _) = distributed.replicate(small_net().eval()), loaders()
    exchanges = []
    exchange = dist.all_to_all_single
    distributed.dist.all_to_all_single = lambda *args: exchanges.append(exchange(*args))
    seen = []
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    optimizer.step = lambda: seen.append([parameter.grad.clone() for parameter in network.parameters()])
    network.train = lambda: None  # frozen statistics: a micro-batch has none of its own
    train_one_epoch(
        network, train, nn.CrossEntropyLoss(), optimizer, SimpleNamespace(step=lambda: None), Progress(), title="",
        autocast=nullcontext(), accumulate=3, cores=CoreShare(torch.device("meta"), print), stop=Stop(), save=None,
        save_every=math.inf,
    )  # fmt: skip
    assert len(exchanges) == (len(train) if distributed.world_size() > 1 else 0)  # the network is one bucket
    torch.save(seen, folder / f"{distributed.rank()}.pt")


@pytest.mark.slow
def test_accumulation_on_two_processes_gives_the_gradient_of_the_whole_batch(tmp_path):
    assert run_processes(1, accumulated, tmp_path) == [0]
    alone = torch.load(tmp_path / "0.pt")
    assert run_processes(2, accumulated, tmp_path) == [0, 0]
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone, rtol=1e-4, atol=1e-6)


def gain_of_a_control(folder):
    """At the start of phase B."""
    set_up_torch("cpu", "fp32")
    it = prepare("head", folder, "--control", "fourier")
    it.on_epoch_start(1)
    torch.save(it.model.branch.gain, folder / f"{distributed.rank()}.pt")


@pytest.mark.slow
def test_a_control_starts_with_one_gain_on_all_processes(tmp_path):
    assert run_processes(1, gain_of_a_control, tmp_path) == [0]
    alone = torch.load(tmp_path / "0.pt")
    assert run_processes(2, gain_of_a_control, tmp_path) == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(first, second) and first != 1
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=0)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds torchrun's processes in /proc")
def test_torchrun_a_dead_rank_ends_the_job_and_the_next_one_goes_on(tmp_path):
    more = ["--checkpoint-minutes", "0", "--epochs", "3", *RESNET]

    def start(folder):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        return subprocess.Popen(
            [*command, str(ROOT / "cifar100_baseline.py"), *flags("baseline", tmp_path / folder, *more)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    job = start("killed")
    last = tmp_path / "killed" / "cifar100_baseline_det" / "seed42" / "last.pt"
    for _ in range(600):
        if last.exists() or job.poll() is not None:
            break
        time.sleep(0.1)
    os.kill(children(job.pid)[1], signal.SIGKILL)
    said, _ = job.communicate(timeout=120)
    assert job.returncode != 0 and "SIGKILL" in said
    again = start("killed")
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0 and "continuing from epoch" in said and "Traceback" not in said
    argv = flags("baseline", tmp_path / "calm", *more)
    assert run_processes(2, run_script, "cifar100_baseline", argv) == [0, 0]
    assert_same(*(stored(tmp_path / name / "cifar100_baseline_det" / "seed42") for name in ("calm", "killed")))


@pytest.mark.slow
def test_accepted_code_is_known_to_all_processes(tmp_path):
    """The run was begun by other code, which is accepted once: both processes read checkpoints of that code."""
    more = ["--epochs", "1", "--train-limit", "16", "--eval-limit", "16"]
    argv = flags("baseline", tmp_path, *more)
    assert run_processes(2, run_script, "cifar100_baseline", argv) == [0, 0]
    folder = folder_of("baseline", tmp_path, *more)
    config = read_json(folder / "config.json")
    config["identity"]["code"]["DLfunctions.py"] = "0" * 12
    write_json(folder / "config.json", config)
    for path in (folder / "last.pt", folder / "best.pt"):
        write_checkpoint(path, read_checkpoint(path) | {"identity": config["identity"]})
    for flag, accepted in (([], False), (["--accept-code"], True), ([], True)):
        (folder / "result.json").unlink(missing_ok=True)
        assert (run_processes(2, run_script, "cifar100_baseline", [*argv, *flag]) == [0, 0]) == accepted
    assert read_json(folder / "result.json")["accepted_code"]
