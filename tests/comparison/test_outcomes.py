"""Outcomes of one run against scikit-learn, SciPy and sums by hand; classes against CIFAR-100's own files."""

import pickle
import time

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    top_k_accuracy_score,
)

from qcifar.comparison.outcomes import (
    CIFAR_100,
    CLASS_NAMES,
    SUPERCLASS_NAMES,
    SUPERCLASS_OF,
    by_class,
    calibration_error,
    confusion,
    outcomes_of,
)
from qcifar.streams import stream
from tests.helpers import ROOT


def scores(images=2000, classes=100, scale=3.0):
    """Logits that are right in about half of the images, and labels."""
    rng = stream(0, "scores", images, classes)
    labels = rng.integers(0, classes, images)
    logits = rng.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += scale * rng.random(images, dtype=np.float32)
    return logits, labels


@pytest.mark.parametrize("ties", [False, True])
def test_outcomes_are_those_of_scikit_learn(ties):
    logits, labels = scores()
    if ties:
        logits = np.round(logits)
    found = outcomes_of(logits, labels)
    classes, predicted = np.arange(100), logits.argmax(1)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    expected = {
        "top1": accuracy_score(labels, predicted),
        "top5": top_k_accuracy_score(labels, logits, k=5, labels=classes),
        "f1": f1_score(labels, predicted, average="macro"),
        "nll": log_loss(labels, probabilities, labels=classes),
        "brier": brier_score_loss(labels, probabilities, labels=classes, scale_by_half=False),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert list(found) == ["top1", "top5", "f1", "nll", "brier", "ece"]
    assert all(type(value) is float for value in found.values())


def test_macro_f1_leaves_out_classes_that_do_not_occur():
    logits, labels = scores(images=60)
    expected = f1_score(labels, logits.argmax(1), average="macro")
    assert len(np.unique(labels)) < 60 and outcomes_of(logits, labels)["f1"] == pytest.approx(expected, rel=1e-12)


def test_calibration_error_by_hand():
    """Two bins are filled: (9/15, 10/15] with 0.62 and 0.66, one of them right, and (14/15, 1] with 0.95, wrong.

    2/3 · |0.5 - 0.64| + 1/3 · |0 - 0.95| = 0.41
    """
    found = calibration_error(np.array([0.62, 0.66, 0.95]), np.array([True, False, False]))
    assert found == pytest.approx(0.41, abs=1e-12)


def test_calibration_error_is_the_formula_of_guo_et_al():
    logits, labels = scores()
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence, correct = probabilities.max(1), logits.argmax(1) == labels
    expected = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert outcomes_of(logits, labels)["ece"] == pytest.approx(expected, rel=1e-9)


def test_certain_and_right_has_no_error_and_certain_and_wrong_has_all():
    logits = np.zeros((4, 100), np.float32)
    logits[np.arange(4), [3, 5, 7, 9]] = 3e38  # the largest that float32 holds is 3.4e38
    right, wrong = (outcomes_of(logits, np.array(labels)) for labels in ([3, 5, 7, 9], [0, 0, 0, 0]))
    assert right == {"top1": 1.0, "top5": 1.0, "f1": 1.0, "nll": 0.0, "brier": 0.0, "ece": 0.0}
    assert (wrong["top1"], wrong["brier"], wrong["ece"]) == (0.0, 2.0, 1.0)
    assert wrong["nll"] == pytest.approx(3e38, rel=1e-6)


def test_improbable_classes_keep_their_digits():
    logits = np.array([[0.0, 800.0, -20.0]], np.float32)
    expected = -log_softmax(logits.astype(np.float64), axis=1)[0]
    found = [outcomes_of(logits, np.array([label]))["nll"] for label in range(3)]
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-300)


def test_confusion_is_that_of_scikit_learn():
    logits, labels = scores()
    predicted = logits.argmax(1).astype(np.int16)  # as predictions are kept: 99 · 100 + 99 is more than an int8 holds
    assert np.array_equal(confusion(labels, predicted, 100), confusion_matrix(labels, predicted, labels=np.arange(100)))


def test_means_by_class_are_the_diagonal_of_the_normalised_confusion_matrix():
    logits, labels = scores(images=5000)
    predicted = logits.argmax(1)
    correct = np.stack([predicted == labels, np.ones(5000, bool)])
    expected = np.diag(confusion_matrix(labels, predicted, labels=np.arange(100), normalize="true"))
    found = by_class(correct, labels, 100)
    assert found.shape == (2, 100) and np.allclose(found[0], expected, rtol=1e-12) and (found[1] == 1).all()
    coarse = by_class(correct, SUPERCLASS_OF[labels], 20)
    assert coarse[0, 3] == correct[0, np.isin(labels, np.flatnonzero(SUPERCLASS_OF == 3))].mean()


def test_a_class_without_images_has_no_mean():
    found = by_class(np.array([[True, False]]), np.array([0, 2]), 3)
    assert np.array_equal(found, [[1.0, np.nan, 0.0]], equal_nan=True)


def test_classes_are_in_alphabetical_order():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 100 and CLASS_NAMES[:2] == ("apple", "aquarium_fish")
    assert list(SUPERCLASS_NAMES) == sorted(SUPERCLASS_NAMES)
    assert np.bincount(SUPERCLASS_OF).tolist() == [5] * 20
    for name, k in zip(CLASS_NAMES, SUPERCLASS_OF, strict=True):
        assert name in CIFAR_100[SUPERCLASS_NAMES[k]].split()


class Restricted(pickle.Unpickler):
    """Lets in arrays and what they are made of, nothing else."""

    def find_class(self, module, name):
        allowed = {"_reconstruct": np._core.multiarray._reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module not in ("numpy", "numpy.core.multiarray") or name not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return allowed[name]


def test_classes_and_superclasses_are_those_of_the_published_files(real_data):
    folder = ROOT / "data" / "cifar-100-python"
    with (folder / "meta").open("rb") as meta, (folder / "test").open("rb") as test:
        names, images = (Restricted(file, encoding="latin1").load() for file in (meta, test))
    assert names["fine_label_names"] == list(CLASS_NAMES)
    assert names["coarse_label_names"] == list(SUPERCLASS_NAMES)
    assert SUPERCLASS_OF[images["fine_labels"]].tolist() == images["coarse_labels"]
    assert images["fine_labels"] == real_data.test_labels.tolist()


def test_ten_thousand_images_take_little_time():
    logits, labels = scores(images=10_000)
    taken = []
    for _ in range(5):
        start = time.process_time()
        outcomes_of(logits, labels)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.1  # one core needs less than 0.01 s
