"""How a run ends: one line on stderr and an exit status, for what the user can correct; a traceback for the rest."""

import os
import signal
import subprocess
import sys

import pytest

from qcifar.errors import InputError, Interrupted, describe, run_script
from tests.helpers import ROOT


def ends(main, capsys):
    """(exit status, what stderr shows)"""
    with pytest.raises(SystemExit) as caught:
        run_script(main)
    shown = capsys.readouterr()
    assert shown.out == ""
    return caught.value.code, shown.err


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("EPOCHS: expected 1,\n  got 0"), 2, "error: EPOCHS: expected 1, got 0\n"),
        (PermissionError(13, "Permission denied", "/there"), 2, "'/there'; check the path and its permissions\n"),
        (Interrupted(signal.SIGTERM, "stopped by SIGTERM"), 143, "stopped by SIGTERM\n"),
        (Interrupted(signal.SIGINT, "stopped by SIGINT"), 130, "stopped by SIGINT\n"),
        (KeyboardInterrupt(), 130, "interrupted outside training; the same command starts or continues the run\n"),
    ],
)
def test_what_the_user_can_correct_is_one_line_and_a_status(error, status, line, capsys):
    code, shown = ends(raising(error), capsys)
    assert code == status and shown.endswith(line) and shown.count("\n") == 1


def test_output_that_nobody_reads_any_more_is_one_line(tmp_path):
    program = "import qcifar.errors\nqcifar.errors.run_script(lambda: print('row ' * 10**6))"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()  # as `| head` does
    said = process.stderr.read()
    assert (
        process.wait(timeout=60) == 1 and said.startswith("what reads the output has ended") and said.count("\n") == 1
    )


def test_a_terminal_that_has_no_umlauts_gets_the_message_all_the_same():
    program = "from qcifar.errors import *\ndef main(): raise InputError('no folder M\u00fcller')\nrun_script(main)"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: no folder M\\xfcller\n")


def test_a_run_that_ends_well_says_nothing(capsys):
    assert ends(lambda: {"test_top1": 0.5}, capsys) == (0, "")


@pytest.mark.parametrize("error", [RuntimeError("gloo"), ValueError("shapes"), KeyError("weights")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        run_script(raising(error))


def test_which_of_several_processes_says_it(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert ends(raising(InputError("no")), capsys) == (2, "[rank 3] error: no\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("kernel failed\nat line 3"), "RuntimeError: kernel failed"),
        (KeyError("weights"), "KeyError: 'weights'"),
        (TypeError("got <function f at 0x7f12ab>"), "TypeError: got <function f>"),  # the same in each run
        (ValueError(), "ValueError"),
    ],
)
def test_errors_of_others_in_one_line(error, said):
    assert describe(error) == said
