"""What a run's numbers depend on, and what two runs must have in common to be compared."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch

from qcifar import distributed
from qcifar.config import Rule, as_constants
from qcifar.data.augment import Augmentation
from qcifar.errors import count
from qcifar.experiment.code import ROOT, shared_code
from qcifar.experiment.weights import weights_fingerprint

# Constants that may change between a start and a restart: they cannot change a number.
NEUTRAL = {"RUN_DIR", "DATA_DIR", "CHECKPOINT_MINUTES", "RESUME", "ACCEPT_CODE", "DEVICE", "PRECISION"}
# Constants with the value at which they do nothing, as if the experiment did not have them.
WITHOUT_EFFECT = {"QUANTUM_NOISE": "none", "SHOTS": 0}
REMEDIES = {
    "threads": " (OMP_NUM_THREADS={} gives it the same number)",
    "instructions": " (a processor with {} continues it)",
}
MOST_LISTED = 4  # differences in a message
LONGEST_VALUES = 120  # characters of both values of one
CODE = ("code", "own_code")  # entries of an identity that hold {file: fingerprint}
PACKAGES = ("torch", "torchvision", "pennylane", "pennylane-lightning", "numpy", "scikit-learn", "pillow")


def identity_of(cfg, device: torch.device, precision: str, parts) -> dict:
    """Everything that the numbers of a run depend on, beside what only its experiment has.

    Args:
        cfg: the settings; those in `NEUTRAL` may differ from an earlier start.
        device, precision: as resolved by `set_up_torch`.
        parts: `qcifar.experiment.recipe.Parts`.
    """
    identity = {name: value for name, value in as_constants(cfg).items() if name not in NEUTRAL}
    identity |= {"device": device.type, "precision": precision, "processes": distributed.world_size()}
    if device.type == "cpu":  # another number of threads or other instructions (AVX2, AVX512) round differently
        identity["threads"] = torch.get_num_threads()
        capability = torch.backends.cpu.get_cpu_capability()
        identity["instructions"] = ", ".join(dict.fromkeys(distributed.each(capability)))
    if device.type == "cuda":  # another model rounds differently
        identity["gpu"] = ", ".join(dict.fromkeys(distributed.each(torch.cuda.get_device_name(device))))
    if distributed.world_size() == 1:
        identity.pop("SYNC_BATCHNORM")  # has no effect there
    if not cfg.cuda_graphs:
        identity.pop("CUDA_GRAPHS")  # has no effect
    for name, nothing in WITHOUT_EFFECT.items():
        if identity.get(name) == nothing:
            identity.pop(name)
    identity |= {"dataset_fingerprint": parts.data.fingerprint, "split_fingerprint": parts.split.fingerprint}
    identity |= {"augmentation": repr(Augmentation(cfg.img_size))}
    identity |= {name: version(name) for name in ("torch", "torchvision", "pennylane", "numpy", "scikit-learn")}
    if str(getattr(cfg, "quantum_device", "")).startswith("lightning."):
        identity["pennylane-lightning"] = version("pennylane-lightning")
    identity["code"] = shared_code()
    identity |= {"WEIGHTS": weights_fingerprint(cfg.model_name, cfg.weights)}  # not where the file lies
    return identity


def own_entries(cfg, own_rules: dict[str, Rule], details: dict) -> list[str]:
    """Entries of the identity in which runs that are compared may differ: the seed, and what the experiment adds.

    The recipe is all the rest. An own constant that changes the recipe counts there, unless it is at its standard.
    """
    given = as_constants(cfg)
    own = [name for name, rule in own_rules.items() if not rule.changes_recipe or given[name] == rule.standard]
    return ["SEED", *own, *details, "pennylane-lightning"]


def differences(before: dict, now: dict) -> tuple[list[str], list[str]]:
    """What differs between two identities, in words: settings, and files of code."""
    settings, files = [], []
    for name in {**before, **now}:
        old, new = before.get(name, "absent"), now.get(name, "absent")
        if old == new:
            continue
        if name in CODE:
            old, new = (part if isinstance(part, dict) else {} for part in (old, new))
            files += [file for file in {**old, **new} if old.get(file) != new.get(file)]
        else:
            values = f" {old} -> {new}" if len(f"{old}{new}") <= LONGEST_VALUES else ""  # not two whole augmentations
            settings.append(f"{name}{values}{REMEDIES.get(name, '').format(old)}")
    return settings, files


def listed(differing: list[str]) -> str:
    """At most four of them."""
    more = len(differing) - MOST_LISTED
    return ", ".join(differing[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def identity_code(identity: dict) -> str:
    """12 hex digits of all that a run's numbers depend on; result.json says by them whose result it is."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def recipe_code(identity: dict, own: list[str]) -> str:
    """Six hex digits of what experiments share; runs are comparable if theirs are equal."""
    shared = {name: value for name, value in identity.items() if name not in own}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:6]


def describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:  # Linux; platform.processor() says x86_64 or nothing there
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU, {model}, {count(torch.get_num_threads(), 'thread')}"


def git_commit() -> str:
    """Commit of this repository, "+" where tracked files differ from it, "unknown" outside one."""
    commands = (["rev-parse", "--show-toplevel"], ["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
    try:
        top, commit, changes = (
            subprocess.run(
                ["git", *command], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    if Path(top) != ROOT:  # this is a copy inside somebody else's repository
        return "unknown"
    return commit + ("+" if changes else "")
