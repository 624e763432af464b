"""A trained head without PennyLane: its circuit becomes the exact linear map of Fourier features that it is.

    python export_head.py runs/cifar100_hybrid_qhead/seed42
    python export_head.py runs/cifar100_hybrid_qhead/seed42 --output elsewhere

Works for a finished run whose circuit takes each input once, as a rotation angle (docs/controls.md). Writes into the
run's folder, or into OUTPUT: head_fourier.pt, a state dict of the head with CONTROL fourier in the circuit's place; and
head_fourier.onnx, the whole network from images (B, 3, IMG_SIZE, IMG_SIZE), normalised, to logits (B, 100), if onnx and
onnxscript are installed. Before anything is written, the logits of all test images are compared; the ONNX file is read
back and compared, too, if onnxruntime is installed.
"""

import copy
import importlib.util
import io
import logging
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

from qcifar.config import Rule, own, settings_from_constants
from qcifar.errors import InputError, run_script
from qcifar.experiment.finished import load, read_run
from qcifar.experiment.recipe import Prepared
from qcifar.files import write_checkpoint, write_whole
from qcifar.quantum.controls import fourier_of
from qcifar.quantum.layer import QuantumLayer

DEVICE = "cpu"  # auto, cpu, cuda or cuda:1
PRECISION = "fp32"  # in which the logits are compared
DATA_DIR = "./data"  # holds the data set that the run was trained on
OUTPUT = ""  # the folder that is written to; empty: the run's

own_rules = {"OUTPUT": own("", Rule(str, lambda v: isinstance(v, str), "a folder"))}
arguments = (("run", None, "folder of a finished run of cifar100_hybrid_Qhead.py"),)
tolerance = 1e-5  # of any logit
onnx_tolerance = 1e-4  # onnxruntime adds up in another order


def without_circuit(model: torch.nn.Module) -> torch.nn.Module:
    """The hybrid network with a `Fourier` map in its circuit's place that gives the same values.

    Raises:
        InputError: it has no circuit, or one that is not a linear map of the Fourier features.
    """
    layer = getattr(getattr(model, "branch", None), "circuit", None)
    if not isinstance(layer, QuantumLayer):
        raise InputError("this run has no circuit in its head: expected CONTROL quantum, product or frozen")
    converted = copy.deepcopy(model)
    exact = copy.deepcopy(layer).double()
    converted.branch.circuit = fourier_of(exact.runner, exact.weights, model.branch.pre_q.out_features)
    return converted.eval()


@torch.inference_mode()
def largest_difference(it: Prepared, converted: torch.nn.Module) -> float:
    """Between the logits of both networks on the run's test images."""
    worst = 0.0
    for x, _ in tqdm(it.test_loader.batches(), total=len(it.test_loader), leave=False, desc="comparing", delay=1.0):
        feats = it.model.backbone(x)
        logits = [one.alpha * one.logits_q(feats, x) for one in (it.model, converted)]  # all else is the same
        worst = max(worst, (logits[0] - logits[1]).abs().max().item())
    return worst


def write_onnx(path: Path, model: torch.nn.Module, example: torch.Tensor) -> None:
    """The network as ONNX, for any number of images."""
    file = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter, about itself
        program = torch.onnx.export(
            model.cpu(), (example.cpu(),), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )  # fmt: skip
        program.save(file)
    write_whole(path, lambda out: out.write(file.getvalue()))


@torch.inference_mode()
def read_back(path: Path, it: Prepared, converted: torch.nn.Module) -> str:
    """How far the logits of all test images are from those of the file, by onnxruntime if that is installed.

    Raises:
        InputError: further than another order of summation explains; the file is deleted.
    """
    if not importlib.util.find_spec("onnxruntime"):
        return " (not read back: pip install onnxruntime)"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for x, _ in it.test_loader.batches():
        (found,) = session.run(["logits"], {"images": x.cpu().numpy()})
        worst = max(worst, (converted(x.cpu()) - torch.from_numpy(found)).abs().max().item())
    if not worst <= onnx_tolerance:
        path.unlink()
        raise InputError(f"{path}: onnxruntime's logits differ by {worst:.1e}, expected at most {onnx_tolerance:.0e}")
    return f", read back by onnxruntime: logits within {worst:.1e}"


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules, arguments)
    run = read_run(Path(cfg.run))
    folder = Path(cfg.output or run.folder)
    it = load(run, cfg)
    converted = without_circuit(it.model)
    if not it.model.branch_on:  # alpha is 0 but for rounding: any map at all would give the same logits
        raise InputError(
            f"{run.folder}: its best epoch lies in phase A, where the branch is off, so there is no trained head to "
            f"export; expected a run with more epochs after EPOCHS_WARMUP"
        )
    worst = largest_difference(it, converted)
    if not worst <= tolerance:
        raise InputError(f"{run.folder}: logits differ by {worst:.1e}, expected at most {tolerance:.0e}; not exported")
    n = it.model.branch.pre_q.out_features
    images = len(it.test_loader.images)
    print(f"the circuit is a linear map of {3**n} features: logits of {images} test images within {worst:.1e}")
    write_checkpoint(folder / "head_fourier.pt", converted.state_dict())
    print(f"written: {folder / 'head_fourier.pt'}")
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        x, _ = next(it.test_loader.batches())
        path = folder / "head_fourier.onnx"
        write_onnx(path, converted, x[:2])
        print(f"written: {path}" + read_back(path, it, converted))
    else:
        print("no ONNX file: pip install onnx onnxscript")


if __name__ == "__main__":
    run_script(main)
