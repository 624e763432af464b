"""The section of the report on what `evaluate_hardware.py` found: its table, its figure, and files that are damaged."""

import json
import re

import pytest

from qcifar.comparison import elsewhere
from qcifar.comparison.figures import look
from qcifar.comparison.page import write_report
from qcifar.comparison.series import series_of
from qcifar.hardware import screen
from qcifar.results import fingerprint_of
from tests.helpers.made_report import make_report, write_runs
from tests.helpers.made_runs import HEAD


def scores(difference, mitigated=False):
    against = {
        "difference": difference,
        "interval": [difference - 0.2, difference + 0.2],
        "fixed": 1,
        "broken": 2.5,
        "p": 1,
    }
    return {
        "top1": 0.8 + difference / 100, "interval": [0.79, 0.81], "top1_repeats": [0.8], "standard_error": None,
        "against_ideal": against, "against_baseline": None if mitigated else against, "rms_values": 0.01,
        "rms_logits": 0.002, "rms_logits_ideal": 0.1,
    }  # fmt: skip


def entry(mode, setting, difference, **more):
    made = {"mode": mode, "setting": setting, "images": 200, "shots": 0, "sampling_seed": None, "sweep": None}
    return made | {"strength": None, "channels": None, "mitigated": {}, "scores": scores(difference)} | more


def content(result):
    chip = {
        "circuit": "head_circuit", "backend": "fake_torino", "depth": 51, "depth_before": 14, "two_qubit_gates": 14,
        "two_qubit_gates_before": 8, "seeds": 10, "seed": 2, "qiskit": "2.3.0", "layout": [61, 62, 54, 60],
    }  # fmt: skip
    sweep = "depolarizing=0.01/0.1"
    swept = [
        entry("noise", f"depolarizing={s}", d, sweep=sweep, strength=s, mitigated={"rescaled": scores(0.0, True)})
        for s, d in ((0.1, -0.5), (0.01, -0.1))
    ]
    rows = [entry("ideal", "no noise", 0.0), *swept, entry("fake", "FakeTorino", -0.3, details=[chip])]
    ends = {f"{sweep}, 200 images": {"strength": 0.03, "why": "between 0.01 and 0.1"}}
    return {"result": fingerprint_of(result), "entries": rows, "ends": ends}


@pytest.fixture
def series(tmp_path):
    write_runs(tmp_path, seeds=1)
    return series_of(make_report(tmp_path))


def write(series, found=None):
    """Results in the folder of the head's run; returns their file."""
    (run,) = [run for one in series for run in one.group.runs if run.experiment == HEAD]
    path = run.folder / elsewhere.FILE
    path.parent.mkdir()
    path.write_text(json.dumps(found or content(run.result)))
    return path


def test_what_the_screen_says_of_ideal_circuits_and_of_noise():
    made = content({})["entries"]
    assert screen.line_of(made[0]) == "no noise, exact: top-1 80.00 [79.00, 81.00] %"
    assert ", against ideal -0.50 points, 1 fixed, 2.5 broken; mitigated: rescaled 80.00" in screen.line_of(made[1])
    rows = [re.split(r"\s{2,}", line.strip()) for line in screen.table(made).splitlines()]
    assert rows[0][-2:] == ["rms αq", "rms αq, ideal"]
    assert rows[1][-5:] == ["–", "–", "–", "–", "0.1"] and rows[2][-2:] == ["0.002", "0.1"]


def test_table_sentences_and_figure(series):
    write(series)
    found, trouble = elsewhere.find(series)
    assert trouble == [] and len(found) == 1
    table = elsewhere.table(found)
    assert [row[1] for row in table["rows"]] == [
        "ideal: no noise", "noise: depolarizing=0.1", "noise: depolarizing=0.1", "noise: depolarizing=0.01",
        "noise: depolarizing=0.01", "fake chip: FakeTorino",
    ]  # fmt: skip
    assert [row[2] for row in table["rows"]] == ["–", "–", "rescaled", "–", "rescaled", "–"]
    ideal, noisy = table["rows"][0], table["rows"][1]  # the ideal circuits are not compared with themselves
    assert ideal[8:12] == ["–"] * 4 and ideal[13:] == ["–", "–", "0.1"]
    assert noisy[8:12] == ["−0.50", "[−0.70, −0.30]", "1", "2.5"] and noisy[13:] == ["0.01", "0.002", "0.1"]
    assert all(len(row) == len(table["head"]) for row in table["rows"])
    assert table["rows"][1][5] == "79.50" and table["rows"][1][8] == "−0.50" and table["rows"][1][11] == "2.5"
    chip, end = elsewhere.sentences(found)
    assert "depth 51 (before: 14) and 14 gates on two qubits (before: 8)" in chip and "qubits 61, 62, 54, 60" in chip
    assert end.endswith("0.03, between 0.01 and 0.1.")
    with look():
        drawn = elsewhere.figure(found)
    assert "n\u00a0=\u00a0200 test images" in drawn.caption and "strength of the noise" in drawn.svg


def test_the_page_shows_it_and_says_where_there_is_nothing(series, tmp_path, without_figures):
    report = make_report(tmp_path)
    write_report(report, tmp_path / "report")
    assert "No run was evaluated beyond the ideal simulator" in (tmp_path / "report" / "index.html").read_text()
    write(series)
    write_report(report, tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert 'id="figure-hardware"' in page and "fake chip: FakeTorino" in page
    assert (tmp_path / "report" / "figures" / "hardware.pdf").stat().st_size > 1000


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"entries": []}, "is not one of evaluate_hardware.py"),
        ({"result": "0", "entries": [], "ends": {}}, "is of an earlier run in this folder"),
        ({"result": None, "entries": [{"mode": "noise"}], "ends": {}}, "results.json"),
    ],
)
def test_a_damaged_file_is_named_and_the_rest_is_shown(found, said, series):
    path = write(series, found)
    assert elsewhere.find(series)[0] == []
    (trouble,) = elsewhere.find(series)[1]
    assert said in trouble and str(path) in trouble
    path.write_text("{")
    assert "cannot read" in elsewhere.find(series)[1][0]


def test_two_sweeps_of_the_same_channels_are_two_lines(series):
    (run,) = [run for one in series for run in one.group.runs if run.experiment == HEAD]
    names = ("depolarizing=0.01/0.1+readout=0.02", "depolarizing=0.01/0.1+readout=0.3")
    rows = [
        entry("noise", f"{name} at {s}", -s, sweep=name, strength=s, channels=["depolarizing", "readout"])
        for name in names
        for s in (0.1, 0.01)
    ]
    write(series, content(run.result) | {"entries": rows, "ends": {}})
    (found,) = elsewhere.find(series)[0]
    strengths = {name: [one["strength"] for one in some] for name, some in found.sweeps.items()}
    assert strengths == {name: [0.01, 0.1] for name in names}
