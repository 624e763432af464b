"""How fast the scripts train, beside the limit of the hardware and the usual way, in one process.

    python benchmarks/training.py                                  # 32 pixels, on the GPU if there is one
    python benchmarks/training.py --img-size 224 --steps 40        # the full recipe's size
    python benchmarks/training.py --compile                        # torch.compile, too; takes minutes

Images a second, medians of alternating turns of STEPS steps:
(a) the limit: the step alone, on one batch, over and over; nothing is loaded, augmented, counted or shown;
(b) our loop, as the script runs it: batches from images on the device, metrics, progress bar;
(c) our step on batches from the usual place: Pillow images, torchvision's transforms, a DataLoader with workers;
(d) the whole plain way: (c) with torch's defaults and `.item()` after each step, in a process of its own.
Each for the baseline; (a) and (b) for the other two scripts, too; then the baseline without deterministic
algorithms, in other precisions and compiled. Writes benchmarks/results/training_<device>_<size>px.md.
"""

import math
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.common import SCRIPTS, begin, conditions, in_turns, save
from benchmarks.plain import in_own_process, pillow_loader
from DLfunctions import Progress, Stop, train_one_epoch
from qcifar.config import settings_from_constants, whole
from qcifar.device import CoreShare, cores_at_hand
from qcifar.errors import run_script

DEVICE = "auto"  # auto, cpu, cuda or cuda:1
DATASET = "cifar100"  # cifar100 or synthetic
DATA_DIR = "./data"  # holds cifar-100-python/
IMG_SIZE = 32  # side of the network's input, pixels
BATCH_SIZE = 128  # images a step
STEPS = 15  # in a turn; together at most the images of the training split
REPEATS = 5  # turns of each; the median counts
WORKERS = 0  # of each DataLoader; 0 = as many as cores
COMPILE = False  # also under torch.compile

own_rules = {"STEPS": whole(2, 300), "REPEATS": whole(1), "WORKERS": whole(0)}
loop_way, limit_way, usual_way, plain_way = "(b) our loop", "(a) step alone", "(c) DataLoader", "(d) plain"


class Contender:
    """One script under one setting, ready to train, with the ways to run STEPS steps of it."""

    def __init__(self, cfg, script, folder, *flags, deterministic=True):
        argv = (
            f"--device {cfg.device} --dataset {cfg.dataset} --weights none --img-size {cfg.img_size} --no-resume "
            f"--batch-size {cfg.batch_size} --train-limit {cfg.steps * cfg.batch_size} --epochs 100000"
        ).split()
        argv += ["--data-dir", cfg.data_dir, "--run-dir", folder, *flags]
        if script == "head":
            argv += ["--epochs-warmup", "0"]
        it = begin(script, argv)
        if it.on_epoch_start:
            it.on_epoch_start(0)
        self.model, self.loader, self.criterion = it.model, it.train_loader, it.criterion
        self.optimizer, self.schedule, self.autocast = it.optimizer, it.scheduler, it.autocast
        self.deterministic, self.epoch = deterministic, 0
        self.tf32 = torch.backends.cudnn.allow_tf32  # as its precision says; another contender may want another
        self.device = self.loader.images.device
        self.x, self.labels = (tensor.clone() for tensor in next(self.loader.batches(0)))
        self.usual = None

    def ways(self) -> dict:
        return {loop_way: self._measured(self.loop), limit_way: self._measured(self.alone)}

    def _measured(self, run):
        def whole_turn():
            torch.use_deterministic_algorithms(self.deterministic)
            torch.backends.cudnn.allow_tf32 = self.tf32
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = (
                self.deterministic,
                not self.deterministic,
            )
            run()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)

        return whole_turn

    def loop(self):
        train_one_epoch(
            self.model, self.loader, self.criterion, self.optimizer, self.schedule, Progress(epoch=self.epoch),
            title="", autocast=self.autocast, accumulate=1, cores=CoreShare(torch.device("meta"), print), stop=Stop(),
            save=None, save_every=math.inf,
        )  # fmt: skip
        self.epoch += 1

    def alone(self):
        self.model.train()
        for _ in range(len(self.loader)):
            self._step(self.x, self.labels)

    def _step(self, x, labels):
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            loss = self.criterion(self.model(x), labels)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    def through_dataloader(self, size, workers):
        """The turn of (c): one pass over the same images, shuffled, by worker processes that stay."""
        pinned = self.device.type == "cuda"
        loader = pillow_loader(self.loader.images, self.loader.labels, size, self.loader.batch_size, workers, pinned)

        def run():
            self.model.train()
            for x, labels in loader:
                self._step(x.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True))

        return self._measured(run)


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules)
    workers = cfg.workers or cores_at_hand()
    with tempfile.TemporaryDirectory() as folder:
        contenders = {script: Contender(cfg, script, folder) for script in SCRIPTS}
        contenders["baseline, not deterministic"] = Contender(cfg, "baseline", folder, deterministic=False)
        for precision in ("fp32", "tf32") if contenders["baseline"].device.type == "cuda" else ("bf16",):
            contenders[f"baseline, {precision}"] = Contender(cfg, "baseline", folder, "--precision", precision)
        if cfg.compile:
            contenders["baseline, torch.compile"] = Contender(cfg, "baseline", folder, "--compile")
            if contenders["baseline"].device.type == "cuda":
                flags = "--compile", "--cuda-graphs"
                contenders["baseline, torch.compile, CUDA graphs"] = Contender(cfg, "baseline", folder, *flags)
        runs = {(name, way): run for name, one in contenders.items() for way, run in one.ways().items()}
        runs["baseline", usual_way] = contenders["baseline"].through_dataloader(cfg.img_size, workers)
        device, ours = contenders["baseline"].device, contenders["baseline"].loader
        plainly = ours.images, ours.labels, cfg.img_size, ours.batch_size, workers, str(device)
        runs["baseline", plain_way] = in_own_process(*plainly)
        seconds = in_turns(runs, cfg.repeats)
    speed = {key: cfg.steps * cfg.batch_size / taken for key, taken in seconds.items()}
    lines = [f"| images/s | {limit_way} | {loop_way} | (b) / (a) | (b) / baseline's |", "| --- |" + " --- |" * 4]
    for name in contenders:
        a, b = speed[name, limit_way], speed[name, loop_way]
        lines.append(f"| {name} | {a:,.0f} | {b:,.0f} | {b / a:.3f} | {b / speed['baseline', loop_way]:.3f} |")
    ours = speed["baseline", loop_way]
    lines += ["", "| the baseline, images/s | | our loop is faster by |", "| --- | --- | --- |"]
    for way, said in (
        (usual_way, "our step on batches from Pillow and a DataLoader"),
        (plain_way, "all of it the plain way"),
    ):
        theirs = speed["baseline", way]
        lines.append(f"| {way}: {said} | {theirs:,.0f} | {ours / theirs:.2f}× |")
    save(
        f"training_{device.type}_{cfg.img_size}px",
        f"{conditions(device)}; ResNet-34 at {cfg.img_size} pixels, batch {cfg.batch_size}, "
        f"{cfg.dataset}, {workers} workers for (c) and (d); precision auto unless said.\n\n" + "\n".join(lines),
    )


if __name__ == "__main__":
    run_script(main)
