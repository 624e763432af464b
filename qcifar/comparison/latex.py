"""The main table for a paper: booktabs, plain LaTeX."""

from qcifar.comparison.series import Pair, marks_of, short_name
from qcifar.comparison.words import listed, seeds_in_short, span

ESCAPED = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "^": r"\textasciicircum{}",
    "_": r"\_", "~": r"\textasciitilde{}", "%": r"\%", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "−": "$-$", "–": "--", "±": r"$\pm$", "×": r"$\times$",
    "α": r"$\alpha$", "…": r"\ldots{}", "“": "``", "”": "''", "’": "'", "`": r"\textasciigrave{}",
}  # fmt: skip
HEAD = r"""% \usepackage{booktabs}
\begin{table}
\centering
\footnotesize
\setlength{\tabcolsep}{3pt}
\begin{tabular}{lrrrrll}
\toprule
 & $n$ & top-1 (\%) & difference & \multicolumn{1}{c}{95\,\%, seeds} & $p_\mathrm{Holm}$ & verdict \\
\midrule
"""


def escape(text: str) -> str:
    """`text` as LaTeX shows it; what the usual fonts lack becomes a question mark."""
    return "".join(ESCAPED.get(c, c if c.isprintable() and ord(c) < 0x180 else "?") for c in text)


def table(pairs: list[Pair], made: dict) -> str:
    """A table environment for \\input.

    Args:
        made: "time", "commit" and "hardware" of summary.json.
    """
    rows = [f"{escape(name)} & {n} & {mean:.2f} & & & & \\\\\n" for (name, n), mean in _baselines(pairs).items()]
    rows += [_row(pair.entry) for pair in pairs]
    return (
        f"{HEAD}{''.join(rows)}\\bottomrule\n\\end{{tabular}}\n\\caption{{{_caption(pairs, made)}}}\n\\end{{table}}\n"
    )


def _baselines(pairs: list[Pair]) -> dict[tuple[str, int], float]:
    """Name and number of seeds of each baseline -> its mean; recipe and seeds are named where there are several."""
    entries = [pair.entry for pair in pairs]
    several = len({entry["recipe"] for entry in entries}) > 1
    sets = len({tuple(entry["seeds"]) for entry in entries}) > 1
    found = {}
    for entry in entries:
        mark = " (SYNTHETIC)" if entry["dataset"] == "synthetic" else ""
        mark += " (branch off)" if entry["branch_off_seeds_baseline"] else ""
        mark += f" (seeds {seeds_in_short(entry['seeds'])})" if sets else ""
        name = short_name(entry["baseline"], f"({entry['recipe']})" if several else "") + mark
        found.setdefault((name, entry["n_seeds"]), entry["mean_baseline"])
    return found


def _row(entry: dict) -> str:
    marks = marks_of(entry)
    name = short_name(entry["experiment"], entry["variant"]) + (f" ({', '.join(marks)})" if marks else "")
    cells = [
        escape(name), str(entry["n_seeds"]), f"{entry['mean']:.2f}", f"${entry['difference']:+.2f}$",
        _interval(entry["interval_seeds"]), _p(entry["p_holm"]), escape(entry["verdict"]),
    ]  # fmt: skip
    return " & ".join(cells) + " \\\\\n"


def _interval(bounds: list | None) -> str:
    return "--" if bounds is None else f"$[{bounds[0]:+.2f}, {bounds[1]:+.2f}]$"


def _p(p: float | None) -> str:
    return "--" if p is None else "$<0.001$" if p < 0.001 else f"{p:.3f}"


def _caption(pairs: list[Pair], made: dict) -> str:
    if not pairs:
        return escape(f"No comparison. Made {made['time']}, commit {made['commit']}.")
    entries = [pair.entry for pair in pairs]
    margins = listed(sorted({f"{entry['margin']:g}" for entry in entries}))
    return escape(
        f"Test top-1 on {span([entry['test_images'] for entry in entries])} images of "
        f"{listed(sorted({entry['dataset'] for entry in entries}))}, means over "
        f"{span([entry['n_seeds'] for entry in entries])} "
        f"paired seeds; differences to the baseline in percentage points with 95 % Student t intervals over seeds; "
        f"p of the paired t test, Holm-corrected; margin of equivalence ±{margins} points. "
        f"{listed(made['hardware'])}; commit {made['commit']}, {made['time']}."
    )
