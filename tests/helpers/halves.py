"""The quick tests in two processes at once, one for each core of a small machine.

    python -m tests.helpers.halves [arguments of pytest]

pytest-xdist, which runs the slow tests, takes 15 ms for each of these 3,000 and imports all files twice: a minute more.
What lies in tests/ itself, with sweep/, studies/ and benchmarks/, takes about as long as what lies in its other
folders. Each half has its own folder for temporary files, and is shown when it has ended, so that their lines do not
mix; the exit status is that of a half that failed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers import ROOT

QUICK = "not slow and not hardware"  # marks, see pyproject.toml


def halves() -> tuple[list[Path], list[Path]]:
    """The files of tests/ and of three of its folders, and those of the others."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    top = [path for path in files if path.parent.name in ("tests", "sweep", "studies", "benchmarks")]
    return top, [path for path in files if path not in top]


def main(argv: list[str]) -> int:
    """The exit status of pytest on both halves; 0 if all passed."""
    with tempfile.TemporaryDirectory(prefix="tests-") as folder:
        running = []
        for name, files in zip(("first", "second"), halves(), strict=True):
            command = [sys.executable, "-m", "pytest", "-m", QUICK, f"--basetemp={folder}/{name}", *argv]
            with open(f"{folder}/{name}.txt", "w") as said:
                running.append(subprocess.Popen([*command, *files], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT))
        statuses = []
        for name, process in zip(("first", "second"), running, strict=True):
            statuses.append(process.wait())
            print(Path(folder, f"{name}.txt").read_text(encoding="utf-8"), flush=True)
    return max(statuses, key=abs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
