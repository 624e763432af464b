"""`compare_runs.py` on made-up runs: what it prints, writes and returns, and what is said of runs it leaves out."""

import hashlib
import json
import re
import shutil
import time

import numpy as np
import pytest

import compare_runs
from qcifar.decided import seal
from qcifar.errors import InputError
from tests.helpers.made_runs import BASELINE, CHANNELS, HEAD, write_run

WARM = {"EPOCHS_WARMUP": 1}


def put_all(run_dir, seeds=range(6), spread=0.003, head=0.43, **more):
    """Baseline at 40 % and head at `head`, each with a spread over seeds."""
    for seed in seeds:
        write_run(run_dir, BASELINE, seed, top1=0.40 + spread * (seed % 3), images=1000, **more)
        write_run(run_dir, HEAD, seed, top1=head + spread * (seed % 2), images=1000, constants=WARM, **more)


def shown(capsys, *argv):
    """The exit status, and what is printed, line by line."""
    status = compare_runs.main([str(one) for one in argv])
    return status, capsys.readouterr().out.splitlines()


def test_a_clear_gain_is_found_and_everything_is_written(tmp_path, capsys):
    put_all(tmp_path)
    status, lines = shown(capsys, tmp_path)
    assert status == 0
    heading, baseline, head, *_, report = lines
    assert heading.split() == ["experiment", "n", "test", "top-1", "difference", "[95", "%]", "verdict"]
    assert re.match(r"baseline_det +6 +40\.30 ± 0\.27$", baseline)
    assert re.match(r"hybrid_qhead +6 +43\.15 ± 0\.16 +\+2\.85 \[\+\d\.\d\d, \+\d\.\d\d\]  better$", head)
    assert all(len(line) <= 100 for line in lines[:-1])
    folder = tmp_path / "report"
    assert report == f"report: {folder / 'index.html'}" and (folder / "index.html").stat().st_size > 10_000
    summary = json.loads((folder / "summary.json").read_text())
    (entry,) = summary["comparisons"]
    for key in (
        "experiment variant control baseline recipe dataset seeds n_seeds test_images mean mean_baseline difference "
        "interval_seeds interval_seeds_images p_sign_flip p_t p_holm p_equivalence margin mcnemar detectable "
        "rules_out_gain_above rules_out_loss_above verdict why"
    ).split():
        assert key in entry, key
    assert entry["seeds"] == list(range(6)) and entry["mean"] == pytest.approx(43.15) and entry["margin"] == 0.5
    assert {row["outcome"] for row in summary["secondary"]} >= {"top5", "f1", "nll", "brier", "ece", "spread"}
    assert [row["kind"] for row in summary["classes"]].count("superclass") == 20
    header, line = (folder / "summary.csv").read_text().splitlines()
    assert "interval_seeds_low" in header and line.startswith(f"{HEAD},")
    assert (folder / "summary.tex").exists() and list((folder / "figures").glob("*.pdf"))


def test_one_seed_is_undecided_and_says_so(tmp_path, capsys):
    put_all(tmp_path, seeds=[42])
    status, lines = shown(capsys, tmp_path, "--no-report", "--details")
    assert status == 3 and any(line == "hybrid_qhead against baseline_det: undecided" for line in lines)
    assert any("One seed: says nothing about other seeds." in line for line in lines)
    assert not (tmp_path / "report").exists()
    assert sum(line.startswith(("baseline_det  ", "hybrid_qhead  ")) for line in lines) == 4  # runs, and comparisons


def test_long_names_have_a_line_of_their_own(tmp_path, capsys):
    variant = "control=fourier,n_qubits=8,n_layers=6,alpha_start=0.25,angle_scaling=none,epochs_warmup=1"
    for seed in (1, 2):
        write_run(tmp_path, BASELINE, seed, top1=0.4 + 0.01 * seed)
        write_run(tmp_path, HEAD, seed, variant=variant, top1=0.41, control="fourier")
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert all(len(line) <= 100 for line in lines) and lines[2] == f"hybrid_qhead {variant}"[:100]
    assert lines[3].split()[:2] == ["2", "41.00"]


@pytest.mark.parametrize("what", ["experiment", "run", "several"])
def test_folders_as_arguments(tmp_path, capsys, what):
    put_all(tmp_path / "one", seeds=(0, 1))
    put_all(tmp_path / "two", seeds=(2, 3))
    given = {
        "experiment": [tmp_path / "one" / BASELINE, tmp_path / "one" / HEAD],
        "run": [tmp_path / "one" / name / f"seed{seed}" for name in (BASELINE, HEAD) for seed in (0, 1)],
        "several": [tmp_path / "one", tmp_path / "two"],
    }[what]
    _, lines = shown(capsys, *given, "--no-report")
    assert re.match(rf"hybrid_qhead +{4 if what == 'several' else 2} ", lines[2])


def test_synthetic_and_planted_runs_are_marked_and_planted_ones_come_last(tmp_path, capsys):
    for seed in (1, 2):
        for experiment, variant, control in (
            (BASELINE, "", None), (HEAD, "control=planted", "planted"), (HEAD, "control=tanh", "tanh"),
        ):  # fmt: skip
            warm = WARM if experiment == HEAD else None
            more = {"dataset": "synthetic", "control": control, "constants": warm}
            write_run(tmp_path, experiment, seed, variant, 0.4 + seed / 100, **more)
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert [line.split("(")[-1].split(")")[0] for line in lines[1:4]] == ["SYNTHETIC"] * 2 + ["SYNTHETIC, PLANTED"]
    assert any(line.startswith("SYNTHETIC: ") for line in lines) and any(line.startswith("PLANTED: ") for line in lines)


def test_runs_tested_with_the_branch_off_are_marked(tmp_path, capsys):
    for seed in (1, 2):
        write_run(tmp_path, BASELINE, seed)
        write_run(tmp_path, HEAD, seed)  # three epochs, all of them phase A
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert "hybrid_qhead (branch off)" in lines[2]
    assert "branch off: hybrid_qhead, seeds 1, 2, was tested in phase A, where it is the baseline" in lines


def test_another_recipe_is_not_paired_and_the_constant_is_named(tmp_path, capsys):
    put_all(tmp_path, seeds=(1, 2))
    for seed in (1, 2):
        write_run(tmp_path, CHANNELS, seed, images=1000, constants={"MAX_LR": 0.01})
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert sum("MAX_LR 0.0007 -> 0.01; --across-recipes" in line for line in lines) == 2
    assert not any(line.startswith("quantum_channels") for line in lines)
    _, lines = shown(capsys, tmp_path, "--no-report", "--across-recipes", "--details")
    assert any(line.startswith("quantum_channels (across recipes)") for line in lines)
    assert any("recipes differ in MAX_LR 0.0007 -> 0.01" in line for line in lines)


def test_against_a_control(tmp_path, capsys):
    for seed in (1, 2):
        write_run(tmp_path, HEAD, seed, top1=0.41, constants=WARM)
        write_run(tmp_path, HEAD, seed, "control=fourier", top1=0.41 + seed / 100, constants=WARM, control="fourier")
    _, lines = shown(capsys, tmp_path, "--no-report", "--against", f"{HEAD} control=fourier")
    assert [line.split()[0] for line in lines[1:3]] == ["hybrid_qhead"] * 2 and "control=fourier" in lines[1]
    status, lines = shown(capsys, tmp_path, "--no-report")
    assert status == 3 and f"no run of {BASELINE}" in lines[0] and lines[-1].startswith("nothing to compare")


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _other_images(folder):
    content = dict(np.load(folder / "predictions.npz"))
    content["index"] = content["index"] + 1
    np.savez(folder / "predictions.npz", **content)


DAMAGE = {  # what happens to seed 1 of the head: what is said of it
    "unfinished": (lambda f: (f / "result.json").unlink(), "not finished"),
    "cut result": (lambda f: _cut(f / "result.json"), "cannot read"),
    "NaN": (lambda f: _edit(f / "result.json", test_top1=float("nan")), "from 0 to 1"),
    "per cent": (lambda f: _edit(f / "result.json", val_top1=83.0), "from 0 to 1"),
    "a word": (lambda f: _edit(f / "result.json", seed="one"), "seed: expected a whole number, got 'one'"),
    "a list": (lambda f: (f / "result.json").write_text("[1]"), "expected a JSON object"),
    "other name": (lambda f: _edit(f / "result.json", experiment="x"), "experiment is 'x'"),
    "no config": (lambda f: (f / "config.json").unlink(), "cannot read"),
    "foreign config": (lambda f: _edit(f / "config.json", identity=3), "an object for identity"),
    "no predictions": (lambda f: (f / "predictions.npz").unlink(), "no such file"),
    "cut predictions": (lambda f: _cut(f / "predictions.npz"), "damaged"),
    "other accuracy": (lambda f: _edit(f / "result.json", test_top1=0.9), "result.json says 90.0000%"),
    "other images": (_other_images, "other test images"),
    "no metrics": (lambda f: (f / "metrics.csv").unlink(), "metrics.csv"),
    "pickled": (lambda f: np.savez(f / "predictions.npz", index=np.array([{}]), label=0, logits=0), "damaged"),
    "a copy": (lambda f: shutil.copytree(f, f.parent / "seed01"), "the same run as"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_one_damaged_run_is_named_and_stops_no_comparison(tmp_path, capsys, case):
    put_all(tmp_path, seeds=range(3))
    damage, reason = DAMAGE[case]
    damage(tmp_path / HEAD / "seed1")
    _, lines = shown(capsys, tmp_path, "--no-report")
    (left_out,) = [line for line in lines if line.startswith("left out: ")]
    assert reason in left_out and re.search(r"seed0?1", left_out)
    assert re.match(rf"hybrid_qhead +{3 if case == 'a copy' else 2} ", lines[-1])


def test_two_different_runs_of_one_name_are_both_left_out(tmp_path, capsys):
    put_all(tmp_path / "one", seeds=(1, 2, 3))
    write_run(tmp_path / "two", HEAD, 1, top1=0.5, images=1000, constants=WARM)
    _, lines = shown(capsys, tmp_path / "one", tmp_path / "two", "--no-report")
    assert sum("which has the same name" in line for line in lines) == 2
    assert re.match(r"hybrid_qhead +2 ", lines[-1])


@pytest.mark.parametrize("exists", [True, False])
def test_nothing_to_compare(tmp_path, exists):
    folder = tmp_path / "runs"
    if exists:
        folder.mkdir()
    with pytest.raises(InputError, match=f"{re.escape(str(folder))}.*name (another|their)"):
        compare_runs.main([str(folder)])
    assert folder.exists() == exists  # looking makes nothing


def test_flags_are_checked():
    with pytest.raises(InputError, match=r"--rundir.*--run-dir"):
        compare_runs.main(["--rundir", "x"])


TEXT = """[decided]
margin = 0.4
seeds = {seeds}
{more}
[[runs]]
script = "baseline"
[[runs]]
script = "head"
CONTROL = {controls}
EPOCHS_WARMUP = 1
"""
NAMES = {"quantum": "", "fourier": "control=fourier"}  # of variants, as these tests write their runs


def store_plan(
    run_dir, seeds=range(6), edits=None, name="small", controls=("quantum",), twins=(), extends=None, **more
):
    """plans/<name>.json as sweep.py stores it; `edits` are made afterwards, `more` before the plan is sealed."""
    kinds = [(BASELINE, "cifar100_baseline.py", "", {})]
    for control in controls:
        kinds.append((HEAD, "cifar100_hybrid_Qhead.py", NAMES[control], {"CONTROL": control, **WARM}))
    jobs = [
        {"script": script, "experiment": experiment, "variant": variant, "seed": seed, "command": [],
         "folder": "/".join(filter(None, (experiment, variant, f"seed{seed}"))), "constants": constants}
        for seed in seeds
        for experiment, script, variant, constants in kinds
    ]  # fmt: skip
    said = [f'extends = "{extends}"'] * bool(extends) + [f"twins = {json.dumps(list(twins))}"] * bool(twins)
    text = TEXT.format(seeds=list(seeds), more="\n".join(said), controls=json.dumps(list(controls)))
    family = [{"experiment": HEAD, "variant": NAMES[control]} for control in controls]
    family += [{**family[0], "against": f"{HEAD} control=fourier"}] * bool(twins)
    content = {
        "name": "small", "title": "Small", "stored": "2026-01-01T00:00:00Z", "git_commit": "", "text": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(), "outcome": "test_top1", "margin": 0.4,
        "seeds": list(seeds), "family": family, "extends": extends, "threads": 1, "existing": [],
        "constants": {"EPOCHS": 3, "IMG_SIZE": 32}, "jobs": jobs,
    } | more  # fmt: skip
    path = run_dir / "plans" / "small.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | {"seal": seal(content)} | (edits or {})))
    return path


def of_today(path):
    """The plan as it was stored before runs and constants were recorded."""
    content = json.loads(path.read_text())
    for job in content["jobs"]:
        del job["constants"]
    for name in ("existing", "constants", "seal"):
        del content[name]
    path.write_text(json.dumps(content))


def test_a_plan_that_was_kept(tmp_path, capsys):
    put_all(tmp_path)
    store_plan(tmp_path)
    status, lines = shown(capsys, tmp_path)
    assert status == 0 and "plan small of 2026-01-01T00:00:00Z: as planned" in lines
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["plan"]["as_planned"] and summary["comparisons"][0]["margin"] == 0.4


def test_what_differs_from_the_plan_is_said(tmp_path, capsys):
    put_all(tmp_path, seeds=range(7))  # seed 6 was not planned
    shutil.rmtree(tmp_path / HEAD / "seed3")
    for seed in range(6):
        write_run(tmp_path, CHANNELS, seed, top1=0.40, images=1000)
    plan = store_plan(tmp_path, extends="first")
    folder = f"{HEAD}/seed3"
    plan.with_suffix(".state.json").write_text(json.dumps({folder: {"state": "failed", "reason": "disk full"}}))
    _, lines = shown(capsys, tmp_path, "--no-report", "--margin", "1")
    text = "\n".join(lines)
    for expected in (
        "plan small of 2026-01-01T00:00:00Z: deviations", "The margin is 1 points instead of the planned 0.4.",
        f"Missing runs of {HEAD}: seeds 3 (failed: disk full).", f"Not in any plan, and so exploratory: {CHANNELS}.",
        "This plan extends first", "this seed is in no stored plan", "quantum_channels (exploratory)",
    ):  # fmt: skip
        assert expected in text, expected
    assert re.search(r"^hybrid_qhead +5 ", text, re.MULTILINE)


JOB = {"experiment": HEAD, "variant": "", "seed": 0, "folder": "x"}


@pytest.mark.parametrize(
    "edits",
    [
        {"jobs": "x"}, {"margin": None}, {"family": [3]}, {"seeds": "0-5"}, {"existing": 3},
        {"jobs": [{name: JOB[name] for name in JOB if name != "seed"}]}, {"jobs": [JOB | {"seed": [1]}]},
        {"jobs": [JOB | {"folder": None}]},
    ],
)  # fmt: skip
def test_a_plan_of_the_wrong_form_is_refused(tmp_path, edits):
    put_all(tmp_path, seeds=(1,))
    store_plan(tmp_path, edits=edits)
    with pytest.raises(InputError, match=r"small\.json: expected"):
        compare_runs.main([str(tmp_path)])


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ({"margin": 2.0}, "margin is 2.0, and the plan's text says 0.4; a stored plan does not change"),
        ({"margin": -1}, "expected percentage points above 0, got -1"),
        ({"margin": float("nan")}, "expected percentage points above 0, got nan"),
        ({"margin": True}, "expected percentage points above 0, got True"),
        ({"outcome": "test_top5"}, "outcome: expected test_top1, got 'test_top5': a verdict is made from test top-1"),
        ({"seeds": [0, 1]}, r"seeds is \[0, 1\], and the plan's text says \[0, 1, 2\]"),
        ({"extends": "other"}, "extends is 'other', and the plan's text says None"),
        ({"text": "[decided]"}, "its text is not the one that was stored"),
        ({"stored": "2020-01-01T00:00:00Z"}, "edited after it was stored"),
        ({"existing": [], "constants": {"EPOCHS": 4}}, "edited after it was stored"),
        ({"seal": None}, "edited after it was stored"),
    ],
)
def test_an_edited_plan_is_refused(tmp_path, edits, said):
    put_all(tmp_path, seeds=(1,))
    store_plan(tmp_path, range(3), edits)
    with pytest.raises(InputError, match=rf"small\.json: .*({said})"):
        compare_runs.main([str(tmp_path), "--no-report"])


@pytest.mark.parametrize(
    ("edits", "said"),
    [({"family": []}, r"family is \[\]"), ({"margin": 1.0}, "margin is 1.0")],
)
def test_so_is_an_edited_plan_of_before_the_seal(tmp_path, edits, said):
    put_all(tmp_path, seeds=(1,))
    path = store_plan(tmp_path, range(3), edits)
    of_today(path)
    with pytest.raises(InputError, match=rf"small\.json: {said}, and the plan's text says"):
        compare_runs.main([str(tmp_path), "--no-report"])


def test_a_plan_of_before_says_what_it_does_not_record(tmp_path, capsys):
    put_all(tmp_path)
    of_today(store_plan(tmp_path))
    status, lines = shown(capsys, tmp_path, "--no-report")
    assert status == 0 and "plan small of 2026-01-01T00:00:00Z: as planned" in lines
    assert "  The plan small does not record which of its runs existed before it was stored." in lines
    assert "  The plan small does not record the constants of its runs." in lines


@pytest.mark.parametrize("content", ['{"x": "finished"}', "[1]"])
def test_a_state_of_the_wrong_form_is_refused(tmp_path, content):
    put_all(tmp_path, seeds=(1,))
    store_plan(tmp_path).with_suffix(".state.json").write_text(content)
    with pytest.raises(InputError, match=r"small\.state\.json: expected .* move it away"):
        compare_runs.main([str(tmp_path), "--no-report"])


def test_runs_that_existed_before_the_plan_are_no_plan_kept(tmp_path, capsys):
    put_all(tmp_path)
    existing = [{"folder": f"{HEAD}/seed{seed}", "identity": "0123456789ab"} for seed in (0, 4)]
    store_plan(tmp_path, existing=existing)
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert "plan small of 2026-01-01T00:00:00Z: deviations" in lines
    assert f"  2 of 12 runs existed before the plan small was stored: {HEAD} seeds 0, 4." in lines


def test_runs_made_otherwise_than_planned_are_named(tmp_path, capsys):
    put_all(tmp_path)
    path = store_plan(tmp_path, constants={"EPOCHS": 40, "IMG_SIZE": 32, "DATA_DIR": "elsewhere"})
    state = {f"{HEAD}/seed{seed}": {"state": "failed", "reason": "disk full"} for seed in (2, 3)}
    path.with_suffix(".state.json").write_text(json.dumps(state))
    _, lines = shown(capsys, tmp_path, "--no-report")
    every = "seeds 0, 1, 2, 3, 4, 5"
    assert f"  Runs made with EPOCHS 3 instead of the planned 40: {BASELINE} {every}; {HEAD} {every}." in lines
    assert f"  Runs that failed in the sweep and were made outside of it: {HEAD} seeds 2, 3." in lines
    assert not any("DATA_DIR" in line for line in lines)


def test_a_verdict_before_all_planned_seeds_are_there_is_an_interim_one(tmp_path, capsys):
    put_all(tmp_path, seeds=range(3), spread=0.0003)
    store_plan(tmp_path)
    status, lines = shown(capsys, tmp_path)
    assert status == 3 and lines[2].endswith("better (interim: 3 of 6 planned seeds)"), lines
    assert all(len(line) <= 100 for line in lines[:4])
    (entry,) = json.loads((tmp_path / "report" / "summary.json").read_text())["comparisons"]
    assert entry["verdict"] == "better" and entry["why"].startswith("Interim: 3 of 6 planned seeds. Better")
    assert entry["planned_seeds"] == 6 and "Interim: 3 of 6 planned seeds." in (
        tmp_path / "report" / "index.html"
    ).read_text(encoding="utf-8")


def test_a_planned_comparison_without_any_run_is_not_decided(tmp_path, capsys):
    put_all(tmp_path)
    store_plan(tmp_path, controls=("quantum", "fourier"))
    status, lines = shown(capsys, tmp_path, "--no-report")
    assert status == 3 and lines[2].endswith("  better")


def put_twins(run_dir, seeds=range(6)):
    put_all(run_dir, seeds)
    for seed in seeds:
        more = {"constants": WARM, "control": "fourier"}
        write_run(run_dir, HEAD, seed, "control=fourier", top1=0.41 + 0.001 * (seed % 3), images=1000, **more)


def test_what_is_compared_with_another_than_the_baseline_is_exploratory_unless_planned(tmp_path, capsys):
    put_twins(tmp_path)
    store_plan(tmp_path, controls=("quantum", "fourier"))
    _, lines = shown(capsys, tmp_path, "--no-report", "--against", f"{HEAD} control=fourier")
    marked = [line for line in lines if "(exploratory)" in line]
    assert [line.split()[0] for line in marked] == ["baseline_det", "hybrid_qhead"], lines
    names = f"Not in any plan, and so exploratory: {BASELINE} against {HEAD} control=fourier, {HEAD} against"
    assert any(line.strip().startswith(names) for line in lines) and "deviations" in "".join(lines)


def test_a_planned_twin_stands_beside_the_comparisons_with_the_baseline(tmp_path, capsys):
    put_twins(tmp_path)
    store_plan(tmp_path, controls=("quantum", "fourier"), twins=["head vs head control=fourier"])
    status, lines = shown(capsys, tmp_path)
    assert status == 0 and "plan small of 2026-01-01T00:00:00Z: as planned" in lines
    assert not any("exploratory" in line for line in lines)
    assert sum(line.startswith("experiment ") for line in lines) == 2  # a table for each that others are compared with
    entries = json.loads((tmp_path / "report" / "summary.json").read_text())["comparisons"]
    assert [(one["variant"], one["baseline"], one["twin"]) for one in entries] == [
        ("", BASELINE, False), ("control=fourier", BASELINE, False), ("", f"{HEAD} control=fourier", True),
    ]  # fmt: skip
    assert all("after Holm over 3" in one["why"] for one in entries if one["verdict"] == "better")
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "against hybrid_qhead control=fourier" in page
    status, lines = shown(capsys, tmp_path, "--no-report", "--against", f"{HEAD} control=fourier")
    assert status == 0 and [line.split()[0] for line in lines if "(exploratory)" in line] == ["baseline_det"]


def test_a_plan_speaks_of_its_own_run_directory_only(tmp_path, capsys):
    one, two, three = (tmp_path / name for name in ("px32", "px64", "more"))
    put_all(one)
    store_plan(one)
    put_all(two, seeds=range(10, 13), head=0.5, recipe="ffffff")
    for seed in range(20, 23):
        write_run(three, HEAD, seed, top1=0.5, images=1000, constants=WARM)
    _, lines = shown(capsys, one, two, three, "--no-report")
    heads = [line for line in lines if line.startswith("hybrid_qhead")]
    assert [line.split()[1] for line in heads] == ["6", "(exploratory)"] and "  3  " in heads[1], lines
    assert sum("those of a plan in another run directory" in line for line in lines) == 3
    assert not any(str(two) in line for line in lines)


@pytest.mark.parametrize(
    ("against", "said"),
    [
        ("foo", "no finished run of 'foo'; there are "),
        ("cifar100_hybrid_head", f"'cifar100_hybrid_head'; did you mean '{HEAD}'"),
    ],
)
def test_against_a_name_that_no_run_has(tmp_path, capsys, against, said):
    put_all(tmp_path, seeds=(1, 2))
    (tmp_path / HEAD / "seed9").mkdir()
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        compare_runs.main([str(tmp_path), "--against", against])
    assert "\n" not in str(caught.value) and capsys.readouterr().out == ""


@pytest.mark.slow
def test_ten_thousand_runs(tmp_path, capsys):
    """The table in under 30 s; here with what one process of a busy machine may need more."""
    first = {
        name: write_run(tmp_path, name, 0, images=100, constants=WARM if name == HEAD else None)
        for name in (BASELINE, HEAD)
    }
    for name, folder in first.items():
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        for seed in range(1, 5000):
            other = tmp_path / name / f"seed{seed}"
            other.mkdir()
            for file, content in files.items():
                (other / file).write_bytes(content)
            _edit(other / "result.json", seed=seed)
    began = time.process_time()
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert re.match(r"hybrid_qhead +5000 ", lines[2]) and time.process_time() - began < 45
