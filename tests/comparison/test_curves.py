"""Scales of the figures: a planted effect may be any number of times larger than what is asked about."""

from matplotlib.figure import Figure

from qcifar.comparison.curves import give_own_scale


def scaled(planted):
    axes = Figure().subplots(1, 3)
    for ax, high in zip(axes, (1, 2, 40), strict=True):
        ax.set_ylim(-high / 10, high)
    return give_own_scale(list(axes), planted), [ax.get_ylim() for ax in axes]


def test_planted_effects_do_not_set_the_scale_of_the_others():
    said, limits = scaled([False, False, True])
    assert limits == [(-0.2, 2), (-0.2, 2), (-4, 40)] and "own scale" in said


def test_panels_of_one_kind_are_left_alone():
    for planted in (False, True):
        assert scaled([planted] * 3) == ("", [(-0.1, 1), (-0.2, 2), (-4, 40)])
