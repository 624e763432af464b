"""A stand-in for an experiment, which sweeps run in a tenth of a second: same flags, folders, files and signals."""

from qcifar.sweep.plan import read_plan
from qcifar.sweep.store import Sweep

TEXT = '''"""Stands in for an experiment."""
import json
import signal
import sys
import time
from pathlib import Path

from qcifar.config import as_constants, one_of, own, settings_from_constants, variant_of

SEED = 42
DEVICE = "cpu"
RUN_DIR = "./runs"
DATASET = "synthetic"
VAL_FRACTION = 0.2
IMG_SIZE = 32
TRAIN_LIMIT = 0
MODEL_NAME = "resnet18"
STEM = "imagenet"
EPOCHS = 1
BEHAVIOUR = "fine"
own_rules = {"BEHAVIOUR": own("fine", one_of("fine", "fails", "crashes", "waits", "dies", "deaf"))}


def open_run(script, cfg, experiment, rules):
    folder = Path(cfg.run_dir) / experiment / variant_of(cfg, rules) / f"seed{cfg.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main():
    cfg = settings_from_constants(globals(), None, own_rules)
    folder = open_run(__file__, cfg, "standin", own_rules)
    with (folder / "starts.txt").open("a") as file:
        file.write("start\\n")
    if cfg.behaviour == "fails":
        print("epoch 1/1:   0%|          | 0/10", file=sys.stderr)
        sys.exit("error: this one is meant to fail")
    if cfg.behaviour == "crashes":
        raise ValueError("no such thing")
    if cfg.behaviour == "dies":
        signal.raise_signal(signal.SIGKILL)
    if cfg.behaviour in ("waits", "deaf") and not (folder / "last.pt").exists():
        stopped = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda number, frame: stopped.append(number))
        print("epoch 1/1:  50%|#####     | 5/10 [00:01<00:01, 123.40img/s]", file=sys.stderr, flush=True)
        (folder / "waiting").touch()
        while not stopped or cfg.behaviour == "deaf":
            time.sleep(0.01)
        (folder / "last.pt").touch()
        print("stopped by", signal.Signals(stopped[0]).name, file=sys.stderr)
        sys.exit(128 + stopped[0])
    for name in ("last.pt", "best.pt", "predictions.npz"):
        (folder / name).write_bytes(bytes(1000))
    content = {"constants": as_constants(cfg), "identity": {"threads": 1}}
    (folder / "config.json").write_text(json.dumps(content))
    result = {"experiment": "standin", "variant": variant_of(cfg, own_rules), "images_per_second": 100.0}
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
'''
DECIDED = '[decided]\nseeds = "{}"\n'


def write_plan(folder, runs, seeds="0-1", name="plan", top=""):
    """A plan of the stand-in, which is put beside it; `runs` are the lines of its one [[runs]]. Returns the file."""
    (folder / "standin.py").write_text(TEXT)
    path = folder / f"{name}.toml"
    path.write_text(
        f'{top}run_dir = "{folder / "runs"}"\n{DECIDED.format(seeds)}[[runs]]\nscript = "standin.py"\n{runs}'
    )
    return path


def sweep_of(folder, runs="", seeds="0-1", name="plan", threads=1):
    return Sweep(read_plan(write_plan(folder, runs, seeds, name), folder), folder, threads)


def starts(sweep):
    """How often each job's script was started, by folder."""
    found = {job.folder: sweep.run(job) / "starts.txt" for job in sweep.plan.jobs}
    return {folder: len(path.read_text().split()) if path.exists() else 0 for folder, path in found.items()}
