"""The printed script, run by bash as Slurm runs each task of the array; tests/slurm gives it to a real sbatch."""

import os
import signal
import subprocess
import time

import pytest

from qcifar.sweep.sbatch import script
from qcifar.sweep.slurm import Resources
from tests.helpers import ROOT
from tests.helpers.standin import starts, sweep_of

ASKED = Resources(partition="gpu", account="lab", minutes=90, memory_gb=8, gpus=1, cpus=4)


def start(folder, text, task=0):
    """The script as a task of an array, with an `scontrol` that notes what it is asked for."""
    (folder / "jobs.sh").write_text(text)
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked.txt\n')
    (folder / "scontrol").chmod(0o755)
    more = {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = os.environ | more | {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": "77"}
    return subprocess.Popen(["bash", "jobs.sh"], cwd=folder, env=environment)


def test_what_is_asked_for(tmp_path):
    sweep = sweep_of(tmp_path, seeds="0-2")
    lines = script(sweep, ASKED, "none").splitlines()
    asked = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert asked == [
        "job-name=plan", "array=0-2", "requeue", "open-mode=append", f"output={tmp_path}/runs/plans/plan.%A_%a.out",
        "signal=B:USR1@120", "time=90", "mem=8G", "cpus-per-task=4", "gpus-per-node=1", "partition=gpu", "account=lab",
    ]  # fmt: skip
    assert "export OMP_NUM_THREADS=1" in lines and "drop=(last.pt best.pt)" in lines
    bare = script(sweep, Resources("", "", 5, 1, 0, 0), "all")
    assert not any(f"#SBATCH --{name}" in bare for name in ("gpus", "partition", "account"))


def test_each_task_runs_its_job_and_finished_ones_are_left_out(tmp_path):
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = ["fine", "fails"]', seeds="0-1")
    text = script(sweep, ASKED, "best")
    assert [start(tmp_path, text, task).wait() for task in range(4)] == [0, 1, 0, 1]
    assert list(starts(sweep).values()) == [1] * 4 and not (tmp_path / "asked.txt").exists()
    assert not list(tmp_path.rglob("last.pt")) and len(list(tmp_path.rglob("best.pt"))) == 2
    assert "#SBATCH --array=0-1\n" in script(sweep, ASKED, "all")
    assert sweep.log(sweep.plan.jobs[1]).read_text().endswith("error: this one is meant to fail\n")


def test_nothing_is_left_to_submit(tmp_path):
    sweep = sweep_of(tmp_path, seeds="0")
    start(tmp_path, script(sweep, ASKED, "all")).wait()
    assert script(sweep, ASKED, "all") == "#!/bin/bash\n# all runs of plan are finished\n"


@pytest.mark.parametrize("requeued", [True, False])
def test_signals(requeued, tmp_path):
    """USR1, to the shell alone: the script saves, the job is requeued. TERM, to all: it saves, Slurm decides."""
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = "waits"', seeds="0")
    process = start(tmp_path, script(sweep, ASKED, "all"))
    folder = sweep.run(sweep.plan.jobs[0])
    while not (folder / "waiting").exists():
        time.sleep(0.01)
    if requeued:
        process.send_signal(signal.SIGUSR1)
    else:
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        process.send_signal(signal.SIGTERM)
        os.kill(int(found.stdout), signal.SIGTERM)
    assert process.wait() == 128 + (signal.SIGUSR1 if requeued else signal.SIGTERM)
    assert (folder / "last.pt").exists() and not (folder / "result.json").exists()
    assert (tmp_path / "asked.txt").exists() == requeued
    if requeued:
        assert (tmp_path / "asked.txt").read_text() == "requeue 77\n"
    assert start(tmp_path, script(sweep, ASKED, "all")).wait() == 0 and (folder / "result.json").exists()
