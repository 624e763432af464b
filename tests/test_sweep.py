"""`sweep.py` as a user runs it: flags, exit status, and the three scripts interrupted and continued."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from filelock import FileLock

import sweep
from qcifar.config import RULES
from qcifar.errors import InputError
from qcifar.files import read_json
from tests.helpers import ROOT
from tests.helpers.scripts import SCRIPTS, assert_same, stored
from tests.helpers.standin import write_plan

TINY = (
    "--dataset synthetic --weights none --model-name shufflenet_v2_x0_5 --img-size 32 --train-limit 64 --eval-limit 32 "
    "--epochs 1 --batch-size 32 --device cpu"
).split()


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """The path of a plan of the stand-in, and its folder as the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return str(write_plan(tmp_path, 'BEHAVIOUR = ["fine", "fails"]', seeds="0"))


def test_no_constant_of_the_sweep_is_one_of_the_scripts_but_the_run_directory():
    names = {*RULES, *(name for module, _ in SCRIPTS.values() for name in module.own_rules)}
    assert names & set(sweep.own_rules) == {"RUN_DIR"}


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no plan: expected a file, or --experiments baseline,channels,head with --seeds 0-5"),
        (["none.toml"], "none.toml: no such plan"),
        (["PLAN", "--thread", "2"], r"unknown flag --thread: beside a plan file only sweep.py's own flags count"),
        (["PLAN", "--epochs", "2"], r"unknown flag --epochs: .*constants of the scripts stand in .*plan.toml"),
        (["PLAN", "--seeds", "0-3"], r"--seeds: a plan file is given, too, and says what runs"),
        (["PLAN", "--keep", "some"], r"KEEP \(--keep\): expected one of all, best, none, got 'some'"),
        (["PLAN", "--executor", "pbs"], r"EXECUTOR \(--executor\): expected one of local, slurm, sbatch"),
        (["PLAN", "--jobs", "-1"], r"JOBS \(--jobs\): expected a whole number from 0"),
        (["--experiments", "baseline", "--seeds", "0", "--controls", "off"], r"no script of these has the constant"),
    ],
)
def test_bad_input(argv, said, plan, tmp_path):
    with pytest.raises(InputError, match=said):
        sweep.main([plan if word == "PLAN" else word for word in argv])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--controls quantum,zzz --dry-run", r"--controls, cifar100_hybrid_Qhead.py: CONTROL .*got 'zzz'"),
        ("--controls quantum,quantum", r"these flags say no plan: .* CONTROL: a value is given twice"),
        ("--plant 0.5", r"head-\w+, cifar100_hybrid_qhead/plant=0.5/seed0: PLANT .* with CONTROL planted only"),
    ],
)
def test_flags_that_say_no_plan_leave_no_file(flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        sweep.main(f"--experiments head --seeds 0 {flags}".split())
    assert list(tmp_path.iterdir()) == []


def test_a_constant_that_its_control_does_not_use_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sizes.toml").write_text(
        '[decided]\nseeds = [0]\n[[runs]]\nscript = "channels"\nCONTROL = ["planted", "quantum"]\nPLANT = 0.5\n'
    )
    said = r"plan sizes, cifar100_quantum_channels/plant=0.5/seed0: PLANT .* planted only, got 0.5 with quantum"
    with pytest.raises(InputError, match=said):
        sweep.main(["sizes.toml"])
    assert not (tmp_path / "runs").exists()


def test_a_run_of_the_sweep_with_a_failed_job_ends_with_1(plan, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        sweep.main([plan, "--threads", "1"])
    shown = capsys.readouterr()
    assert caught.value.code == 1 and "1 of 2 runs are finished, 1 failed:" in shown.out
    assert f"2 runs; stored {tmp_path}/runs/plans/plan.json" in shown.err
    jobs = read_json(tmp_path / "runs" / "plans" / "plan.json")["jobs"]
    assert {job["script"] for job in jobs} == {str(tmp_path / "standin.py")}  # not one of the repository's


def test_a_dry_run_stores_nothing(plan, tmp_path, capsys):
    assert sweep.main([plan, "--dry-run"]) is None
    assert "0 of 2 runs are finished, 2 to do" in capsys.readouterr().out and not (tmp_path / "runs").exists()


def test_threads_are_made_equal_to_the_stored_ones(plan, tmp_path, capsys):
    write_plan(tmp_path, "", seeds="0")
    sweep.main([plan, "--threads", "1"])
    capsys.readouterr()
    sweep.main([plan, "--threads", "2"])
    assert "threads: 1 as in the stored plan, not 2" in capsys.readouterr().err


def test_threads_on_slurm_are_its_cpus_not_those_of_the_login_node(plan, capsys):
    sweep.main([plan, "--executor", "sbatch", "--cpus", "7"])
    shown = capsys.readouterr().out
    assert "export OMP_NUM_THREADS=7\n" in shown and "#SBATCH --cpus-per-task=7\n" in shown


def test_only_the_script_goes_to_stdout_for_sbatch(plan, capsys):
    sweep.main([plan, "--executor", "sbatch"])
    shown = capsys.readouterr()
    assert (
        shown.out.startswith("#!/bin/bash\n#SBATCH --job-name=plan\n") and "note: this plan makes no base" in shown.err
    )


def test_a_plan_from_flags_is_written_named_and_run(plan, tmp_path, capsys):
    sweep.main("--experiments standin.py --seeds 0-1 --behaviour fine --run-dir here --threads 1".split())
    shown = capsys.readouterr()
    (written,) = (tmp_path / "here" / "plans").glob("*.toml")
    assert f"plan: {written.relative_to(tmp_path)}" in shown.err and "2 of 2 runs are finished" in shown.out


# ---- the real scripts


def start(*argv):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    return subprocess.Popen(
        [sys.executable, "sweep.py", *argv], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def ended(process):
    shown = process.communicate(timeout=600)[0]
    return process.returncode, shown


@pytest.mark.slow
def test_the_three_scripts_at_once_in_a_fresh_folder_and_without_their_checkpoints(tmp_path):
    """Two jobs of the channels start together, so both make the split and share descriptors; then two of the others."""
    flags = ["--run-dir", str(tmp_path), "--jobs", "2", "--threads", "1", *TINY]
    everything = ["--experiments", "baseline,channels,head", "--epochs-warmup", "1", "--keep", "none", "--seeds", "0"]
    for more in (["--experiments", "channels", "--seeds", "0-1", "--keep", "none"], everything):
        code, shown = ended(start(*flags, *more))
        assert code == 0, shown
    results = sorted(tmp_path.rglob("result.json"))
    assert len(results) == 4 and not list(tmp_path.rglob("*.pt")) and len(list(tmp_path.rglob("*_q_*.npz"))) == 6
    commands = {}
    for stored_plan in (tmp_path / "plans").glob("*.json"):
        for job in read_json(stored_plan).get("jobs", []):
            folder = tmp_path / job["folder"]
            assert read_json(folder / "config.json")["variant"] == job["variant"] and (folder / "result.json").exists()
            commands[job["script"]] = job["command"]
    assert len(commands) == 3
    for command in commands.values():  # one of each script: a process takes seconds to import torch
        done = subprocess.run(
            [sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0 and "is finished; nothing to do" in done.stdout, done.stderr


@pytest.mark.slow
def test_interrupted_twice_while_it_trains_it_ends_bit_identical(tmp_path):
    """Jobs train at their own pace: one may end before the other one begins. Each goes on as often as it was stopped.

    At least one is caught each time, since an interrupted sweep has a job that is not finished.
    """
    more = ["--train-limit", "512", "--epochs", "4", "--batch-size", "16"]
    flags = ["--experiments", "baseline,head", "--seeds", "3", "--threads", "1", "--jobs", "2", *TINY, *more]
    flags += ["--epochs-warmup", "1"]
    assert ended(start(*flags, "--run-dir", str(tmp_path / "calm")))[0] == 0
    stopped = Counter()
    for signum in (signal.SIGINT, signal.SIGTERM):
        process = start(*flags, "--run-dir", str(tmp_path / "stopped"))
        wait_until_all_train(process, tmp_path / "stopped", {folder: n + 1 for folder, n in stopped.items()})
        process.send_signal(signum)
        code, shown = ended(process)
        assert code == 128 + signum and "the same command continues them" in shown
        caught = [folder for folder, state in states(tmp_path / "stopped").items() if state["state"] == "stopped"]
        assert caught, "every job had finished before the signal: they are too short for this test"
        stopped.update(caught)
    code, shown = ended(start(*flags, "--run-dir", str(tmp_path / "stopped")))
    assert code == 0 and "2 of 2 runs are finished" in shown
    folders = [path.parent.relative_to(tmp_path / "calm") for path in (tmp_path / "calm").rglob("result.json")]
    assert len(folders) == 2
    for folder in folders:
        assert_same(*(stored(tmp_path / kind / folder) for kind in ("calm", "stopped")))
    for folder, state in states(tmp_path / "stopped").items():
        said = (tmp_path / "stopped" / state["log"]).read_text()
        assert len(re.findall("continuing (from epoch|with the best)", said)) == stopped[folder], said
    assert max(stopped.values()) == 2


def states(run_dir):
    """How each job of the plan has ended, by folder."""
    return {name: state for path in run_dir.glob("plans/*.state.json") for name, state in read_json(path).items()}


def wait_until_all_train(process, run_dir, starts):
    """Return when each of the two jobs trains, or is finished.

    Args:
        starts: how often each folder's script has been started by now; once if it is not there.
    """
    while True:
        logs = list(run_dir.glob("plans/*.logs/*.log"))
        if len(logs) == 2 and all(under_way(log, run_dir, starts) for log in logs):
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


def under_way(log, run_dir, starts):
    """Whether the last process of a job trains, or the job is finished."""
    folder = log.stem.replace(",", "/")
    parts = log.read_text().split("$ python")[1:]
    trains = len(parts) == starts.get(folder, 1) and "img/s]" in parts[-1]
    return trains or (run_dir / folder / "result.json").exists()


@pytest.mark.slow
def test_a_run_that_somebody_else_has_fails_with_that_reason(tmp_path):
    folder = tmp_path / "cifar100_baseline_det" / "seed0"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        code, shown = ended(start("--experiments", "baseline", "--seeds", "0", "--run-dir", str(tmp_path), *TINY))
    assert code == 1 and f"{folder} is in use by another process" in shown
    (state,) = (tmp_path / "plans").glob("*.state.json")
    assert json.loads(state.read_text())["cifar100_baseline_det/seed0"]["state"] == "failed"
