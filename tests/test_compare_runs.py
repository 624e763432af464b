"""`compare_runs.py` on made-up runs: what it prints, writes and returns, and what is said of runs it leaves out."""

import json
import os
import re
import shutil
import time

import numpy as np
import pytest

import compare_runs
from qcifar.comparison.words import circuit_weights
from qcifar.errors import InputError
from tests.helpers import ROOT
from tests.helpers.compared import WARM, put_all, shown
from tests.helpers.made_runs import BASELINE, CHANNELS, HEAD, write_run


def test_a_clear_gain_is_found_and_everything_is_written(tmp_path, capsys):
    put_all(tmp_path)
    status, lines = shown(capsys, tmp_path)
    assert status == 0 and not any("exit status" in line for line in lines)
    heading, baseline, head, *_, report = lines
    assert heading.split() == "experiment n test top-1 difference [95 %, seeds] verdict".split()
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
    assert lines[-1] == "exit status 3: not everything is decided (1 undecided); this is a result, not an error"
    assert any("One seed: says nothing about other seeds." in line for line in lines)
    assert not (tmp_path / "report").exists()
    assert sum(line.startswith(("baseline_det  ", "hybrid_qhead  ")) for line in lines) == 4  # runs, and comparisons


def test_equal_differences_are_not_called_one_seed(tmp_path, capsys, without_figures):
    put_all(tmp_path, seeds=range(3), spread=0)
    shown(capsys, tmp_path)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "No interval over seeds: all seeds have the same difference." in page and "one seed" not in page


def test_long_names_have_a_line_of_their_own(tmp_path, capsys):
    variant = "control=fourier,n_qubits=8,n_layers=6,alpha_start=0.25,angle_scaling=none,epochs_warmup=1"
    for seed in (1, 2):
        write_run(tmp_path, BASELINE, seed, top1=0.4 + 0.01 * seed)
        write_run(tmp_path, HEAD, seed, variant=variant, top1=0.41, control="fourier")
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert all(len(line) <= 100 for line in lines) and lines[2] == f"hybrid_qhead {variant}"[:99] + "…"
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


def test_planted_runs_are_marked_and_last_in_the_details_and_with_a_long_variant(tmp_path, capsys):
    variant = "control=planted,n_qubits=8,n_layers=6,alpha_start=0.25,angle_scaling=none,epochs_warmup=1,plant=0.0125"
    for seed in (1, 2):
        write_run(tmp_path, BASELINE, seed, images=1000)
        write_run(tmp_path, HEAD, seed, variant, 0.9 + seed / 1000, images=1000)
        write_run(tmp_path, CHANNELS, seed, images=1000)
        write_run(tmp_path, CHANNELS, seed, "control=planted", 0.9 + seed / 1000, images=1000)
    _, lines = shown(capsys, tmp_path, "--no-report", "--details")
    runs = [line for line in lines if line.endswith("cifar100") and "recipe" not in line]
    assert [line.startswith("PLANTED ") for line in runs] == [False] * 4 + [True] * 4
    (named,) = [line for line in lines if line.startswith("hybrid_qhead control=planted") and "against" not in line]
    assert named.endswith("… (PLANTED)") and len(named) == 100
    headings = [line for line in lines if " against baseline_det: " in line]
    assert ["(PLANTED) against" in line for line in headings] == [False, True, True]


@pytest.mark.parametrize("constant", [(0, 1), (1,), ()])  # seeds; older runs are without
def test_dependence_on_the_branch_is_shown(constant, tmp_path, capsys, without_figures):
    for seed, without in enumerate((0.41, 0.42, None)):  # the last was tested in phase A
        found = {"top1": 0.43, "top1_without": without, "top1_shuffled": 0.4, "fixed": 30 + seed, "broken": 11}
        found |= {"top1_constant": 0.42} if seed in constant else {}
        write_run(tmp_path, BASELINE, seed, top1=0.4, images=1000)
        write_run(tmp_path, HEAD, seed, top1=0.43, images=1000, constants=WARM, dependence=found if without else None)
    _, lines = shown(capsys, tmp_path, "--details")
    known = len(constant) == 2
    at = next(k for k, line in enumerate(lines) if line.startswith("  dependence on the branch"))
    assert lines[at].endswith("(not what a network trained without it reaches), n = 2: top-1 43.00,")
    assert lines[at + 1].split() == (
        f"without its branch 41.50, with the branch of another image 40.00{', at its mean 42.00' if known else ''}; "
        "30.5 images fixed, 11.0 broken".split()
    )
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    found = summary["comparisons"][0]["dependence"]
    assert found.pop("top1_constant") == (pytest.approx(42) if known else None)
    assert found.pop("seeds") == [0, 1] and found == pytest.approx(
        {"top1": 43, "top1_without": 41.5, "top1_shuffled": 40, "fixed": 30.5, "broken": 11}
    )
    html = (tmp_path / "report" / "index.html").read_text()
    section = html[html.index('<section id="dependence">') : html.index('<section id="classes">')]
    assert "not what a classical network would reach" in section
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", section[section.index("<tbody>") :])
    assert cells == ["hybrid_qhead", "2", "43.00", "41.50", "40.00", "42.00" if known else "–", "30.5", "11.0"]


def test_each_set_of_seeds_has_its_line_of_the_baseline(tmp_path, capsys, without_figures):
    put_all(tmp_path)
    for seed in range(3):
        write_run(tmp_path, CHANNELS, seed, top1=0.41, images=1000)
    _, lines = shown(capsys, tmp_path)
    found = [line.split("  ")[0].split(" (")[1:] + line.split()[-4:] for line in lines if line.startswith("baseline")]
    assert found == [["seeds 0-5)", "6", "40.30", "±", "0.27"], ["seeds 0-2)", "3", "40.30", "±", "0.30"]]
    table = (tmp_path / "report" / "summary.tex").read_text()
    assert r"baseline\_det (seeds 0-5) & 6 &" in table and r"baseline\_det (seeds 0-2) & 3 &" in table


def test_runs_tested_with_the_branch_off_are_marked(tmp_path, capsys):
    for seed in (1, 2):
        write_run(tmp_path, BASELINE, seed)
        write_run(tmp_path, HEAD, seed)  # three epochs, all of them phase A
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert "hybrid_qhead (branch off)" in lines[2]
    at = lines.index("branch off: hybrid_qhead, seeds 1-2, was tested in phase A")
    said = "its weights are those of the baseline after that epoch, and the baseline may have chosen another one"
    assert lines[at + 1] == f"  with SCHEDULE shared {said}"


def test_a_reference_whose_branch_was_never_on_is_marked(tmp_path, capsys, without_figures):
    for seed in (1, 2):
        write_run(tmp_path, HEAD, seed, "control=fourier", 0.4 + seed / 100, constants=WARM, control="fourier")
        write_run(tmp_path, HEAD, seed, "control=tanh", control="tanh")  # three epochs, all of them phase A
        write_run(tmp_path, HEAD, seed, "control=off", control="off")  # it has no branch that could be on
    against = ("--against", f"{HEAD} control=tanh", "--details")
    _, lines = shown(capsys, tmp_path, *against)
    assert any(line.startswith("hybrid_qhead control=tanh (branch off)  ") for line in lines)
    assert any(" against hybrid_qhead control=tanh (branch off): " in line for line in lines)
    assert [line for line in lines if line.startswith("branch off:")] == [
        "branch off: hybrid_qhead control=tanh, seeds 1-2, was tested in phase A"
    ]
    report = tmp_path / f"report_against_{HEAD}_control=tanh"
    assert not (tmp_path / "report").exists()  # which the comparison with the baseline has for itself
    entries = json.loads((report / "summary.json").read_text())["comparisons"]
    assert [(one["variant"], one["branch_off_seeds"], one["branch_off_seeds_baseline"]) for one in entries] == [
        ("control=fourier", [], [1, 2]), ("control=off", [], [1, 2]),
    ]  # fmt: skip
    html = (report / "index.html").read_text(encoding="utf-8")
    assert html.count('<span class="mark">reference: branch off</span>') == 2
    assert "With seed 1 and 2 the epoch of hybrid_qhead control=tanh that was tested has the branch off" in html
    assert "hybrid\\_qhead control=tanh (branch off) &" in (report / "summary.tex").read_text()


@pytest.mark.parametrize(
    ("experiment", "control", "changes", "expected"),
    [
        (BASELINE, None, {}, ""),
        (HEAD, "quantum", {}, "24"),
        (HEAD, "product", {}, "24"),
        (HEAD, "frozen", {"params_quantum": 0}, "fixed"),
        *((HEAD, control, {"params_quantum": 0, "quantum_device": None}, "no circuit")
          for control in ("fourier", "linear", "tanh", "mlp", "planted")),
        *((HEAD, control, {"params_quantum": None, "quantum_device": None}, "no circuit")
          for control in ("off", "jitter")),
        *((CHANNELS, control, {}, "fixed") for control in ("quantum", "product", "shuffled", "noise", "constant")),
        *((CHANNELS, control, {"quantum_device": None}, "no circuit")
          for control in ("raw", "fourier", "jitter", "planted")),
    ],
)  # fmt: skip
def test_which_weights_learn_in_the_circuit(experiment, control, changes, expected):
    """As the scripts write params_quantum and quantum_device of each control."""
    standard = {"params_quantum": {BASELINE: None, CHANNELS: 0, HEAD: 24}[experiment]}
    standard |= {"quantum_device": None if experiment == BASELINE else "fast"}
    assert circuit_weights(standard | {"control": control} | changes) == expected


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
    for name in (HEAD, "head", "hybrid_qhead"):
        _, lines = shown(capsys, tmp_path, "--no-report", "--against", f"{name} control=fourier")
        assert [line.split()[0] for line in lines[1:3]] == ["hybrid_qhead"] * 2 and "control=fourier" in lines[1]
    shown(capsys, tmp_path, "--no-report", "--against", "head")
    shown(capsys, tmp_path, "--no-report", "--against", "baseline")  # as without it
    status, lines = shown(capsys, tmp_path, "--no-report")
    assert status == 3 and f"no run of {BASELINE}" in lines[0] and lines[-2].startswith("nothing to compare")
    assert lines[-1] == "exit status 3: not everything is decided (no comparison); this is a result, not an error"


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


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _other_images(folder):
    content = dict(np.load(folder / "predictions.npz"))
    content["index"] = content["index"] + 1
    np.savez(folder / "predictions.npz", **content)


def _metrics(folder, change):
    lines = (folder / "metrics.csv").read_text().splitlines()
    (folder / "metrics.csv").write_text("\n".join(change(line) for line in lines) + "\n")


def _without_val_top1(folder):
    place = (folder / "metrics.csv").read_text().split("\n")[0].split(",").index("val_top1")
    _metrics(folder, lambda line: ",".join(cell for k, cell in enumerate(line.split(",")) if k != place))


def _val_top1(folder, cell):
    place = (folder / "metrics.csv").read_text().split("\n")[0].split(",").index("val_top1")

    def change(line):
        cells = line.split(",")
        return line if cells[0] != "2" else ",".join([*cells[:place], cell, *cells[place + 1 :]])

    _metrics(folder, change)


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
    "metrics without val_top1": (_without_val_top1, "row 1: expected a number from 0 to 1 for val_top1, got None"),
    "a word in metrics": (
        lambda f: _val_top1(f, "much"),
        "row 2: expected a number from 0 to 1 for val_top1",
    ),
    "NaN in metrics": (lambda f: _val_top1(f, "nan"), "row 2: expected a number from 0 to 1 for val_top1, got nan"),
    "no dependence": (lambda f: _edit(f / "result.json", dependence={"top1": 2}), "null or numbers top1, top1_without"),
    "fewer images": (lambda f: _edit(f / "result.json", test_images=999), "1000 images, result.json says 999"),
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


def _reorder(folder):
    content = dict(np.load(folder / "predictions.npz"))
    order = np.roll(np.arange(len(content["index"])), 1)
    np.savez(folder / "predictions.npz", **{key: content[key][order] for key in ("index", "label", "logits")})


@pytest.mark.parametrize("how", ["reordered", "another number"])
def test_a_seed_on_other_test_images_than_the_others_is_left_out_by_name(tmp_path, capsys, how, without_figures):
    """In the run and in its baseline alike, so that the pair by itself is a good one."""
    put_all(tmp_path, seeds=range(4))
    for name in (BASELINE, HEAD):
        folder = tmp_path / name / "seed0"
        if how == "reordered":
            _reorder(folder)
        else:
            shutil.rmtree(folder)
            write_run(tmp_path, name, 0, images=900, constants=WARM if name == HEAD else None)
    _, lines = shown(capsys, tmp_path)
    (left_out,) = [line for line in lines if line.startswith("left out: ")]
    expected = f"of other test images, or in another order, than those of {tmp_path / HEAD / 'seed1'}"
    assert left_out.startswith(f"left out: {tmp_path / HEAD / 'seed0'}: ") and left_out.endswith(expected)
    assert re.match(r"hybrid_qhead +3 ", lines[3])


def test_rows_of_two_recipes_are_told_apart(tmp_path, capsys, without_figures):
    """Secondary outcomes and classes name recipe, data set and baseline, and the page has a table for each."""
    for rate in (0.01, 0.02):
        for name in (BASELINE, HEAD):
            for seed in range(3):
                top1 = 0.4 + rate + (0.01 + seed / 500 if name == HEAD else 0)
                more = WARM if name == HEAD else {}
                write_run(tmp_path / str(rate), name, seed, top1=top1, images=1000, constants={"MAX_LR": rate, **more})
    shown(capsys, tmp_path / "0.01", tmp_path / "0.02")
    report = tmp_path / "0.01" / "report"
    summary = json.loads((report / "summary.json").read_text())
    recipes = {entry["recipe"] for entry in summary["comparisons"]}
    assert len(recipes) == 2
    for row in summary["secondary"] + summary["classes"]:
        assert (row["dataset"], row["baseline"]) == ("cifar100", BASELINE) and row["recipe"] in recipes
    html = (report / "index.html").read_text()
    for recipe in recipes:
        assert html.count(f"hybrid_qhead (recipe {recipe}): 120 classes and superclasses") == 1
        assert sum(row["recipe"] == recipe for row in summary["classes"]) == 120
        assert f"<h3>hybrid_qhead (recipe {recipe})" in html


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


@pytest.mark.slow
def test_the_report_of_two_hundred_runs_is_small_and_soon_there(tmp_path, capsys):
    """15 MB, and 20 s on a core of its own; with pictures of test images, where the data set is at hand."""
    for seed in range(20):
        write_run(tmp_path, BASELINE, seed, top1=0.40, images=2000)
        for layers in range(3, 12):
            constants = WARM | {"N_LAYERS": layers}
            write_run(tmp_path, HEAD, seed, f"n_layers={layers},epochs_warmup=1", 0.41, 2000, constants=constants)
    began = time.process_time()
    _, lines = shown(capsys, tmp_path, "--data-dir", ROOT / "data")
    assert sum(line.lstrip().startswith("20 ") or " 20 " in line for line in lines) >= 10, lines
    assert time.process_time() - began < 40
    assert (tmp_path / "report" / "index.html").stat().st_size < 15e6


@pytest.mark.slow
def test_ten_thousand_runs(tmp_path, capsys):
    """The table in under 30 s; here with what one process of a busy machine may need more."""
    first = {
        name: write_run(tmp_path, name, 0, images=100, constants=WARM if name == HEAD else None)
        for name in (BASELINE, HEAD)
    }
    for name, folder in first.items():
        result = json.loads((folder / "result.json").read_text())
        for seed in range(1, 5000):
            other = tmp_path / name / f"seed{seed}"
            other.mkdir()
            for file in ("config.json", "metrics.csv", "predictions.npz"):
                os.link(folder / file, other / file)  # the same bytes, which need not be written 5000 times
            (other / "result.json").write_text(json.dumps(result | {"seed": seed}))
    began = time.process_time()
    _, lines = shown(capsys, tmp_path, "--no-report")
    assert re.match(r"hybrid_qhead +5000 ", lines[2]) and time.process_time() - began < 45
