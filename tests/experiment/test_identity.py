"""Identity: what a run's numbers depend on, and what makes two runs comparable."""

import argparse
import json
import re
import subprocess

import pytest
import torch

from qcifar.config import as_constants, own, text, whole
from qcifar.errors import InputError
from qcifar.experiment import folder as run_folder
from qcifar.experiment import identity
from qcifar.experiment.identity import describe_device, differences, identity_of, listed, own_entries, recipe_code
from qcifar.experiment.recipe import load_parts
from qcifar.files import write_checkpoint
from tests.helpers.scripts import settings


def test_another_gpu_model_is_another_run_and_a_cpu_has_none(calm, tmp_path, monkeypatch):
    assert "gpu" not in json.loads((calm["baseline"][1] / "config.json").read_text())["identity"]
    cfg = settings("baseline", tmp_path)
    parts = load_parts(cfg, torch.device("cpu"))

    def begin(model, more=None):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: model)
        monkeypatch.setattr(identity.distributed, "each", lambda name: [name, *(more or [name])])
        opened = run_folder.open_run(__file__, cfg, "cifar100_baseline_det", {}, torch.device("cuda"), "bf16", parts)
        opened.begin()
        opened.give_back()
        return opened

    first = begin("NVIDIA A100")
    write_checkpoint(first.last_path, {})
    assert begin("NVIDIA A100").identity == first.identity and first.identity["gpu"] == "NVIDIA A100"
    with pytest.raises(InputError, match="gpu NVIDIA A100 -> NVIDIA H100; use another --run-dir"):
        begin("NVIDIA H100")
    with pytest.raises(InputError, match="gpu NVIDIA A100 -> NVIDIA A100, NVIDIA H100"):
        begin("NVIDIA A100", ["NVIDIA A100", "NVIDIA H100"])


def test_identity_has_what_changes_a_number_and_nothing_else(tmp_path):
    cfg, cpu = settings("baseline", tmp_path), torch.device("cpu")
    parts = load_parts(cfg, cpu)

    def found(precision="fp32", parts=parts, **changes):
        return identity_of(argparse.Namespace(**vars(cfg) | changes), cpu, precision, parts)

    plain = found()
    for name in ("run_dir", "data_dir", "checkpoint_minutes", "resume", "device"):
        assert found(**{name: "another"}) == plain, name
    other_split = parts._replace(split=parts.split._replace(fingerprint="another"))
    changed = [found(max_lr=0.1), found(seed=7), found(precision="bf16"), found(img_size=64), found(parts=other_split)]
    assert all(one != plain for one in changed)
    assert "SYNC_BATCHNORM" not in plain and "CUDA_GRAPHS" not in plain  # without effect here
    assert found(cuda_graphs=True)["CUDA_GRAPHS"] is True


def test_identity_follows_the_content_of_the_weights_not_only_their_name(tmp_path):
    cfg, cpu = settings("baseline", tmp_path, "--weights", str(tmp_path / "w.pt")), torch.device("cpu")
    parts, seen = load_parts(cfg, cpu), []
    for content in (b"one", b"two", b"one"):
        (tmp_path / "w.pt").write_bytes(content)
        seen.append(identity_of(cfg, cpu, "fp32", parts))
    assert seen[0] == seen[2] != seen[1]


def test_runs_are_comparable_where_only_seed_and_own_constants_differ():
    rules = {"N_QUBITS": own(4, whole(1)), "SCHEDULE": own("shared", text(), changes_recipe=True)}

    def code(**given):
        cfg = argparse.Namespace(**{"seed": 42, "epochs": 40, "n_qubits": 4, "schedule": "shared"} | given)
        details = {"circuits": given.get("seed")}
        return recipe_code(as_constants(cfg) | details, own_entries(cfg, rules, details))

    standard = code()
    assert standard == code(seed=7) == code(n_qubits=8) == code(seed=1, n_qubits=2)
    assert len({standard, code(epochs=3), code(schedule="per_phase")}) == 3
    assert recipe_code({"EPOCHS": 1, "SEED": 2}, []) == recipe_code({"SEED": 2, "EPOCHS": 1}, [])
    baseline = argparse.Namespace(seed=42, epochs=40)  # which has no own constants
    assert recipe_code(as_constants(baseline), own_entries(baseline, {}, {})) == standard


def test_commit_says_whether_files_differ_from_it(tmp_path, monkeypatch):
    def git(*words):
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(identity, "ROOT", tmp_path.resolve())
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert identity.git_commit() == "unknown"
    git("init")
    (tmp_path / "a.txt").write_text("1")
    git("add", "a.txt")
    git("commit", "-m", "first")
    assert identity.git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "new.txt").write_text("not tracked")
    assert not identity.git_commit().endswith("+")
    (tmp_path / "a.txt").write_text("2")
    assert identity.git_commit() == git("rev-parse", "HEAD") + "+"
    (tmp_path / "copy").mkdir()
    monkeypatch.setattr(identity, "ROOT", tmp_path.resolve() / "copy")  # inside somebody else's repository
    assert identity.git_commit() == "unknown"


def test_device_is_said_in_words(monkeypatch):
    said = describe_device(torch.device("cpu"))
    assert said.startswith("CPU, ") and re.search(rf", {torch.get_num_threads()} threads?$", said)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    assert describe_device(torch.device("cuda:0")) == "NVIDIA H100"


def test_differences_are_said_shortly():
    before = {"a": 1, "threads": 2, "augmentation": "x" * 99, "code": {"a.py": "1", "b.py": "2"}, "own_code": None}
    now = {
        "a": 2,
        "threads": 4,
        "augmentation": "y" * 99,
        "code": {"a.py": "1", "b.py": "3"},
        "own_code": {"c.py": "1"},
    }
    settings, files = differences(before, now)
    assert settings == ["a 1 -> 2", "threads 2 -> 4 (OMP_NUM_THREADS=2 gives it the same number)", "augmentation"]
    assert files == ["b.py", "c.py"]
    assert listed(["a", "b", "c", "d"]) == "a, b, c, d" and listed(list("abcdef")) == "a, b, c, d and 2 more"
