"""A wrong flag of a script is refused before torch is loaded, and as `main` would refuse it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qcifar.errors import InputError
from qcifar.flags import check_command_line
from tests.helpers import ROOT
from tests.helpers.scripts import SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_wrong_flag_is_refused_before_torch_is_loaded(name, tmp_path):
    command = [sys.executable, "-X", "importtime", SCRIPTS[name][0].__file__, "--epocs", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 2 and "qcifar.flags" in imported and not {"torch", "numpy", "pennylane"} & imported
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert said == ["error: unknown flag --epocs; did you mean --epochs?"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_refuses_what_main_refuses_and_nothing_else(name):
    module = SCRIPTS[name][0]
    for argv in (["--epochs", "0"], ["--n-qubits", "99"], ["--max-lr", "nan"], ["--help-me"]):
        with pytest.raises(InputError) as early:
            check_command_line(Path(module.__file__), argv)
        with pytest.raises(InputError) as late:
            module.main(argv)
        assert str(early.value) == str(late.value)
    check_command_line(Path(module.__file__), ["--epochs", "3", "--no-resume"])


STOPPED = """
import qcifar.flags
import os, signal, time
EPOCHS = 2
own_rules = {}
print("imports", flush=True)
os.kill(os.getpid(), signal.NAME)  # what a sweep forwards while the script imports
time.sleep(30)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_script_that_is_stopped_while_it_imports_says_so_in_one_line(name, tmp_path):
    (tmp_path / "script.py").write_text(STOPPED.replace("NAME", name))
    command = [sys.executable, "script.py", "--epochs", "3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (128 + getattr(signal, name), "imports\n")
    assert done.stderr == f"stopped by {name} before it began; the same command starts it again\n"


HANDLERS = """
import qcifar.flags
import signal
from qcifar.errors import run_script
EPOCHS = 2
own_rules = {}
def main():
    print(signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
run_script(main)
"""
ALONE = (
    HANDLERS.replace("def main():", "def main():\n    settings_from_constants(globals())")
    .replace("run_script(main)", "main()")
    .replace("from qcifar.errors import run_script", "from qcifar.config import settings_from_constants")
)


@pytest.mark.parametrize("text", [HANDLERS, ALONE], ids=["run_script", "main alone"])
@pytest.mark.parametrize("ignored", [True, False])
def test_in_main_signals_are_what_they_were(ignored, text, tmp_path):
    (tmp_path / "script.py").write_text(text)
    start = "import os, signal\n" + "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" * ignored
    start += f"os.execv({sys.executable!r}, ['python', 'script.py'])"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", start], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.endswith(f"{signal.SIG_DFL!s}\n")
    assert done.stdout.startswith(f"{signal.SIG_IGN!s} " if ignored else f"{signal.default_int_handler!s}")


def test_what_is_no_experiment_is_left_to_itself(tmp_path):
    check_command_line(ROOT / "compare_runs.py", ["--epocs"])
    for text in (
        "EPOCHS = 3\nown_rules = {'N': unknown}\n", "not Python", "EPOCHS = 2 + f()\n", "EPOCHS: int\nown_rules = {}\n",
        "EPOCHS = 0\nif True:\n    EPOCHS = 3\nown_rules = {}\n", "EPOCHS = 0\nEPOCHS += 3\nown_rules = {}\n",
        "EPOCHS, SEED = 0, 0\nown_rules = {}\n",
    ):  # fmt: skip
        (tmp_path / "script.py").write_text(text)
        check_command_line(tmp_path / "script.py", ["--epocs"])


def test_an_annotated_constant_is_read(tmp_path):
    (tmp_path / "script.py").write_text("import qcifar.flags\nEPOCHS: int = 0\nown_rules = {}\n")
    with pytest.raises(InputError, match=r"EPOCHS \(--epochs\): expected a whole number of at least 1, got 0"):
        check_command_line(tmp_path / "script.py", [])
