"""Groups of runs as figures and tables show them: one label, one colour, one marker for each, everywhere."""

from dataclasses import dataclass

from qcifar.comparison.runs import FinishedRun, Group, Predictions, Report
from qcifar.comparison.words import listed
from qcifar.errors import InputError, count

INK, MUTED, GRID = "#15181c", "#667080", "#d5d9e0"
# Okabe and Ito's colours, which stay apart for colour-blind readers, without yellow and black.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b3578f", "#c98a00", "#3f9fd6")
DASHES = ("solid", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))  # where there are more groups than colours
MARKERS = ("o", "s", "^", "D", "v", "P")
SHOWN_CHARACTERS = 60  # of a label, without its marks


@dataclass(frozen=True)
class Series:
    group: Group
    label: str  # short, with its marks
    colour: str
    dash: str | tuple
    marker: str
    place: int  # 0 is the first of those that others are compared with


@dataclass(frozen=True)
class Pair:
    """One comparison: its numbers, and the runs that they were made of."""

    entry: dict  # of summary.json
    label: str
    series: Series | None  # None where its runs were not handed over
    baseline: Series | None

    @property
    def runs(self) -> list[tuple[FinishedRun, FinishedRun]]:
        """(run, run of the baseline) of each paired seed."""
        if self.series is None or self.baseline is None:
            return []
        mine, theirs = ({run.seed: run for run in series.group.runs} for series in (self.series, self.baseline))
        return [(mine[seed], theirs[seed]) for seed in self.entry["seeds"] if seed in mine and seed in theirs]


def plain(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """`text` with characters that every font has, on one line, cut to `most`."""
    kept = "".join(c if c.isprintable() and (ord(c) < 0x250 or 0x370 <= ord(c) < 0x400) else "?" for c in text)
    return kept if len(kept) <= most else kept[: most - 1] + "…"


def marks_of(entry: dict) -> list[str]:
    """What has to stand beside every number of a comparison."""
    marks = {
        "PLANTED": entry["planted"], "SYNTHETIC": entry["dataset"] == "synthetic",
        "across recipes": entry["across_recipes"], "exploratory": entry["exploratory"],
        "branch off": entry["branch_off_seeds"], "reference: branch off": entry["branch_off_seeds_baseline"],
    }  # fmt: skip
    if entry.get("twin"):
        marks[f"against {short_name(entry['baseline'], '')}"] = True
    return [mark for mark, holds in marks.items() if holds]


def short_name(experiment: str, variant: str) -> str:
    return f"{experiment.removeprefix('cifar100_')} {variant}".strip()


def series_of(report: Report) -> list[Series]:
    """The groups in their order, each with its label and look; groups of the same name and recipe are one."""
    merged: dict[tuple, dict] = {}
    for group in report.groups:
        merged.setdefault(_key_of_group(group), {}).update((run.seed, run) for run in group.runs)
    groups = [Group(tuple(runs[seed] for seed in sorted(runs))) for runs in merged.values()]
    planted = {key_of(entry) for entry in report.summary["comparisons"] if entry["planted"]}
    names = [(group.name, group.first.dataset) for group in groups]
    found, others = [], 0
    for place, group in enumerate(groups):
        first = group.first
        label = plain(short_name(first.experiment, first.variant))
        label += f" (recipe {first.recipe})" if names.count((group.name, first.dataset)) > 1 else ""
        label += " PLANTED" if _key_of_group(group) in planted or first.control == "planted" else ""
        label += " SYNTHETIC" if first.dataset == "synthetic" else ""
        if group.name == report.summary["against"]:
            colour, turn = MUTED, 0
        else:
            colour, turn = COLOURS[others % len(COLOURS)], others // len(COLOURS)
            others += 1
        found.append(Series(group, label, colour, DASHES[turn % len(DASHES)], MARKERS[turn % len(MARKERS)], place))
    return found


def pairs_of(report: Report, series: list[Series]) -> list[Pair]:
    """The comparisons in their order, with the series that they compare."""
    by_key = {_key_of_group(one.group): one for one in series}
    found = []
    for entry in report.summary["comparisons"]:
        mine = by_key.get(key_of(entry))
        name = mine.label if mine else plain(short_name(entry["experiment"], entry["variant"]))
        label = " ".join([name, *(mark for mark in marks_of(entry) if f" {mark}" not in name)])
        found.append(Pair(entry, label, mine, _baseline_of(entry, series)))
    return found


def _baseline_of(entry: dict, series: list[Series]) -> Series | None:
    """What `entry` is compared with: of its own recipe, or, across recipes, the one that has its mean."""

    def distance(one: Series) -> tuple[bool, float]:
        top1 = [run.top1 for run in one.group.runs if run.seed in entry["seeds"]]
        apart = abs(sum(top1) / len(top1) - entry["mean_baseline"]) if top1 else float("inf")
        return one.group.first.recipe != entry["recipe"], apart

    named = [one for one in series if one.group.name == entry["baseline"]]
    return min((one for one in named if one.group.first.dataset == entry["dataset"]), key=distance, default=None)


def key_of(entry: dict) -> tuple:
    """What tells the group of a comparison, and of its rows in summary.json, from all others."""
    return entry["experiment"], entry["variant"], entry["recipe"], entry["dataset"]


def comparison_of(entry: dict) -> tuple:
    """What tells a comparison, and its rows in summary.json, from all others: its group may be in several."""
    return *key_of(entry), entry["baseline"]


def _key_of_group(group: Group) -> tuple:
    first = group.first
    return first.experiment, first.variant, first.recipe, first.dataset


def predictions_of(run: FinishedRun) -> Predictions | None:
    """None where the file is not there or not whole; the comparison has named it already."""
    try:
        return run.predictions
    except InputError:
        return None


def history_of(run: FinishedRun) -> list[dict]:
    """Rows of metrics.csv; none where the file is not there or not whole."""
    try:
        return run.history
    except InputError:
        return []


def seeds_of(pairs: list[Pair]) -> str:
    """n of each comparison, as a sentence."""
    numbers = [pair.entry["n_seeds"] for pair in pairs]
    if len(set(numbers)) == 1:
        return f"n = {count(numbers[0], 'paired seed')}{' each' if len(pairs) > 1 else ''}."
    return f"Paired seeds: n = {listed([f'{n} ({pair.label})' for n, pair in zip(numbers, pairs, strict=True)])}."


def runs_of(series: list[Series]) -> str:
    """n of each group, as a sentence."""
    numbers = [len(one.group.runs) for one in series]
    if len(set(numbers)) == 1:
        return f"n = {count(numbers[0], 'run')}{' each' if len(series) > 1 else ''}."
    return f"Runs: n = {listed([f'{n} ({one.label})' for n, one in zip(numbers, series, strict=True)])}."
