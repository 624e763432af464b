"""Which finished runs are compared: repeated ones, different ones of one name, run directories inside others."""

import re
import shutil

from qcifar.files import read_json, write_json
from tests.helpers.compared import WARM, put_all, shown
from tests.helpers.made_runs import BASELINE, HEAD, write_run


def test_two_different_runs_of_one_name_are_both_left_out(tmp_path, capsys):
    put_all(tmp_path / "one", seeds=(1, 2, 3))
    write_run(tmp_path / "two", HEAD, 1, top1=0.5, images=1000, constants=WARM)
    _, lines = shown(capsys, tmp_path / "one", tmp_path / "two", "--no-report")
    said = "which has the same experiment, variant, recipe and seed; name the run directory that is meant"
    assert sum(said in line and " here and " in line for line in lines) == 2
    assert re.match(r"hybrid_qhead +2 ", lines[-1])
    shutil.copytree(tmp_path / "one" / HEAD / "seed1", tmp_path / "three" / HEAD / "seed1")  # like the first
    _, lines = shown(capsys, *(tmp_path / name for name in ("one", "two", "three")), "--no-report")
    assert sum(said in line for line in lines) == 3 and re.match(r"hybrid_qhead +2 ", lines[-1])


def test_a_repeated_run_is_the_same_run_whatever_it_took(tmp_path, capsys):
    put_all(tmp_path / "one", seeds=(1, 2, 3))
    shutil.copytree(tmp_path / "one" / HEAD / "seed1", tmp_path / "two" / HEAD / "seed1")
    path = tmp_path / "two" / HEAD / "seed1" / "result.json"
    write_json(path, read_json(path) | {"train_seconds": 1.0, "images_per_second": 9.0, "peak_host_mb": 7})
    _, lines = shown(capsys, tmp_path / "one", tmp_path / "two", "--no-report")
    (left_out,) = [line for line in lines if line.startswith("left out: ")]
    assert left_out.endswith(f"the same run as {tmp_path / 'one' / HEAD / 'seed1'}")
    assert re.match(r"hybrid_qhead +3 ", lines[-1])


def test_run_directories_inside_one_that_has_runs_are_compared_by_themselves(tmp_path, capsys):
    put_all(tmp_path, seeds=range(3))
    inside = tmp_path / "px32" / "again"
    put_all(inside, seeds=range(2), recipe="ffffff")
    _, lines = shown(capsys, tmp_path, "--no-report")
    (left_out,) = [line for line in lines if line.startswith("left out: ")]
    assert f"{inside}: 4 runs of another run directory: python compare_runs.py {inside} compares them" in left_out
    assert re.match(r"hybrid_qhead +3 ", lines[-1])
    for folders, rows in (([inside], 1), ([tmp_path, inside], 2), ([tmp_path / "px32"], 1)):
        _, lines = shown(capsys, *folders, "--no-report")
        assert sum(bool(re.match("hybrid_qhead ", line)) for line in lines) == rows
        assert not any(line.startswith("left out: ") for line in lines)
    for path in [*tmp_path.glob(f"{BASELINE}/seed*/result.json"), *tmp_path.glob(f"{HEAD}/seed*/result.json")]:
        path.unlink()  # runs that are not finished do not hide those of a run directory inside
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert sum(line.endswith("not finished") for line in lines) == 6
    assert sum(bool(re.match(r"hybrid_qhead +2 ", line)) for line in lines) == 1
