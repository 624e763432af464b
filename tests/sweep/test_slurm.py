"""What Slurm's jobs call, without a Slurm: tests/slurm runs it on a real one."""

import builtins
import os
import pickle
import signal
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from qcifar.errors import InputError
from qcifar.files import read_json
from qcifar.sweep import slurm
from qcifar.sweep.slurm import Resources, ScriptJob, script_job, submit
from tests.helpers import ROOT
from tests.helpers.standin import starts, sweep_of

ASKED = Resources(partition="low", account="", minutes=30, memory_gb=8, gpus=0, cpus=0)


@pytest.fixture(autouse=True)
def found_by_jobs(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_a_job_runs_its_script_and_drops_what_is_not_kept(tmp_path):
    sweep = sweep_of(tmp_path, seeds="0")
    (job,) = sweep.plan.jobs
    task = pickle.loads(pickle.dumps(script_job(sweep, job, "best")))  # as submitit stores it
    assert task() == 0 and sweep.finished(job)
    assert not (sweep.run(job) / "last.pt").exists() and (sweep.run(job) / "best.pt").exists()
    assert task.environment == {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def test_a_job_that_fails_says_why(tmp_path):
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = "fails"', seeds="0")
    (job,) = sweep.plan.jobs
    with pytest.raises(RuntimeError, match="this one is meant to fail"):
        script_job(sweep, job, "all")()
    assert slurm.ended_without_result(sweep, job)["reason"] == "this one is meant to fail"


def test_a_job_that_never_began_says_that(tmp_path):
    sweep = sweep_of(tmp_path, seeds="0")
    assert slurm.ended_without_result(sweep, sweep.plan.jobs[0]) == {
        "state": "failed", "reason": "ended before the script was started", "log": "plans/plan.logs/standin,seed0.log",
    }  # fmt: skip


def test_checkpoint_in_a_signal_waits_for_the_script_and_gives_the_same_job_again(tmp_path):
    """As in submitit: its handler runs in the main thread, inside the job's own wait."""
    pytest.importorskip("submitit")
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = "waits"', seeds="0")
    (job,) = sweep.plan.jobs
    task, requeued = script_job(sweep, job, "none"), []

    def handle(signum, frame):
        requeued.append((task.checkpoint(), (sweep.run(job) / "last.pt").exists()))

    def send():
        while not (sweep.run(job) / "waiting").exists():
            time.sleep(0.01)
        os.kill(task.pid, signal.SIGUSR2)  # Slurm sends it to all processes of a job
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGUSR2)

    before, thread = signal.signal(signal.SIGUSR2, handle), threading.Thread(target=send)
    thread.start()
    try:
        with pytest.raises(RuntimeError, match="stopped by SIGUSR1"):
            task()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR2, before)
    ((delayed, saved),) = requeued
    assert saved and delayed.function is not task and delayed.function.command == task.command
    assert delayed.function() == 0 and starts(sweep) == {job.folder: 2}


def test_checkpoint_before_the_script_has_started():
    pytest.importorskip("submitit")
    assert ScriptJob(["true"], {}, "log", []).checkpoint().function.command == ["true"]


class FakeExecutor:
    """Takes parameters and jobs as submitit's AutoExecutor does."""

    submitted: list = []  # noqa: RUF012

    def __init__(self, folder, **how):
        self.folder, self.how = folder, how

    def update_parameters(self, **asked):
        self.asked = asked

    def submit(self, job):
        self.submitted.append((self, job))
        return SimpleNamespace(job_id=str(100 + len(self.submitted)))


@pytest.fixture
def submitted(monkeypatch):
    """What is submitted to a Slurm that has all tools and whose queue is `queue`."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setattr(submitit, "AutoExecutor", FakeExecutor)
    monkeypatch.setattr(FakeExecutor, "submitted", [])
    monkeypatch.setattr(slurm.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(slurm, "queued_ids", lambda: {"101"})
    return FakeExecutor.submitted


def test_what_is_asked_for(tmp_path, submitted):
    sweep = sweep_of(tmp_path, seeds="0", threads=3)
    submit(sweep, Resources("gpu", "lab", 300, 16, 2, 0), "all")
    ((executor, job),) = submitted
    assert executor.how == {"cluster": "slurm", "slurm_max_num_timeout": 10_000}
    expected = {
        "name": "plan:standin/seed0", "timeout_min": 300, "mem_gb": 16, "cpus_per_task": 3, "gpus_per_node": 2,
        "slurm_partition": "gpu", "slurm_account": "lab", "slurm_signal_delay_s": 120,
        "slurm_additional_parameters": {"requeue": True},
    }  # fmt: skip
    assert {name: executor.asked[name] for name in expected} == expected
    assert job.command == [sys.executable, str(tmp_path / "standin.py"), *sweep.plan.jobs[0].flags]
    assert Resources("", "", 2, 1, 0, 0).signal_seconds == 40


def test_nothing_is_submitted_twice_and_what_failed_is_submitted_again(tmp_path, submitted, capsys):
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = ["fine", "fails", "waits"]', seeds="0")
    submit(sweep, ASKED, "all")
    assert read_json(sweep.folder / "plan.slurm.json") == {
        job.folder: str(101 + number) for number, job in enumerate(sweep.plan.jobs)
    }
    with pytest.raises(RuntimeError):
        submitted[1][1]()  # 102 has failed, 103 has finished, 101 is in the queue
    (sweep.run(sweep.plan.jobs[2])).mkdir(parents=True)
    (sweep.run(sweep.plan.jobs[2]) / "last.pt").touch()
    assert submitted[2][1]() == 0
    capsys.readouterr()
    submit(sweep, ASKED, "all")
    assert capsys.readouterr().out == (
        "failed before: standin/behaviour=fails/seed0: this one is meant to fail\n"
        "1 finished, 1 in the queue, 1 submitted; the same command says how it stands\n"
    )
    assert len(submitted) == 4
    assert {folder: state["state"] for folder, state in sweep.states().items()} == {
        "standin/behaviour=fails/seed0": "failed", "standin/behaviour=waits/seed0": "finished",
    }  # fmt: skip


def test_ids_are_kept_when_slurm_refuses_a_later_job(tmp_path, submitted, monkeypatch):
    sweep = sweep_of(tmp_path, seeds="0-2")

    def refuse(self, job):
        if len(submitted) == 1:
            raise RuntimeError("sbatch: error: invalid partition\nspecified: low")
        return FakeExecutor.accepts(self, job)

    monkeypatch.setattr(FakeExecutor, "accepts", FakeExecutor.submit, raising=False)
    monkeypatch.setattr(FakeExecutor, "submit", refuse)
    with pytest.raises(InputError, match=r"Slurm refuses the job standin/seed1: .*invalid partition specified: low"):
        submit(sweep, ASKED, "all")
    assert read_json(sweep.folder / "plan.slurm.json") == {"standin/seed0": "101"}


def test_without_submitit_or_slurm_there_is_one_line(tmp_path, monkeypatch):
    sweep = sweep_of(tmp_path)
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    if "submitit" in sys.modules:
        with pytest.raises(InputError, match="no sbatch and srun here; start sweep.py on a login node"):
            submit(sweep, ASKED, "all")
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("submitit"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match="needs submitit: pip install submitit; --executor sbatch prints"):
        submit(sweep, ASKED, "all")


def test_a_queue_that_does_not_answer_stops_everything(tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact' >&2\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"squeue does not answer \(slurm_load_jobs error: Unable to contact\)"):
        slurm.queued_ids()
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 12\necho 13\n")
    assert slurm.queued_ids() == {"12", "13"}
