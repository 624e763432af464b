"""The run folder: where it lies, what is refused there, and that nothing is written before training begins."""

import json

import pytest
import torch

from qcifar.config import own, whole
from qcifar.errors import InputError
from qcifar.experiment.folder import describe_result, open_run
from qcifar.experiment.recipe import load_parts
from qcifar.files import write_checkpoint, write_json
from tests.helpers.runs import tiny_run
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


@pytest.mark.parametrize("resume", [True, False])
def test_what_an_earlier_start_left(tmp_path, resume):
    """Results stay, or go with --no-resume; half-written files go in any case; what is not the run's stays."""
    left = ["result.json", "last.pt", "best.pt", "metrics.csv", "predictions.npz", "log.txt"]
    for name in [*left, "last.pt.77.partial", "my notes.txt"]:
        (tmp_path / name).write_text("{}")
    tiny_run(tmp_path, resume).begin()
    here = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert (here.keys() >= set(left)) == resume and "last.pt.77.partial" not in here and here["my notes.txt"] == "{}"
    assert here["log.txt"].startswith("{}") == resume and ("last.pt" in here) == resume


def test_settings_are_compared_only_with_those_of_work_that_was_done(tmp_path):
    before = tiny_run(tmp_path)
    before.begin()
    tiny_run(tmp_path, precision="bf16").refuse_other_settings()  # nothing was trained
    for path in (before.last_path, before.result_path):
        write_json(path, {})
        with pytest.raises(
            InputError, match=r"precision fp32 -> bf16, weights absent -> mine; .*--no-resume to delete"
        ):
            tiny_run(tmp_path, precision="bf16", weights="mine").refuse_other_settings()
        tiny_run(tmp_path, resume=False, precision="bf16").refuse_other_settings()
        tiny_run(tmp_path).refuse_other_settings()
        path.unlink()


def test_a_finished_run_is_shown_and_no_resume_forgets_it(tmp_path, capsys):
    result = {"experiment": "tiny", "variant": "n_layers=6", "seed": 7, "test_top1": 0.5, "test_top5": 0.75}
    result |= {"test_f1": 0.25, "test_images": 40, "val_top1": 0.625, "best_epoch": 2, "epochs": 3}
    result |= {"images_per_second": 99.6}
    write_json(tmp_path / "result.json", result)
    run = tiny_run(tmp_path)
    assert run.finished and not tiny_run(tmp_path, resume=False).finished
    assert run.show_result() == result
    said, shown = capsys.readouterr().out.splitlines()
    assert "is finished; nothing to do" in said
    assert shown == (
        "SYNTHETIC DATA  tiny n_layers=6 seed 7: test top1 0.5000 top5 0.7500 f1 0.2500 (n = 40), "
        "val top1 0.6250 at epoch 2 of 3, 100 img/s"
    )
    assert describe_result(result | {"variant": ""}).startswith("tiny seed 7: ")
