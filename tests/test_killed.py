"""SIGKILL at any moment: started again, a run ends bit-identical to one that was never disturbed."""

import pytest

from qcifar.streams import stream
from tests.helpers.processes import run_processes, run_script
from tests.helpers.scripts import SCRIPTS, assert_same, flags, folder_of, stored

pytestmark = pytest.mark.slow  # all of them: minutes

SMALL = ["--epochs", "3", "--batch-size", "8", "--train-limit", "32", "--eval-limit", "16"]  # 4 steps an epoch
EVERY_STEP = ["--checkpoint-minutes", "0"]


def moments(name, count):
    """Ten moments a run is killed at, each with what the restart before it was asked for."""
    rng = stream(count, "moments", name)
    return [
        (("seconds", float(rng.uniform(0.0, 0.3))), []),  # start-up
        (("step", int(rng.integers(1, 5))), []),  # in the first epoch, nothing saved yet
        (("writing", 2), EVERY_STEP),  # config.json is the first file
        (("step", int(rng.integers(2, 4))), EVERY_STEP),
        (("written", int(rng.integers(1, 3))), EVERY_STEP),
        (("validation", 1), []),  # before its last batch
        (("epoch end", 1), []),
        (("step", 1), EVERY_STEP),  # of the second epoch: the head's change of phase
        (("seconds", float(rng.uniform(0.5, 1.5))), EVERY_STEP),
        (("test", 1), []),
    ]


def kill_and_compare(name, tmp_path, processes, plan, *always):
    module = SCRIPTS[name][0]

    def start(folder, moment=None, more=(), rank=0):
        argv = flags(name, tmp_path / folder, *SMALL, *always, *more)
        return run_processes(processes, run_script, module.__name__, argv, moment, rank)

    assert start("calm") == [0] * processes
    killed = 0
    for number, (moment, more) in enumerate(plan):
        rank = 0 if "writ" in moment[0] else number % processes  # rank 0 writes
        code = start("killed", moment, more, rank)[rank]
        assert code in (-9, 0), moment
        killed += code == -9
    assert killed >= len(plan) - 1  # at a random second, the run may be over
    assert start("killed") == [0] * processes
    assert_same(*(stored(folder_of(name, tmp_path / folder, *SMALL, *always)) for folder in ("calm", "killed")))
    assert not list((tmp_path / "killed").rglob("*.partial"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_killed_ten_times_and_never_disturbed_are_the_same(name, tmp_path):
    kill_and_compare(name, tmp_path, 1, moments(name, 1))


def test_killed_around_the_change_of_phase_with_a_cycle_for_each(tmp_path):
    """The schedule and Adam's moments begin anew after the last step of phase A: before, at and after it."""
    plan = [(("step", 4), EVERY_STEP), (("epoch end", 1), []), (("step", 2), EVERY_STEP)]
    kill_and_compare("head", tmp_path, 1, plan, "--schedule", "per_phase")


@pytest.mark.parametrize(
    ("name", "chosen"), [("head", (1, 2, 3, 5, 7, 9)), ("channels", (3, 4)), ("baseline", (4, 6, 8))]
)
def test_two_processes_killed_and_never_disturbed_are_the_same(name, chosen, tmp_path):
    kill_and_compare(name, tmp_path, 2, [moments(name, 2)[k] for k in chosen])


@pytest.mark.parametrize("processes", [1, 2])
def test_in_bf16_with_accumulation_too(processes, tmp_path):
    plan = [moments("head", 3)[k] for k in (3, 7)]
    kill_and_compare("head", tmp_path, processes, plan, "--precision", "bf16", "--accumulate", "2")
