"""What the flags of `evaluate_hardware.py` may say, and how it is read."""

import math

from qcifar.config import NOISE
from qcifar.errors import InputError

STEPS = 5  # strengths of a..b
EXPECTED = (
    "expected channel=strength, of depolarizing, two_qubit_depolarizing, amplitude_damping, phase_damping, readout; a "
    "strength is a number, a list 0.001/0.01/0.1, or a range 0.001..0.1 of 5 strengths (0.001..0.1:9 of 9) that rise "
    "by equal factors; a comma begins another sweep, + joins channels that act together"
)


def whole_numbers(name: str, text: str, low: int = 0) -> list[int]:
    """`100,1000` as numbers of at least `low`, each once."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < low or max(numbers) > 10**9 or len(set(numbers)) < len(numbers):
        flag = "--" + name.lower().replace("_", "-")
        raise InputError(
            f"{name} ({flag}): expected different whole numbers from {low} on, such as 100,1000, got {text!r}"
        )
    return numbers


def names(text: str) -> list[str]:
    """`FakeTorino,FakeManilaV2` as a list."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def sweeps(text: str) -> dict[str, list[dict[str, float]]]:
    """`depolarizing=0.001..0.1,readout=0.01/0.02+amplitude_damping=0.01` as {sweep: [{channel: strength}, ...]}.

    Raises:
        InputError: an unknown channel, a strength out of range, or sweeps of several lengths that are joined by +.
    """
    found = {}
    for part in text.split(","):
        if not part.strip():
            continue
        lists = {}
        for one in part.split("+"):
            channel, equals, strengths = one.strip().partition("=")
            if channel not in NOISE or not equals or channel in lists:
                _refuse(f"{one.strip()!r} in {text!r}")
            lists[channel] = _strengths(channel, strengths)
        length = max(map(len, lists.values()))
        if any(len(values) not in (1, length) for values in lists.values()):
            _refuse(f"strengths of several numbers in {part.strip()!r}")
        columns = {channel: values * length if len(values) == 1 else values for channel, values in lists.items()}
        found[part.strip()] = [
            dict(zip(columns, row, strict=True)) for row in sorted(zip(*columns.values(), strict=True))
        ]
    if not found:
        _refuse(repr(text))
    return found


def _strengths(channel: str, text: str) -> list[float]:
    try:
        if ".." in text:
            ends, _, steps = text.partition(":")
            low, high = (float(end) for end in ends.split(".."))
            count = int(steps) if steps else STEPS
            if 0 < high < low:
                turned = f"{channel}={high:g}..{low:g}{':' + steps if steps else ''}"
                raise InputError(f"NOISE (--noise): {channel}={text} does not rise; expected {turned}")
            if not (0 < low < high < math.inf and 2 <= count <= 1000):
                raise ValueError
            values = [low * (high / low) ** (k / (count - 1)) for k in range(count)]
        else:
            values = [float(one) for one in text.split("/")]
    except ValueError:
        _refuse(f"{channel}={text}")
    if not all(0 <= value <= NOISE[channel] + 1e-12 for value in values):
        why = ", where an outcome says nothing of its qubit" if channel == "readout" else ""
        _refuse(f"{channel}={text}, which goes from 0 to {NOISE[channel]:g}{why}")
    return [float(f"{value:.6g}") for value in values]


def _refuse(got: str):
    raise InputError(f"NOISE (--noise): {EXPECTED}; got {got}")
