"""What result.json must hold; the run folder's tests show how one that holds something else is refused."""

import math

import pytest

from qcifar.errors import InputError
from qcifar.results import NEEDED, SHARES, refuse_no_result
from tests.helpers.runs import RESULT


def test_results_of_the_scripts_are_results(calm):
    for result, folder in calm.values():
        refuse_no_result(result, folder / "result.json")
    refuse_no_result(RESULT, "result.json")


@pytest.mark.parametrize("name", NEEDED)
def test_every_entry_is_needed_and_has_its_kind(name):
    message = rf"r\.json is not a result of this test bench: {name}: expected .*, got "
    with pytest.raises(InputError, match=message + "nothing; --no-resume starts the run over"):
        refuse_no_result({key: value for key, value in RESULT.items() if key != name}, "r.json")
    other = "x" if NEEDED[name] in (bool, bool | None) else True
    for value in ([], {}, other, math.nan, -1, *([1.5] if name in SHARES else [])):
        with pytest.raises(InputError, match=message):
            refuse_no_result(RESULT | {name: value}, "r.json")
