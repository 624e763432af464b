"""The one exception that stands for a mistake the user can mend, and the one place that shows it."""

import os
import sys


class InputError(Exception):
    """Bad input: a constant, a file, a circuit. The message is one line: what, expected, got, what to do."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; the run was saved and can go on. `signum` is the signal's number."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


def describe(error: Exception) -> str:
    """Type and first line of an error that somebody else's code raised."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _mark() -> str:
    """Which of torchrun's processes speaks, where there are several."""
    return f"[rank {os.environ['RANK']}] " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""


def run_script(main) -> None:
    """Call `main()`; turn an `InputError` or `OSError` into one line on stderr and exit status 2."""
    try:
        main()
    except InputError as error:
        print(_mark() + "error: " + " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a path without permission, a disk that went away; it names the path
        print(_mark() + f"error: {error}; check the path and its permissions", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(_mark() + str(stop), file=sys.stderr)
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:  # before or after training, where there is nothing to save
        print("interrupted", file=sys.stderr)
        sys.exit(130)
