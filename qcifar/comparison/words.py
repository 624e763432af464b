"""Numbers and lists as the page and the table of a paper write them, and sentences that several places say."""

# Of a run whose tested weights are those of the head's phase A. It is not simply the baseline.
IN_PHASE_A = "its weights are those of the baseline after that epoch, and the baseline may have chosen another one"


def signed(value: float | None, digits: int = 2) -> str:
    """With its sign and a true minus; a dash where there is none."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def interval(bounds: list | None, digits: int = 2) -> str:
    return "–" if bounds is None else f"[{signed(bounds[0], digits)}, {signed(bounds[1], digits)}]"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def p_value(p: float | None) -> str:
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def listed(things: list) -> str:
    """1, 2 and 3."""
    words = [str(thing) for thing in things]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def circuit_weights(result: dict) -> str:
    """How many weights learn in the circuit of a run; nothing where its experiment has no circuit."""
    if result["control"] not in (None, "quantum") and result["quantum_device"] is None:
        return "no circuit"  # the control put something else in its place, or nothing
    return {None: "", 0: "fixed"}.get(result["params_quantum"], f"{result['params_quantum']}")


def seeds_in_short(seeds: list[int]) -> str:
    """0-2, 5 for 0, 1, 2 and 5; in ASCII, for the screen and for LaTeX."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def span(values: list) -> str:
    """One number where all are equal, else the smallest and the largest."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
