"""The one exception that stands for a mistake the user can correct, and the one place that shows it."""

import contextlib
import difflib
import os
import re
import signal
import sys
import threading

_before_imports: dict[int, object] = {}  # signal: what handled it before `stop_in_one_line`


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


def count(n: int, one: str, several: str | None = None) -> str:
    """`count(1, "seed")` is "1 seed", `count(6, "seed")` "6 seeds"."""
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def did_you_mean(given: str, known, otherwise: str) -> str:
    """The end of a message on a name that is none of `known`: the nearest one, or `otherwise`.

    >>> did_you_mean("resnet43", ["resnet34", "vgg11"], "expected a network")
    'did you mean resnet34?'
    """
    near = difflib.get_close_matches(given, known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def stop_in_one_line() -> None:
    """Until `end_of_imports`: SIGINT or SIGTERM end the process with one line.

    A script imports for seconds before there is anything to save. What Python does on Ctrl-C then is a traceback of
    whatever was being imported, or an import that swallows it.
    """

    def stop(signum, frame):
        text = _named(f"stopped by {signal.Signals(signum).name} before it began; the same command starts it again\n")
        os.write(2, text.encode())  # sys.stderr may be in the middle of a line
        os._exit(128 + signum)

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):  # one that is ignored stays so
            with contextlib.suppress(ValueError):  # not the main thread
                _before_imports[number] = signal.signal(number, stop)


def end_of_imports() -> None:
    """Signals are handled as they were before `stop_in_one_line`; only the main thread can say so."""
    while _before_imports and threading.current_thread() is threading.main_thread():
        signal.signal(*_before_imports.popitem())


def run_script(main) -> None:
    """Call `main()`; turn an `InputError` or `OSError` into one line on stderr and exit status 2."""
    end_of_imports()
    for stream in (sys.stdout, sys.stderr):  # a terminal that takes ASCII only, and a folder with an umlaut
        stream.reconfigure(errors="backslashreplace")
    status = status_of(main)
    if _several_connected():  # what is left of the others' connections may abort or hang an orderly exit
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _several_connected() -> bool:
    """Whether this process is connected to others of torchrun's; torch is not loaded to find out."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized()


def status_of(main) -> int:
    """Call `main()`, say in one line what went wrong, and return the exit status (`main` may return one)."""
    try:
        status = main()
    except InputError as error:
        _say("error: " + " ".join(str(error).split()))
        return 2
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        _say("what reads the output has ended; the same command continues the run")
        return 1
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
        if not (_several_connected() and any(name in str(error) for name in ("gloo", "NCCL", "TCPStore"))):
            raise
        _say("another process of this job ended; its message says why")
        return 3
    return status if isinstance(status, int) else 0


def _say(text: str) -> None:
    """Print `text` on stderr."""
    print(_named(text), file=sys.stderr)


def _named(text: str) -> str:
    """`text`, and which of torchrun's processes says it where there are several."""
    several = os.environ.get("WORLD_SIZE", "").strip() not in ("", "1")
    return (f"[rank {os.environ.get('RANK', '?')}] " if several else "") + text
