"""The same sweep on a real Slurm: submitted once, requeued, and bit-identical to runs that nobody disturbed.

`bash tests/slurm/setup.sh` installs and starts one on this machine; without one, all of this is skipped.
"""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT
from tests.helpers.scripts import assert_same, stored


def slurm_runs():
    if shutil.which("sbatch") is None:
        return False
    return subprocess.run(["sinfo", "-h"], capture_output=True, timeout=30).stdout.strip() != b""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not slurm_runs(), reason="no Slurm runs here; bash tests/slurm/setup.sh starts one"),
]
PLAN = """
title = "on Slurm"
[decided]
margin = 0.5
seeds = [{seeds}]
[common]
DATASET = "synthetic"
WEIGHTS = "none"
MODEL_NAME = "resnet18"
IMG_SIZE = 32
BATCH_SIZE = 16
TRAIN_LIMIT = {images}
EVAL_LIMIT = 40
EPOCHS = {epochs}
[[runs]]
script = "{script}"
"""
SLURM = ["--executor", "slurm", "--memory", "2", "--partition", "low", "--threads", "1"]


class Bench:
    """A plan in a run directory of its own."""

    def __init__(self, folder, script="baseline", seeds="7", images=256, epochs=4):
        self.plan, self.runs = folder / "plan.toml", folder / "runs"
        self.plan.write_text(PLAN.format(script=script, seeds=seeds, images=images, epochs=epochs))

    def sweep(self, *flags, runs=None):
        command = [sys.executable, "sweep.py", str(self.plan), "--run-dir", str(runs or self.runs), *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def calm(self):
        """The same plan, run here without a disturbance."""
        self.sweep("--threads", "1", "--jobs", "1", runs=self.runs.with_name("calm"))
        return self.runs.with_name("calm")

    def ids(self):
        return json.loads((self.runs / "plans" / "plan.slurm.json").read_text())

    def trains(self, start):
        """Whether the script has been started so often and is past its first step."""
        parts = self.log().split("$ ")
        return len(parts) == start + 1 and re.search(r" [1-9]\d*/\d+ \[", parts[-1]) is not None

    def log(self):
        return "".join(path.read_text() for path in (self.runs / "plans" / "plan.logs").glob("*.log"))


def until(condition, seconds=300):
    """Wait for a condition; fails with what Slurm shows after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, subprocess.run(
            ["scontrol", "show", "job"], capture_output=True, text=True
        ).stdout
        time.sleep(0.5)


def queue(*options):
    return subprocess.run(["squeue", "-h", *options], capture_output=True, text=True, check=True).stdout.split()


def finished(bench, count=1):
    return lambda: len(list(bench.runs.rglob("result.json"))) == count and not queue()


def slurm(*command):
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(autouse=True)
def empty_queue():
    yield
    slurm("scancel", "--full", "--user", "root")
    until(lambda: not queue())


def assert_bit_identical(bench, count=1):
    calm, folders = bench.calm(), [path.parent for path in bench.runs.rglob("result.json")]
    assert len(folders) == count
    for folder in folders:
        assert_same(stored(folder), stored(calm / folder.relative_to(bench.runs)))


def test_what_is_queued_or_finished_is_not_submitted_again(tmp_path):
    bench = Bench(tmp_path, seeds="1, 2, 3", images=32, epochs=1)
    slurm("scontrol", "update", "PartitionName=low", "State=DOWN")
    try:
        assert "3 submitted" in bench.sweep(*SLURM)
        ids = bench.ids()
        assert "3 in the queue, 0 submitted" in bench.sweep(*SLURM)
    finally:
        slurm("scontrol", "update", "PartitionName=low", "State=UP")
    assert bench.ids() == ids and len(set(ids.values())) == 3
    until(finished(bench, 3))
    assert "3 finished, 0 in the queue, 0 submitted" in bench.sweep(*SLURM, "--keep", "none")
    states = json.loads((bench.runs / "plans" / "plan.state.json").read_text())
    assert {state["state"] for state in states.values()} == {"finished"} and not list(bench.runs.rglob("*.pt"))


def test_told_to_save_and_requeued_it_ends_bit_identical(tmp_path):
    bench = Bench(tmp_path, script="head", images=512, epochs=6)
    bench.sweep(*SLURM)
    (job,) = bench.ids().values()
    for number in (1, 2):  # twice
        until(lambda number=number: bench.trains(start=number))
        slurm("scancel", "--signal=USR2", job)
        until(lambda number=number: bench.log().count("stopped by SIGUSR1; the run is saved") == number)
        assert "1 in the queue, 0 submitted" in bench.sweep(*SLURM)
    until(finished(bench))
    assert bench.log().count("continuing from epoch") == 2
    assert_bit_identical(bench)


def test_killed_by_its_time_limit_and_continued_it_ends_bit_identical(tmp_path):
    bench = Bench(tmp_path, images=1024, epochs=16)
    bench.sweep(*SLURM, "--minutes", "2")  # the signal comes 20 to 80 s after the start
    until(finished(bench), 900)
    assert bench.log().count("continuing from epoch") >= 1
    assert_bit_identical(bench)


def test_preempted_by_another_job_it_continues_bit_identical(tmp_path):
    bench = Bench(tmp_path, images=512, epochs=6)
    bench.sweep(*SLURM)
    until(lambda: bench.trains(start=1))
    slurm("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 5")
    until(finished(bench))
    assert bench.log().count("$ ") == 2 and bench.log().count("continuing from epoch") == 1
    assert_bit_identical(bench)


def test_a_job_that_fails_is_named_and_submitted_again(tmp_path):
    bench = Bench(tmp_path, images=32, epochs=1)
    bench.plan.write_text(bench.plan.read_text().replace("resnet18", "resnet17"))
    bench.sweep(*SLURM)
    until(lambda: not queue())
    said = bench.sweep(*SLURM)
    assert "failed before: cifar100_baseline_det/seed7: MODEL_NAME" in said and "1 submitted" in said


def test_the_printed_script_is_taken_by_sbatch_and_requeued(tmp_path):
    bench = Bench(tmp_path, seeds="1, 2", images=512, epochs=6)
    printed = bench.sweep("--executor", "sbatch", *SLURM[2:], "--keep", "all")
    (tmp_path / "jobs.sh").write_text(printed)
    subprocess.run(["sbatch", str(tmp_path / "jobs.sh")], cwd=ROOT, check=True, capture_output=True)
    until(lambda: re.search(r" [1-9]\d*/512 \[", bench.log()))
    first = queue("-t", "R", "-o", "%A")[0]
    slurm("scancel", "--batch", "--signal=USR1", first)
    until(finished(bench, 2))
    assert bench.log().count("stopped by SIGUSR1; the run is saved") == 1
    assert_bit_identical(bench, 2)
