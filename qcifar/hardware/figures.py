"""What shots and noise do to the accuracy, as SVG and PDF in the run's folder.

Drawn is the paired difference from the ideal circuits: the interval of an accuracy on other images is ten times as
wide, and says nothing about what the same images show.
"""

import io
from pathlib import Path

from matplotlib.figure import Figure

from qcifar.files import write_whole
from qcifar.hardware.screen import name_of

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b3578f", "#c98a00", "#3f9fd6")
HOW = {"rescaled": ("--", "#009e73"), "readout": (":", "#d55e00"), "zero noise": ("-.", "#b3578f")}


def draw(content: dict, folder: Path) -> None:
    """Write accuracy.svg and accuracy.pdf: what results.json says of the largest number of images in it."""
    entries = content["entries"]
    images = max(entry["images"] for entry in entries)
    entries = [entry for entry in entries if entry["images"] == images]
    ideal = next((entry["scores"] for entry in entries if entry["mode"] == "ideal"), None)
    sweeps = list(dict.fromkeys(entry["sweep"] for entry in entries if entry["sweep"]))
    others = [entry for entry in entries if entry["mode"] not in ("ideal", "noise")]
    panels = [*(["shots"] if others or not sweeps else []), *sweeps]
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1 + 3.6 * columns, 0.6 + 2.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        ax.axhline(0, color="#15181c", linewidth=1, label="ideal circuits")
        if ideal and ideal["against_baseline"]:
            at = -ideal["against_baseline"]["difference"]
            ax.axhline(at, color="#667080", linewidth=1, linestyle=":", label="the baseline's run")
        if panel == "shots":
            _shots(ax, others)
        else:
            _sweep(ax, sorted((e for e in entries if e["sweep"] == panel), key=lambda e: e["strength"]), panel)
        ax.grid(color="#d5d9e0", linewidth=0.6)
        ax.legend(fontsize=6.5, frameon=False, ncols=2, loc="best")
    for ax in axes[len(panels) :]:
        ax.remove()
    figure.supylabel("top-1 minus that of the ideal circuits (points)", fontsize=9)
    name = f"{content['experiment']} {content['variant']}, seed {content['seed']}, n = {images:,} test images"
    name += f", ideal circuits {100 * ideal['top1']:.2f} %" if ideal else ""
    figure.suptitle(("SYNTHETIC DATA: " if content["dataset"] == "synthetic" else "") + name, fontsize=9)
    for form in ("svg", "pdf"):
        file = io.BytesIO()
        figure.savefig(file, format=form, metadata={"Date" if form == "svg" else "CreationDate": None})
        write_whole(folder / f"accuracy.{form}", lambda out, file=file: out.write(file.getvalue()))


def _points(rows: list[dict], how: str = "") -> tuple[list[float], list[list[float]]]:
    """Differences, and the ends of their intervals, in points."""
    found = [(entry["mitigated"][how] if how else entry["scores"])["against_ideal"] for entry in rows]
    return [one["difference"] for one in found], [[one["interval"][end] for one in found] for end in (0, 1)]


def _shots(ax, entries: list[dict]) -> None:
    for k, name in enumerate(dict.fromkeys(map(name_of, entries))):
        rows = sorted((e for e in entries if name_of(e) == name and e["shots"]), key=lambda e: e["shots"])
        exact = [entry for entry in entries if name_of(entry) == name and not entry["shots"]]
        colour = COLOURS[k % len(COLOURS)]
        if rows:
            middle, ends = _points(rows)
            shots = [entry["shots"] * 1.06**k for entry in rows]  # beside each other
            ax.plot(shots, middle, "o-", markersize=4, color=colour, label=name)
            ax.vlines(shots, *ends, color=colour, linewidth=1)
        for entry in exact:
            ax.axhline(_points([entry])[0][0], color=colour, linewidth=0.8, linestyle="--", label=f"{name}, exact")
    ax.set_xscale("log")
    ax.set_xlabel("shots an image (lines: 95 %, other images)", fontsize=8)


def _sweep(ax, rows: list[dict], sweep: str) -> None:
    for how in ["", *dict.fromkeys(name for entry in rows for name in entry["mitigated"])]:
        known = [entry for entry in rows if not how or how in entry["mitigated"]]
        dash, colour = HOW.get(how, ("-", COLOURS[0]))
        middle, ends = _points(known, how)
        strengths = [entry["strength"] for entry in known]
        label = f"mitigated: {how}" if how else "noisy, 95 % other images"
        ax.plot(strengths, middle, dash, marker="o", markersize=3.5, color=colour, label=label)
        if not how:
            ax.fill_between(strengths, *ends, color=colour, alpha=0.12, linewidth=0)
    if min(entry["strength"] for entry in rows) > 0 and len(rows) > 1:
        ax.set_xscale("log")
    ax.set_xlabel(f"strength: {sweep}", fontsize=8)
