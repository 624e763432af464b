"""Event files for TensorBoard, read back with its own EventAccumulator, and training without it."""

import csv
import itertools
import os
import subprocess
import sys

import pytest
import torch

import DLfunctions
from qcifar.events import EventFile, scalars
from qcifar.files import write_csv
from tests.helpers import ROOT, slow
from tests.helpers.runs import tiny_run
from tests.helpers.scripts import TIMED, Killed, assert_same, dying_after, run, stored

TAGS = {
    "loss/train", "loss/val", "top1/train", "top1/val", "top5/val", "f1/val", "run/lr", "run/seconds", "run/images",
    "run/images_per_second",
}  # fmt: skip
ROWS = [{"epoch": k, "val_loss": 1 / k, "lr": 0.1 * k, "seconds": 60.0, "dataset": "synthetic"} for k in (1, 2, 3)]


def read_back(folder):
    """tag -> [(epoch, value, time)] of all event files in `folder`, without what TensorBoard would purge."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), {"scalars": 0}, purge_orphaned_data=False)
    found.Reload()
    return {tag: [(e.step, e.value, e.wall_time) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def assert_events_are_metrics(folder):
    """Each number of metrics.csv is there once, at its epoch, and nothing else."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    events = read_back(folder / "tensorboard")
    expected = {}
    for row in rows:
        for tag, value in scalars({name: float(text) for name, text in row.items() if name != "dataset"}).items():
            expected.setdefault(tag, []).append((int(row["epoch"]), pytest.approx(value, rel=1e-6)))
    assert {tag: [point[:2] for point in points] for tag, points in events.items()} == expected
    return events


def test_names_are_grouped_and_only_numbers_count():
    row = {"epoch": 2, "train_loss": 1, "val_top5": 0.5, "lr": 1e-3, "images_per_second": 9.0, "alpha": 0.1}
    rest = {"dataset": "synthetic", "alpha_raw": None, "switched": True, "train_": 3}
    expected = {"loss/train": 1.0, "top5/val": 0.5, "run/lr": 1e-3, "run/images_per_second": 9.0, "run/alpha": 0.1}
    assert scalars(row | rest) == expected | {"run/train_": 3.0}


def test_an_event_file_begins_with_the_epochs_so_far_and_replaces_others(tmp_path):
    for _ in range(3):
        EventFile(tmp_path, ROWS)
    (tmp_path / "mine.txt").write_text("notes")
    file = EventFile(tmp_path, ROWS[:1])
    file.add(ROWS[1])
    points = read_back(tmp_path)
    assert sorted(points) == ["loss/val", "run/lr", "run/seconds"]
    assert [point[:2] for point in points["loss/val"]] == [(1, 1.0), (2, 0.5)]
    emptied, written = sorted(tmp_path.glob("events*"))
    assert emptied.stat().st_size == 0 < written.stat().st_size and (tmp_path / "mine.txt").exists()


def test_times_of_epochs_before_the_start_are_apart_by_what_they_took(tmp_path):
    EventFile(tmp_path, ROWS)
    times = [time for _, _, time in read_back(tmp_path)["run/lr"]]
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == pytest.approx([60, 60])


def test_an_open_tensorboard_drops_what_it_read_before_the_file_was_replaced(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    EventFile(tmp_path, ROWS)
    watching = accumulator.EventAccumulator(str(tmp_path))
    watching.Reload()
    EventFile(tmp_path, ROWS[:1]).add(ROWS[1] | {"val_loss": 7.0})
    watching.Reload()
    assert [(e.step, e.value) for e in watching.Scalars("loss/val")] == [(1, 1.0), (2, 7.0)]


@pytest.mark.parametrize("name", ["baseline", "head"])
def test_events_of_a_run_are_its_metrics(name, calm):
    _, folder = calm[name]
    more = {"run/alpha", "run/branch_share", "run/circuit_gradient"} if name == "head" else set()
    assert set(assert_events_are_metrics(folder)) == TAGS | more


@pytest.mark.parametrize("saves", [*map(slow, (1, 3)), 4, slow(6)])
def test_killed_and_continued_shows_every_epoch_once(saves, calm, tmp_path, monkeypatch):
    """Saves: a step, then last.pt and best.pt at the ends of epochs."""
    monkeypatch.setattr(DLfunctions, "write_checkpoint", dying_after(saves))
    with pytest.raises(Killed):
        run("baseline", tmp_path, "--checkpoint-minutes", "0")
    monkeypatch.undo()
    _, folder = run("baseline", tmp_path)
    assert_events_are_metrics(folder)
    assert_same(stored(folder), stored(calm["baseline"][1]))


@pytest.mark.parametrize("where", [slow("between metrics.csv and the event"), "in the middle of the event"])
def test_killed_while_an_epoch_is_written(where, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    add = EventFile.add

    def die(self, row):
        if where.startswith("in the middle"):
            add(self, row)
            self.path.write_bytes(self.path.read_bytes()[:-20])
        raise Killed

    monkeypatch.setattr(EventFile, "add", die)
    with pytest.raises(Killed):
        run("baseline", tmp_path)
    monkeypatch.undo()
    assert_events_are_metrics(run("baseline", tmp_path)[1])


def test_no_resume_deletes_event_files_even_where_tensorboard_has_gone(tmp_path, monkeypatch):
    earlier = tiny_run(tmp_path)
    earlier.begin()
    EventFile(earlier.events_folder, ROWS)
    earlier.give_back()
    again = tiny_run(tmp_path, resume=False)
    again.begin()
    again.give_back()
    assert not list(earlier.events_folder.glob("*"))


def test_without_tensorboard_everything_is_as_before(calm, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # `import tensorboard` raises ImportError
    _, folder = run("baseline", tmp_path)
    assert not (folder / "tensorboard").exists()
    assert_same(stored(folder), stored(calm["baseline"][1]))
    with (folder / "metrics.csv").open() as mine, (calm["baseline"][1] / "metrics.csv").open() as other:
        for row, expected in zip(csv.DictReader(mine), csv.DictReader(other), strict=True):
            assert {k: v for k, v in row.items() if k not in TIMED} == {
                k: v for k, v in expected.items() if k not in TIMED
            }


LOADED = """
import sys
from pathlib import Path
import DLfunctions
from qcifar.events import EventFile
ours = lambda: [name for name in sys.modules if name.split(".")[0] in ("tensorboard", "tensorflow")]
assert ours() == [], ours()
EventFile(Path(sys.argv[1]), [])
print(len(ours()), "tensorflow" in sys.modules)
"""


@pytest.mark.slow  # a process that imports torch
def test_tensorboard_is_loaded_when_training_begins_and_tensorflow_never(tmp_path):
    pytest.importorskip("tensorboard")
    folder = tmp_path / "tensorflow"
    folder.mkdir()
    (folder / "__init__.py").write_text("print('noise')\n")  # a TensorFlow that anybody who imports it would hear
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    command = [sys.executable, "-c", LOADED, str(tmp_path / "events")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    count, tensorflow = done.stdout.split()
    assert int(count) > 0 and tensorflow == "False"


def test_events_that_cannot_be_written_are_one_line_and_the_run_goes_on(tmp_path, capsys):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").write_text("in the way")
    EventFile(tmp_path / "tensorboard", ROWS).add(ROWS[0])
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1 and said[0].startswith("no more events for TensorBoard: ")
    assert (tmp_path / "tensorboard").read_text() == "in the way"


def test_a_checkpoint_knows_nothing_of_events(calm):
    _, folder = calm["baseline"]
    last = torch.load(folder / "last.pt", weights_only=True)
    assert "tensorboard" not in (folder / "config.json").read_text() and "events" not in str(last.keys())
    write_csv(folder / "copy.csv", last["progress"]["history"])
    assert (folder / "copy.csv").read_bytes() == (folder / "metrics.csv").read_bytes()
    (folder / "copy.csv").unlink()
