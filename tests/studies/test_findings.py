"""The README's table, the tables of docs/findings.md and all comparisons follow from the stored predictions."""

import csv
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from qcifar.comparison.packed import read_packed
from qcifar.files import read_json
from tests.helpers import ROOT
from tests.helpers.made_runs import BASELINE

STUDIES = sorted(path.parent for path in (ROOT / "studies").glob("*/summary.json"))
FINDINGS = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
LARGER = ROOT / "studies" / "larger"
SCRIPTS = {"baseline": BASELINE, "head": "cifar100_hybrid_qhead", "channels": "cifar100_quantum_channels"}


@pytest.fixture(scope="module", params=STUDIES, ids=lambda folder: folder.name)
def study(request):
    folder: Path = request.param
    return read_packed(folder / "predictions.npz"), read_json(folder / "summary.json")


def lines_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def comparisons_of(study):
    return read_json(ROOT / "studies" / study / "summary.json")["comparisons"]


def rows_of(page, mark):
    """Cells of each row of the one table below a mark."""
    (table,) = re.findall(rf"<!-- {mark} -->\n((?:\|.*\n)+)", page)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def changed_of(runs):
    """Images of a run that change between right and wrong without its quantum part, on average over the runs."""
    return np.mean([float(run["dependence_fixed"]) + float(run["dependence_broken"]) for run in runs])


def section_of(study):
    """The text of a study's section, in one line."""
    text = FINDINGS[FINDINGS.index(f"(`{study}`)") :]
    return re.sub(r"\s+", " ", text[: text.index("\n## ")])


def with_interval(gaps, after="", digits=2):
    """Mean and 95 % t interval as the pages have them."""
    low, high = stats.ttest_1samp(gaps, 0).confidence_interval() if gaps.std() else (gaps[0], gaps[0])
    return f"{gaps.mean():+.{digits}f} {after}[{low:+.{digits}f}, {high:+.{digits}f}]".replace("-", "−")


def accuracies(packed, experiment, variant, seeds):
    """(S,) test top-1, percent."""
    return 100 * packed.correct(experiment, variant, seeds).mean(1)


def baseline_of(entry):
    experiment, _, variant = entry["baseline"].partition(" ")
    return experiment, variant


def test_the_comparisons_follow_from_the_predictions(study):
    packed, summary = study
    for entry in summary["comparisons"]:
        ours = accuracies(packed, entry["experiment"], entry["variant"], entry["seeds"])
        theirs = accuracies(packed, *baseline_of(entry), entry["seeds"])
        difference, n = ours - theirs, len(entry["seeds"])
        assert entry["mean"] == pytest.approx(ours.mean()) and entry["n_seeds"] == n
        assert entry["difference"] == pytest.approx(difference.mean(), abs=1e-9)
        if n > 1 and difference.std() > 0:
            found = stats.ttest_1samp(difference, 0)
            assert entry["interval_seeds"] == pytest.approx(list(found.confidence_interval()))
            assert entry["p_t"] == pytest.approx(found.pvalue)
            sides = ("greater", -entry["margin"]), ("less", entry["margin"])
            two = [stats.ttest_1samp(difference, bound, alternative=side).pvalue for side, bound in sides]
            assert entry["p_equivalence"] == pytest.approx(max(two))


def test_p_is_corrected_over_the_planned_comparisons_and_over_the_checks(study):
    for check in (False, True):
        family = [one for one in study[1]["comparisons"] if not one["exploratory"] and bool(one["check"]) == check]
        given = [1.0 if one["p_t"] is None else one["p_t"] for one in family]
        corrected = multipletests(given, method="holm")[1] if family else []
        assert [1.0 if one["p_holm"] is None else one["p_holm"] for one in family] == pytest.approx(list(corrected))


def test_the_lines_of_runs_follow_from_the_predictions(study):
    packed, summary = study
    lines = lines_of(ROOT / "studies" / summary["plan"]["name"] / "runs.csv")
    assert len(lines) == len(packed.seed)
    for line in lines:
        ((top1,),) = [accuracies(packed, line["experiment"], line["variant"], [int(line["seed"])])]
        assert 100 * float(line["test_top1"]) == pytest.approx(top1)
        if line["dependence_top1"]:
            assert line["dependence_top1"] == line["test_top1"]


def test_the_verdicts_follow_from_intervals_and_corrected_p(study):
    for entry in study[1]["comparisons"]:
        if entry["verdict"] in ("better", "worse"):
            assert entry["p_holm"] < 0.05 and (entry["difference"] > 0) == (entry["verdict"] == "better")
        elif entry["verdict"] == "equivalent":
            low, high = entry["interval_seeds"]
            assert entry["p_equivalence"] < 0.05 and abs(low + high) / 2 < entry["margin"]
        elif entry["verdict"] == "not worse":
            assert entry["interval_seeds"][0] > -entry["margin"]
        else:
            assert entry["verdict"] == "undecided" and entry["p_holm"] >= 0.05 <= entry["p_equivalence"]


def tables_of_the_readme():
    """Of each table the study, and its rows: (script, CONTROL, PLANT or "", the other cells)."""
    for name, table in re.findall(r"<!-- studies/(\w+) -->\n((?:\|.*\n)+)", README):
        found = []
        for line in table.splitlines()[2:]:
            first, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            what = re.fullmatch(r"(\w+)(?:, `(\w+)`)?( PLANTED(?: ([\d.]+))?)?(?:: .*)?", first)
            assert (what[2] == "planted") == bool(what[3]), f"{first}: planted effects are marked"
            found.append((what[1], what[2] or "quantum", what[4] or "", cells))
        yield ROOT / "studies" / name, found


def entry_of(comparisons, script, control, plant):
    wanted = [] if plant in ("", "0.05") else [f"plant={plant}"]  # of the variant, where it is not the standard
    (entry,) = [
        one
        for one in comparisons
        if (one["experiment"], one["control"], one["baseline"]) == (SCRIPTS[script], control, BASELINE)
        and [part for part in one["variant"].split(",") if part.startswith("plant=")] == wanted
    ]
    return entry


def test_the_readme_has_its_tables():
    assert [folder.name for folder, _ in tables_of_the_readme()] == ["larger", "core"]


@pytest.mark.parametrize(("folder", "rows"), list(tables_of_the_readme()))
def test_the_readmes_tables_follow_from_the_predictions(folder, rows):
    packed, summary = read_packed(folder / "predictions.npz"), read_json(folder / "summary.json")
    assert len(rows) >= 3 and rows[0][0] == "baseline"
    for script, control, plant, (n, top1, difference, verdict) in rows:
        if script == "baseline":
            scores = accuracies(packed, BASELINE, "", np.unique(packed.seed))
            assert (difference, verdict) == ("", "")
        else:
            entry = entry_of(summary["comparisons"], script, control, plant)
            scores = accuracies(packed, entry["experiment"], entry["variant"], entry["seeds"])
            gaps = scores - accuracies(packed, *baseline_of(entry), entry["seeds"])
            assert difference == with_interval(gaps)
            assert verdict == entry["verdict"]
        assert int(n) == len(scores)
        assert top1 == f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f}"


def tables_of_the_findings():
    """(script, study, cells of each row) of the tables of controls."""
    for name, script, table in re.findall(r"<!-- studies/((?:\w+_)?(head|channels)) -->\n((?:\|.*\n)+)", FINDINGS):
        yield script, ROOT / "studies" / name, [line.strip("|").split("|") for line in table.splitlines()[2:]]


def shown(entry):
    if entry["identical"]:
        return "0 on every image"
    numbers = "{:+.2f} [{:+.2f}, {:+.2f}]".format(entry["difference"], *entry["interval_seeds"])
    return numbers.replace("-", "−")


def test_the_tables_of_the_findings_follow_from_the_comparisons():
    tables = list(tables_of_the_findings())
    assert [folder.name for _, folder, _ in tables] == ["controls_head", "controls_channels"]
    for script, folder, rows in tables:
        comparisons, seen = read_json(folder / "summary.json")["comparisons"], []
        for row in rows:
            first, n, difference, verdict, twin = (cell.strip() for cell in row)
            control = found[1] if (found := re.match(r"`(\w+)`", first)) else "quantum"
            plant = found[1] if (found := re.search(r"PLANTED ([\d.]+)", first)) else ""
            entry = entry_of(comparisons, script, control, plant)
            seen.append(entry)
            assert (int(n), difference, verdict) == (entry["n_seeds"], shown(entry), entry["verdict"]), first
            name = f"{entry['experiment']} {entry['variant']}".strip()
            twins = [one for one in comparisons if one["baseline"] == name]
            expected = [f"{shown(one)}, {one['verdict']}" for one in twins] or [twin]
            assert [twin] == expected and (twins or twin in ("", "not asked")), first
        left_out = {one["control"] for one in comparisons if one["baseline"] == BASELINE and one not in seen}
        assert left_out <= {"jitter", "planted"}, f"{folder}: not in the table"


def test_the_table_of_sensitivity_follows_from_the_runs():
    rows, comparisons = rows_of(FINDINGS, "studies/sensitivity head"), comparisons_of("sensitivity")
    runs = lines_of(ROOT / "studies" / "sensitivity" / "runs.csv")
    for first, n, difference, verdict, with_minus_without in rows:
        entry = entry_of(comparisons, "head", "planted", re.search(r"PLANTED ([\d.]+)", first)[1])
        assert (int(n), difference, verdict) == (entry["n_seeds"], shown(entry), entry["verdict"]), first
        mine = [run for run in runs if (run["experiment"], run["variant"]) == (SCRIPTS["head"], entry["variant"])]
        gaps = np.array([100 * (float(run["test_top1"]) - float(run["dependence_top1_without"])) for run in mine])
        assert with_minus_without == with_interval(gaps), first
    assert len(rows) == sum(entry["experiment"] == SCRIPTS["head"] for entry in comparisons) == 4


def test_the_table_of_the_published_forms_follows_from_the_predictions():
    packed = read_packed(ROOT / "studies" / "published" / "predictions.npz")
    rows, found, ours = rows_of(FINDINGS, "studies/published"), {}, {}
    for entry in comparisons_of("published"):
        published = bool(re.search("published|per_phase", entry["variant"]))
        name = next(short for short, script in SCRIPTS.items() if script == entry["experiment"])
        scores = accuracies(packed, entry["experiment"], entry["variant"], range(6))
        found[f"{name} as published" if published else name] = scores, shown(entry), entry["verdict"]
        ours |= {} if published else {name: scores}
    found["baseline"] = accuracies(packed, BASELINE, "", range(6)), "", ""
    assert [row[0] for row in rows] == ["baseline", "head", "head as published", "channels", "channels as published"]
    for name, n, top1, difference, verdict, minus_ours in rows:
        scores, *expected = found[name]
        assert (int(n), [difference, verdict]) == (6, expected)
        assert top1 == f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f}"
        plain = name.removesuffix(" as published")
        assert minus_ours == (with_interval(scores - ours[plain]) if plain != name else "")


def worth(runs, other, of=""):
    """(S,) what the quantum part (or `of` in its place) is worth beside `other` in its place at test time, points."""
    of, other = (f"dependence_top1{'_' if name else ''}{name}" for name in (of, other))
    return np.array([100 * (float(run[of]) - float(run[other])) for run in runs])


def test_what_the_branch_of_the_published_head_is_worth_follows_from_the_runs():
    section, groups = section_of("published"), {}
    for run in lines_of(ROOT / "studies" / "published" / "runs.csv"):
        groups.setdefault((run["experiment"], bool(re.search("published|per_phase", run["variant"]))), []).append(run)
    heads, baseline = groups[SCRIPTS["head"], True], groups[BASELINE, False]
    assert [run["seed"] for run in heads] == [run["seed"] for run in baseline]
    alone = np.array([100 * float(run["dependence_top1_without"]) for run in heads])
    gaps = alone - [100 * float(run["test_top1"]) for run in baseline]
    assert f"are at {with_interval(gaps, 'points ')} of the baseline" in section
    for said, numbers in (
        ("branch brings back {} of it", worth(heads, "without")),
        ("mean of its logits over all images {}:", worth(heads, "without", "constant")),
        ("worth beyond its mean is {}.", worth(heads, "constant")),
        ("features of other images it brings back {};", worth(heads, "without", "shuffled")),
        ("the right ones are worth {} more", worth(heads, "shuffled")),
    ):
        assert said.format(with_interval(numbers)) in section
    for key, name in (
        ((SCRIPTS["head"], False), "head"),
        ((SCRIPTS["channels"], False), "channels"),
        ((SCRIPTS["channels"], True), "channels as published"),
    ):
        assert f"{with_interval(worth(groups[key], 'without'))} ({name}" in section
    ours = groups[SCRIPTS["head"], False]
    share = 100 * np.mean([float(run["branch_share"]) for run in ours])
    assert f"({share:.2f} % of the variance of the logits; without it {changed_of(ours):.0f} of 2,500 images" in section


def test_what_the_published_forms_rule_out_follows_from_the_comparisons():
    section, comparisons = section_of("published"), comparisons_of("published")
    highest = [entry["interval_seeds"][1] for entry in comparisons]
    names = ("points (head)", "(head as published)", "(channels)", "(channels as published)")
    for high, name in zip(highest, names, strict=True):
        assert f"{high:.2f} {name}" in section
    smallest = min(comparisons, key=lambda entry: entry["p_t"])
    assert smallest["difference"] < 0 and f"{smallest['p_t']:.3f} alone and {smallest['p_holm']:.2f} after" in section
    assert f"losses of up to {-smallest['interval_seeds'][0]:.2f} points" in section
    found = sorted(entry["detectable"] for entry in comparisons)
    assert f"true differences of {found[0]:.2f} to {found[-1]:.2f} points" in section
    groups, reach = {}, []
    packed = read_packed(ROOT / "studies" / "published" / "predictions.npz")
    for entry in comparisons:
        scores = accuracies(packed, entry["experiment"], entry["variant"], range(6))
        groups.setdefault(entry["experiment"], []).append(scores)  # first ours, then as published
    for name in ("channels", "head"):
        ours, published = groups[SCRIPTS[name]]
        low, high = stats.ttest_1samp(published - ours, 0).confidence_interval()
        reach.append(f"{-low:.2f}, {high:.2f}")
    worse = re.search(
        r"may be ([\d.]+) points worse than ours or ([\d.]+) better, the head ([\d.]+) worse or ([\d.]+)", section
    )
    assert reach == [f"{worse[1]}, {worse[2]}", f"{worse[3]}, {worse[4]}"]


def size_of(name):
    """(qubits, layers, CONTROL) from an experiment and its variant."""
    constants = {"n_qubits": "4", "n_layers": "2", "control": "quantum"}
    constants |= dict(part.split("=") for part in name.partition(" ")[2].split(",") if part)
    return constants["n_qubits"], constants["n_layers"], constants["control"]


def test_the_table_of_qubits_follows_from_the_comparisons():
    found = {}
    for entry in comparisons_of("qubits"):
        *size, control = size_of(f"{entry['experiment']} {entry['variant']}")
        if entry["baseline"] != BASELINE:
            assert (*size_of(entry["baseline"]), control) == (*size, "product", "quantum")
            control = "twin"
        found[(*size, control)] = f"{shown(entry)}, {entry['verdict']}", entry["n_seeds"]
    rows = rows_of(FINDINGS, "studies/qubits")
    for qubits, layers, n, *cells in rows:
        expected = [found.pop((qubits, layers, what)) for what in ("quantum", "product", "twin")]
        assert list(zip(cells, [int(n)] * 3, strict=True)) == expected, (qubits, layers)
    assert len(rows) == 12 and not found


def test_what_is_said_of_dose_and_response_follows_from_the_runs():
    section, folder = section_of("qubits"), ROOT / "studies" / "qubits"
    scores, shares, heads = {}, {"2": [], "8": []}, []
    for run in lines_of(folder / "runs.csv"):
        qubits, layers, control = size_of(f"{run['experiment']} {run['variant']}")
        if run["experiment"] != BASELINE:
            scores.setdefault((qubits, layers, control), {})[run["seed"]] = 100 * float(run["test_top1"])
            heads += [(qubits, run)] if control == "quantum" else []
            if control == "quantum" and qubits in shares:
                shares[qubits].append((layers, 100 * float(run["branch_share"])))
    circuits = {key: np.array([found[str(seed)] for seed in range(6)]) for key, found in scores.items()}
    sizes = [key[:2] for key in circuits if key[2] == "quantum"]
    design = [[1, np.log2(int(qubits)), np.log2(int(layers))] for qubits, layers in sizes]
    _, by_qubits, by_layers = np.linalg.lstsq(design, [circuits[*size, "quantum"] for size in sizes])[0]
    assert f"{with_interval(by_qubits, 'points ')} with each doubling of the qubits" in section
    assert f"{with_interval(by_layers)} with each doubling of the layers" in section
    above = np.mean([circuits[*size, "quantum"] - circuits[*size, "product"] for size in sizes], axis=0)
    assert f"{with_interval(above, 'points ', 3)} above its twin (p {stats.ttest_1samp(above, 0).pvalue:.3f}" in section
    assert f"{np.mean(above) * 25:.1f} of 2,500 images" in section
    parts = [worth([run for _, run in heads if run["seed"] == str(seed)], "without").mean() for seed in range(6)]
    assert f"it is worth {with_interval(np.array(parts), 'points ')} on average over the 12 sizes" in section
    changed = [changed_of([run for at, run in heads if at == qubits]) for qubits in "28"]
    assert "without it {:.0f} images (2 qubits) to {:.0f} (8)".format(*changed) in section
    ends = {}
    for qubits, found in shares.items():
        means = [np.mean([share for at, share in found if at == layers]) for layers in "124"]
        ends[qubits] = min(means), max(means)
    assert "is {:.2f} to {:.2f} % with 2 qubits".format(*ends["2"]) in section
    assert "and {:.3f} to {:.2f} % with 8".format(*ends["8"]) in section


def test_what_is_said_of_the_36_comparisons_follows_from_them():
    section, comparisons = section_of("qubits"), comparisons_of("qubits")
    assert len(comparisons) == 36 and {entry["verdict"] for entry in comparisons} == {"equivalent"}
    least = min(comparisons, key=lambda entry: entry["p_t"])
    assert size_of(f" {least['variant']}") == ("6", "2", "product")
    assert f"is {least['p_t']:.3f} alone (6 qubits, 2 layers, `product`), {least['p_holm']:.0f} after" in section
    assert f"The baseline has {least['mean_baseline']:.2f} %" in section
    found = sorted(entry["detectable"] for entry in comparisons)
    assert f"true differences of {found[0]:.2f} to {found[-1]:.2f} points" in section
    assert f"in {sum(one > 0.5 for one in found)} of the 36 comparisons that is more than the margin" in section


def test_what_the_branch_is_worth_in_the_larger_study_follows_from_the_runs():
    heads = [run for run in lines_of(LARGER / "runs.csv") if run["experiment"] == SCRIPTS["head"]]
    section = section_of("larger")
    for fourier, other in itertools.product((False, True), ("without", "shuffled")):
        mine = [run for run in heads if ("control=fourier" in run["variant"]) == fourier]
        assert with_interval(worth(mine, other), "" if fourier else "points ") in section
    quantum = [run for run in heads if "control=fourier" not in run["variant"]]
    assert f"{changed_of(quantum):.0f} of the 10,000 images change" in section
    alphas = [float(run["alpha"]) for run in quantum]
    assert f"α ends at {min(alphas):.3f} to {max(alphas):.3f}" in section
    assert f"makes up {100 * np.mean([float(run['branch_share']) for run in quantum]):.1f} % of the variance" in section


def test_the_comparisons_of_the_larger_study_are_those_of_the_text():
    section, comparisons = section_of("larger"), comparisons_of("larger")
    assert len(comparisons) == 3 and {entry["verdict"] for entry in comparisons} == {"equivalent"}
    for entry in comparisons:
        assert shown(entry) in section.replace(" points [", " [") and f"{entry['detectable']:.2f}" in section


def test_the_table_of_hardware_follows_from_its_file():
    page = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
    lines = lines_of(LARGER / "hardware.csv")
    assert len([line for line in lines if line["mode"] != "ideal"]) == 6 * 61
    rows, setting = rows_of(page, "studies/larger hardware"), ("", "")
    for name, difference, fixed, broken, values, logits in rows:
        mitigated = name.removeprefix("the same, ") if name.startswith("the same") else ""
        if not mitigated:
            shots = found[1].replace(",", "") if (found := re.search(r"([\d,]+) shots", name)) else "0"
            chip = re.match(r"Fake\w+", name)
            noise = re.fullmatch(r"([a-z ]+) ([\d.]+)", name)
            where = chip[0] if chip else f"{noise[1].replace(' ', '_')}={noise[2]}" if noise else "no noise"
            setting = (where, shots)
        mine = [line for line in lines if (line["setting"], line["shots"], line["mitigated"]) == (*setting, mitigated)]
        assert len(mine) == 6, name

        def mean(key, mine=mine):
            return np.mean([float(line[key]) for line in mine])

        gaps = np.array([float(line["difference"]) for line in mine])
        assert difference == with_interval(gaps), name
        assert (fixed, broken) == (f"{mean('fixed'):.1f}", f"{mean('broken'):.1f}"), name
        for shown_number, key in ((values, "rms_values"), (logits, "rms_logits")):
            assert float(shown_number) == pytest.approx(mean(key), rel=0.06, abs=6e-5), name
    assert len(rows) == 17
