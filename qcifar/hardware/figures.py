"""Accuracy against shots and against the strength of noise, as SVG and PDF in the run's folder."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from qcifar.files import write_whole
from qcifar.hardware.screen import name_of

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b3578f", "#c98a00", "#3f9fd6")
HOW = {"readout": ":", "rescaled": "--", "zero noise": "-."}  # dashes of mitigated numbers


def draw(content: dict, folder: Path) -> None:
    """Write accuracy.svg and accuracy.pdf: what results.json says of the largest number of images in it."""
    entries = content["entries"]
    images = max(entry["images"] for entry in entries)
    entries = [entry for entry in entries if entry["images"] == images]
    counted = [entry for entry in entries if entry["shots"]]
    sweeps = list(dict.fromkeys(entry["sweep"] for entry in entries if entry["sweep"]))
    panels = [*(["shots"] if counted else []), *sweeps]
    exact = [entry for entry in entries if not entry["shots"] and entry["mode"] != "noise"]
    if not panels:
        panels = ["settings"]
    figure = Figure(figsize=(1 + 3.6 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        _lines(ax, exact)
        if panel == "shots":
            _shots(ax, counted)
        elif panel in sweeps:
            _sweep(ax, sorted((e for e in entries if e["sweep"] == panel), key=lambda e: e["strength"]), panel)
        ax.grid(color="#d5d9e0", linewidth=0.6)
        ax.legend(fontsize=7, frameon=False)
    axes[0].set_ylabel("test top-1 (%)")
    name = f"{content['experiment']} {content['variant']}, seed {content['seed']}, n = {images:,} test images"
    synthetic = "SYNTHETIC DATA: " if content["dataset"] == "synthetic" else ""
    figure.suptitle(synthetic + name, fontsize=9)
    for form in ("svg", "pdf"):
        file = io.BytesIO()
        figure.savefig(file, format=form, metadata={"Date" if form == "svg" else "CreationDate": None})
        write_whole(folder / f"accuracy.{form}", lambda out, file=file: out.write(file.getvalue()))


def _lines(ax, entries: list[dict]) -> None:
    """Exact settings as lines across, the ideal one with its interval."""
    for k, entry in enumerate(entries):
        ideal = entry["mode"] == "ideal"
        ax.axhline(100 * entry["scores"]["top1"], color="#15181c" if ideal else COLOURS[-1 - k % len(COLOURS)],
                   linewidth=1, label="ideal" if ideal else f"{name_of(entry)}, exact")  # fmt: skip
        if ideal:
            ax.axhspan(*(100 * end for end in entry["scores"]["interval"]), color="#d5d9e0", alpha=0.4, linewidth=0)
            base = entry["scores"]["against_baseline"]
            if base:
                at = 100 * entry["scores"]["top1"] - base["difference"]
                ax.axhline(at, color="#667080", linewidth=1, linestyle=":", label="baseline")


def _shots(ax, entries: list[dict]) -> None:
    names = list(dict.fromkeys(name_of(entry) for entry in entries))
    for k, name in enumerate(names):
        rows = sorted((entry for entry in entries if name_of(entry) == name), key=lambda entry: entry["shots"])
        errors = [196 * (entry["scores"]["standard_error"] or 0) for entry in rows]
        ax.errorbar([entry["shots"] for entry in rows], [100 * entry["scores"]["top1"] for entry in rows], errors,
                    fmt="o-", markersize=4, capsize=2, color=COLOURS[k % len(COLOURS)], label=name)  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlabel("shots an image (bars: 95 % over repeats)")


def _sweep(ax, rows: list[dict], sweep: str) -> None:
    strengths = [entry["strength"] for entry in rows]
    for how in ["", *dict.fromkeys(name for entry in rows for name in entry["mitigated"])]:
        known = [entry for entry in rows if not how or how in entry["mitigated"]]
        scores = [entry["mitigated"][how] if how else entry["scores"] for entry in known]
        ax.plot([entry["strength"] for entry in known], [100 * one["top1"] for one in scores],
                HOW.get(how, "-"), marker="o", markersize=3.5, color=COLOURS[0 if not how else 1 + list(HOW).index(how)
                if how in HOW else 4], label=f"mitigated: {how}" if how else "noisy")  # fmt: skip
        if not how:
            ends = [[100 * one["interval"][end] for one in scores] for end in (0, 1)]
            ax.fill_between(strengths, *ends, color=COLOURS[0], alpha=0.12, linewidth=0)
    if min(strengths) > 0 and len(strengths) > 1:
        ax.set_xscale("log")
    ax.set_xlabel(f"strength of {sweep}", fontsize=8)
