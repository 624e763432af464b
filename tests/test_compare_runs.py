"""`compare_runs.py` on run folders written by hand: the table, and what is said of folders it cannot read."""

import json
import re

import pytest

import compare_runs
from qcifar.errors import InputError

HEADINGS = [
    "experiment", "variant", "seed", "epochs", "test top-1", "val top-1", "alpha", "parameters", "circuit weights",
    "images/s", "test n", "precision", "px", "train images", "start", "recipe", "data",
]  # fmt: skip

RESULT = {  # the keys of `qcifar.experiment.result.report`
    "experiment": "cifar100_baseline_det", "variant": "", "control": None, "dataset": "cifar100", "seed": 42,
    "epochs": 40, "best_epoch": 37, "selected_by": "f1", "val_top1": 0.8211, "val_f1": 0.82, "val_loss": 0.9,
    "test_top1": 0.82895, "test_top5": 0.96, "test_f1": 0.828, "test_loss": 0.91, "params_total": 21335972,
    "params_quantum": None,
    "train_seconds": 3600.0, "images_per_second": 444.4, "img_size": 224, "weights": "imagenet",
    "precision": "bf16", "recipe": "0a1b2c",
    "train_images": 40000, "test_images": 10000, "alpha": None,
}  # fmt: skip
HEAD = {"experiment": "cifar100_hybrid_qhead", "params_quantum": 24, "alpha": 0.123456}


def put(run_dir, **changes):
    """Write the result of one run where the scripts write it; returns the file."""
    result = RESULT | changes
    path = run_dir / result["experiment"] / result["variant"] / f"seed{result['seed']}" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(result))
    return path


def shown(run_dir, capsys):
    """What is printed, line by line."""
    compare_runs.main(["--run-dir", str(run_dir)])
    return capsys.readouterr().out.splitlines()


def cells(line):
    return re.split(r"\s{2,}", line.strip())


def test_every_column_of_a_run(tmp_path, capsys):
    put(tmp_path, **HEAD, variant="n_layers=6", weights="/home/me/start/resnet34.pt")
    heading, row = shown(tmp_path, capsys)
    assert cells(heading) == HEADINGS
    expected = [
        "cifar100_hybrid_qhead", "n_layers=6", "42", "40", "82.89", "82.11", "0.123", "21,335,972", "24", "444",
        "10,000", "bf16", "224", "40,000", "resnet34.pt", "0a1b2c", "cifar100",
    ]  # fmt: skip
    assert cells(row)[:4] == expected[:4] and cells(row)[5:] == expected[5:]
    assert float(cells(row)[4]) == pytest.approx(82.895, abs=0.0051)  # either way of rounding the half


def test_runs_without_alpha_leave_its_cell_empty_and_columns_line_up(tmp_path, capsys):
    put(tmp_path, **HEAD)
    put(tmp_path, test_top1=0.05)
    heading, baseline, head = shown(tmp_path, capsys)
    end = heading.index("alpha") + len("alpha")
    assert baseline[end - 5 : end].strip() == "" and head[end - 5 : end] == "0.123"
    for name, value in (("test top-1", "5.00"), ("parameters", "21,335,972"), ("px", "224")):
        end = heading.index(name) + len(name)
        assert baseline[:end].endswith(" " + value)  # numbers to the right
    for name, value in (("experiment", "cifar100_baseline_det"), ("start", "imagenet"), ("data", "cifar100")):
        assert baseline[heading.index(name) :].startswith(value)  # words to the left


def test_rows_are_sorted_by_data_experiment_and_seed(tmp_path, capsys):
    wanted = [
        ("cifar100", "cifar100_baseline_det", 2), ("cifar100", "cifar100_baseline_det", 10),
        ("cifar100", "cifar100_hybrid_qhead", 1), ("cifar100", "cifar100_quantum_channels", 1),
        ("synthetic", "cifar100_baseline_det", 3), ("synthetic", "cifar100_hybrid_qhead", 0),
    ]  # fmt: skip
    for dataset, experiment, seed in reversed(wanted):
        put(tmp_path, dataset=dataset, experiment=experiment, seed=seed)
    _, *rows, _ = shown(tmp_path, capsys)
    names = [(cells(row)[-1].replace("SYNTHETIC", "synthetic"), cells(row)[0], int(cells(row)[1])) for row in rows]
    assert names == wanted


def test_synthetic_runs_are_marked_and_explained(tmp_path, capsys):
    put(tmp_path)
    assert "SYNTHETIC" not in "\n".join(shown(tmp_path, capsys))
    put(tmp_path, dataset="synthetic", seed=1)
    _, real, synthetic, note = shown(tmp_path, capsys)
    assert cells(real)[-1] == "cifar100" and cells(synthetic)[-1] == "SYNTHETIC"
    assert note.startswith("SYNTHETIC") and "CIFAR-100" in note


def test_unfinished_runs_are_named_and_other_folders_are_not(tmp_path, capsys):
    finished = put(tmp_path)
    stopped = tmp_path / "cifar100_hybrid_qhead" / "seed7"
    stopped.mkdir(parents=True)
    (stopped / "last.pt").write_bytes(b"...")
    (tmp_path / "cifar100_quantum_channels" / "descriptors").mkdir(parents=True)
    (tmp_path / "cifar100_baseline_det" / "split_idx_cifar100.npz").write_bytes(b"...")
    lines = shown(tmp_path, capsys)
    assert [line for line in lines if "not finished" in line] == [f"not finished: {stopped}"]
    assert len(lines) == 3 and "descriptors" not in "".join(lines)
    finished.unlink()
    with pytest.raises(InputError, match="no finished run"):
        compare_runs.main(["--run-dir", str(tmp_path)])
    assert capsys.readouterr().out.count("not finished") == 2


UNREADABLE = {
    "empty": "",
    "cut off": json.dumps(RESULT)[:200],
    "not text": b"\xff\xfe\x00",
    "no object": "[1, 2]",
    "number": "3",
    "no experiment": json.dumps({key: value for key, value in RESULT.items() if key != "experiment"}),
    "no test score": json.dumps({key: value for key, value in RESULT.items() if key != "test_top1"}),
    "score that is a word": json.dumps(RESULT | {"test_top1": "good"}),
    "score that is nothing": json.dumps(RESULT | {"val_top1": None}),
    "score that is not a number": json.dumps(RESULT | {"test_top1": float("nan")}),
    "score in per cent": json.dumps(RESULT | {"test_top1": 83.0}),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_result_is_named_and_hides_no_other(tmp_path, case, capsys):
    put(tmp_path)
    path, content = put(tmp_path, seed=43), UNREADABLE[case]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    left_out, _, row = shown(tmp_path, capsys)
    assert left_out.startswith("left out: ") and str(path) in left_out and cells(row)[1] == "42"


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_to_compare(tmp_path, exists):
    folder = tmp_path / "runs"
    if exists:
        folder.mkdir()
    with pytest.raises(InputError, match=f"{re.escape(str(folder))}.*name another"):
        compare_runs.main(["--run-dir", str(folder)])
    assert folder.exists() == exists  # looking makes nothing


def test_flags_are_checked():
    with pytest.raises(InputError, match=r"--rundir.*--run-dir"):
        compare_runs.main(["--rundir", "x"])
