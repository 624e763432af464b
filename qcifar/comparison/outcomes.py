"""What one run scores on its test images, from logits and labels; and CIFAR-100's classes and superclasses.

Shares are in [0, 1]; logarithms are natural.
"""

import numpy as np

BINS = 15  # of the calibration error, equally wide, as Guo et al. have them

# superclass: its five classes. Both in alphabetical order, which is the order of their numbers in CIFAR-100.
CIFAR_100 = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}
SUPERCLASS_NAMES = tuple(CIFAR_100)  # 20
CLASS_NAMES = tuple(sorted(" ".join(CIFAR_100.values()).split()))  # 100
SUPERCLASS_OF = np.array(
    [next(k for k, names in enumerate(CIFAR_100.values()) if name in names.split()) for name in CLASS_NAMES]
)  # (100,) class -> superclass


def outcomes_of(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The outcomes of one run.

    Args:
        logits: (I, C), finite.
        labels: (I,) whole numbers from 0 to C - 1.

    Returns:
        "top1", "top5": shares of the images whose class has the largest logit, or one of the five largest.
        "f1": macro F1 over the classes that occur in labels or predictions, as scikit-learn has it.
        "nll": mean negative log-likelihood of the true class, in nats.
        "brier": mean squared distance of the probabilities from the true class, summed over classes, 0 to 2
            (Brier 1950).
        "ece": expected calibration error, a share, with 15 equally wide bins of confidence (Guo et al. 2017, eq. 3).
    """
    rows = np.arange(len(labels))
    predicted = logits.argmax(1)  # (I,) the first of equals
    shifted = logits.astype(np.float64)  # (I, C)
    shifted -= logits.max(1, keepdims=True)  # so that no exponential overflows
    true = shifted[rows, labels]  # (I,)
    exponentials = np.exp(shifted, out=shifted)
    total = exponentials.sum(1)  # (I,)
    probability = np.exp(true) / total  # (I,) of the true class
    squares = np.einsum("ic,ic->i", exponentials, exponentials) / total**2
    correct = predicted == labels
    return {
        "top1": float(correct.mean()),
        "top5": float(_among_first(logits, labels, 5).mean()),
        "f1": macro_f1(confusion(labels, predicted, logits.shape[1])),
        "nll": float((np.log(total) - true).mean()),
        "brier": float((squares - 2 * probability + 1).mean()),
        "ece": calibration_error(1 / total, correct),
    }


def _among_first(logits: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """(I,) whether the true class has one of the k largest logits; of equals the later class, as scikit-learn says."""
    true = logits[np.arange(len(labels)), labels][:, None]
    ahead = np.count_nonzero(logits > true, axis=1)
    equal = logits == true  # (I, C), the true class among them
    tied = np.flatnonzero(np.count_nonzero(equal, axis=1) > 1)
    later = np.arange(logits.shape[1]) > labels[tied, None]
    ahead[tied] += np.count_nonzero(equal[tied] & later, axis=1)
    return ahead < k


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Share by which confidence and accuracy differ, on average over bins ((b-1)/15, b/15], weighted by their images.

    Args:
        confidence: (I,) largest probability of each image, in (0, 1].
        correct: (I,) bool.
    """
    bins = np.ceil(confidence * BINS).astype(int)  # 1 to 15
    gap = np.bincount(bins, weights=confidence - correct, minlength=BINS + 1)  # summed over the bin's images
    return float(np.abs(gap).sum() / len(confidence))


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) numbers of images: true class by predicted class."""
    places = np.asarray(labels, np.int64) * classes + predicted
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)


def macro_f1(matrix: np.ndarray) -> float:
    """Mean F1 of the classes that occur in labels or predictions, from a confusion matrix."""
    both = matrix.sum(0) + matrix.sum(1)  # (C,) 2 right + falsely predicted + missed
    occurs = both > 0
    return float((2 * np.diag(matrix)[occurs] / both[occurs]).mean())


def by_class(values: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Means over the images of each class; NaN for a class without images.

    Args:
        values: (S, I) of each seed and image: whether it is right, or a difference.
        labels: (I,) class or superclass of each image.

    Returns:
        (S, classes)
    """
    images = np.bincount(labels, minlength=classes)
    sums = np.stack([np.bincount(labels, weights=row, minlength=classes) for row in values])
    return np.divide(sums, images, out=np.full(sums.shape, np.nan), where=images > 0)
