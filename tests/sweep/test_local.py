"""Jobs as processes: what is started, skipped, stopped, continued, and what is said of each that fails."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from filelock import FileLock

from qcifar.errors import Interrupted
from qcifar.sweep import local
from tests.helpers import ROOT
from tests.helpers.standin import starts, sweep_of, write_plan


@pytest.fixture(autouse=True)
def found_by_jobs(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the stand-in does not lie beside the package


def run(sweep, jobs=2, keep="all"):
    return local.Processes(sweep, [None] * jobs, keep).run()


def states(sweep):
    return {folder: state["state"] for folder, state in json.loads(sweep.state_path.read_text()).items()}


def test_all_jobs_run_once_and_finished_ones_are_skipped(tmp_path, capsys):
    sweep = sweep_of(tmp_path, seeds="0-4")
    assert run(sweep) == 0
    shown = capsys.readouterr().out.splitlines()
    assert sorted(shown[:5]) == [f"finished  standin/seed{seed}" for seed in range(5)]
    assert shown[5:] == ["5 of 5 runs are finished"]
    assert set(states(sweep).values()) == {"finished"} and list(starts(sweep).values()) == [1] * 5
    assert run(sweep) == 0 and list(starts(sweep).values()) == [1] * 5
    log = sweep.log(sweep.plan.jobs[0]).read_text()
    assert log == f"$ python standin.py --seed 0 --run-dir {tmp_path}/runs\n"


def test_a_failed_job_stops_no_other_and_is_named_with_its_reason_and_log(tmp_path, capsys):
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = ["fails", "fine", "crashes", "dies"]', seeds="0")
    assert run(sweep) == 3
    shown = capsys.readouterr().out.splitlines()
    assert "1 of 4 runs are finished, 3 failed:" in shown
    reasons = ["this one is meant to fail", "ValueError: no such thing", "ended by SIGKILL (was the memory full?)"]
    for behaviour, reason in zip(("fails", "crashes", "dies"), reasons, strict=True):
        folder = f"standin/behaviour={behaviour}/seed0"
        log = f"{tmp_path}/runs/plans/plan.logs/standin,behaviour={behaviour},seed0.log"
        assert f"failed: {folder}: {reason} (log: {log})" in shown
        assert json.loads(sweep.state_path.read_text())[folder] == {
            "state": "failed", "reason": reason, "log": log.removeprefix(f"{tmp_path}/runs/"),
        }  # fmt: skip
    assert run(sweep) == 3  # tried again
    assert starts(sweep) == {job.folder: 1 + (job.variant != "") for job in sweep.plan.jobs}


def interrupted(sweep, *signums, jobs=2):
    """Run a sweep that gets signals once its first jobs wait."""

    def send():
        while len(list(sweep.plan.run_dir.rglob("waiting"))) < jobs:
            time.sleep(0.01)
        for signum in signums:
            os.kill(os.getpid(), signum)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        with pytest.raises(Interrupted) as caught:
            run(sweep, jobs)
    finally:
        thread.join()
    for waiting in sweep.plan.run_dir.rglob("waiting"):
        waiting.unlink()
    return caught.value


@pytest.mark.slow
def test_interrupted_twice_and_continued(tmp_path, capsys):
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = "waits"', seeds="0-3")
    folders, before = [job.folder for job in sweep.plan.jobs], signal.getsignal(signal.SIGINT)
    for signum, done in ((signal.SIGINT, 0), (signal.SIGTERM, 2)):
        stop = interrupted(sweep, signum)
        assert stop.signum == signum and "the runs are saved, and the same command continues them" in str(stop)
        shown = capsys.readouterr().out
        assert (
            f"{done} of 4 runs are finished" in shown and shown.count(f"stopped by {signal.Signals(signum).name}") == 2
        )
    assert states(sweep) == dict.fromkeys(folders[:2], "finished") | dict.fromkeys(folders[2:], "stopped")
    assert run(sweep) == 0
    assert list(starts(sweep).values()) == [2] * 4 and set(states(sweep).values()) == {"finished"}
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_signal_kills(tmp_path):
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = "deaf"', seeds="0-1")
    started = time.monotonic()
    stop = interrupted(sweep, signal.SIGINT, signal.SIGINT)
    assert stop.signum == signal.SIGINT and "last checkpoint" in str(stop) and time.monotonic() - started < 20
    reasons = {state["reason"] for state in json.loads(sweep.state_path.read_text()).values()}
    assert reasons == {"ended by SIGKILL (was the memory full?)"}


def test_what_nohup_ignores_stays_ignored(tmp_path):
    sweep = sweep_of(tmp_path, seeds="0")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with local.Processes(sweep, [None], "all").listening():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_IGN, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("keep", "left"), [("all", 2), ("best", 1), ("none", 0)])
def test_checkpoints_that_are_kept(keep, left, tmp_path):
    sweep = sweep_of(tmp_path, seeds="0-1")
    run(sweep)  # finished earlier, with all of them
    assert run(sweep, keep=keep) == 0
    for job in sweep.plan.jobs:
        names = {path.name for path in sweep.run(job).iterdir()} - {".lock"}
        assert names == {"config.json", "result.json", "predictions.npz", "starts.txt", *["best.pt", "last.pt"][:left]}
    assert run(sweep, keep=keep) == 0 and list(starts(sweep).values()) == [1, 1]


def test_checkpoints_of_a_run_that_somebody_has_stay(tmp_path):
    sweep = sweep_of(tmp_path, seeds="0")
    run(sweep)
    folder = sweep.run(sweep.plan.jobs[0])
    with FileLock(folder / ".lock"):
        run(sweep, keep="none")
    assert (folder / "last.pt").exists()


def test_a_run_made_with_other_constants_or_threads_is_not_skipped(tmp_path):
    """The script decides, and says what differs."""
    sweep = sweep_of(tmp_path, seeds="0")
    run(sweep)
    assert sweep.finished(sweep.plan.jobs[0])
    (job,) = sweep_of(tmp_path, "EPOCHS = 1\nTRAIN_LIMIT = 5", seeds="0").plan.jobs
    assert not sweep.finished(job)
    assert not sweep_of(tmp_path, seeds="0", threads=2).finished(sweep.plan.jobs[0])
    (sweep.run(job) / "config.json").write_text("{")
    assert not sweep.finished(sweep.plan.jobs[0])


def test_jobs_get_their_threads_and_the_gpu_of_their_place(tmp_path, monkeypatch):
    sweep = sweep_of(tmp_path, seeds="0-3", threads=3)
    seen, popen = [], subprocess.Popen

    def noted(command, **kwargs):
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
        seen.append({name: kwargs["env"].get(name) for name in names})
        return popen(command, **kwargs)

    monkeypatch.setattr(local.subprocess, "Popen", noted)
    local.Processes(sweep, ["4", "GPU-ab"], "all").run()
    assert {gpu["CUDA_VISIBLE_DEVICES"] for gpu in seen} == {"4", "GPU-ab"} and len(seen) == 4
    assert all((each["OMP_NUM_THREADS"], each["MKL_NUM_THREADS"]) == ("3", "3") for each in seen)


def test_how_many_jobs_and_threads_are_chosen(tmp_path, monkeypatch):
    plan = sweep_of(tmp_path, seeds="0-5").plan
    monkeypatch.setattr(local, "cores_at_hand", lambda: 16)
    monkeypatch.setattr(local, "free_memory", lambda device: int(100e9))
    assert local.choose_threads(plan, []) == 2 and local.choose_jobs(plan, [], 2) == 8
    assert local.choose_threads(plan, ["0", "1"]) == 8 and local.choose_jobs(plan, ["0", "1"], 8) == 2
    monkeypatch.setattr(local, "free_memory", lambda device: int(3e9))
    assert local.choose_jobs(plan, [], 2) == 2  # 1.2 GB and a few images each
    monkeypatch.setattr(local, "free_memory", lambda device: None)
    assert local.choose_jobs(plan, [], 1) == 16
    monkeypatch.setattr(local, "cores_at_hand", lambda: 2)
    assert local.choose_threads(plan, []) == 1
    on_gpu = sweep_of(tmp_path, 'DEVICE = "cuda:1"').plan
    assert local.choose_jobs(on_gpu, [], 1) == 1 and local.gpus_for(on_gpu) == []


def test_gpus_are_those_that_are_visible(tmp_path, monkeypatch):
    plan = sweep_of(tmp_path, 'DEVICE = "auto"').plan
    monkeypatch.setattr(local.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(local.torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local.gpus_for(plan) == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-ab,3")
    assert local.gpus_for(plan) == ["GPU-ab", "3"]
    assert local.gpus_for(sweep_of(tmp_path, 'DEVICE = "cpu"').plan) == []


def test_the_first_job_goes_alone_until_the_data_is_there(tmp_path):
    job = SimpleNamespace(constants={"DATASET": "cifar100", "DATA_DIR": str(tmp_path)})
    assert not local.data_is_there(job)
    (tmp_path / "cifar-100-python").mkdir()
    for name in ("train", "test", "meta"):
        assert not local.data_is_there(job)
        (tmp_path / "cifar-100-python" / name).touch()
    assert local.data_is_there(job) and local.data_is_there(SimpleNamespace(constants={"DATASET": "synthetic"}))


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (2, "epoch 1/2:  50%|##  |\rerror: no folder /x; choose\nwarning: a resource leaks\n", "no folder /x; choose"),
        (1, "Traceback ...\nValueError: shapes\n\n", "ValueError: shapes"),
        (-9, "epoch 1/2:  50%|##  |", "ended by SIGKILL (was the memory full?)"),
        (-15, "", "ended by SIGTERM"),
        (3, "", "exit status 3"),
    ],
)
def test_reasons_in_one_line(code, said, expected):
    assert local.reason(code, said) == expected


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_jobs_of_a_killed_sweep_save_and_end_and_the_next_one_goes_on(tmp_path):
    plan = write_plan(tmp_path, 'BEHAVIOUR = "waits"', seeds="0-1")
    command = [sys.executable, str(ROOT / "sweep.py"), str(plan), "--jobs", "2", "--threads", "1"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while len(list(tmp_path.rglob("waiting"))) < 2:
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    end = time.monotonic() + 30
    while len(list(tmp_path.rglob("last.pt"))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    for log in tmp_path.rglob("*.log"):
        assert re.search(r"stopped by SIGTERM\n$", log.read_text())
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "2 of 2 runs are finished" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_child_whose_parent_has_gone_does_not_start(monkeypatch):
    monkeypatch.setattr(local.os, "getppid", lambda: 1)
    monkeypatch.setattr(local.ctypes, "CDLL", lambda *given, **named: SimpleNamespace(prctl=lambda *given: 0))
    monkeypatch.setattr(local.os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit):
        local.bound_to_this_process()()
