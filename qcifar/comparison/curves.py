"""Figures of the training, as those of `plots.py`: learning curves, α, time."""

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from qcifar.comparison.figures import WIDTH, Drawn, finish, first_panels, name_axes, panels
from qcifar.comparison.runs import FinishedRun
from qcifar.comparison.series import MUTED, Pair, Series, history_of, runs_of, seeds_of
from qcifar.comparison.words import listed, signed


def curves(series: list[Series]) -> Drawn | None:
    """Validation top-1 by epoch: every run, and the mean of each group."""
    known = [(one, lines) for one in series if (lines := _by_epoch(one, "val_top1", 100))]
    first = [found for found in known if found[0].colour == MUTED]
    others, cut = first_panels([found for found in known if found[0].colour != MUTED] or first)
    if not others:
        return None
    planted = [one.group.first.control == "planted" for one, _ in others]
    figure, axes = panels([one.label for one, _ in others], 1.8, share_y=not own_scale(planted))
    for (one, lines), ax in zip(others, axes, strict=True):
        beside = [
            found for found in first if found[0].group.first.dataset == one.group.first.dataset and found[0] != one
        ]
        for base, base_lines in beside[:1]:
            _runs_and_mean(ax, base, base_lines)
        _runs_and_mean(ax, one, lines)
        ax.autoscale_view()
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    scaled = give_own_scale(axes, planted)
    name_axes(figure, "epoch", "validation top-1 (%)")
    caption = (
        f"Thin: each run. Thick: the mean of the group. Grey: the baseline. "
        f"{runs_of([one for one, _ in [*first, *others]])}{scaled}{cut}"
    )
    ends = "; ".join(f"{one.label} {_mean(lines)[-1][1]:.1f} %" for one, lines in [*first, *others] if _mean(lines))
    return finish(figure, "curves", "Learning curves", caption, f"Mean validation top-1 after the last epoch: {ends}")


def gaps(pairs: list[Pair]) -> Drawn | None:
    """Validation top-1 of every run minus that of its baseline, by epoch."""
    known = []
    for pair in pairs:
        both = [(_column(mine, "val_top1", 100), _column(theirs, "val_top1", 100)) for mine, theirs in pair.runs]
        lines = [[(epoch, m[epoch] - t[epoch]) for epoch in m if epoch in t] for m, t in both]
        known += [(pair, [np.array(line) for line in lines if line])] if any(lines) else []
    known, cut = first_panels(known)
    if not known:
        return None
    planted = [pair.entry["planted"] for pair, _ in known]
    figure, axes = panels([pair.label for pair, _ in known], 1.8, share_y=not own_scale(planted))
    for (pair, lines), ax in zip(known, axes, strict=True):
        _runs_and_mean(ax, pair.series, lines)
        ax.axhline(0, color=MUTED, linewidth=1)
        ax.autoscale_view()
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    scaled = give_own_scale(axes, planted)
    name_axes(figure, "epoch", "difference in validation top-1 (points)")
    caption = (
        "The same runs, each minus the baseline of its seed. Thin: each pair. Thick: the mean. Validation "
        "images, which "
        f"also chose the epoch that was tested: no outcome. {seeds_of([pair for pair, _ in known])}{scaled}{cut}"
    )
    ends = "; ".join(f"{pair.label} {signed(_mean(lines)[-1][1])}" for pair, lines in known if _mean(lines))
    alt = f"Mean difference in validation top-1 after the last epoch: {ends}"
    return finish(figure, "gaps", "Learning curves minus the baseline", caption, alt)


def own_scale(planted: list[bool]) -> bool:
    """Whether planted effects, which may be any number of times larger than others, need a scale of their own."""
    return any(planted) and not all(planted)


def give_own_scale(axes: list, planted: list[bool]) -> str:
    """Scale the y axes of all panels alike but those of planted effects; a sentence on it, where there are both."""
    if not own_scale(planted):
        return ""
    others = [ax for ax, is_planted in zip(axes, planted, strict=True) if not is_planted]
    low, high = (pick(ax.get_ylim()[end] for ax in others) for end, pick in enumerate((min, max)))
    for ax in others:
        ax.set_ylim(low, high)
    return " Panels of planted effects have their own scale."


def _column(run: FinishedRun, column: str, factor: float = 1.0) -> dict[float, float]:
    """epoch -> number in `column` of metrics.csv, where there is one."""
    return {row["epoch"]: factor * row[column] for row in history_of(run) if _is_number(row.get(column))}


def _by_epoch(one: Series, column: str, factor: float = 1.0) -> list[np.ndarray]:
    """One (epochs, 2) for each run that has numbers in `column`."""
    found = [_column(run, column, factor) for run in one.group.runs]
    return [np.array(list(rows.items())) for rows in found if rows]


def _is_number(value) -> bool:
    return isinstance(value, float) and np.isfinite(value)


def _mean(lines: list[np.ndarray]) -> list[tuple[float, float]]:
    """(epoch, mean) at the epochs that all runs have."""
    by_epoch: dict[float, list[float]] = {}
    for epoch, value in np.concatenate(lines):
        by_epoch.setdefault(epoch, []).append(value)
    return [(epoch, float(np.mean(values))) for epoch, values in by_epoch.items() if len(values) == len(lines)]


def _runs_and_mean(ax, one: Series, lines: list[np.ndarray]) -> None:
    if len(lines) > 1:
        ax.add_collection(LineCollection(lines, colors=one.colour, linewidths=0.7, alpha=0.5))
    mean = np.array(_mean(lines) or lines[0])
    ax.plot(
        mean[:, 0],
        mean[:, 1],
        color=one.colour,
        linestyle=one.dash,
        linewidth=1.6,
        marker="o" if len(mean) == 1 else None,
    )


def gate(series: list[Series]) -> Drawn | None:
    """α, and the branch's share where metrics.csv has one, by epoch."""
    names = {"alpha": "α", "branch_share": "share of the branch in the logits"}
    known = {column: [(one, lines) for one in series if (lines := _by_epoch(one, column))] for column in names}
    known = {column: found for column, found in known.items() if found}
    if not known:
        return None
    figure = Figure(figsize=(WIDTH if len(known) > 1 else WIDTH * 0.8, 2.3), layout="constrained")
    axes = figure.subplots(1, len(known), squeeze=False).ravel()
    for (column, found), ax in zip(known.items(), axes, strict=True):
        for one, lines in found:
            _runs_and_mean(ax, one, lines)
        ax.autoscale_view()
        ax.set_ylim(bottom=0)
        ax.set(xlabel="epoch", ylabel=names[column])
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    shown = list({one.place: one for found in known.values() for one, _ in found}.values())
    _legend(figure, shown)
    caption = (
        "α is the factor of the branch's logits; in phase A it is off (about 2e-9). Thin: each run. Thick: the mean. "
        f"{runs_of(shown)} A large α alone does not show that the branch is of use."
    )
    ends = "; ".join(
        f"{one.label} {_mean(lines)[-1][1]:.3g}" for one, lines in next(iter(known.values())) if _mean(lines)
    )
    return finish(
        figure, "alpha", "How far the branch is open", caption, f"Mean {next(iter(known))} after the last epoch: {ends}"
    )


def _legend(figure: Figure, series: list[Series], lines: bool = True) -> None:
    """The groups below the axes; the figure grows by what they need."""
    handles = [
        Line2D([], [], color=one.colour, linestyle=one.dash, label=one.label)
        if lines
        else Line2D([], [], color=one.colour, linestyle="none", marker=one.marker, label=one.label)
        for one in series
    ]
    columns = 2 if max(len(one.label) for one in series) < 36 else 1
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(handles) // columns))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(columns, len(handles)))


def time(series: list[Series]) -> Drawn | None:
    """Test top-1 against training time: every run."""
    seconds = [run.result["train_seconds"] for one in series for run in one.group.runs]
    if not seconds:
        return None
    unit, size = next(
        (u, s) for u, s in (("hours", 3600), ("minutes", 60), ("seconds", 1)) if max(seconds) >= 2 * s or s == 1
    )
    figure = Figure(figsize=(4.9, 2.8), layout="constrained")
    ax = figure.add_subplot()
    for one in series:
        points = np.array([(run.result["train_seconds"] / size, run.top1) for run in one.group.runs])
        ax.plot(*points.T, one.marker, color=one.colour, markersize=4.5, alpha=0.8, markeredgewidth=0)
        if len(points) > 1:
            ax.plot(*points.mean(0), "+", color=one.colour, markersize=13, markeredgewidth=1.6)
    ax.set(xlabel=f"training time of one run ({unit})", ylabel="test top-1 (%)")
    ax.set_xlim(left=0)
    _legend(figure, series, lines=False)
    devices = sorted({str(run.config.get("device")) for one in series for run in one.group.runs})
    caption = (
        f"One point for each run (n = {len(seconds)}), a cross for each group's mean. Training without validation and "
        f"test, on {listed(devices)}; descriptors that are computed once are not in it. The scale of accuracy does not "
        "begin at 0."
    )
    means = "; ".join(
        f"{one.label} {np.mean([r.result['train_seconds'] for r in one.group.runs]) / size:.2g} {unit}"
        for one in series
    )
    return finish(figure, "time", "Accuracy against training time", caption, f"Mean training time: {means}")
