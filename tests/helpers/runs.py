"""A run folder without an experiment around it."""

from qcifar.experiment.folder import Run

RESULT = {
    "experiment": "tiny", "variant": "", "control": None, "dataset": "synthetic", "recipe": "abcdef", "seed": 7,
    "epochs": 3, "best_epoch": 2, "val_top1": 0.625, "val_f1": 0.5, "val_loss": 3.0, "test_top1": 0.5,
    "test_top5": 0.75, "test_f1": 0.25, "test_loss": 4.0, "params_total": 10, "params_quantum": None,
    "train_seconds": 3, "images_per_second": 99.6, "img_size": 16, "precision": "fp32", "weights": "none",
    "train_images": 40, "test_images": 40, "alpha": None, "identity": "0" * 12,
    "selected_by": "f1", "model_name": "resnet34", "stem": "imagenet", "processes": 1, "accepted_code": False,
    "quantum_device": None, "branch_on": None,
}  # fmt: skip


def tiny_run(folder, resume=True, accept_code=False, **identity):
    identity = {"DATASET": "synthetic", "IMG_SIZE": 16, "precision": "fp32"} | identity
    images = {"train": 40, "val": 30, "test": 0}
    config = {"experiment": "tiny", "variant": "", "identity": identity, "images": images, "device": "CPU"}
    return Run(folder, config, resume, accept_code)
