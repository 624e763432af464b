"""What is read from a script's text is what the script has, and nothing of it runs."""

import re

import pytest

from qcifar.config import RULES, settings_from_constants
from qcifar.declared import read_script
from qcifar.errors import InputError
from tests.helpers import ROOT
from tests.helpers.scripts import SCRIPTS


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
    ("text", "said"),
    [
        ("EPOCHS = ", r"script\.py cannot be read as Python"),
        ("EPOCHS = 3\n", r"script\.py is no experiment: it has no own_rules"),
        ("own_rules = {}\nEPOCHS = 2 + f()\n", r"script\.py: EPOCHS in line 2 is no plain literal"),
        ("own_rules = {'N': unknown}\n", r"script\.py: own_rules in line 1 is no plain literal"),
        ("X = __import__('os').getcwd()\nown_rules = {}\n", r"script\.py: X in line 1 is no plain literal"),
    ],
)
def test_what_cannot_be_read(text, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read_script(written(tmp_path, text))


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / 'none.py'} cannot be read: No such file")):
        read_script(tmp_path / "none.py")
