"""Figures of what was tested. Each function takes what `series.py` made and returns a `Drawn`, or None without data."""

import textwrap

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from qcifar.comparison.figures import WIDTH, Drawn, finish, first_panels, name_axes, panels
from qcifar.comparison.series import GRID, INK, MUTED, Pair, key_of, seeds_of
from qcifar.comparison.words import interval, listed, signed
from qcifar.errors import count

SEEDS_NAMED = 12  # in a panel, while there is room
FOREST_CHARACTERS = 66  # of a line of text across the forest plot
LINE = 0.36  # height of one more line of a label there, in rows


def forest(pairs: list[Pair]) -> Drawn | None:
    """Differences with both intervals, against the margin; planted effects below, on a scale of their own."""
    pairs = [pair for pair in pairs if pair.entry["difference"] is not None]
    if not pairs:
        return None
    blocks = [block for planted in (False, True) if (block := [p for p in pairs if p.entry["planted"] == planted])]
    labels = [[textwrap.fill(pair.label, FOREST_CHARACTERS) for pair in block] for block in blocks]
    heights = [sum(1 + LINE * label.count("\n") for label in some) + 1.2 for some in labels]  # of a row without breaks
    figure = Figure(figsize=(4.9, 0.5 + 0.52 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(blocks), height_ratios=heights, squeeze=False).ravel()
    for ax, block, some in zip(axes, blocks, labels, strict=True):
        _forest_block(ax, block, some)
    axes[-1].set_xlabel("difference in test top-1 (percentage points)")
    lines = [
        Line2D([], [], color=MUTED, linewidth=4.5, label="95 %, other seeds"),
        Line2D([], [], color=MUTED, linewidth=1.2, label="95 %, other seeds and images"),
        axes[0].axvspan(0, 0, color=GRID, label="margin"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=3, handlelength=1.4, columnspacing=1)
    margins = {pair.entry["margin"] for pair in pairs}
    own_scale = " Planted effects stand below, on a scale of their own." if len(blocks) > 1 else ""
    caption = (
        "Each dot is a mean difference to the baseline, or to the twin that is named. "
        f"{seeds_of(pairs)} Thick: 95 % Student t interval "
        "over seeds (other seeds, these test images). Thin: 95 % with seeds and images crossed (other seeds, other "
        "images of the kind). A dot without a line has one seed. Grey: the margin, "
        f"±{listed(sorted(margins))} points, inside which runs count as equal.{own_scale}"
    )
    alt = "Differences to the baseline: " + "; ".join(
        f"{pair.label} {signed(pair.entry['difference'])} {interval(pair.entry['interval_seeds'])}" for pair in pairs
    )
    return finish(figure, "forest", "Differences to the baseline", caption, alt)


def _forest_block(axes, pairs: list[Pair], labels: list[str]) -> None:
    """Comparisons that share a scale, from top to bottom, symmetric about 0."""
    row = -1.0
    for pair, label in zip(pairs, labels, strict=True):
        row += 1 + LINE * label.count("\n")
        _forest_row(axes, row, pair, label)
    axes.axvline(0, color=INK, linewidth=0.9)
    reach = max(_reach(pair.entry) for pair in pairs) * 1.06
    axes.set(xlim=(-reach, reach), ylim=(row + 0.5, -0.7), yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y", visible=False)


def _forest_row(axes, row: float, pair: Pair, label: str) -> None:
    entry, colour = pair.entry, pair.series.colour if pair.series else INK
    axes.fill_betweenx([row - 0.5, row + 0.5], -entry["margin"], entry["margin"], color=GRID, alpha=0.55, linewidth=0)
    for bounds, width in ((entry["interval_seeds_images"], 1.2), (entry["interval_seeds"], 4.5)):
        if bounds:
            axes.plot(bounds, [row, row], color=colour, linewidth=width, solid_capstyle="butt")
    marker = pair.series.marker if pair.series else "o"
    axes.plot([entry["difference"]], [row], marker, color=colour, markersize=7, markeredgecolor="white")
    told = f"{signed(entry['difference'])} {interval(entry['interval_seeds'])}".replace(" –", "")
    # not in the layout, which would make the axes narrower for a long text
    beside = {"transform": axes.get_yaxis_transform(), "fontsize": 8.5, "in_layout": False}
    axes.text(0, row - 0.2, label, va="bottom", **beside)
    last = len(label.rpartition("\n")[2])
    place = {"y": row - 0.2, "va": "bottom"} if last + len(told) < FOREST_CHARACTERS else {"y": row + 0.1, "va": "top"}
    axes.text(1, s=told, ha="right", **place, **beside)


def _reach(entry: dict) -> float:
    """How far a row goes from 0."""
    values = [
        entry["difference"],
        entry["margin"],
        *(entry["interval_seeds"] or []),
        *(entry["interval_seeds_images"] or []),
    ]
    return max(abs(value) for value in values)


def slopes(pairs: list[Pair]) -> Drawn | None:
    """Test top-1 of every seed, in the baseline and in the experiment."""
    pairs, cut = first_panels([pair for pair in pairs if pair.runs])
    if not pairs:
        return None
    figure, axes = panels([pair.label for pair in pairs], 2.0, share_y=False)
    for pair, ax in zip(pairs, axes, strict=True):
        ends = np.array([[theirs.top1, mine.top1] for mine, theirs in pair.runs])  # (S, 2)
        lines = [[(0, low), (1, high)] for low, high in ends]
        ax.add_collection(LineCollection(lines, colors=pair.series.colour, linewidths=1.1, linestyles=pair.series.dash))
        ax.plot(np.zeros(len(ends)), ends[:, 0], "o", color=MUTED, markersize=4)
        ax.plot(np.ones(len(ends)), ends[:, 1], pair.series.marker, color=pair.series.colour, markersize=4)
        if len(ends) > 1:
            ax.plot([0, 1], ends.mean(0), color=INK, linewidth=2.4, alpha=0.75)
        if len(ends) <= SEEDS_NAMED:
            _name_seeds(ax, ends[:, 1], [mine.seed for mine, _ in pair.runs])
        low, high = ends.min(), ends.max()
        room = max(0.1 * (high - low), 0.1)
        ax.set(
            xlim=(-0.15, 1.42), ylim=(low - room, high + room), xticks=[0, 1], xticklabels=["baseline", "experiment"]
        )
        ax.grid(axis="x", visible=False)
        ax.yaxis.set_major_locator(MaxNLocator(5))
    name_axes(figure, "", "test top-1 (%)")
    caption = (
        "One thin line for each paired seed, its number at the right end; the thick line joins the means. "
        f"{seeds_of(pairs)} Each panel has its own scale.{cut}"
    )
    alt = "; ".join(
        f"{pair.label}: higher in {sum(m.top1 > b.top1 for m, b in pair.runs)} of {count(len(pair.runs), 'seed')}"
        for pair in pairs
    )
    return finish(figure, "slopes", "Every seed", caption, alt)


def _name_seeds(ax, heights: np.ndarray, seeds: list[int]) -> None:
    """Numbers of the seeds beside their points, moved apart where they would overlap."""
    order = np.argsort(heights)
    low, high = heights.min(), heights.max()
    step = max(high - low, 0.1) / 9
    places = heights[order].astype(float)
    for k in range(1, len(places)):
        places[k] = max(places[k], places[k - 1] + step)
    places -= (places - heights[order]).mean()
    for place, k in zip(places, order, strict=True):
        ax.annotate(
            f"{seeds[k]}", (1, heights[k]), (1.16, place), fontsize=7, va="center", color=MUTED,
            arrowprops={"arrowstyle": "-", "color": GRID, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip


def superclasses(pairs: list[Pair], classes: list[dict], members: dict[str, list[str]]) -> Drawn | None:
    """Differences of the superclasses with intervals, their classes as small dots.

    Args:
        classes: of summary.json.
        members: superclass -> its classes.
    """
    pairs = [pair for pair in pairs if pair.entry["dataset"] == "cifar100" and _rows_of(pair, classes, "superclass")]
    pairs, cut = first_panels(pairs)
    if not pairs:
        return None
    names = list(members)
    figure, axes = panels([pair.label for pair in pairs], 3.2, left=1.75)
    for pair, ax in zip(pairs, axes, strict=True):
        _superclass_panel(ax, pair, classes, members)
        ax.set(ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)))
        ax.set_yticklabels([name.replace("_", " ") for name in names])
        ax.tick_params(axis="y", labelsize=6.5, length=0)
    name_axes(figure, "difference in accuracy (percentage points)", "")
    tested = [row["p_holm"] for row in classes if row["kind"] == "superclass"]
    found, tested = sum(p is not None and p < 0.05 for p in tested), len(tested)
    caption = (
        "Dots: superclasses, with 95 % intervals over seeds. Ticks: their five classes. The intervals are not "
        f"corrected for their number; after Holm, p < 0.05 for {found} of {tested} superclasses. {seeds_of(pairs)}{cut}"
    )
    return finish(figure, "superclasses", "Differences by superclass", caption, caption)


def _superclass_panel(ax, pair: Pair, classes: list[dict], members: dict[str, list[str]]) -> None:
    supers, single = (_rows_of(pair, classes, kind) for kind in ("superclass", "class"))
    colour = pair.series.colour if pair.series else INK
    ticks = [(single[c]["difference"], row) for row, name in enumerate(members) for c in members[name] if c in single]
    known = [(supers[name], row) for row, name in enumerate(members) if name in supers]
    intervals = [[(end, row) for end in found["interval_seeds"]] for found, row in known if found["interval_seeds"]]
    ax.plot(*np.reshape(ticks, (-1, 2)).T, "|", color=MUTED, markersize=5, alpha=0.7)
    ax.add_collection(LineCollection(intervals, colors=colour, linewidths=1.6))
    ax.plot([found["difference"] for found, _ in known], [row for _, row in known], "o", color=colour, markersize=4)
    ax.axvline(0, color=INK, linewidth=0.9)


def _rows_of(pair: Pair, classes: list[dict], kind: str) -> dict[str, dict]:
    """name -> row of one comparison."""
    key = key_of(pair.entry)
    return {
        row["name"]: row
        for row in classes
        if row["kind"] == kind and key_of(row) == key and row["difference"] is not None
    }


def confusion_map(share: np.ndarray, names: list[str], label: str, runs: int, images: int) -> Drawn:
    """(20, 20) percent of the images of each true superclass (rows) that are taken for each (columns)."""
    figure = Figure(figsize=(WIDTH * 1.15, 5.9), layout="constrained")
    ax = figure.add_subplot()
    wrong = share.copy()
    np.fill_diagonal(wrong, np.nan)
    top = max(float(np.nanmax(wrong)), 1e-9)
    image = ax.pcolormesh(wrong, cmap="YlOrBr", vmin=0, vmax=top, edgecolors="white", linewidth=0.4)
    for row, column in zip(*np.nonzero(share >= 0.95), strict=True):
        bold = row == column
        dark = not bold and share[row, column] > 0.62 * top
        ax.text(column + 0.5, row + 0.5, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=6.5,
                color="white" if dark else INK, fontweight="bold" if bold else "normal")  # fmt: skip
    nice = [name.replace("_", " ") for name in names]
    middle = np.arange(len(names)) + 0.5
    ax.set(xticks=middle, yticks=middle, yticklabels=nice, ylabel="true superclass", xlabel="predicted superclass")
    ax.set_xticklabels(nice, rotation=60, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0, labelsize=6.5)
    ax.grid(visible=False)
    ax.invert_yaxis()
    figure.colorbar(image, ax=ax, shrink=0.6, label="wrong (% of the true superclass)")
    caption = (
        f"{label}, mean of {count(runs, 'run')}, {images:,} test images: percent of the images of each true "
        "superclass. Bold, on the diagonal: right superclass, though not always the right class. Shares below 1 "
        "% have no number."
    )
    worst = [divmod(int(k), len(names)) for k in np.argsort(np.nan_to_num(wrong), axis=None)[::-1][:5]]
    alt = "Largest confusions of superclasses: " + "; ".join(
        f"{nice[r]} taken for {nice[c]} {share[r, c]:.1f} %" for r, c in worst
    )
    return finish(figure, "confusion", "Confusion of the 20 superclasses", caption, alt, paper=True)
