"""own_rules of a script, as people write them wrong: each is one line that says what was expected."""

import pytest

from qcifar.errors import InputError
from tests.helpers import ROOT
from tests.helpers.scripts import module_of, run_file

ONE_RULE = '"N_LAYERS": own(2, whole(1, 1000)),'
WRONG_RULES = [
    ("own_rules = {  #", "own_rule = {  #", "own_rules is missing; own_rules = {} says that no constant is its own"),
    ("own_rules = {  #", "own_rules = None\nrules = {  #", "expected {NAME: own(standard value, rule)}, got None"),
    ("own_rules = {  #", "own_rules = 3\nrules = {  #", "own_rules: expected {NAME: own(standard value, rule)}, got 3"),
    (ONE_RULE, '"N_LAYERS": 3,', "own_rules, 'N_LAYERS': expected own(standard value, rule), got 3"),
    (ONE_RULE, '"N_LAYERS": own(2, 3),', "expected own(standard value, rule), whose rule may be whole(1), got 3"),
    (ONE_RULE, f'{ONE_RULE} "FOO": own(2, whole(1)),', "the constant FOO is missing; put it back at the top"),
    (ONE_RULE, '"N_LAYERS": whole(1, 1000),', "own_rules, N_LAYERS: expected own(standard value, rule), where the "
     "standard value is a whole number from 1 to 1000, got none"),
    (ONE_RULE, '"N_LAYERS": own("2", whole(1, 1000)),', "value is a whole number from 1 to 1000, got '2'"),
    (ONE_RULE, f'{ONE_RULE} "EPOCHS": own(40, whole(1)),', "own_rules: EPOCHS belongs to the recipe"),
    (ONE_RULE, "", "the constant N_LAYERS has no rule; give it one in own_rules"),
]  # fmt: skip


def edited_head(tmp_path, old, new):
    """The head's script with one text replaced, which must be there once."""
    text = (ROOT / "cifar100_hybrid_Qhead.py").read_text(encoding="utf-8")
    assert text.count(old) == 1
    script = tmp_path / "edited.py"
    script.write_text(text.replace(old, new), encoding="utf-8")
    return script


@pytest.mark.parametrize(("old", "new", "expected"), WRONG_RULES[1:])
def test_rules_that_are_none_are_one_line(tmp_path, old, new, expected):
    with pytest.raises(InputError) as caught:
        module_of(edited_head(tmp_path, old, new)).main([])
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_a_started_script_without_rules_ends_with_one_line(tmp_path):
    """Its `main` cannot say so, which hands its rules over."""
    old, new, expected = WRONG_RULES[0]
    done = run_file(edited_head(tmp_path, old, new), cwd=ROOT, python_path=ROOT)
    assert done.returncode == 2 and expected in done.stderr and done.stderr.count("\n") == 1, done.stderr
