"""Heads trained with and without noise, compared under noise: on results with known differences, and bad input."""

import pytest
from scipy import stats

from qcifar.errors import InputError
from qcifar.files import write_json
from qcifar.sweep.plan import read_plan
from studies import under_noise
from tests.helpers import ROOT

NOISE = "depolarizing=0.05"


def write(top, trained, seed, ideal, noisy):
    folder = top / "cifar100_hybrid_qhead" / f"quantum_noise={trained}" / f"seed{seed}"
    (folder / "hardware").mkdir(parents=True)
    write_json(folder / "config.json", {"constants": {"SEED": seed, "QUANTUM_NOISE": trained, "RUN_DIR": str(top)}})
    entries = [
        {"mode": "ideal", "images": 9, "channels": None, "scores": {"top1": ideal}},
        {"mode": "noise", "images": 9, "channels": {"depolarizing": 0.05}, "scores": {"top1": noisy}},
        {"mode": "noise", "images": 5, "channels": {"depolarizing": 0.05}, "scores": {"top1": 0.0}},  # of fewer images
    ]
    write_json(folder / "hardware" / "results.json", {"entries": entries})


def test_kinds_are_paired_by_seed(tmp_path, capsys):
    gains = (0.01, 0.02, 0.03, 0.02)
    for seed, gain in enumerate(gains):
        write(tmp_path, "none", seed, 0.30, 0.20)
        write(tmp_path, "depolarizing=0.050", seed, 0.29, 0.20 + gain)
    write(tmp_path, "none", 9, 0.9, 0.9)  # without a partner
    assert under_noise.main([str(tmp_path)]) == 0
    noisy, ideal = capsys.readouterr().out.splitlines()
    low, high = stats.ttest_1samp([100 * gain for gain in gains], 0).confidence_interval()
    assert noisy == (
        f"tested under {NOISE}, 4 seeds: trained with ideal circuits 20.00 %, under {NOISE} 22.00 %; difference "
        f"+2.00 points, 95 % [{low:+.2f}, {high:+.2f}] over seeds, sign flip p 0.125"
    )
    assert "tested with ideal circuits, 4 seeds" in ideal and "-1.00 points, no interval" in ideal


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(InputError, match="no head that evaluate_hardware.py evaluated"):
        under_noise.main([str(tmp_path)])
    write(tmp_path, "none", 0, 0.3, 0.2)
    with pytest.raises(InputError, match="no seed has heads trained with and without a noise"):
        under_noise.main([str(tmp_path)])


def test_the_plan_has_both_kinds_at_one_strength():
    plan = read_plan(ROOT / "studies" / "noise.toml", ROOT)
    trained = {job.constants["QUANTUM_NOISE"] for job in plan.jobs if "qhead" in job.experiment}
    assert trained == {"none", NOISE} and len(plan.jobs) == 18
