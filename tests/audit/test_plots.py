"""Drawings and plots: which there are, that they are SVG, and that they are the same bytes each time."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pennylane as qml
import pytest
from matplotlib import pyplot

from qcifar.audit import Settings, audit
from qcifar.audit.plots import cones_figure, fidelities_figure, gradients_figure, text_drawing, write_plots
from tests.helpers.audited import circuit_of, head

SMALL = Settings(500, 20, (2, 3, 4), (1, 2), rows=100)


@pytest.fixture(scope="module")
def audited():
    circuit = head(3, 1)
    return circuit, audit(circuit, SMALL)


def test_plots_are_svg_and_the_same_each_time(audited, tmp_path):
    open_before = pyplot.get_fignums()
    paths = write_plots(tmp_path / "one", *audited)
    assert [path.name for path in paths] == ["circuit.svg", "cones.svg", "fidelities.svg", "gradients.svg"]
    for path, again in zip(paths, write_plots(tmp_path / "two", *audited), strict=True):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert path.read_bytes() == again.read_bytes()
    assert "Rot" in paths[0].read_text() and pyplot.get_fignums() == open_before


def test_the_drawing_in_characters_has_every_gate(audited):
    drawn = text_drawing(audited[0])
    assert drawn.count("Rot") == 3 and drawn.count("<Z>") == 3 and drawn.count("RX") == 3


def test_figures_show_the_audits_numbers(audited):
    _, found = audited
    inputs, weights = cones_figure(found).axes
    assert np.array_equal(inputs.images[0].get_array(), found["effect"]["inputs_of_output"])
    assert np.array_equal(weights.images[0].get_array(), found["effect"]["weights_of_output"])
    bars = [bar.get_height() for bar in fidelities_figure(found).axes[0].patches]
    assert bars == found["states"]["expressibility"]["histogram"]
    by_qubits, by_layers = gradients_figure(found).axes
    points, fit = by_qubits.lines
    assert dict(zip(points.get_xdata(), points.get_ydata(), strict=True)) == found["gradients"]["qubits"]
    slope = np.polyfit(fit.get_xdata(), np.log2(fit.get_ydata()), 1)[0]
    assert slope == pytest.approx(-found["gradients"]["exponent"])
    assert list(by_layers.lines[0].get_ydata()) == list(found["gradients"]["layers"].values())


def test_only_what_there_are_numbers_for_is_plotted(tmp_path):
    def measured(x):
        qml.RX(x[..., 0], wires=0)
        qml.cond(qml.measure(0), qml.X)(wires=1)
        return [qml.expval(qml.Z(0)), qml.expval(qml.Z(1))]

    circuit = circuit_of(measured, 2)
    paths = write_plots(tmp_path, circuit, audit(circuit, SMALL))
    assert [path.name for path in paths] == ["circuit.svg", "cones.svg"]
