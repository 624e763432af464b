"""What a sweep shows while its jobs run: one line that renews itself, lines above it for what has happened."""

import re
import shutil
import sys
import time
from pathlib import Path

# The bar of the training loop, as tqdm writes it: epoch 2/5:  40%|████      | 512/1280 [00:03<00:04, 170.21img/s, ...]
BAR = re.compile(r"epoch (\d+)/(\d+):[^\r\n]*?(\d+)/(\d+) \[[^\r\n]*?([\d.]+)(img/s|s/img)")
TAIL = 8192  # bytes of a log that are looked at
QUIET_SECONDS = 60  # between lines where there is no terminal


def tail(log: Path, start: int) -> str:
    """The last `TAIL` bytes of a log, none from before byte `start`."""
    with log.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(start, end - TAIL))
        return file.read().decode(errors="replace")


def training(log: Path, start: int) -> tuple[float, float]:
    """(share of its epochs that a job has trained, images/s now), from the bar in its log; zeros before the first."""
    if not (bars := BAR.findall(tail(log, start))):
        return 0.0, 0.0
    epoch, epochs, done, total, speed, unit = bars[-1]
    share = (int(epoch) - 1 + int(done) / max(int(total), 1)) / int(epochs)
    return share, float(speed) if unit == "img/s" else 1 / max(float(speed), 1e-9)


def duration(seconds: float) -> str:
    """`50 s`, `12 min`, `3.4 h`, `2.1 days`."""
    for limit, unit, size in ((100, "s", 1), (100 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.1f} days"


class Screen:
    """One renewed line on a terminal; elsewhere plain lines, at least one a minute.

    Args:
        total: number of jobs of the plan.
        finished: how many of them were finished before.
    """

    def __init__(self, total: int, finished: int):
        self.total, self.finished, self.failed = total, finished, 0
        self.started = self.shown = time.monotonic()
        self.ended = 0  # since `started`
        self.before: dict[str, float] = {}  # folder -> share that was trained before this start
        self.renews = sys.stdout.isatty()
        self.status = ""

    def say(self, text: str) -> None:
        """A line that stays."""
        print(f"\r\033[K{text}" if self.renews else text, flush=True)
        if self.renews:
            self._renew()

    def _renew(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{self.status[:width]}", end="", flush=True)

    def show(self, running: dict[str, tuple[float, float]]) -> None:
        """Renew the line: `running` has (share of its epochs trained, images/s) of each running job, by folder."""
        for folder, (share, _) in running.items():
            if share:
                self.before.setdefault(folder, share)
        self.status = self._line(running)
        if self.renews:
            self._renew()
        elif time.monotonic() - self.shown > QUIET_SECONDS:
            print(self.status, flush=True)
            self.shown = time.monotonic()

    def _line(self, running) -> str:
        left = self.total - self.finished - self.failed - len(running)
        parts = [f"{self.finished} of {self.total} done", f"{len(running)} running", f"{left} left"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if speed := sum(speed for _, speed in running.values()):
            parts.append(f"{speed:,.0f} images/s")
        begun = sum(share for share, _ in running.values())
        gained = self.ended + sum(share - self.before.get(folder, 0.0) for folder, (share, _) in running.items())
        if gained > 0:
            seconds = (time.monotonic() - self.started) / gained * (left + len(running) - begun)
            parts.append(f"about {duration(seconds)} left")
        return ", ".join(parts)

    def close(self) -> None:
        if self.renews:
            print("\r\033[K", end="", flush=True)
