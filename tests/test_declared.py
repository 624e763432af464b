"""What is read from a script's text is what the script has, and nothing of it runs."""

import codecs
import json
import re
from pathlib import Path

import pytest

from qcifar.config import RULES, settings_from_constants
from qcifar.declared import read_script
from qcifar.errors import InputError
from qcifar.experiment.code import own_code
from qcifar.flags import check_command_line
from tests.helpers import ROOT
from tests.helpers.scripts import SCRIPTS, SMALL, copy_of_the_code, module_of, run_file


@pytest.mark.parametrize("name", SCRIPTS)
def test_constants_rules_and_experiment_are_the_scripts(name):
    module, experiment = SCRIPTS[name]
    text = read_script(ROOT / module.__file__)
    assert text.experiment == experiment and text.path.name == f"{module.__name__}.py"
    assert text.own_rules.keys() == module.own_rules.keys()
    assert [rule.standard for rule in text.own_rules.values()] == [rule.standard for rule in module.own_rules.values()]
    assert vars(text.settings(["--epochs", "3"])) == vars(
        settings_from_constants(vars(module), ["--epochs", "3"], module.own_rules)
    )
    assert set(text.rules()) == {*RULES, *module.own_rules}


def written(tmp_path, text):
    (tmp_path / "script.py").write_text(text)
    return tmp_path / "script.py"


def test_nothing_of_the_script_runs(tmp_path):
    text = f"import nowhere\nopen({str(tmp_path / 'made')!r}, 'w')\nSEED = 3\nown_rules = {{}}\nopen_run(1, 2, name)\n"
    found = read_script(written(tmp_path, text))
    assert found.content["SEED"] == 3 and found.experiment is None and not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def prepare(cfg):\n    name, more = 'mine', []\n    return folder.open_run(__file__, cfg, name)\n", "mine"),
        ("NAME = 'mine'\nopen_run(1, 2, NAME)\n", "mine"),
        ("name = 'mine'\nname = 'other'\nopen_run(1, 2, name)\n", None),  # which of them?
        ("open_run(1, 2, f'mine_{3}')\n", None),
        ("name = 'mine'\nname += '_x'\nopen_run(1, 2, name)\n", None),
        ("def f(name):\n    open_run(1, 2, name)\n\ndef g():\n    name = 'mine'\n", None),
        ("for name in 'ab':\n    open_run(1, 2, name)\n", None),
        ("name, more = pair()\nopen_run(1, 2, name)\n", None),
    ],
)
def test_the_experiments_name_is_read_where_it_is_written_down(tmp_path, text, expected):
    assert read_script(written(tmp_path, f"own_rules = {{}}\n{text}")).experiment == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("EPOCHS = ", r"script\.py cannot be read as Python"),
        ("EPOCHS = 3\n", r"script\.py is not an experiment: it has no own_rules"),
        ("own_rules = {}\nEPOCHS = 2 + f()\n", r"script\.py: EPOCHS in line 2 is not a plain literal"),
        ("own_rules = {'N': unknown}\n", r"script\.py: own_rules in line 1 is not a plain literal"),
        ("X = __import__('os').getcwd()\nown_rules = {}\n", r"script\.py: X in line 1 is not a plain literal"),
    ],
)
def test_what_cannot_be_read(text, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read_script(written(tmp_path, text))


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'none.py'} cannot be read: No such file")):
        read_script(tmp_path / "none.py")


def with_bom(path, ends="\n"):
    """Save a script as editors on Windows do: UTF-8 with a byte order mark."""
    path.write_bytes(codecs.BOM_UTF8 + path.read_text(encoding="utf-8").replace("\n", ends).encode())


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_saved_with_a_byte_order_mark_is_the_same_script(name, ends, tmp_path, capsys):
    original, script = Path(SCRIPTS[name][0].__file__), tmp_path / "edited.py"
    script.write_bytes(original.read_bytes())
    before = read_script(script), own_code(script, RULES)
    with_bom(script, ends)
    after = read_script(script), own_code(script, RULES)
    assert script.read_bytes()[:3] == codecs.BOM_UTF8 and after[1] == before[1]
    assert vars(after[0].settings(["--epochs", "7"])) == vars(before[0].settings(["--epochs", "7"]))
    assert after[0].experiment == before[0].experiment and after[0].early
    for refuse in (module_of(script).main, lambda argv: check_command_line(script, argv)):
        with pytest.raises(InputError, match=r"^unknown flag --epocs; did you mean --epochs\?$"):
            refuse(["--epocs", "3"])
    with pytest.raises(SystemExit):
        module_of(script).main(["--help"])
    assert "passes over the training split" in capsys.readouterr().out.replace("\n", " ")


def test_a_script_saved_with_a_byte_order_mark_trains_to_the_end(tmp_path):
    script = copy_of_the_code(tmp_path) / "cifar100_baseline.py"
    with_bom(script)
    argv = [*SMALL, "--epochs", "1", "--run-dir", str(tmp_path / "runs")]
    module_of(script).main(argv)
    result = json.loads((tmp_path / "runs/cifar100_baseline_det/seed42/result.json").read_text())
    assert result["epochs"] == 1
    script.write_bytes(script.read_bytes().removeprefix(codecs.BOM_UTF8))
    module_of(script).main(argv)  # the same run, which is finished
    assert json.loads((tmp_path / "runs/cifar100_baseline_det/seed42/result.json").read_text()) == result


@pytest.mark.slow
def test_a_script_saved_with_a_byte_order_mark_is_started_as_a_program(tmp_path):
    script = copy_of_the_code(tmp_path) / "cifar100_baseline.py"
    with_bom(script, "\r\n")
    flags = "--dataset synthetic --weights none --model-name shufflenet_v2_x0_5 --img-size 32 --epochs 1".split()
    more = ["--train-limit", "48", "--eval-limit", "40", "--batch-size", "16", "--run-dir", tmp_path / "runs"]
    done = run_file(script, *flags, *more)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/cifar100_baseline_det/seed42/result.json").exists()
    done = run_file(script, "--epocs", "3")
    assert (done.returncode, done.stderr) == (2, "error: unknown flag --epocs; did you mean --epochs?\n")
