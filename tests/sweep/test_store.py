"""The stored plan: written before the first run, and never another one under its name."""

import datetime
import hashlib
import json
import subprocess

import pytest

from qcifar.comparison.plan import read_plans
from qcifar.decided import seal
from qcifar.errors import InputError
from qcifar.files import read_json
from qcifar.sweep.plan import read_plan
from qcifar.sweep.store import Sweep, git_commit, refuse_another, store, stored_threads
from tests.helpers import ROOT
from tests.helpers.standin import sweep_of, write_plan


def test_what_is_stored(tmp_path):
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = ["fine", "fails"]', seeds="3-4")
    assert store(sweep)
    stored = read_json(tmp_path / "runs" / "plans" / "plan.json")
    text = (tmp_path / "plan.toml").read_text()
    assert stored["text"] == text and stored["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(stored["stored"])
    assert 0 <= age.total_seconds() < 60
    expected = {
        "name": "plan", "title": "plan", "git_commit": "unknown", "outcome": "test_top1", "margin": 0.5, "checks": [],
        "seeds": [3, 4], "extends": None, "threads": 1,
        "family": [{"experiment": "standin", "variant": variant} for variant in ("", "behaviour=fails")],
    }  # fmt: skip
    assert {name: stored[name] for name in expected} == expected
    assert stored["jobs"][1] == {
        "script": "standin.py", "experiment": "standin", "variant": "behaviour=fails", "seed": 3,
        "folder": "standin/behaviour=fails/seed3",
        "command": f"python standin.py --behaviour fails --seed 3 --run-dir {tmp_path}/runs".split(),
        "constants": {"BEHAVIOUR": "fails"},
    }  # fmt: skip
    assert [job["folder"] for job in stored["jobs"]] == [job.folder for job in sweep.plan.jobs]
    assert set(stored) == {*expected, "stored", "sha256", "text", "jobs", "existing", "constants", "seal"}
    assert stored["constants"] == {
        name: value
        for name, value in sweep.plan.jobs[0].constants.items()
        if name not in ("SEED", "RUN_DIR", "BEHAVIOUR")
    }
    assert stored["constants"]["EPOCHS"] == 1 and stored["existing"] == [] and stored["seal"] == seal(stored)


def test_runs_that_are_there_before_the_plan_are_stored_with_it(tmp_path):
    sweep = sweep_of(tmp_path, seeds="0-3")
    for seed, files in ((0, {"result.json": '{"identity": "0123456789ab"}'}), (2, {"metrics.csv": ""}), (3, {})):
        folder = tmp_path / "runs" / "standin" / f"seed{seed}"
        folder.mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_text(content)
    store(sweep)
    assert read_json(sweep.path)["existing"] == [
        {"folder": "standin/seed0", "identity": "0123456789ab"}, {"folder": "standin/seed2", "identity": None},
    ]  # fmt: skip


def test_twins_are_stored_in_the_family(tmp_path):
    path = write_plan(tmp_path, 'BEHAVIOUR = ["fine", "fails"]')
    twins = 'twins = ["standin.py behaviour=fails vs standin.py"]\n'
    path.write_text(path.read_text().replace("[decided]\n", "[decided]\n" + twins))
    sweep = Sweep(read_plan(path, tmp_path), tmp_path, 1)
    store(sweep)
    assert read_json(sweep.path)["family"][2:] == [
        {"experiment": "standin", "variant": "behaviour=fails", "against": "standin"}
    ]
    (plan,) = read_plans([tmp_path / "runs"])  # as it is read for the comparison
    assert plan.family[2:] == [("standin behaviour=fails", "standin")]


def test_a_state_that_is_no_object_is_refused(tmp_path):
    sweep = sweep_of(tmp_path)
    store(sweep)
    sweep.state_path.write_text('{"standin/seed0": "failed"}')
    with pytest.raises(InputError, match=r"plan.state.json: expected an object for standin/seed0, got 'failed'"):
        sweep.states()


def test_the_same_plan_goes_on_and_another_of_that_name_is_refused(tmp_path):
    assert store(sweep_of(tmp_path, seeds="0-1"))
    before = (tmp_path / "runs" / "plans" / "plan.json").read_bytes()
    assert not store(sweep_of(tmp_path, seeds="0-1"))
    with pytest.raises(InputError, match=r'a plan does not change once it has begun.*extends = "plan"'):
        store(sweep_of(tmp_path, seeds="0-2"))
    assert (tmp_path / "runs" / "plans" / "plan.json").read_bytes() == before
    assert store(sweep_of(tmp_path, seeds="0-2", name="more"))


def test_edited_constants_that_would_move_runs_are_refused(tmp_path):
    store(sweep_of(tmp_path))
    sweep = sweep_of(tmp_path)
    script = (tmp_path / "standin.py").read_text()
    (tmp_path / "standin.py").write_text(script.replace('BEHAVIOUR = "fine"', 'BEHAVIOUR = "waits"'))
    moved = Sweep(read_plan(tmp_path / "plan.toml", tmp_path), tmp_path, 1)
    with pytest.raises(InputError, match="standin/seed0 would now lie in standin/behaviour=waits/seed0"):
        refuse_another(moved)
    refuse_another(sweep)


def extending(folder, name, seeds):
    path = write_plan(folder, "", seeds, name)
    path.write_text(path.read_text().replace("[decided]", '[decided]\nextends = "plan"'))
    return path


def test_threads_are_those_of_the_stored_plan_or_of_the_extended_one(tmp_path):
    assert stored_threads(sweep_of(tmp_path).plan) is None
    more = read_plan(extending(tmp_path, "more", "2-3"), tmp_path)
    with pytest.raises(InputError, match=r"plan more extends plan, which is not stored in .*stored are: none"):
        stored_threads(more)
    store(sweep_of(tmp_path, threads=3))
    assert stored_threads(sweep_of(tmp_path).plan) == 3 and stored_threads(more) == 3
    path = tmp_path / "runs" / "plans" / "plan.json"
    path.write_text(json.dumps(read_json(path) | {"threads": "3"}))
    with pytest.raises(InputError, match="is not a stored plan"):
        stored_threads(more)


def test_one_sweep_runs_a_plan_at_a_time(tmp_path):
    sweep = sweep_of(tmp_path)
    with (
        sweep.owned(),
        pytest.raises(InputError, match=r"another sweep.py runs the plan plan in"),
        sweep_of(tmp_path).owned(),
    ):
        pass
    with sweep.owned():
        pass


def test_the_commit_of_the_scripts(tmp_path):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    if head.returncode == 0:
        assert git_commit(ROOT).rstrip("+") == head.stdout.strip()
    assert git_commit(tmp_path) == "unknown"
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "inside").mkdir()
    assert git_commit(tmp_path / "inside") == "unknown"
