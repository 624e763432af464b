"""A plan from flags: the file says what the flags said, and bad ones get one line."""

import tomllib

import pytest

from qcifar.errors import InputError
from qcifar.sweep.flags import literal, split_flags, write_plan
from qcifar.sweep.plan import read_plan
from tests.helpers import ROOT

ALL = "baseline,channels,head"


def write(tmp_path, experiments=ALL, controls="", seeds="0-2", name="", flags=()):
    return write_plan(experiments, controls, seeds, name, str(tmp_path / "runs"), list(flags), ROOT)


def test_the_file_that_is_written(tmp_path):
    flags = ["--epochs=5", "--max-lr=1e-05", "--epochs-warmup=1", "--no-align-maps", "--data-dir=a b\\", "--n-qubits=6"]
    path = write(tmp_path, flags=flags, name="mine")
    assert path == tmp_path / "runs" / "plans" / "mine.toml"
    assert tomllib.loads(path.read_text()) == {
        "title": "baseline, channels, head; seeds 0-2",
        "decided": {"outcome": "test_top1", "margin": 0.5, "seeds": "0-2", "family": "all"},
        "common": {"EPOCHS": 5, "MAX_LR": 1e-05, "DATA_DIR": "a b\\"},
        "runs": [
            {"script": "baseline"},
            {"script": "channels", "ALIGN_MAPS": False, "N_QUBITS": 6},
            {"script": "head", "EPOCHS_WARMUP": 1, "N_QUBITS": 6},
        ],
    }
    plan = read_plan(path, ROOT, str(tmp_path / "runs"))
    assert len(plan.jobs) == 9 and plan.notes == ()


def test_the_same_flags_name_the_same_file_and_others_another(tmp_path):
    first = write(tmp_path)
    assert write(tmp_path) == first and write(tmp_path, seeds="0-3") != first
    assert first.name.startswith("baseline-channels-head-")
    write(tmp_path, name="mine")
    with pytest.raises(InputError, match=r"mine.toml is there and says something else; give another --name"):
        write(tmp_path, name="mine", seeds="0-3")


def test_controls_are_a_grid_for_the_scripts_that_have_them(tmp_path):
    script = (ROOT / "cifar100_baseline.py").read_text().replace("cifar100_baseline_det", "mine")
    rule = 'CONTROL = "quantum"\nown_rules = {"CONTROL": own("quantum", one_of("quantum", "off", "fourier"))}'
    (tmp_path / "cifar100_baseline.py").write_text((ROOT / "cifar100_baseline.py").read_text())
    (tmp_path / "mine.py").write_text(script.replace("own_rules = {}", rule))
    path = write_plan("baseline,mine.py", "quantum,off", "0", "", str(tmp_path), [], tmp_path)
    assert [run.get("CONTROL") for run in tomllib.loads(path.read_text())["runs"]] == [None, ["quantum", "off"]]
    plan = read_plan(path, tmp_path, str(tmp_path))
    assert [job.folder for job in plan.jobs] == [
        "cifar100_baseline_det/seed0", "mine/seed0", "mine/control=off/seed0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"experiments": ""}, "no plan: expected a file, or --experiments"),
        ({"experiments": "baseline,haed"}, r"EXPERIMENTS \(--experiments\): unknown script haed; did you mean head\?"),
        ({"seeds": ""}, "seeds: expected whole numbers from 0 on"),
        ({"controls": "off", "experiments": "baseline"}, r"CONTROLS \(--controls\): baseline: no script of these has"),
        ({"flags": ["--epocs=3"]}, r"unknown flag --epocs; did you mean --epochs\?"),
        ({"flags": ["--epochs=x"]}, r"EPOCHS \(--epochs\): expected a whole number of at least 1, got 'x'"),
        ({"flags": ["--epochs=0"]}, r"EPOCHS \(--epochs\): expected a whole number of at least 1, got 0"),
        ({"flags": ["--compile=yes"]}, "--compile takes no value, got 'yes'"),
        ({"flags": ["--seed=3"]}, r"--seed cannot be set here: seeds stand under"),
        ({"flags": ["--no-resume"]}, "--no-resume cannot be set here"),
        ({"flags": ["--n-layers=2"], "experiments": "baseline"}, "unknown flag --n-layers"),
    ],
)
def test_bad_flags(change, said, tmp_path):
    with pytest.raises(InputError, match=said):
        write(tmp_path, **change)
    assert not (tmp_path / "runs").exists()


def test_flags_of_the_sweep_and_of_the_scripts():
    argv = "--experiments a,b --epochs 5 --no-align-maps --run-dir x --max-lr=-1 --dry-run --seeds 0-5".split()
    ours, scripts = split_flags(argv, {"--experiments", "--run-dir", "--dry-run", "--seeds"})
    assert ours == "--experiments a,b --run-dir x --dry-run --seeds 0-5".split()
    assert scripts == ["--epochs=5", "--no-align-maps", "--max-lr=-1"]


@pytest.mark.parametrize("value", [True, 3, 1e-05, 1e20, 0.5, 'a "b" \\ ü', ["x", "y"]])
def test_values_come_back_from_toml(value):
    assert tomllib.loads(f"x = {literal(value)}")["x"] == value
