"""Drawings and plots of an audit, as SVG files."""

import functools
from pathlib import Path

import matplotlib
import numpy as np
import pennylane as qml
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from qcifar.files import write_whole

from .gates import Circuit
from .measures import BINS, log_haar
from .parts import example, qnode_of

DRAWN_GATES = 300  # more are not readable as a drawing
COLOUR, GREY = "#1b6ca8", "#999999"


def text_drawing(circuit: Circuit) -> str:
    """The circuit in characters, without the values of its angles."""
    return qml.draw(qnode_of(circuit), level="device", decimals=None, show_matrices=False)(*example(circuit))


def write_plots(folder: Path, circuit: Circuit, found: dict) -> list[Path]:
    """circuit.svg, cones.svg, fidelities.svg, gradients.svg: those of which the audit has the numbers."""
    figures = {}
    if found["specs"]["gates"] <= DRAWN_GATES:
        figures["circuit"] = circuit_figure(circuit)
    if found["effect"]:
        figures["cones"] = cones_figure(found)
    if found.get("states"):
        figures["fidelities"] = fidelities_figure(found)
    if found.get("gradients") and found["gradients"]["qubits"]:
        figures["gradients"] = gradients_figure(found)
    paths = []
    with matplotlib.rc_context({"svg.hashsalt": "audit", "svg.fonttype": "none"}):  # the same bytes each time
        for name, figure in figures.items():
            paths.append(folder / f"{name}.svg")
            write_whole(paths[-1], functools.partial(_save, figure))
    return paths


def _save(figure: Figure, file) -> None:
    figure.savefig(file, format="svg", metadata={"Date": None})  # margins by hand: "tight" would draw everything twice


def circuit_figure(circuit: Circuit) -> Figure:
    """`qml.draw_mpl`, which makes its figure with pyplot; it is closed there, and kept by the caller."""
    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot  # here, since it chooses a backend when it is imported

    figure, _ = qml.draw_mpl(qnode_of(circuit), level="device", decimals=None, style="black_white")(*example(circuit))
    pyplot.close(figure)
    return figure


def cones_figure(found: dict) -> Figure:
    """Which output depends on which input and on which weight."""
    effect = found["effect"]
    parts = {"input": np.array(effect["inputs_of_output"])}
    if effect["weights"]:
        parts["weight"] = np.array(effect["weights_of_output"])
    widths = [max(2, part.shape[1]) for part in parts.values()]
    width = max(1.5 + 0.25 * sum(widths), 1 + 0.07 * len(found["name"]), 3)  # inches; the title fits, too
    figure = Figure(figsize=(width, 2.2))
    figure.subplots_adjust(left=0.7 / width, right=1 - 0.2 / width, bottom=0.22, top=0.82)
    all_axes = figure.subplots(1, len(parts), squeeze=False, width_ratios=widths)[0]
    for axes, (name, part) in zip(all_axes, parts.items(), strict=True):
        axes.imshow(part, cmap="Blues", vmin=0, vmax=1.3, aspect="auto", interpolation="nearest")
        axes.set(xlabel=name, yticks=range(len(part)))
        axes.xaxis.get_major_locator().set_params(integer=True)
    all_axes[0].set_ylabel("output")
    figure.suptitle(f"{found['name']}\nwhat an output depends on", fontsize=8)
    return figure


def fidelities_figure(found: dict) -> Figure:
    """Shares of fidelities of random pairs of states, and those of Haar-random states."""
    expressed = found["states"]["expressibility"]
    centres = (np.arange(BINS) + 0.5) / BINS
    figure = Figure(figsize=(5, 3))
    figure.subplots_adjust(left=0.14, right=0.97, bottom=0.17, top=0.9)
    axes = figure.subplots()
    axes.bar(centres, expressed["histogram"], width=1 / BINS, color=COLOUR, label=found["name"])
    axes.plot(centres, np.exp(log_haar(2 ** found["specs"]["qubits"])), color="black", lw=1, label="Haar")
    axes.set(xlabel="fidelity of two random states", ylabel=f"share of {expressed['pairs']} pairs")
    axes.set_title(f"expressibility: KL {expressed['kl']:.4f}", fontsize=9)
    axes.legend(frameon=False)
    return figure


def gradients_figure(found: dict) -> Figure:
    """Variance of the first output's derivatives against qubits, with the fit, and against layers."""
    gradients = found["gradients"]
    figure = Figure(figsize=(7, 3))
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.17, top=0.9, wspace=0.08)
    for axes, key in zip(figure.subplots(1, 2, sharey=True), ("qubits", "layers"), strict=True):
        sizes = np.array(list(gradients[key]), dtype=float)
        variances = np.array(list(gradients[key].values()))
        axes.semilogy(sizes, variances, "o", color=COLOUR)
        axes.set(xlabel=key)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        if key == "qubits" and gradients["exponent"] is not None:
            middle = np.log2(variances[variances > 0]).mean() + gradients["exponent"] * sizes[variances > 0].mean()
            fit = 2 ** (middle - gradients["exponent"] * sizes)
            axes.semilogy(sizes, fit, color=GREY, label=f"$2^{{{-gradients['exponent']:.2f}\\,N}}$")
            axes.legend(frameon=False)
    figure.axes[0].set_ylabel(f"variance by {gradients['by']}")
    figure.suptitle(found["name"], fontsize=9)
    return figure
