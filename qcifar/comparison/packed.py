"""What finished runs said of each test image, without the logits: small enough to publish, enough for own statistics.

`predictions.npz` of a study, for R runs on the same I test images:

    index             (I,)    place of the image in the published test file
    label             (I,)    its class
    experiment        (R,)    text
    variant           (R,)    text, "" for the standard constants
    seed              (R,)
    predicted         (R, I)  uint8: the class with the largest logit
    true_probability  (R, I)  float16: softmax probability of the true class
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcifar.comparison.runs import FinishedRun
from qcifar.errors import InputError
from qcifar.files import read_npz, write_whole

PER_IMAGE, PER_RUN = ("index", "label"), ("experiment", "variant", "seed")
PER_BOTH = ("predicted", "true_probability")


@dataclass(frozen=True)
class Packed:
    """The arrays above."""

    index: np.ndarray
    label: np.ndarray
    experiment: np.ndarray
    variant: np.ndarray
    seed: np.ndarray
    predicted: np.ndarray
    true_probability: np.ndarray

    def correct(self, experiment: str, variant: str, seeds: Sequence[int]) -> np.ndarray:
        """(S, I) bool: which images each of these runs has right.

        Raises:
            InputError: one of them is not there.
        """
        rows = []
        for seed in seeds:
            mine = (self.experiment == experiment) & (self.variant == variant) & (self.seed == seed)
            if mine.sum() != 1:
                raise InputError(f"{experiment} {variant} seed {seed}: expected one such run, got {mine.sum()}")
            rows.append(int(mine.argmax()))
        return self.predicted[rows] == self.label


def write_packed(path: Path, runs: Sequence[FinishedRun]) -> None:
    """Pack the predictions of `runs` into one file.

    Raises:
        InputError: two of them were tested on different images.
    """
    first = runs[0].predictions
    for run in runs:
        ours = run.predictions
        if not (np.array_equal(ours.index, first.index) and np.array_equal(ours.label, first.label)):
            raise InputError(f"{run.folder} was tested on other images than {runs[0].folder}: publish them apart")
    arrays = {
        "index": first.index.astype(np.int32),
        "label": first.label.astype(np.uint8),
        "experiment": np.array([run.experiment for run in runs]),
        "variant": np.array([run.variant for run in runs]),
        "seed": np.array([run.seed for run in runs], dtype=np.int64),
        "predicted": np.stack([run.predictions.predicted for run in runs]).astype(np.uint8),
        "true_probability": np.stack([run.predictions.true_probability for run in runs]).astype(np.float16),
    }
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))


def read_packed(path: Path) -> Packed:
    """What `write_packed` wrote.

    Raises:
        InputError: the file is missing, damaged, or its arrays do not fit together.
    """
    names = (*PER_IMAGE, *PER_RUN, *PER_BOTH)
    file = read_npz(path, names)
    runs, images = len(file["seed"]), len(file["index"])
    wanted = dict.fromkeys(PER_IMAGE, (images,)) | dict.fromkeys(PER_RUN, (runs,))
    wanted |= dict.fromkeys(PER_BOTH, (runs, images))
    for name, shape in wanted.items():
        if file[name].shape != shape:
            raise InputError(f"{path}: expected {name} of the shape {shape}, got {file[name].shape}")
    return Packed(**{name: file[name] for name in names})
