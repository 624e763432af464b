"""What the flags say: sweeps of noise, numbers of shots."""

import pytest

from qcifar.errors import InputError
from qcifar.hardware.grammar import names, sweeps, whole_numbers


def test_sweeps():
    found = sweeps("depolarizing=0.001..0.1,readout=0.02/0.01")
    assert list(found) == ["depolarizing=0.001..0.1", "readout=0.02/0.01"]
    assert [one["depolarizing"] for one in found["depolarizing=0.001..0.1"]] == [
        0.001, 0.00316228, 0.01, 0.0316228, 0.1,
    ]  # fmt: skip
    assert found["readout=0.02/0.01"] == [{"readout": 0.01}, {"readout": 0.02}]  # rising


def test_channels_that_act_together():
    (rows,) = sweeps("depolarizing=0.01/0.1+readout=0.02").values()
    assert rows == [{"depolarizing": 0.01, "readout": 0.02}, {"depolarizing": 0.1, "readout": 0.02}]
    (rows,) = sweeps("depolarizing=0.001..0.1:3+amplitude_damping=0.01..0.1:3").values()
    assert [list(row.values()) for row in rows] == [[0.001, 0.01], [0.01, 0.0316228], [0.1, 0.1]]


@pytest.mark.parametrize(
    "text",
    ["", "depolarising=0.1", "depolarizing", "depolarizing=", "depolarizing=2", "readout=0.6", "depolarizing=-0.1",
     "depolarizing=0..1", "depolarizing=0.1..0.1", "depolarizing=0.1..0", "depolarizing=0.1..0.2:1", "depolarizing=nan",
     "depolarizing=0.1+depolarizing=0.2", "depolarizing=0.1/0.2+readout=0.1/0.2/0.3", "readout=a..b"],
)  # fmt: skip
def test_other_sweeps_are_refused_in_one_line(text):
    with pytest.raises(InputError, match=r"NOISE \(--noise\): expected channel=strength"):
        sweeps(text)


def test_of_a_range_that_falls_the_rising_one_is_named():
    with pytest.raises(InputError, match=r"=0\.1\.\.0\.01:3 does not rise; expected depolarizing=0\.01\.\.0\.1:3$"):
        sweeps("depolarizing=0.1..0.01:3")


def test_numbers_and_names():
    assert whole_numbers("SHOTS", "100, 0") == [100, 0] and names(" a,b,,a ") == ["a", "b"]
    for text in ("", "x", "1.5", "-1", "5,5", "10000000000"):
        with pytest.raises(InputError, match=r"SHOTS \(--shots\): expected different whole numbers"):
            whole_numbers("SHOTS", text)
