"""The one exception that stands for a mistake the user can correct, and the one place that shows it."""

import os
import re
import sys

import torch.distributed as dist


class InputError(Exception):
    """Bad input: a constant, a file, a circuit. The message is one line: what, expected, got, what to do."""


class Interrupted(Exception):
    """SIGINT or SIGTERM arrived; the run was saved and can go on. `signum` is the signal's number."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


def describe(error: BaseException) -> str:
    """Type and first line of an error that somebody else's code raised, without addresses in memory."""
    lines = re.sub(r" at 0x[0-9a-fA-F]+", "", str(error)).splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def run_script(main) -> None:
    """Call `main()`; turn an `InputError` or `OSError` into one line on stderr and exit status 2."""
    status = _status_of(main)
    if dist.is_initialized():  # what is left of the others' connections may abort or hang an orderly exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _status_of(main) -> int:
    try:
        main()
    except InputError as error:
        _say("error: " + " ".join(str(error).split()))
        return 2
    except OSError as error:  # a path without permission, a disk that went away; it names the path
        _say(f"error: {error}; check the path and its permissions")
        return 2
    except Interrupted as stop:
        _say(str(stop))
        return 128 + stop.signum
    except KeyboardInterrupt:  # before or after training, where there is nothing to save
        _say("interrupted outside training; the same command starts or continues the run")
        return 130
    except RuntimeError as error:  # gloo and NCCL have no exception of their own
        if not (dist.is_initialized() and any(name in str(error) for name in ("gloo", "NCCL", "TCPStore"))):
            raise
        _say("another process of this job ended; its message says why")
        return 3
    return 0


def _say(text: str) -> None:
    """Print `text` on stderr, and which of torchrun's processes says it where there are several."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    print((f"[rank {os.environ.get('RANK', '?')}] " if several else "") + text, file=sys.stderr)
