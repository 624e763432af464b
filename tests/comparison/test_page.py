"""The report: all that was found is on the page, nothing is loaded, hostile names do no harm, a browser shows it."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from qcifar.comparison.content import does_not_show
from qcifar.comparison.page import SECTIONS, write_report
from qcifar.comparison.pictures import contact_sheet
from qcifar.comparison.runs import Circuit, Group, read_run
from qcifar.comparison.series import pairs_of, series_of
from qcifar.decided import BASELINE
from qcifar.streams import stream
from tests.helpers import slow
from tests.helpers.browser import CHROMIUM, browser
from tests.helpers.made_report import PLAN, make_report, write_runs
from tests.helpers.made_runs import CHANNELS, CIRCUITS, HEAD, IDENTITY, write_run

FIGURES = ("forest", "slopes", "curves", "gaps", "alpha", "time", "superclasses", "confusion", "circuit1")
HOSTILE = '<script>alert("x")</script>&$_%{}\\'


def write_caches(run_dir, images, **changes):
    """Caches of the two maps of the test images, as the channels write them."""
    parameters = {"n_qubits": 4, "depth": 1, "image_size": 28, "data": IDENTITY["dataset_fingerprint"]} | changes
    folder = run_dir / CHANNELS / "descriptors"
    folder.mkdir()
    for kind, circuit in zip(("edge", "tex"), CIRCUITS[CHANNELS], strict=True):
        qvec = stream(0, kind).uniform(-1, 1, size=(images, 4)).astype(np.float32)
        text = np.array(json.dumps(parameters | {"circuit": circuit}))
        np.savez(folder / f"test_q_{kind}_0.npz", qvec=qvec, inputs=qvec, index=np.arange(images), parameters=text)


def make_circuit() -> Circuit:
    figure = Figure(figsize=(3, 1))
    figure.add_subplot().text(0.1, 0.5, "RX — CNOT", color="black")
    return Circuit("edge circuit of cifar100_quantum_channels, 4 qubits, depth 1", figure)


@pytest.fixture
def without_pdf(monkeypatch):
    """Figures as SVG only: to embed its fonts in each PDF takes half of the time."""
    savefig = Figure.savefig

    def svg_only(self, file, **more):
        if more["format"] != "pdf":
            savefig(self, file, **more)

    monkeypatch.setattr(Figure, "savefig", svg_only)


def write(report, folder):
    """The page as text."""
    write_report(report, folder)
    return (folder / "index.html").read_text(encoding="utf-8")


def words(html):
    """What a reader sees, on one line."""
    html = re.sub(r"(?s)<(style|script|svg)\b.*?</\1>", " ", html)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "runs"
    write_runs(folder, seeds=3, images=200, epochs=7, variants=2)
    write_caches(folder, 200)
    return folder


@pytest.fixture(scope="module")
def full(runs):
    """A report of three groups with everything that a page can show."""
    images = stream(0, "pixels").integers(0, 256, size=(200, 32, 32, 3)).astype(np.uint8)
    left_out = [{"folder": "runs/cifar100_baseline_det/seed9", "reason": "not finished"}]
    return make_report(runs, left_out=left_out, images={"cifar100": images}, circuits=(make_circuit(),))


@pytest.fixture(scope="module")
def written(full, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    return folder, write(full, folder)


def test_page_says_all_that_was_found(full, written):
    _, html = written
    seen = words(html)
    for entry in full.summary["comparisons"]:
        name = f"{entry['experiment'].removeprefix('cifar100_')} {entry['variant']}".strip()
        assert f"<h3>{name}" in html and entry["why"] in seen and f'verdict">{entry["verdict"]}<' in html
        signed = f"{entry['difference']:+.2f}".replace("-", "−")
        low, high = (f"{end:+.2f}".replace("-", "−") for end in entry["interval_seeds"])
        assert f"{signed} points [{low}, {high}]" in seen
        assert f"{entry['n_seeds']} paired seeds, {entry['test_images']} test images" in seen
    left_out = full.summary["left_out"][0]
    for sentence in ("Not as planned", "Seed 5 of the head is missing.", left_out["folder"], left_out["reason"]):
        assert sentence in seen
    made = full.summary["made"]
    for word in (made["time"], made["commit"], *made["commits_of_runs"], *made["hardware"]):
        assert word in seen
    assert "SYNTHETIC" not in seen and "PLANTED" not in seen and "exploratory" not in seen
    assert seen.index("Verdicts") < seen.index("As planned?") < seen.index("Differences") < seen.index("Recipe")


def test_what_it_does_not_show_follows_the_runs(full, written):
    limits = words(written[1][written[1].index('id="limits"') :])
    for sentence in (
        "cifar100 only, at 32 pixels", "circuits of 4 qubits are simulated", "resnet34, started from imagenet",
        "With 3 paired seeds", "is the cause in quantum_channels", "is the cause in hybrid_qhead",
    ):  # fmt: skip
        assert sentence in limits
    assert "one seed" not in limits and "SYNTHETIC" not in limits


@pytest.mark.parametrize(
    ("controls", "missing"),
    [
        ({HEAD: "frozen", CHANNELS: "constant"}, ["quantum_channels", "hybrid_qhead"]),
        ({HEAD: "product", CHANNELS: "raw"}, ["hybrid_qhead"]),
        ({HEAD: "fourier", CHANNELS: "noise"}, ["quantum_channels"]),  # the head's twin says nothing about the channels
        ({HEAD: "mlp", CHANNELS: "fourier"}, []),
        ({HEAD: "somebodys", CHANNELS: "shuffled"}, ["quantum_channels"]),  # a control of one's own without a circuit
    ],
)
def test_the_circuit_is_called_the_cause_only_beside_a_classical_twin_of_its_own(tmp_path, controls, missing):
    for experiment, control in {BASELINE: None, HEAD: "quantum", CHANNELS: "quantum"}.items():
        write_run(tmp_path, experiment, 0, images=100, control=control)
    for experiment, control in controls.items():
        write_run(tmp_path, experiment, 0, f"control={control}", images=100)
    report = make_report(tmp_path)
    limits = does_not_show(report, pairs_of(report, series_of(report)))
    told = [re.match(r"That the circuit is the cause in (\w+)\. No run of it", sentence) for sentence in limits]
    assert sorted(match[1] for match in told if match) == sorted(missing)


def test_maps_are_those_of_the_caches(full, runs):
    labels, tiles = contact_sheet(series_of(full), full.images)
    assert labels == ["quantum_channels"] and len(tiles) == 24
    places = [int(re.match(r"test image (\d+),", tile.picture.alt)[1]) for tile in tiles]
    assert places == sorted(set(places)) and (places[0], places[-1]) == (0, 199)
    for kind, k in (("edge", 0), ("tex", 1)):
        with np.load(next((runs / CHANNELS / "descriptors").glob(f"test_q_{kind}_*.npz"))) as cache:
            told = [[float(value) for value in tile.maps[k].alt.split(": ")[1].split(", ")] for tile in tiles]
            assert np.abs(np.array(told) - cache["qvec"][places]).max() <= 0.00501
    with Image.open(io.BytesIO(base64.b64decode(tiles[3].picture.uri.split(",")[1]))) as image:
        assert np.array_equal(np.asarray(image), full.images["cifar100"][places[3]])


def test_every_figure_is_on_the_page_and_beside_it(written):
    folder, html = written
    files = {path.name for path in (folder / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in FIGURES for kind in ("svg", "pdf")}
    for name in FIGURES:
        assert f'id="figure-{name}"' in html
        ElementTree.parse(folder / "figures" / f"{name}.svg")
        assert (folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert all(f'href="#{name}"' in html and f'<section id="{name}"' in html for name, _ in SECTIONS)


class Tags(HTMLParser):
    """Attributes that load something, pictures without an alternative, and elements that are not closed."""

    def __init__(self, html):
        super().__init__()
        self.loads, self.silent, self.open = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loads += [given[name] for name in ("src", "href", "xlink:href", "srcset", "data") if given.get(name)]
        self.silent += [tag] if tag == "img" and not given.get("alt") else []
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_nothing_is_loaded_and_the_markup_is_whole(written):
    _, html = written
    tags = Tags(html)
    assert tags.silent == [] and tags.open == []
    assert [address for address in tags.loads if not address.startswith(("#", "data:"))] == []
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    assert "<img" in html and html.count('role="img" aria-label="') >= len(FIGURES)


@pytest.mark.slow
def test_the_same_report_is_the_same_bytes_and_leaves_matplotlib_alone(full, written, tmp_path):
    before = dict(matplotlib.rcParams)
    write_report(dataclasses.replace(full, circuits=(make_circuit(),)), tmp_path)
    assert dict(matplotlib.rcParams) == before
    for path in sorted(written[0].rglob("*.*")):
        assert (tmp_path / path.relative_to(written[0])).read_bytes() == path.read_bytes(), path


def test_images_fixed_and_broken_are_those_of_most_seeds(full, written):
    """Counted again, image by image."""
    mine, theirs = (next(g for g in full.groups if g.name == name).runs for name in (CHANNELS, BASELINE))  # 3 seeds
    counts = {"fixed": 0, "broken": 0}
    for place in range(200):
        pairs = [
            (m.predictions.correct[place], t.predictions.correct[place]) for m, t in zip(mine, theirs, strict=True)
        ]
        counts["fixed"] += sum(m and not t for m, t in pairs) >= 2
        counts["broken"] += sum(t and not m for m, t in pairs) >= 2
    told = re.search(
        r"quantum_channels: (\d+) images? fixed and (\d+) broken in more than half of 3 seeds", words(written[1])
    )
    assert [int(n) for n in told.groups()] == [counts["fixed"], counts["broken"]]


def test_confusions_are_scikit_learns(full, written):
    from sklearn.metrics import confusion_matrix

    runs = full.groups[0].runs
    mean = np.mean(
        [
            confusion_matrix(r.predictions.label, r.predictions.predicted, labels=range(100), normalize="true")
            for r in runs
        ],
        axis=0,
    )
    np.fill_diagonal(mean, 0)
    table = written[1][written[1].index("pairs of classes that") :]
    first = re.search(r'<tbody>\s*<tr><th scope="row">.*?</th><td>.*?</td><td class="n">([\d.]+)</td>', table)
    assert float(first[1]) == pytest.approx(100 * mean.max(), abs=0.051)


def test_hostile_names_stay_text(tmp_path, full, without_pdf):
    comparison = full.summary["comparisons"][0] | {"variant": HOSTILE, "why": f"Because {HOSTILE}", "verdict": "better"}
    left_out = [{"folder": f"runs/{HOSTILE}", "reason": f"bad {HOSTILE}\nsecond line ☃"}]
    plan = full.summary["plan"] | {"title": HOSTILE, "text": HOSTILE, "as_planned": True, "deviations": []}
    summary = full.summary | {
        "comparisons": [comparison], "secondary": [], "classes": [], "left_out": left_out, "plan": plan,
    }  # fmt: skip
    html = write(dataclasses.replace(full, summary=summary, circuits=(Circuit(HOSTILE, Figure()),)), tmp_path)
    assert "<script>alert" not in html and html.count("&lt;script&gt;alert") >= 6
    assert Tags(html).open == [] and html.count("<script") == 1
    for path in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(path)
    row = next(line for line in (tmp_path / "summary.tex").read_text().splitlines() if "textless" in line)
    assert r"\textless{}script\textgreater{}alert(" in row and r"\&\$\_\%\{\}\textbackslash{}" in row


def test_planted_synthetic_and_exploratory_numbers_are_marked(tmp_path, without_pdf):
    run_dir = tmp_path / "runs"
    for experiment, variant in ((BASELINE, ""), (HEAD, "control=planted")):
        for seed in range(2):
            write_run(
                run_dir, experiment, seed, variant, 0.8 + 0.01 * seed, 100, dataset="synthetic", control="planted"
            )
    report = make_report(run_dir, plan=None)
    marks = {"planted": True, "exploratory": True, "branch_off_seeds": [1], "across_recipes": ["MAX_LR 1 -> 2"]}
    summary = report.summary | {"comparisons": [report.summary["comparisons"][0] | marks]}
    html = write(dataclasses.replace(report, summary=summary), tmp_path / "report")
    seen = words(html)
    for mark in ("PLANTED", "SYNTHETIC", "across recipes", "exploratory", "branch off"):
        assert f'<span class="mark">{mark}</span>' in html
    named = "hybrid_qhead control=planted PLANTED SYNTHETIC"
    assert seen.count(named) >= 8  # tables, captions, details
    for name in ("forest", "slopes", "curves", "gaps", "alpha", "time"):
        drawn = (tmp_path / "report" / "figures" / f"{name}.svg").read_text()
        assert "PLANTED" in drawn and "SYNTHETIC" in drawn
    assert "There was no plan" in seen and "say nothing about CIFAR-100" in seen and "No matrix of superclasses" in seen
    table = (tmp_path / "report" / "summary.tex").read_text()
    assert "(PLANTED, SYNTHETIC, across recipes, exploratory, branch off)" in table
    assert "With seed 1 the epoch that was tested has the branch off" in seen and "MAX_LR 1 -> 2" in seen


def test_one_seed_without_predictions(tmp_path, without_pdf):
    write_runs(tmp_path / "runs", seeds=1, images=100, epochs=1)
    report = make_report(tmp_path / "runs", plan=PLAN | {"as_planned": True, "deviations": []}, classes=[])
    for path in (tmp_path / "runs").rglob("predictions.npz"):
        path.unlink()
    for path in (tmp_path / "runs" / HEAD).rglob("metrics.csv"):
        path.unlink()
    fresh = [Group(tuple(map(read_run, (run.folder for run in group.runs)))) for group in report.groups]
    seen = words(write(dataclasses.replace(report, groups=tuple(fresh)), tmp_path / "report"))
    assert "As planned: plan" in seen
    assert "No interval over seeds: there is one seed." in seen and "Anything about other seeds" in seen
    assert "No pair of runs has predictions" in seen and "No maps to show" in seen and "No circuit was drawn" in seen
    assert "1 paired seed, 100 test images" in seen


def test_pairs_across_recipes_are_those_of_the_comparison(tmp_path):
    """Two baselines, of which the second differs less from the head; groups of one name and recipe are one series."""
    for constants, top1 in (({"MAX_LR": 0.1, "BATCH_SIZE": 64}, 0.5), ({"MAX_LR": 0.2}, 0.6)):
        for seed in range(2):
            write_run(tmp_path / str(top1), BASELINE, seed, top1=top1, images=100, constants=constants)
    for variant in ("", "n_layers=3"):
        write_run(tmp_path / "0.6", HEAD, 0, variant, images=100)
    report = make_report([tmp_path / "0.5", tmp_path / "0.6"], across_recipes=True)
    series = series_of(report)
    assert len(report.groups) == 4 and len(series) == 3
    for pair in pairs_of(report, series):
        assert [(mine.seed, theirs.seed, theirs.top1) for mine, theirs in pair.runs] == [(0, 0, pytest.approx(60))]
        assert "across recipes" in pair.label and pair.entry["mean_baseline"] == pytest.approx(60)


@pytest.mark.parametrize("kept", [[BASELINE], slow([HEAD]), slow([])])
def test_nothing_to_compare(tmp_path, kept, without_pdf):
    (tmp_path / "runs").mkdir()
    for experiment in kept:
        write_run(tmp_path / "runs", experiment, 0, images=100)
    seen = words(write(make_report(tmp_path / "runs", plan=None), tmp_path / "report"))
    assert "There is nothing to compare" in seen and "What this does not show" in seen
    assert "No comparison." in (tmp_path / "report" / "summary.tex").read_text()


@pytest.mark.parametrize("changes", [{"n_qubits": 6}, {"data": "other"}, {"depth": 2}])
def test_maps_of_another_circuit_or_data_set_are_not_shown(tmp_path, full, changes):
    run_dir = tmp_path / "runs"
    for experiment in (BASELINE, CHANNELS):
        write_run(run_dir, experiment, 0, images=100)
    write_caches(run_dir, 100, **changes)
    report = make_report(run_dir, images=full.images)
    assert contact_sheet(series_of(report), report.images) == ([], [])


@pytest.mark.parametrize(
    "control", ["raw", "fourier", "shuffled", "noise", "constant", "jitter", "planted", "quantum", "product"]
)
def test_maps_are_shown_only_of_networks_that_saw_them(tmp_path, full, control):
    run_dir = tmp_path / "runs"
    write_run(run_dir, BASELINE, 0, images=100)
    write_run(run_dir, CHANNELS, 0, f"control={control}", images=100)
    write_caches(run_dir, 100)
    report = make_report(run_dir, images=full.images)
    labels, tiles = contact_sheet(series_of(report), report.images)
    saw = control in ("quantum", "product")
    assert (len(labels), len(tiles)) == ((1, 24) if saw else (0, 0))


PAPER = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\begin{document}
\input{%s}
\end{document}
"""


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
@pytest.mark.slow
def test_the_table_for_a_paper_compiles(full, written, tmp_path):
    hostile = full.summary["comparisons"][0] | {"variant": HOSTILE + '|<>"^~#`’“”é✓'}
    summary = full.summary | {"comparisons": [hostile], "secondary": [], "classes": []}
    write_report(dataclasses.replace(full, summary=summary), tmp_path)
    for folder in (written[0], tmp_path):
        (tmp_path / "paper.tex").write_text(PAPER % (folder / "summary.tex").as_posix())
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]


PICTURES = "[...document.images].map(image => image.complete && image.naturalWidth > 0)"
DRAWINGS = "[...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect().width > 100)"
OUTSIDE = """[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll')
    && one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(one => one.outerHTML.slice(0, 80))"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_a_browser_shows_it(full, written, tmp_path):
    html = written[0] / "index.html"
    with browser(tmp_path) as page:
        for width in (400, 1280):
            for dark in (False, True):
                page.open(html, width, dark)
                assert page.ask("document.querySelectorAll('details').forEach(one => one.open = true)") is None
                assert page.ask("document.documentElement.scrollWidth") == width and page.ask(OUTSIDE) == []
                for shown in (page.ask(PICTURES), page.ask(DRAWINGS)):
                    assert len(shown) >= len(FIGURES) and all(shown)
                colours = [page.ask(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")]
                light = [sum(map(int, re.findall(r"\d+", colour)[:3])) > 384 for colour in colours]
                assert light == [not dark, dark]
        assert _sorted_by_a_click(page) == sorted(round(entry["mean"], 2) for entry in full.summary["comparisons"])
        assert page.ask(SAVED).startswith("<svg ") and "var(" not in page.ask(SAVED)
        assert page.pdf().startswith(b"%PDF")
        assert page.trouble == []
        assert [url for url in page.loaded if not url.startswith(("file:", "data:", "blob:"))] == []


def _sorted_by_a_click(page):
    """The column top-1 of the first table after a click on its heading."""
    click = "document.querySelector('#verdicts th:nth-child(4) button').click()"
    cells = "[...document.querySelector('#verdicts tbody').rows].map(row => +row.cells[3].textContent)"
    page.ask(click)
    assert page.ask("document.querySelector('#verdicts th:nth-child(4)').ariaSort") == "ascending"
    return page.ask(cells)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_browser_would_notice(tmp_path):
    """A page on which all of that is wrong."""
    wrong = '<div style="width: 900px">wide</div><img src="none.png"><script>nothing.there()</script>'
    (tmp_path / "index.html").write_text(wrong)
    with browser(tmp_path / "profile") as page:
        page.open(tmp_path / "index.html", 400)
        assert page.ask("document.documentElement.scrollWidth") > 400 and len(page.ask(OUTSIDE)) == 1
        assert page.ask(PICTURES) == [False] and any(url.endswith("none.png") for url in page.loaded)
        assert len(page.trouble) == 2  # the picture and the script


SAVED = """new Promise(done => {
  URL.createObjectURL = blob => { blob.text().then(done); return "blob:none"; };
  HTMLAnchorElement.prototype.click = () => {};
  document.querySelector('#figure-forest .save').click();
})"""
