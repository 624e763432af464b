"""A run folder without an experiment around it."""

from qcifar.experiment.folder import Run


def tiny_run(folder, resume=True, accept_code=False, **identity):
    identity = {"DATASET": "synthetic", "IMG_SIZE": 16, "precision": "fp32"} | identity
    images = {"train": 40, "val": 30, "test": 0}
    config = {"experiment": "tiny", "variant": "", "identity": identity, "images": images, "device": "CPU"}
    return Run(folder, config, resume, accept_code)
