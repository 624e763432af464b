"""The recipe: schedules, parts of the images, batches that do not divide, and what is compiled."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import cifar100_baseline
from qcifar.config import settings_from_constants
from qcifar.errors import InputError
from qcifar.experiment import recipe
from qcifar.experiment.models import activation_bytes
from qcifar.experiment.recipe import make_optimizer, make_schedule
from tests.helpers.scripts import RESNET, SMALL, flags, prepare

STEPS_A, STEPS_B, MAX_LR = 5, 7, 0.01


def take_steps(weight, optimizer, schedule, n_steps):
    """Train; [(learning rate, beta1, weight after the step)]."""
    seen = []
    for _ in range(n_steps):
        group = optimizer.param_groups[0]
        rate, beta = group["lr"], group["betas"][0]
        optimizer.zero_grad()
        ((weight - torch.tensor([1.0, -2.0, 0.5])) ** 2).sum().backward()
        optimizer.step()
        schedule.step()
        seen.append((rate, beta, weight.tolist()))
    return seen


def per_phase(weight, steps_a, steps_b):
    optimizer = make_optimizer(nn.ParameterList([weight]), MAX_LR, 1e-4)
    return optimizer, make_schedule(optimizer, MAX_LR, steps_a, steps_b)


@pytest.mark.parametrize(("steps_a", "steps_b"), [(STEPS_A, STEPS_B), (0, STEPS_B), (STEPS_A, 0)])
def test_one_cycle_per_phase_is_two_fresh_runs(steps_a, steps_b):
    weight, expected = nn.Parameter(torch.zeros(3)), []
    for steps in filter(None, (steps_a, steps_b)):
        optimizer = torch.optim.AdamW([weight], lr=MAX_LR, weight_decay=1e-4, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=MAX_LR, total_steps=steps)
        expected += take_steps(weight, optimizer, cycle, steps)
    weight = nn.Parameter(torch.zeros(3))
    optimizer, schedule = per_phase(weight, steps_a, steps_b)
    seen = take_steps(weight, optimizer, schedule, steps_a)
    assert (len(optimizer.state) == 0) == (steps_a == 0 or steps_b > 0)
    assert seen + take_steps(weight, optimizer, schedule, steps_b) == expected


@pytest.mark.parametrize("state", [{"taken": 3}, {"taken": STEPS_A + 2}, {"taken": STEPS_A}])
def test_one_cycle_per_phase_refuses_the_state_of_another_step(state):
    weight = nn.Parameter(torch.zeros(3))
    first = per_phase(weight, STEPS_A, STEPS_B)
    take_steps(weight, *first, 2)
    with pytest.raises(ValueError, match="expected step"):
        per_phase(weight, STEPS_A, STEPS_B)[1].load_state_dict(first[1].state_dict() | state)


@pytest.mark.parametrize("stop", [0, 2, STEPS_A - 1, STEPS_A, STEPS_A + 3, STEPS_A + STEPS_B - 1])
def test_one_cycle_per_phase_goes_on_from_its_state(stop):
    weight = nn.Parameter(torch.zeros(3))
    calm = take_steps(weight, *per_phase(weight, STEPS_A, STEPS_B), STEPS_A + STEPS_B)
    weight = nn.Parameter(torch.zeros(3))
    first = per_phase(weight, STEPS_A, STEPS_B)
    take_steps(weight, *first, stop)
    states = copy.deepcopy([part.state_dict() for part in first])
    again = nn.Parameter(weight.detach().clone())
    second = per_phase(again, STEPS_A, STEPS_B)
    for part, state in zip(second, states, strict=True):
        part.load_state_dict(state)
    assert take_steps(again, *second, STEPS_A + STEPS_B - stop) == calm[stop:]


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"BATCH_SIZE \(--batch-size\): 16 images .* expected a multiple of 3"):
        cifar100_baseline.main(flags("baseline", tmp_path, "--accumulate", "3"))
    with pytest.raises(InputError, match="at least 32"):
        cifar100_baseline.main(flags("baseline", tmp_path, "--accumulate", "16"))


def baseline_settings(*more):
    return settings_from_constants(vars(cifar100_baseline), list(more))


def test_cuda_graphs_where_nothing_could_be_replayed_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"CUDA_GRAPHS .* got COMPILE False, 1 process\(es\) on cpu, ACCUMULATE 1"):
        cifar100_baseline.main(flags("baseline", tmp_path, "--cuda-graphs"))
    possible = ["--compile", "--cuda-graphs"]
    recipe.refuse_graphs(baseline_settings(*possible), torch.device("cuda"))
    with pytest.raises(InputError, match="ACCUMULATE 2"):
        recipe.refuse_graphs(baseline_settings(*possible, "--accumulate", "2"), torch.device("cuda"))


@pytest.mark.parametrize("more, mode", [([], None), (["--cuda-graphs"], "reduce-overhead")])
def test_compile_is_told_what_the_constants_say(more, mode, monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: told.append(options))
    cfg = baseline_settings(*SMALL, "--run-dir", str(tmp_path), "--compile", *more)
    parts = recipe.load_parts(baseline_settings(*SMALL, "--run-dir", str(tmp_path)), torch.device("cpu"))
    recipe.place(torch.nn.Linear(2, 2), torch.device("cpu"), cfg, parts)
    assert told == [{"dynamic": False, "mode": mode}]


def test_limited_parts_are_the_first_of_the_whole_ones_and_apart(tmp_path, synthetic):
    def parts(*more):
        limits = ["--train-limit", "0", "--eval-limit", "0", *more]
        return recipe.load_parts(baseline_settings(*SMALL, "--run-dir", str(tmp_path), *limits), torch.device("cpu"))

    whole, small, less = parts(), parts("--train-limit", "300", "--eval-limit", "50"), parts("--train-limit", "30")
    assert [len(part.index) for part in whole[2:]] == [3200, 800, 1000]
    assert [len(part.index) for part in small[2:]] == [300, 50, 50]
    assert np.array_equal(less.train.index, small.train.index[:30])
    assert set(small.train.index) < set(whole.train.index) and set(small.val.index) < set(whole.val.index)
    assert not set(whole.train.index) & set(whole.val.index)
    for part, images, labels in (
        (small.train, synthetic.train_images, synthetic.train_labels),
        (small.val, synthetic.train_images, synthetic.train_labels),
        (small.test, synthetic.test_images, synthetic.test_labels),
    ):
        assert torch.equal(part.images, images[part.index]) and torch.equal(part.labels, labels[part.index])


def test_frozen_weights_are_left_alone_and_not_decayed():
    free, frozen = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3), requires_grad=False)
    optimizer = make_optimizer(nn.ParameterList([free, frozen]), MAX_LR, 0.5)
    (free.sum() + frozen.sum()).backward()
    optimizer.step()
    assert torch.equal(frozen, torch.ones(3)) and not torch.equal(free, torch.ones(3))
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (MAX_LR, 0.5)


def test_memory_that_is_not_there_is_refused_with_the_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("qcifar.experiment.recipe.free_memory", lambda device: 10 * 2**20)
    line = r"a step on 48 images of 32 pixels needs .* GB .* 0\.0 GB are free on cpu; --accumulate"
    with pytest.raises(InputError, match=line):
        prepare("baseline", tmp_path, *RESNET, "--batch-size", "1000000")
    prepare("baseline", tmp_path, *RESNET, "--batch-size", "8")  # 0.5 MB an image
    with pytest.raises(InputError, match="a step on 3200 images of 32 pixels"):  # as many as there are, not 50,000
        prepare("baseline", tmp_path, *RESNET, "--batch-size", "1000000", "--train-limit", "0")


def test_what_the_backward_pass_keeps_is_told_without_computing():
    """Two convolutions of 8 channels and what stands between them, by hand."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 8, 3, padding=1), nn.Sigmoid())
    assert activation_bytes(net, 16) == 4 * 16 * 16 * (3 + 8 + 8)  # the image, and the output of each sigmoid
