"""The run folder: where it lies, what is refused there, and that nothing is written before training begins."""

import json
import math
import os

import pytest
import torch

from qcifar.config import own, whole
from qcifar.errors import InputError
from qcifar.experiment.folder import describe_result, open_run
from qcifar.experiment.identity import identity_code
from qcifar.experiment.recipe import load_parts
from qcifar.files import read_json, write_checkpoint, write_json
from tests.helpers.runs import RESULT, tiny_run
from tests.helpers.scripts import SCRIPTS, settings

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "more", "variant"),
    [
        ("baseline", [], ""),
        ("channels", [], ""),
        ("head", [], "epochs_warmup=1"),
        ("head", ["--n-qubits", "8", "--n-layers", "6"], "n_qubits=8,n_layers=6,epochs_warmup=1"),
        ("channels", ["--circuits", "published", "--no-align-maps"], "circuits=published,align_maps=False"),
    ],
)
def test_a_variant_has_a_folder_of_its_own(name, more, variant, tmp_path):
    cfg, (module, experiment) = settings(name, tmp_path, *more), SCRIPTS[name]
    run = open_run(__file__, cfg, experiment, module.own_rules, CPU, "fp32", load_parts(cfg, CPU))
    assert run.folder.relative_to(tmp_path).as_posix() == "/".join(filter(None, (experiment, variant, "seed42")))
    assert (run.config["experiment"], run.config["variant"]) == (experiment, variant)
    assert not run.folder.exists()


def test_variants_do_not_refuse_each_other_and_another_recipe_is_refused(tmp_path):
    cfg = settings("baseline", tmp_path)
    parts, rules = load_parts(cfg, CPU), {"DEPTH": own(3, whole(1))}

    def opened(depth, **changes):
        for key, value in {"depth": depth, "epochs": 2, **changes}.items():
            setattr(cfg, key, value)
        return open_run(__file__, cfg, "mine", rules, CPU, "fp32", parts)

    standard = opened(3)
    standard.begin()
    write_checkpoint(standard.last_path, {})
    deeper = opened(4)
    assert deeper.folder == tmp_path / "mine" / "depth=4" / "seed42"
    assert deeper.config["recipe"] == standard.config["recipe"]
    with pytest.raises(
        InputError, match=r"seed42 holds a run with other settings: EPOCHS 2 -> 7; .*--run-dir or --seed"
    ):
        opened(3, epochs=7)


def test_nothing_is_written_before_the_run_begins_and_notes_come_then(tmp_path):
    run = tiny_run(tmp_path / "run")
    run.note("starts at random")
    assert not run.folder.exists() and not run.finished
    run.begin()
    assert json.loads(run.config_path.read_text()) == run.config
    first, second = run.log_path.read_text().splitlines()
    assert first.startswith(f"SYNTHETIC DATA  {run.folder}: 40 training, 30 validation") and "16 px; CPU; fp32" in first
    assert second == "SYNTHETIC DATA  starts at random"


@pytest.mark.parametrize("dataset", ["synthetic", "cifar100"])
def test_only_synthetic_numbers_are_marked(tmp_path, dataset, capsys):
    run = tiny_run(tmp_path, DATASET=dataset)
    run.begin()
    run.log("top1 0.5")
    marked = dataset == "synthetic"
    assert [line.startswith("SYNTHETIC DATA  ") for line in run.log_path.read_text().splitlines()] == [marked, marked]
    assert capsys.readouterr().out == run.log_path.read_text()


def test_planted_numbers_are_marked_before_they_are_finished(tmp_path, capsys):
    run = tiny_run(tmp_path, DATASET="cifar100", CONTROL="planted")
    run.begin()
    run.log("top1 0.5")
    for lines in (run.log_path.read_text().splitlines(), capsys.readouterr().out.splitlines()):
        assert [line.startswith("PLANTED  ") for line in lines] == [True, True]
    assert tiny_run(tmp_path, CONTROL="planted").mark == "SYNTHETIC DATA  PLANTED  "
    assert tiny_run(tmp_path, CONTROL="fourier").mark == "SYNTHETIC DATA  "


@pytest.mark.parametrize("resume", [True, False])
def test_what_an_earlier_start_left(tmp_path, resume):
    """Results stay, or go with --no-resume; half-written files go in any case; what is not the run's stays."""
    left = ["result.json", "last.pt", "best.pt", "metrics.csv", "predictions.npz", "log.txt"]
    run = tiny_run(tmp_path, resume)
    for name in [*left, "last.pt.77.partial", "my notes.txt"]:
        (tmp_path / name).write_text("{}")
    write_json(tmp_path / "result.json", RESULT | {"identity": identity_code(run.identity)})
    write_json(tmp_path / "config.json", run.config)
    run.begin()
    here = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert (here.keys() >= set(left)) == resume and "last.pt.77.partial" not in here and here["my notes.txt"] == "{}"
    assert here["log.txt"].startswith("{}") == resume and ("last.pt" in here) == resume


def test_settings_are_compared_only_with_those_of_work_that_was_done(tmp_path):
    before = tiny_run(tmp_path)
    before.begin()
    tiny_run(tmp_path, precision="bf16").refuse_other_settings()  # nothing was trained
    for path in (before.last_path, before.result_path):
        write_json(path, RESULT | {"identity": identity_code(before.identity)})
        with pytest.raises(
            InputError, match=r"precision fp32 -> bf16, weights absent -> mine; .*--no-resume to delete"
        ):
            tiny_run(tmp_path, precision="bf16", weights="mine").refuse_other_settings()
        tiny_run(tmp_path, resume=False, precision="bf16").refuse_other_settings()
        tiny_run(tmp_path).refuse_other_settings()
        path.unlink()


def finished(folder, **changes):
    """The folder of a finished run; `changes` are made to its result.json."""
    run = tiny_run(folder, SEED=7)
    run.begin()
    write_json(run.result_path, RESULT | {"identity": identity_code(run.identity)} | changes)
    run.give_back()
    return run


def test_a_finished_run_is_shown_and_no_resume_forgets_it(tmp_path, capsys):
    run = finished(tmp_path)
    assert run.finished and not tiny_run(tmp_path, resume=False).finished
    capsys.readouterr()
    assert run.show_result() == read_json(run.result_path)
    said, shown = capsys.readouterr().out.splitlines()
    assert "is finished; nothing to do" in said
    assert shown == (
        "SYNTHETIC DATA  tiny seed 7: test top1 0.5000 top5 0.7500 f1 0.2500 (n = 40), "
        "val top1 0.6250 at epoch 2 of 3, 100 img/s"
    )
    assert describe_result(RESULT | {"variant": "n_layers=6"}).startswith("tiny n_layers=6 seed 7: ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"test_top1": math.nan}, "test_top1: expected a number from 0 to 1, got nan"),
        ({"test_top5": 7.5}, "test_top5: expected a number from 0 to 1, got 7.5"),
        ({"val_top1": -0.1}, "val_top1: expected a number from 0 to 1"),
        ({"val_f1": "0.5"}, "val_f1: expected a number from 0 to 1, got '0.5'|val_f1: expected a number, got '0.5'"),
        ({"test_loss": math.inf}, "test_loss: expected a number from 0, got inf"),
        ({"best_epoch": 4}, "best_epoch: expected a whole number from 0 to 3, got 4"),
        ({"epochs": True}, "epochs: expected a whole number, got True"),
        ({"seed": 7.0}, "seed: expected a whole number, got 7.0"),
        ({"images_per_second": None}, "images_per_second: expected a number, got None"),
        ({"control": 3}, "control: expected a text or null, got 3"),
        ({"identity": 3}, "identity: expected a text, got 3"),
        ({"experiment": "another"}, "expected 'tiny' for experiment, got 'another'"),
        ({"variant": "n_qubits=8"}, "expected '' for variant, got 'n_qubits=8'"),
        ({"seed": 8}, "expected 7 for seed, got 8"),
    ],
)
def test_a_result_that_holds_something_else_is_not_shown(tmp_path, capsys, changes, expected):
    run = finished(tmp_path)
    result = read_json(run.result_path) | changes
    run.result_path.write_text(json.dumps(result))  # NaN, too
    capsys.readouterr()
    with pytest.raises(InputError, match=rf"result\.json.*({expected}).*--no-resume starts the run over"):
        run.refuse_other_settings()
        run.show_result()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("left", [["result.json"], ["last.pt"], ["best.pt"], ["result.json", "last.pt"]])
def test_without_its_config_a_run_is_shown_or_continued_for_its_own_settings_only(tmp_path, left, capsys):
    run = finished(tmp_path)
    for path in (run.last_path, run.best_path):
        write_checkpoint(path, {"identity": run.identity, "model": {}})
    for path in tmp_path.iterdir():
        if path.name not in left and path.name != ".lock":
            path.unlink()
    other = tiny_run(tmp_path, SEED=7, precision="bf16")
    expected = (
        "fp32 -> bf16" if left != ["result.json"] else "is not the result of these settings, or config.json is lost"
    )
    with pytest.raises(InputError, match=expected):
        other.refuse_other_settings()
    with pytest.raises(InputError, match=expected):
        other.begin()
    assert not run.config_path.exists()
    same = tiny_run(tmp_path, SEED=7)
    same.refuse_other_settings()
    if same.finished:
        same.show_result()
        assert "config.json was missing and is written again" in capsys.readouterr().out
        assert read_json(run.config_path) == same.config | {"git_commit": "unknown"}
        with pytest.raises(InputError, match="fp32 -> bf16"):
            other.refuse_other_settings()


def test_a_result_beside_another_runs_config_is_refused(tmp_path):
    run = finished(tmp_path)
    write_json(run.result_path, read_json(run.result_path) | {"identity": "0" * 12})
    with pytest.raises(InputError, match=r"result\.json is not the result of the run in config\.json; --no-resume"):
        run.refuse_other_settings()


def test_a_foreign_config_is_refused_with_four_of_the_differences(tmp_path):
    run = finished(tmp_path)
    config = read_json(run.config_path)
    config["identity"] = {f"x{number}": number for number in range(9)}
    write_json(run.config_path, config)
    write_json(run.result_path, read_json(run.result_path) | {"identity": identity_code(config["identity"])})
    with pytest.raises(InputError, match=r"settings: x0 0 -> absent, .*, x3 3 -> absent and 9 more; use another"):
        run.refuse_other_settings()


@pytest.mark.parametrize("name", ["log.txt", "metrics.csv", "last.pt", "result.json", "config.json"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_in_place_of_a_file_is_named(tmp_path, name, resume):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"{name}.*(is a folder; move it away|Is a directory)"):
        tiny_run(tmp_path, resume).begin()


def test_code_of_a_checkpoint_is_accepted_if_it_was_recorded_and_no_other(tmp_path):
    old, new = {"code": {"a.py": "1"}, "own_code": {}}, {"code": {"a.py": "2"}, "own_code": {}}
    run = tiny_run(tmp_path, **new)
    run.config["accepted_code"] = [old]
    run.refuse_other_identity(run.last_path, run.identity)
    run.refuse_other_identity(run.last_path, run.identity | old)
    other = {"code": {"a.py": "3"}}
    with pytest.raises(InputError, match=r"last\.pt is of other code: a\.py changed; --accept-code goes on with it"):
        run.refuse_other_identity(run.last_path, run.identity | other)
    with pytest.raises(InputError, match=r"last\.pt is of another run: precision bf16 -> fp32; --no-resume starts"):
        run.refuse_other_identity(run.last_path, run.identity | old | {"precision": "bf16"})
    accepting = tiny_run(tmp_path, accept_code=True, **new)
    accepting.refuse_other_identity(run.last_path, run.identity | other)
    assert read_json(run.config_path)["accepted_code"] == [other | {"own_code": {}}]


def test_a_folder_whose_name_is_no_utf8(tmp_path, monkeypatch):
    monkeypatch.setattr("qcifar.distributed.say", lambda text: None)  # the screen: tests/test_errors.py
    run = tiny_run(tmp_path / os.fsdecode(b"r\xfcn"))
    run.begin()
    run.log(f"in {run.folder}")
    assert "in " in run.log_path.read_text() and "udcfc" in run.log_path.read_text()
