"""Where the time of a training step goes: the ten costliest kernels, and every place where the host waits.

    python benchmarks/profile_step.py                                     # baseline, 32 pixels
    python benchmarks/profile_step.py --script head --img-size 224

Profiles STEPS steps of the script's own loop, one epoch. Kernels are those of the device that trains. A wait
is a call in which the host stands still until the GPU has caught up: the profiler counts them on a GPU, and
the places in our code that read a value from a tensor are named on any device.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import SCRIPTS, HostReads, conditions
from benchmarks.training import Contender
from qcifar.config import one_of, settings_from_constants, whole
from qcifar.errors import run_script

SCRIPT = "baseline"  # baseline, channels or head
DEVICE = "auto"  # auto, cpu, cuda or cuda:1
DATASET = "cifar100"  # cifar100 or synthetic
DATA_DIR = "./data"  # holds cifar-100-python/
IMG_SIZE = 32  # side of the network's input, pixels
BATCH_SIZE = 128  # images a step
STEPS = 5  # profiled, after as many that are not
COMPILE = False  # torch.compile

own_rules = {"SCRIPT": one_of(*SCRIPTS), "STEPS": whole(2, 300)}
host_waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def main(argv=None):
    cfg = settings_from_constants(globals(), argv, own_rules)
    with tempfile.TemporaryDirectory() as folder:
        contender = Contender(cfg, cfg.script, folder, *(["--compile"] if cfg.compile else []))
        contender.loop()
        on_gpu = contender.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with profile(activities=activities) as recorded:
            contender.loop()
        reads = HostReads()
        if not cfg.compile:
            with reads:
                contender.loop()
    events = recorded.key_averages()
    kernels = [e for e in events if not on_gpu or (e.device_type == DeviceType.CUDA and not e.is_user_annotation)]

    def cost(event):  # microseconds of its own
        return event.self_device_time_total if on_gpu else event.self_cpu_time_total

    total = sum(cost(event) for event in kernels)
    print(f"{conditions(contender.device)}; {cfg.script}, {cfg.img_size} pixels, {cfg.steps} steps")
    print(f"{total / cfg.steps / 1e3:.2f} ms of kernels a step")
    for event in sorted(kernels, key=cost, reverse=True)[:10]:
        print(f"{cost(event) / total:6.1%} {cost(event) / cfg.steps / 1e3:9.3f} ms {event.count:6d} calls  {event.key}")
    waits = [event for event in events if event.key in host_waits]
    if on_gpu:
        print(f"waits of the host in {cfg.steps} steps: " + (_listed({e.key: e.count for e in waits}) or "none"))
    print(
        f"values read in {cfg.steps} steps: " + ("not seen under --compile" if cfg.compile else _listed(reads.places))
    )


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} × {name}" for name, count in counts.items())


if __name__ == "__main__":
    run_script(main)
