"""Heads trained with and without noise, compared under noise: on results with known differences, and bad input."""

import pytest
from scipy import stats

from qcifar.comparison.statistics import holm
from qcifar.errors import InputError
from qcifar.files import read_json, write_json
from qcifar.sweep.plan import read_plan
from qcifar.sweep.store import Sweep, store
from studies import under_noise
from tests.helpers import ROOT

NOISE = "depolarizing=0.05"
GAINS = (0.01, 0.02, 0.03, 0.02, 0.02, 0.01)


@pytest.fixture
def top(tmp_path):
    """The run directory of studies/noise.toml with its plan stored; no run yet."""
    top = tmp_path / "noise"
    store(Sweep(read_plan(ROOT / "studies" / "noise.toml", ROOT, top), ROOT, 1))
    return top


def evaluate(top, gains=GAINS):
    """The heads of `top` as evaluate_hardware.py leaves them; noise in training gains so much under noise."""
    for job in read_json(top / "plans" / "noise.json")["jobs"]:
        if "QUANTUM_NOISE" in job["constants"]:
            noisy = job["constants"]["QUANTUM_NOISE"] != "none"
            gain = gains[job["seed"]] if noisy else 0
            write(top / job["folder"], [("ideal", None, 9, 0.3 - 0.01 * noisy), ("noise", 0.05, 9, 0.2 + gain)])


def write(folder, found):
    (folder / "hardware").mkdir(parents=True, exist_ok=True)
    entries = [
        {"mode": mode, "images": n, "channels": p and {"depolarizing": p}, "scores": {"top1": top1}}
        for mode, p, n, top1 in [*found, ("noise", 0.05, 5, 0.0)]  # and once on fewer images
    ]
    write_json(folder / "hardware" / "results.json", {"entries": entries})


def test_kinds_are_paired_by_seed(top, tmp_path, capsys):
    evaluate(top)
    assert under_noise.main([str(top), str(tmp_path / "found.json")]) == 3  # no spread with ideal circuits
    noisy, ideal = capsys.readouterr().out.splitlines()
    low, high = stats.ttest_1samp([100 * gain for gain in GAINS], 0).confidence_interval()
    assert noisy.startswith(
        f"tested under {NOISE}: trained with ideal circuits 20.00 %, under {NOISE} 21.83 %; +1.83 points, better. "
        f"Better, by more than the margin of 0.5 points: +1.83 points, [{low:+.2f}, {high:+.2f}] for other seeds"
    )
    assert "tested with ideal circuits: trained with ideal circuits 30.00 %" in ideal and "-1.00 points, undec" in ideal
    first, second = read_json(tmp_path / "found.json")["comparisons"]
    assert first["interval_seeds"] == pytest.approx([low, high]) and first["verdict"] == "better"
    assert first["p_holm"] == first["p_t"] and second["tested"] == "none"  # the question is not corrected for the rest


def test_several_noises_are_corrected_together():
    def tested(seed, gains):
        return {"none": 30.0 + 0.1 * seed * gains[0], "a": 20 + gains[0] * (seed % 3), "b": 20 + gains[1] * (seed % 2)}

    seeds = {
        seed: {"none": tested(seed, (0, 0)), "a": tested(seed, (0.3, 0)), "b": tested(seed, (0, 0.2))}
        for seed in range(6)
    }
    entries = {(one["trained"], one["tested"]): one for one in under_noise.verdicts({"": seeds}, 9, 0.5)}
    assert set(entries) == {("a", "a"), ("a", "none"), ("b", "b"), ("b", "none")}
    ours = [entries["a", "a"], entries["b", "b"]]
    assert [one["p_holm"] for one in ours] == holm([one["p_t"] for one in ours])
    assert ours[0]["p_holm"] > ours[0]["p_t"]


def test_every_planned_head_must_be_evaluated(top, tmp_path):
    with pytest.raises(InputError, match=r"not evaluated under depolarizing=0.05; .* --noise depolarizing=0.05$"):
        under_noise.main([str(top)])
    evaluate(top)
    job = [job for job in read_json(top / "plans" / "noise.json")["jobs"] if "QUANTUM_NOISE" in job["constants"]][-1]
    write(top / job["folder"], [("ideal", None, 9, 0.3)])  # under noise on five of nine images only
    with pytest.raises(InputError, match=f"{job['folder']}: not evaluated under {NOISE} on all 9 images"):
        under_noise.main([str(top)])


def test_a_folder_without_such_a_plan_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a run directory with one stored plan, as runs/noise, got 0"):
        under_noise.main([str(tmp_path)])
    store(Sweep(read_plan(ROOT / "studies" / "scratch.toml", ROOT, tmp_path / "scratch"), ROOT, 1))
    with pytest.raises(InputError, match="expected heads with QUANTUM_NOISE none and others"):
        under_noise.main([str(tmp_path / "scratch")])


def test_the_plan_has_both_kinds_at_one_strength():
    plan = read_plan(ROOT / "studies" / "noise.toml", ROOT)
    trained = {job.constants["QUANTUM_NOISE"] for job in plan.jobs if "qhead" in job.experiment}
    assert trained == {"none", NOISE} and len(plan.jobs) == 18
