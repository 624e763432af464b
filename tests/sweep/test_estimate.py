"""What a dry run says: from which run, or that there is none."""

import json

import pytest

from qcifar.sweep import estimate
from qcifar.sweep.estimate import describe, disk, images, parameters
from tests.helpers.networks import network
from tests.helpers.scripts import ONE_EPOCH, RESNET, SCRIPTS, run
from tests.helpers.standin import starts, sweep_of


def finish(sweep, number, speed=100.0, **constants):
    """Files of a finished run in the place of a job."""
    job = sweep.plan.jobs[number]
    folder = sweep.run(job)
    folder.mkdir(parents=True)
    for name, size in {"last.pt": 6_000_000, "best.pt": 2_000_000, "predictions.npz": 1_000_000}.items():
        (folder / name).write_bytes(bytes(size))
    (folder / "config.json").write_text(json.dumps({"constants": job.constants | constants, "identity": {}}))
    (folder / "result.json").write_text(json.dumps({"variant": job.variant, "images_per_second": speed}))
    return folder


def test_without_a_finished_run_it_says_so(tmp_path):
    sweep = sweep_of(tmp_path)
    lines = describe(sweep, "all", 2)
    assert lines[0] == (
        f"python standin.py --seed 0 --run-dir {tmp_path}/runs  # no finished run to estimate from yet, 185 MB"
    )
    assert lines[2:] == [
        "0 of 2 runs are finished, 2 to do",
        "no finished run of this size yet: standin; the first one gives an estimate",
        "disk in all: 369 MB (--keep all)",
    ]
    assert starts(sweep) == {"standin/seed0": 0, "standin/seed1": 0} and not (tmp_path / "runs").exists()


def test_with_one_it_says_from_which(tmp_path):
    sweep = sweep_of(tmp_path, "EPOCHS = 4", seeds="0-4")
    folder = finish(sweep, 0)
    lines = describe(sweep, "all", 2)
    assert len([line for line in lines if line.startswith("python")]) == 4
    assert lines[0].endswith("# 2 min, 9 MB")  # 4 x 3,200 images at 100 a second
    assert lines[4:] == [
        "1 of 5 runs are finished, 4 to do",
        f"estimated from {folder}: 100 images/s, 9 MB",
        "training in all: 9 min; 2 at a time as fast as those runs: 4 min (without start, validation and test)",
        "disk in all: 36 MB (--keep all)",
    ]
    assert [describe(sweep, keep, 2)[-1] for keep in ("best", "none")] == [
        "disk in all: 12 MB (--keep best)", "disk in all: 4 MB (--keep none)",
    ]  # fmt: skip


def test_a_run_of_another_size_is_none(tmp_path):
    sweep = sweep_of(tmp_path)
    finish(sweep, 0, IMG_SIZE=64)
    assert "no finished run of this size yet: standin; the first one gives an estimate" in describe(sweep, "all", 1)


def test_the_same_variant_counts_first_and_damaged_runs_do_not(tmp_path):
    sweep = sweep_of(tmp_path, 'BEHAVIOUR = ["fine", "waits"]', seeds="0-1")
    fine, waits = finish(sweep, 0, 50.0), finish(sweep, 1, 200.0)
    (_, job) = sweep.plan.jobs[2:]
    assert estimate.measured(sweep, job).folder == waits
    (waits / "result.json").write_text("[]")
    assert estimate.measured(sweep, job).folder == fine


def test_images_of_a_job(tmp_path):
    assert images(sweep_of(tmp_path, "EPOCHS = 3\nTRAIN_LIMIT = 100").plan.jobs[0]) == 300
    assert images(sweep_of(tmp_path, 'DATASET = "cifar100"\nTRAIN_LIMIT = 90_000').plan.jobs[0]) == 40_000


@pytest.mark.slow
def test_disk_without_a_run_is_that_of_real_checkpoints(tmp_path):
    """Of a run of the baseline: its checkpoints, and what the formula says of its network."""
    result, folder = run("baseline", tmp_path / "real", *RESNET, *ONE_EPOCH["baseline"])
    real = sum((folder / name).stat().st_size for name in ("last.pt", "best.pt"))
    (job,) = sweep_of(tmp_path, f'MODEL_NAME = "{result["model_name"]}"', seeds="0").plan.jobs
    guess = disk(job, "all", None) - estimate.RESULTS
    assert guess == pytest.approx(real, rel=0.02) and len(SCRIPTS) == 3


def test_parameters_of_networks():
    expected = sum(weights.numel() for weights in network("resnet18").parameters())
    assert parameters("resnet18") == expected and parameters("resnet17") is None


def test_an_unknown_network_has_an_unknown_size(tmp_path):
    assert (
        "no finished run to estimate from yet, unknown size"
        in describe(sweep_of(tmp_path, 'MODEL_NAME = "x"'), "all", 1)[0]
    )
