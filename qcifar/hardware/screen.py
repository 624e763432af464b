"""What `evaluate_hardware.py` prints: a line as each setting is found, and a table of all."""

HEAD = (
    "setting",
    "shots",
    "images",
    "top-1 [95 %]",
    "± repeats",
    "against ideal",
    "fixed",
    "broken",
    "rms ⟨Z⟩",
    "rms αq",
    "rms αq, ideal",
)
MODES = {"ideal": "", "shots": "", "noise": "", "fake": "fake chip ", "device": "device ", "backend": "backend "}


def line_of(entry: dict) -> str:
    """One setting in one line."""
    scores = entry["scores"]
    against = scores["against_ideal"]
    shots = f"{entry['shots']:,} shots" if entry["shots"] else "exact"
    line = (
        f"{name_of(entry)}, {shots}: top-1 {100 * scores['top1']:.2f} "
        f"[{100 * scores['interval'][0]:.2f}, {100 * scores['interval'][1]:.2f}] %"
    )
    if entry["mode"] != "ideal":  # which is not compared with itself
        line += (
            f", against ideal {against['difference']:+.2f} points, {against['fixed']} fixed, {against['broken']} broken"
        )
    mitigated = [f"{how} {100 * one['top1']:.2f}" for how, one in entry["mitigated"].items()]
    line += f"; mitigated: {', '.join(mitigated)}" if mitigated else ""
    checks = [(part["circuit"], part["aer"]) for part in entry.get("details") or [] if "aer" in part]
    return line + "".join(
        f"\n  Aer samples {name} alike: chi-square {aer['chi_square']:.0f} on {aer['degrees_of_freedom']} degrees of "
        f"freedom, p {aer['p']:.2g}"
        for name, aer in checks
    )


def name_of(entry: dict) -> str:
    return MODES[entry["mode"]] + entry["setting"]


def table(entries: list[dict]) -> str:
    """All settings; a mitigated number has a line of its own below the one that it corrects."""
    rows = [HEAD]
    for entry in entries:
        rows.append(_row(name_of(entry), entry, entry["scores"]))
        rows += [_row(f"  {how}", entry, scores) for how, scores in entry["mitigated"].items()]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEAD))]
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *right]))
    return "\n".join(lines)


def _row(name: str, entry: dict, scores: dict) -> tuple[str, ...]:
    low, high = scores["interval"]
    against, error = scores["against_ideal"], scores["standard_error"]
    changes = ["–"] * 4
    if entry["mode"] != "ideal":  # which is not compared with itself
        changes = [
            f"{against['difference']:+.2f} [{against['interval'][0]:+.2f}, {against['interval'][1]:+.2f}]",
            f"{against['fixed']:g}", f"{against['broken']:g}", f"{scores['rms_values']:.2g}",
        ]  # fmt: skip
    size = scores["rms_logits_ideal"]
    return (
        name, f"{entry['shots']:,}" if entry["shots"] else "exact", f"{entry['images']:,}",
        f"{100 * scores['top1']:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
        "" if error is None else f"{100 * error:.3f}", *changes,
        "" if scores["rms_logits"] is None or entry["mode"] == "ideal" else f"{scores['rms_logits']:.2g}",
        "" if size is None else f"{size:.2g}",
    )  # fmt: skip
