"""The folder of one run: what was asked for, what came out, and the refusal to mix the two."""

import contextlib
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from qcifar import distributed
from qcifar.config import Rule, as_constants, flag, variant_of
from qcifar.errors import InputError, Interrupted, describe
from qcifar.experiment.identity import PACKAGES, describe_device, git_commit, identity_of, own_entries, recipe_code
from qcifar.files import make_folder, read_json, write_json


class Run:
    """The folder of a run, and the identity of what runs in it.

    Args:
        folder: where everything goes.
        config: content of config.json; its "identity" is what every file in the folder depends on.
        resume: False: `begin` deletes what an earlier run left.
    """

    def __init__(self, folder: Path, config: dict, resume: bool):
        self.folder, self.config, self.resume = folder, config, resume
        self.experiment, self.variant, self.identity = config["experiment"], config["variant"], config["identity"]
        self.notes: list[str] = []  # what `begin` will log
        self.config_path, self.metrics_path = folder / "config.json", folder / "metrics.csv"
        self.result_path, self.predictions_path = folder / "result.json", folder / "predictions.npz"
        self.last_path, self.best_path, self.log_path = folder / "last.pt", folder / "best.pt", folder / "log.txt"
        self.dataset = self.identity["DATASET"]
        self.mark = "SYNTHETIC DATA  " if self.dataset == "synthetic" else ""  # goes before every number shown

    @property
    def finished(self) -> bool:
        return self.resume and distributed.from_first(self.result_path.exists())

    def refuse_other_settings(self) -> None:
        """Raise `InputError` if the folder holds work that was done with another identity."""
        distributed.on_first(self._refuse_other_settings)

    def _refuse_other_settings(self) -> None:
        if not self.resume or not self.config_path.exists():
            return
        if not self.last_path.exists() and not self.result_path.exists():
            return  # stopped before anything was trained
        before = read_json(self.config_path).get("identity", {})
        changed = [
            f"{name} {before.get(name, 'absent')} -> {self.identity.get(name, 'absent')}"
            for name in {**before, **self.identity}
            if before.get(name, "absent") != self.identity.get(name, "absent")
        ]
        if changed:
            raise InputError(
                f"{self.folder} holds a run with other settings: {', '.join(changed)}; use another {flag('RUN_DIR')} "
                f"or {flag('SEED')}, or --no-resume to delete it and start over"
            )

    def note(self, text: str) -> None:
        """Log `text` once the run begins: until then there is no log.txt."""
        self.notes.append(text)

    def begin(self) -> None:
        """Make the folder and its config.json. Until then, nothing of the run is on disk."""
        make_folder(self.folder)
        paths = [
            self.result_path,
            self.last_path,
            self.best_path,
            self.metrics_path,
            self.predictions_path,
            self.log_path,
        ]
        if not self.resume and distributed.rank() == 0:
            for path in paths:
                path.unlink(missing_ok=True)
        if distributed.rank() == 0:
            for leftover in self.folder.glob("*.partial"):  # of a process that was killed while writing
                leftover.unlink(missing_ok=True)
        if not distributed.from_first(self.last_path.exists()):
            write_json(self.config_path, self.config)
        images, how = self.config["images"], f"{self.config['device']}; {self.identity['precision']}"
        self.log(
            f"{self.folder}: {images['train']} training, {images['val']} validation and {images['test']} test images "
            f"of {self.dataset} at {self.identity['IMG_SIZE']} px; {how}"
        )
        for text in self.notes:
            self.log(text)

    def log(self, text: str) -> None:
        """Print `text` above any bar and append it to log.txt, marked where the data is synthetic."""
        distributed.say(self.mark + text)
        self._append(self.mark + text)

    def _append(self, text: str) -> None:
        if distributed.rank() > 0:
            return
        try:
            with self.log_path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise InputError(f"cannot write {self.log_path}: {error.strerror}") from None

    @contextlib.contextmanager
    def why_it_ended(self):
        """What ends the block early stands in log.txt, too, in one line; the screen shows it when the script ends.

        Raises:
            InputError: the GPU's memory is full.
        """
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            reason = str(error) if isinstance(error, InputError | Interrupted) else describe(error)
            # In a circuit, too, whose errors are shown as ours.
            full = isinstance(error.__cause__ if isinstance(error, InputError) else error, torch.OutOfMemoryError)
            if full:
                reason = ". ".join(reason.split(". ")[:2])  # without the advice on torch's allocator
                reason += "; --accumulate 2 or more takes a step's images in parts, --batch-size takes fewer"
            with contextlib.suppress(InputError):  # a log that cannot be written must not hide the reason
                self._append(" ".join(reason.split()))
            if full:
                raise InputError(reason) from error
            raise

    def show_result(self) -> dict:
        """Print and return the stored result of a finished run."""
        result = read_json(self.result_path)
        distributed.say(f"{self.folder} is finished; nothing to do (--no-resume starts it over)")
        distributed.say(self.mark + describe_result(result))
        return result


def describe_result(result: dict) -> str:
    """One line: where, how good, how fast."""
    variant = f" {result['variant']}" if result["variant"] else ""
    return (
        f"{result['experiment']}{variant} seed {result['seed']}: test top1 {result['test_top1']:.4f} "
        f"top5 {result['test_top5']:.4f} f1 {result['test_f1']:.4f} (n = {result['test_images']}), "
        f"val top1 {result['val_top1']:.4f} at epoch {result['best_epoch']} of {result['epochs']}, "
        f"{result['images_per_second']:.0f} img/s"
    )


def open_run(
    cfg, experiment: str, own_rules: dict[str, Rule], device: torch.device, precision: str, parts, **details
) -> Run:
    """Look at the folder of a run; nothing is written before training begins.

    Args:
        cfg, device, precision, parts: see `identity_of`.
        experiment: name of its folder in RUN_DIR.
        own_rules: of the constants that this experiment has beside the recipe's.
        details: what else its numbers depend on, for example the fingerprint of a circuit.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    identity = identity_of(cfg, device, precision, parts) | details
    own, variant = own_entries(cfg, own_rules, details), variant_of(cfg, own_rules)
    config = {
        "experiment": experiment,
        "variant": variant,
        "constants": as_constants(cfg),
        "identity": identity,
        "own": own,
        "recipe": recipe_code(identity, own),
        "images": {"train": len(parts.train.index), "val": len(parts.val.index), "test": len(parts.test.index)},
        "device": describe_device(device),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }
    run = Run(Path(cfg.run_dir) / experiment / variant / f"seed{cfg.seed}", config, cfg.resume)
    run.refuse_other_settings()
    return run
