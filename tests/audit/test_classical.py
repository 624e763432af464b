"""Regressions against scikit-learn's, effective ranks of known covariances, and the inputs they are made on."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.preprocessing import PolynomialFeatures

from qcifar.audit.classical import audit_inputs, participation_ratio, regressions
from qcifar.errors import InputError
from qcifar.files import write_npz
from qcifar.quantum.descriptors import input_angles
from tests.helpers import ROOT
from tests.helpers.audited import SCRIPTS_CIRCUITS


def test_r2_is_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = np.stack([np.sin(x[:, 0]), x[:, 0] * x[:, 1] + 0.1 * x[:, 2], np.ones(400), 2 * x[:, 2] - 1], axis=1)
    found = regressions("made up", torch.from_numpy(x), torch.from_numpy(y))
    for degree, ours in ((1, found.linear), (2, found.quadratic)):
        columns = PolynomialFeatures(degree).fit_transform(x)
        fit = LinearRegression(fit_intercept=False).fit(columns[:200], y[:200])
        theirs = r2_score(y[200:], fit.predict(columns[200:]), multioutput="raw_values")
        assert [ours[k] for k in (0, 1, 3)] == pytest.approx([theirs[k] for k in (0, 1, 3)], abs=1e-9)
        assert ours[2] is None  # constant
    assert found.quadratic[1] == pytest.approx(1) and found.linear[1] < 0.5 and found.linear[3] == pytest.approx(1)
    assert (found.inputs, found.rows) == ("made up", 400)


def test_effective_rank():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(100_000, 3))
    assert participation_ratio(z) == pytest.approx(3, abs=0.01)
    assert participation_ratio(z[:, :1] @ np.array([[1.0, 2.0, 3.0]])) == pytest.approx(1)
    assert participation_ratio(z * [2.0, 1.0, 0.0]) == pytest.approx(25 / 17, abs=0.02)  # (4 + 1)^2 / (16 + 1)
    assert participation_ratio(np.ones((5, 2))) == 0.0
    assert participation_ratio(z[:, :1]) == pytest.approx(1)


def test_circuits_with_weights_get_angles_as_the_head_makes_them():
    said, angles = audit_inputs(SCRIPTS_CIRCUITS["head"], "auto", "nowhere", 28, 500, 42)
    assert said.startswith("500 ") and "tanh" in said
    assert angles.shape == (500, 4) and angles.abs().max() < torch.pi and angles.dtype == torch.float64
    assert torch.equal(angles, audit_inputs(SCRIPTS_CIRCUITS["head"], "auto", "nowhere", 28, 500, 42)[1])
    assert not torch.equal(angles, audit_inputs(SCRIPTS_CIRCUITS["head"], "auto", "nowhere", 28, 500, 43)[1])


@pytest.mark.slow
def test_descriptors_get_cell_angles_of_real_images(real_data):
    said, angles = audit_inputs(SCRIPTS_CIRCUITS["edge"], "auto", str(ROOT / "data"), 28, 50, 42)
    assert "50 CIFAR-100 test" in said
    every = input_angles(real_data.test_images, 4, 28)
    assert torch.cdist(angles, every).amin(1).max() < 1e-6


def test_without_cifar_the_synthetic_images_are_taken_and_named(tmp_path):
    said, angles = audit_inputs(SCRIPTS_CIRCUITS["edge"], "auto", str(tmp_path), 28, 30, 42)
    assert "SYNTHETIC" in said and angles.shape == (30, 4)


def test_angles_from_a_file(tmp_path):
    path = tmp_path / "angles.npz"
    stored = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    write_npz(path, inputs=stored)
    said, angles = audit_inputs(SCRIPTS_CIRCUITS["head"], str(path), "nowhere", 28, 12, 42)
    assert said == "12 rows of angles.npz" and set(map(tuple, angles.float().numpy())) <= set(map(tuple, stored))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (np.zeros((20, 3)), r"expected inputs \(at least 4, 4\), got float64 \(20, 3\)"),
        (np.zeros((2, 4)), r"got float64 \(2, 4\)"),
        (np.full((20, 4), np.nan), "expected finite numbers"),
        (np.full((20, 4), "x"), "got <U1"),
    ],
)
def test_files_that_hold_no_angles_are_refused(tmp_path, stored, expected):
    write_npz(tmp_path / "angles.npz", inputs=stored)
    with pytest.raises(InputError, match=expected):
        audit_inputs(SCRIPTS_CIRCUITS["head"], str(tmp_path / "angles.npz"), "nowhere", 28, 12, 42)
    with pytest.raises(InputError, match="no such file"):
        audit_inputs(SCRIPTS_CIRCUITS["head"], str(tmp_path / "other.npz"), "nowhere", 28, 12, 42)


def test_a_damaged_cifar_is_named(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "test").write_bytes(b"not it")
    with pytest.raises(InputError, match="damaged or not CIFAR-100"):
        audit_inputs(SCRIPTS_CIRCUITS["edge"], "auto", str(tmp_path), 28, 30, 42)
