"""A drawn figure as SVG and PDF: the same bytes each time, and inlined so that it follows light and dark."""

import contextlib
import io
import re
import textwrap
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from qcifar.comparison.series import COLOURS, GRID, INK, MUTED

# Names of the page's colours; each is defined for light and for dark in report.html.j2.
THEMED = {INK: "ink", MUTED: "muted", GRID: "grid"} | {colour: f"g{k}" for k, colour in enumerate(COLOURS)}
WIDTH = 5.6  # inches: two panels
CHARACTERS_PER_INCH = 13  # of a title
MOST_PANELS = 12  # more would be a wall; the numbers of all are in the tables
SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small, and can be searched
    "svg.hashsalt": "qcifar",  # or ids are drawn anew each time
    "pdf.fonttype": 42,  # journals refuse type 3
    "text.parse_math": False,  # a $ in a name is a $
    "axes.unicode_minus": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica", "sans-serif"],
    "font.size": 9, "axes.labelsize": 9, "axes.titlesize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": 8, "legend.frameon": False,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "axes.edgecolor": MUTED,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "lines.linewidth": 1.4, "path.simplify": True,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """One figure, ready for the page and for a paper."""

    name: str  # of its files
    title: str
    caption: str  # with n and units
    alt: str  # what it shows, for who cannot see it
    svg: str
    pdf: bytes
    paper: bool = False  # on white in dark mode, too: a map of colours, or drawn by somebody else

    @property
    def inline(self) -> Markup:
        """The SVG for a page that holds several: ids of its own, colours by name, a size that follows the page."""
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.name}-", self.svg[self.svg.index("<svg") :])
        for colour, name in THEMED.items():
            svg = svg.replace(colour, f"var(--{name}, {colour})")
        width, height = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', svg).groups()
        size = f'class="{"fixed" if self.paper else "themed"}" style="--w: {float(width) * 4 / 3:.0f}px"'
        label = f'{size} role="img" aria-label="{Markup.escape(self.alt)}"'
        return Markup(svg.replace(f'width="{width}pt" height="{height}pt"', label, 1))


@contextlib.contextmanager
def look():
    """The look of all figures, inside the block only."""
    with matplotlib.rc_context(SETTINGS):
        yield


def finish(figure: Figure, name: str, title: str, caption: str, alt: str, paper: bool = False) -> Drawn:
    """Both files of a figure; call it inside `look()`."""
    if figure.get_layout_engine():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # or it is laid out again for each file
    svg, pdf = io.BytesIO(), io.BytesIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # without them the same figure is the same file
    figure.savefig(svg, format="svg", metadata=none)
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    caption = caption.replace("n = ", "n\u00a0=\u00a0")  # stays on one line
    return Drawn(name, title, caption, alt, svg.getvalue().decode(), pdf.getvalue(), paper)


def panels(labels: list[str], height: float, share_y: bool = True, left: float = 0.62):
    """A figure and axes with these titles, two in a row, each `height` inches high; a place left over stays empty.

    The margins are given, not found: finding them for many panels takes longer than drawing.

    Args:
        left: inches for the labels of the y axis.
    """
    count, columns, rows = len(labels), min(2, len(labels)), -(-len(labels) // 2)
    width, gap = WIDTH if columns > 1 else WIDTH * 0.8, 0.15 if share_y else 0.55  # inches
    across = (width - left) / columns - gap
    titles = [textwrap.fill(label, int(across * CHARACTERS_PER_INCH)) for label in labels]
    above = 0.08 + 0.15 * max(title.count("\n") + 1 for title in titles)
    tall, bottom = rows * (height + above) + 0.5, 0.5
    figure = Figure(figsize=(width, tall))
    axes = figure.subplots(rows, columns, sharex=True, sharey=share_y, squeeze=False).ravel().tolist()
    figure.subplots_adjust(
        left=left / width, right=1 - 0.08 / width, bottom=bottom / tall, top=1 - above / tall,
        hspace=(above + 0.08) / (height - 0.08), wspace=gap / across,
    )  # fmt: skip
    for extra in axes[count:]:
        extra.remove()
    if count > 1:
        axes[count - 2].tick_params(labelbottom=True)
    for ax, title in zip(axes[:count], titles, strict=True):
        ax.set_title(title, loc="left", fontsize=8.5, pad=4)
    return figure, axes[:count]


def name_axes(figure: Figure, x: str, y: str) -> None:
    """One label for all panels below, and one beside them."""
    width, height = figure.get_size_inches()
    if x:
        figure.text(0.5, 0.06 / height, x, ha="center", va="bottom")
    if y:
        figure.text(0.02 / width, 0.5, y, rotation=90, ha="left", va="center")


def first_panels(things: list) -> tuple[list, str]:
    """The first that have room, and a sentence where that is not all."""
    cut = f" The first {MOST_PANELS} of {len(things)}; all are in the tables." if len(things) > MOST_PANELS else ""
    return things[:MOST_PANELS], cut
