"""The report: index.html (one file that needs no network), figures as SVG and PDF, and a table for a paper."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qcifar.comparison import content, curves, elsewhere, latex, pictures, plots, words
from qcifar.comparison.figures import MOST_PANELS, Drawn, finish, look
from qcifar.comparison.outcomes import CIFAR_100, SUPERCLASS_NAMES, SUPERCLASS_OF
from qcifar.comparison.runs import Report
from qcifar.comparison.series import Pair, Series, comparison_of, pairs_of, plain, predictions_of, series_of
from qcifar.errors import count
from qcifar.files import write_whole

TEMPLATE = "report.html.j2"
SECTIONS = (  # id, what the link to it says
    ("verdicts", "Verdicts"), ("planned", "As planned?"), ("differences", "Differences"), ("training", "Training"),
    ("dependence", "Dependence"), ("classes", "Classes"), ("images", "Images"), ("circuits", "Circuits"),
    ("hardware", "Shots, noise, devices"), ("recipe", "Recipe"), ("plan", "Plan"), ("left-out", "Left out"),
    ("secondary", "Secondary outcomes"), ("limits", "What this does not show"),
)  # fmt: skip


def write_report(report: Report, folder: Path) -> None:
    """Write `folder`/index.html, figures/NAME.svg, figures/NAME.pdf and summary.tex.

    The same report gives the same bytes. A part whose data is not there (predictions, images, caches of maps, α) is
    left out of the page, which says so.

    Raises:
        InputError: a file cannot be written.
    """
    series = series_of(report)
    pairs = pairs_of(report, series)
    with look():
        figures = draw(report, series, pairs)
        found = elsewhere.find(series)
        noisy = elsewhere.figure(found[0])
        figures |= {noisy.name: noisy} if noisy else {}
        circuits = [_circuit(k, circuit) for k, circuit in enumerate(report.circuits, 1)]
    for drawn in (*figures.values(), *circuits):
        _write(folder / "figures" / f"{drawn.name}.svg", drawn.svg.encode())
        _write(folder / "figures" / f"{drawn.name}.pdf", drawn.pdf)
    _write(folder / "summary.tex", latex.table(pairs, report.summary["made"]).encode(errors="backslashreplace"))
    _write(
        folder / "index.html", page(report, series, pairs, figures, circuits, found).encode(errors="backslashreplace")
    )


def _write(path: Path, data: bytes) -> None:
    write_whole(path, lambda file: file.write(data))


def draw(report: Report, series: list[Series], pairs: list[Pair]) -> dict[str, Drawn]:
    """The figures that there is data for, by name; inside `look()`."""
    members = {name: classes.split() for name, classes in CIFAR_100.items()}
    found = [
        plots.forest(pairs),
        plots.slopes(pairs),
        curves.curves(series),
        curves.gaps(pairs),
        curves.gate(series),
        curves.time(series),
        plots.superclasses([pair for pair in pairs if not pair.entry.get("twin")], report.summary["classes"], members),
        _confusion(series),
    ]
    return {drawn.name: drawn for drawn in found if drawn}


def _confusion(series: list[Series]) -> Drawn | None:
    """Of the first group on CIFAR-100; the classes of the synthetic set have no superclasses."""
    for one in series:
        if one.group.first.dataset == "cifar100":
            share = pictures.mean_confusion(one, SUPERCLASS_OF)
            known = [found for run in one.group.runs if (found := predictions_of(run))]
            if share is not None:
                return plots.confusion_map(share, SUPERCLASS_NAMES, one.label, len(known), len(known[0].label))
    return None


def _circuit(k: int, circuit) -> Drawn:
    return finish(
        circuit.figure, f"circuit{k}", plain(circuit.title, 200), "", f"Gates of: {circuit.title}", paper=True
    )


def page(
    report: Report,
    series: list[Series],
    pairs: list[Pair],
    figures: dict[str, Drawn],
    circuits: list[Drawn],
    hardware: tuple[list[elsewhere.Found], list[str]],
) -> str:
    """index.html as text; `hardware` as `elsewhere.find` gives it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    map_labels, sheet = pictures.contact_sheet(series, report.images)
    changed = [pictures.changed_images(pair, report.images) for pair in pairs[:MOST_PANELS]]
    summary = report.summary
    labels = {comparison_of(pair.entry): pair.label for pair in pairs}
    return environment.get_template(TEMPLATE).render(
        sections=SECTIONS,
        summary=summary,
        left_out=[[run["folder"], run["reason"]] for run in summary["left_out"]],
        in_short=content.in_short(pairs),
        cards=content.cards(pairs),
        synthetic=any(one.group.first.dataset == "synthetic" for one in series),
        planted=any(pair.entry["planted"] for pair in pairs),
        plan_words=content.plan_words(report),
        figures=figures,
        circuits=circuits,
        hardware=elsewhere.table(hardware[0]),
        hardware_words=[*elsewhere.sentences(hardware[0]), *hardware[1]],
        numbers=content.numbers(pairs),
        mcnemar=content.mcnemar(pairs),
        dependence=content.dependence(pairs),
        runs=content.runs(series),
        secondary=content.secondary(summary["secondary"], labels),
        by_class=content.by_class(summary["classes"], labels),
        confusions=content.confusions(series, pictures.confused_pairs(series)),
        map_labels=map_labels,
        sheet=sheet,
        scale=pictures.scale_colours(),
        changed=[found for found in changed if found],
        recipe=content.recipe(report),
        differences=content.differences(series),
        limits=content.does_not_show(report, pairs),
        listed=words.listed,
        count=count,
    )
