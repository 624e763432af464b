"""A wrong flag of a script is refused before torch is loaded, and as `main` would refuse it."""

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
