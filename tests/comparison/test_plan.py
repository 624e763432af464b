"""Stored plans: what is refused of them, what differs from them, and what they make of verdicts and exit status."""

import json
import re
import shutil

import pytest

import compare_runs
from qcifar.comparison.statistics import holm
from qcifar.comparison.verdict import SECONDARY
from qcifar.errors import InputError
from tests.helpers.compared import WARM, of_today, put_all, shown, store_plan
from tests.helpers.made_runs import BASELINE, CHANNELS, HEAD, write_run


def test_a_plan_that_was_kept(tmp_path, capsys, without_figures):
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


def test_a_verdict_before_all_planned_seeds_are_there_is_an_interim_one(tmp_path, capsys, without_figures):
    put_all(tmp_path, seeds=range(3), spread=0.0003)
    store_plan(tmp_path)
    status, lines = shown(capsys, tmp_path)
    assert status == 3 and lines[2].endswith("better (interim: 3 of 6 planned seeds)"), lines
    assert lines[-1] == "exit status 3: not everything is decided (1 interim); this is a result, not an error"
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
    assert "(1 planned without any run)" in lines[-1]


OUTCOMES = (*SECONDARY, "spread")
LABELS = (
    "hybrid_qhead", "hybrid_qhead control=fourier", "hybrid_qhead against hybrid_qhead control=fourier",
)  # fmt: skip


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


def test_a_planned_twin_stands_beside_the_comparisons_with_the_baseline(tmp_path, capsys, without_figures):
    put_twins(tmp_path)
    store_plan(tmp_path, controls=("quantum", "fourier"), twins=["head vs head control=fourier"])
    status, lines = shown(capsys, tmp_path)
    assert status == 0 and "plan small of 2026-01-01T00:00:00Z: as planned" in lines
    assert not any("exploratory" in line for line in lines)
    assert sum(line.startswith("experiment ") for line in lines) == 2  # a table for each that others are compared with
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    entries, secondary = summary["comparisons"], summary["secondary"]
    assert [(one["variant"], one["baseline"], one["outcome"]) for one in secondary] == [
        (*names, outcome)
        for names in (("", BASELINE), ("control=fourier", BASELINE), ("", f"{HEAD} control=fourier"))
        for outcome in OUTCOMES
    ]
    assert [row["p_holm"] for row in secondary] == holm([row["p_t"] for row in secondary])
    assert {row["baseline"] for row in summary["classes"]} == {BASELINE}
    assert [(one["variant"], one["baseline"], one["twin"]) for one in entries] == [
        ("", BASELINE, False), ("control=fourier", BASELINE, False), ("", f"{HEAD} control=fourier", True),
    ]  # fmt: skip
    assert all("after Holm over 3" in one["why"] for one in entries if one["verdict"] == "better")
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "against hybrid_qhead control=fourier" in page
    assert page.count("<h3>hybrid_qhead") == 3 and "(recipe" not in page  # one recipe: its code tells nothing apart
    secondary = page[page.index('<section id="secondary">') : page.index('<section id="limits">')]
    rows = re.findall(r'<th scope="row">(.*?)</th>', secondary)
    assert rows == [name for name in LABELS for _ in OUTCOMES]
    status, lines = shown(capsys, tmp_path, "--no-report", "--against", f"{HEAD} control=fourier")
    assert status == 0 and [line.split()[0] for line in lines if "(exploratory)" in line] == ["baseline_det"]


def test_seeds_that_were_added_are_a_deviation(tmp_path, capsys):
    put_all(tmp_path, seeds=range(8))  # decided: 0 to 5
    store_plan(tmp_path)
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert "plan small of 2026-01-01T00:00:00Z: deviations" in lines
    for name in (BASELINE, HEAD):
        assert any(f"Added afterwards, and left out: {name} seeds 6, 7." in line for line in lines)


def test_a_run_directory_with_a_plan_is_compared_by_itself_and_its_plan_is_never_forgotten(tmp_path, capsys):
    put_all(tmp_path / "core", seeds=range(4))
    write_run(tmp_path / "core", HEAD, 0, "control=fourier", control="fourier")
    store_plan(tmp_path / "core")
    put_all(tmp_path / "px32", seeds=(7,))  # without a plan
    write_run(tmp_path / "px32", HEAD, 7, "n_layers=4", top1=0.9, constants={"N_LAYERS": 4})
    _, lines = shown(capsys, tmp_path, "--no-report")
    text = "\n".join(lines)
    where = tmp_path / "core"
    assert f"left out: {where}: 9 runs with a plan of their own: python compare_runs.py {where} compares them" in text
    assert "n_layers=4" in text and re.search(r"^hybrid_qhead +1 ", text, re.MULTILINE)
    for folders in ([where], [where / BASELINE, where / HEAD], [tmp_path, where]):
        compare_runs.main([*map(str, folders), "--no-report"])
        assert "interim: 4 of 6 planned seeds" in capsys.readouterr().out, folders


def test_a_plan_says_nothing_of_run_directories_inside_its_own(tmp_path, capsys):
    put_all(tmp_path)
    store_plan(tmp_path)
    put_all(tmp_path / "px32", seeds=range(7, 10), recipe="ffffff")
    _, lines = shown(capsys, tmp_path / "px32", "--no-report")
    assert any(re.match(r"hybrid_qhead +3 ", line) for line in lines) and not any("plan" in line for line in lines)
    _, lines = shown(capsys, tmp_path, "--no-report")
    where = tmp_path / "px32"
    assert f"left out: {where}: 6 runs of another run directory: python compare_runs.py {where} compares them" in lines
    assert "plan small of 2026-01-01T00:00:00Z: as planned" in lines
    assert not any("Added afterwards" in line for line in lines)


def test_a_plan_is_found_through_links_and_counts_once(tmp_path, capsys):
    put_all(tmp_path / "core", seeds=range(4))
    store_plan(tmp_path / "core")
    links = [tmp_path / name for name in ("all", "b", "h")]
    for link, target in zip(links, ("core", f"core/{BASELINE}", f"core/{HEAD}"), strict=True):
        link.symlink_to(tmp_path / target)
    for folders in (links[:1], links[1:], [tmp_path / "core", links[0]]):
        _, lines = shown(capsys, *folders, "--no-report")
        assert any("interim: 4 of 6 planned seeds" in line for line in lines), folders
        assert "(1 interim)" in lines[-1]


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


@pytest.mark.parametrize("older", [False, True])
def test_checks_of_the_bench_are_corrected_apart_unless_the_stored_family_has_them(
    tmp_path, capsys, without_figures, older
):
    put_twins(tmp_path)
    for seed in range(6):
        more = {"constants": WARM, "control": "jitter"}
        write_run(tmp_path, HEAD, seed, "control=jitter", top1=0.401 + 0.002 * (seed % 3), images=1000, **more)
    path = store_plan(tmp_path, controls=("quantum", "fourier", "jitter"))
    if older:
        of_today(path)
    shown(capsys, tmp_path)
    entries = json.loads((tmp_path / "report" / "summary.json").read_text())["comparisons"]
    found = {one["variant"]: (one["check"], one["p_holm"] / one["p_t"]) for one in entries}
    assert found["control=jitter"] == (not older, pytest.approx(1))
    assert found[""] == (False, pytest.approx(3 if older else 2))


def test_a_check_without_any_run_is_not_decided(tmp_path, capsys):
    put_all(tmp_path)
    store_plan(tmp_path, controls=("quantum", "jitter"))
    assert shown(capsys, tmp_path, "--no-report")[0] == 3
