"""The folder of one run: what was asked for, what came out, and the refusal to mix the two."""

import contextlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from qcifar import distributed
from qcifar.config import Rule, as_constants, flag, variant_of
from qcifar.errors import InputError, Interrupted, describe
from qcifar.events import delete_event_files
from qcifar.experiment.code import own_code
from qcifar.experiment.identity import (
    CODE,
    PACKAGES,
    describe_device,
    differences,
    git_commit,
    identity_code,
    identity_of,
    listed,
    own_entries,
    recipe_code,
)
from qcifar.files import make_folder, read_checkpoint, read_json, write_json
from qcifar.results import read_result

START_OVER = "--no-resume starts the run over"


class Run:
    """The folder of a run, and the identity of what runs in it.

    Args:
        folder: where everything goes.
        config: content of config.json; its "identity" is what every file in the folder depends on.
        resume: False: `begin` deletes what an earlier run left.
        accept_code: whether to go on with a run that other code began.
    """

    def __init__(self, folder: Path, config: dict, resume: bool, accept_code: bool = False):
        self.folder, self.config, self.resume, self.accept_code = folder, config, resume, accept_code
        self.lock, self.held = FileLock(folder / ".lock"), None  # which file is held, wherever it lies by now
        self.experiment, self.variant, self.identity = config["experiment"], config["variant"], config["identity"]
        self.notes: list[str] = []  # what `begin` will log
        self.config_path, self.metrics_path = folder / "config.json", folder / "metrics.csv"
        self.result_path, self.predictions_path = folder / "result.json", folder / "predictions.npz"
        self.last_path, self.best_path, self.log_path = folder / "last.pt", folder / "best.pt", folder / "log.txt"
        self.events_folder = folder / "tensorboard"
        self.paths = (
            self.result_path, self.last_path, self.best_path, self.metrics_path, self.predictions_path, self.log_path,
        )  # fmt: skip
        self.dataset = self.identity["DATASET"]
        # Goes before every number shown.
        self.mark = "SYNTHETIC DATA  " if self.dataset == "synthetic" else ""
        self.mark += "PLANTED  " if self.identity.get("CONTROL") == "planted" else ""

    @property
    def finished(self) -> bool:
        return self.resume and distributed.from_first(self.result_path.exists())

    def refuse_other_settings(self) -> None:
        """Raise `InputError` if the folder holds work that was done with another identity."""
        distributed.on_first(self._refuse_other_settings)
        self._share_accepted()

    def _refuse_other_settings(self) -> None:
        if not self.resume:
            return
        before = self._before()
        if before is None:
            return  # stopped before anything was trained
        settings, files = differences(before["identity"], self.identity)
        if settings:
            raise InputError(
                f"{self.folder} holds a run with other settings: {listed(settings)}; use another {flag('RUN_DIR')} "
                f"or {flag('SEED')}, or --no-resume to delete it and start over"
            )
        self.config["accepted_code"] = before.get("accepted_code", [])
        if files and not self.accept_code:
            raise InputError(
                f"{self.folder} holds a run of other code: {listed(files)} changed; --no-resume deletes it and "
                f"starts over, {flag('ACCEPT_CODE')} goes on with it and records that, or use another {flag('RUN_DIR')}"
            )
        if files:
            self._accept(before["identity"])

    def _share_accepted(self) -> None:
        """All processes read the checkpoints, and only the first one config.json."""
        if accepted := distributed.from_first(self.config.get("accepted_code")):
            self.config["accepted_code"] = accepted

    def _before(self) -> dict | None:
        """config.json of the work that the folder holds, or what a checkpoint says of it; None if there is none."""
        finished = self.result_path.exists()
        checkpoints = [path for path in (self.last_path, self.best_path) if path.exists()]
        if not finished and not checkpoints:
            return None
        if self.config_path.exists():
            before = read_json(self.config_path)
        elif checkpoints:
            saved = read_checkpoint(checkpoints[0], remedy=START_OVER)
            before = {"identity": saved.get("identity") if isinstance(saved, dict) else None}
        else:
            before = {"identity": self.identity}
        if not isinstance(before.get("identity"), dict) or not isinstance(before.get("accepted_code", []), list):
            path = self.config_path if self.config_path.exists() else checkpoints[0]
            raise InputError(f"{path} is not one of this test bench; {START_OVER}")
        if finished and read_result(self.result_path)["identity"] != identity_code(before["identity"]):
            whose = "the run in config.json" if self.config_path.exists() else "these settings, or config.json is lost"
            raise InputError(f"{self.result_path} is not the result of {whose}; {START_OVER}, or use another --run-dir")
        return before

    def _accept(self, identity: dict) -> None:
        self.config["accepted_code"] += [{name: identity.get(name) for name in CODE}]

    def refuse_other_identity(self, path: Path, identity: dict) -> None:
        """Raise `InputError` unless the checkpoint `path` is of this run, and of its code or of code it accepted."""
        settings, files = differences(identity, self.identity)
        if settings:
            raise InputError(f"{path} is of another run: {listed(settings)}; {START_OVER}, or use another --run-dir")
        accepted = self.config.setdefault("accepted_code", [])
        if not files or {name: identity.get(name) for name in CODE} in accepted:
            return
        if not self.accept_code:
            raise InputError(
                f"{path} is of other code: {listed(files)} changed; {flag('ACCEPT_CODE')} goes on with it and records "
                f"that, {START_OVER}"
            )
        self._accept(identity)
        write_json(self.config_path, self.config)

    def note(self, text: str) -> None:
        """Log `text`, as soon as the run begins: until then there is no log.txt."""
        if self.lock.is_locked:
            self.log(text)
        else:
            self.notes.append(text)

    def begin(self) -> None:
        """Take the folder for this process and write config.json. Until then, nothing of the run is on disk.

        Raises:
            InputError: another process has the folder, or something else ran there since it was looked at.
        """
        make_folder(self.folder)
        distributed.on_first(self._take)
        self._share_accepted()
        for path in (*self.paths, self.config_path, self.events_folder):
            if path.is_symlink():
                raise InputError(f"{path} is a link; delete it: a run writes into its own folder only")
            if path.is_dir() and path != self.events_folder:
                raise InputError(f"{path} is a folder; move it away: a run writes a file of this name")
        if not self.resume and distributed.rank() == 0:
            for path in self.paths:
                path.unlink(missing_ok=True)
            delete_event_files(self.events_folder)
        if distributed.rank() == 0:
            for leftover in self.folder.glob("*.partial"):  # of a process that was killed while writing
                leftover.unlink(missing_ok=True)
        write_json(self.config_path, self.config)
        images, how = self.config["images"], f"{self.config['device']}; {self.identity['precision']}"
        self.log(
            f"{self.folder}: {images['train']} training, {images['val']} validation and {images['test']} test images "
            f"of {self.dataset} at {self.identity['IMG_SIZE']} px; {how}"
        )
        for text in self.notes:
            self.log(text)

    def _take(self) -> None:
        try:
            self.lock.acquire(blocking=False)
        except Timeout:
            raise InputError(
                f"{self.folder} is in use by another process; wait for it to end, or use another {flag('RUN_DIR')} or "
                f"{flag('SEED')}"
            ) from None
        except OSError as error:
            raise InputError(f"cannot lock {self.folder}: {error.strerror}") from None
        self.held = _file_of(self.folder / ".lock")
        try:
            self._refuse_other_settings()  # as the folder is now
        except InputError:
            self.lock.release()
            raise

    def refuse_if_gone(self) -> None:
        """Raise `InputError` if the folder was deleted or renamed, and perhaps made anew by another run.

        Called before every write, which would mix two runs or lack its config.json.
        """
        if distributed.rank() > 0 or self.held is None:
            return
        if _file_of(self.folder / ".lock") != self.held:
            raise InputError(f"{self.folder} was deleted or renamed during the run, which ends here; start it again")
        if not self.config_path.exists():
            raise InputError(f"{self.config_path} was deleted during the run, which ends here; start it again")

    def give_back(self) -> None:
        """Let other processes have the folder; the end of the process does that, too."""
        self.lock.release(force=True)

    @contextlib.contextmanager
    def _kept_until_an_error(self):
        try:
            yield
        except BaseException:
            self.give_back()
            raise

    def log(self, text: str) -> None:
        """Print `text` above any bar and append it to log.txt, marked where it is synthetic or planted."""
        distributed.say(self.mark + text)
        self._append(self.mark + text)

    def _append(self, text: str) -> None:
        if distributed.rank() > 0:
            return
        self.refuse_if_gone()
        try:
            with self.log_path.open("a", encoding="utf-8", errors="backslashreplace") as file:
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
            with self._kept_until_an_error():
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
        result = read_result(self.result_path)
        mine = {"experiment": self.experiment, "variant": self.variant, "seed": self.identity.get("SEED")}
        for name, value in mine.items():
            if result[name] != value:
                raise InputError(
                    f"{self.result_path}: expected {value!r} for {name}, got {result[name]!r}; {START_OVER}"
                )
        distributed.say(f"{self.folder} is finished; nothing to do (--no-resume starts it over)")
        if not distributed.from_first(self.config_path.exists()):  # the result says that its identity is this one
            write_json(self.config_path, self.config | {"git_commit": "unknown"})
            distributed.say(f"{self.config_path} was missing and is written again")
        distributed.say(self.mark + describe_result(result))
        return result


def _file_of(path: Path) -> tuple[int, int] | None:
    """What is a file's own as long as it is open, whatever its name becomes; None where there is no such name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
    script: str,
    cfg,
    experiment: str,
    own_rules: dict[str, Rule],
    device: torch.device,
    precision: str,
    parts,
    **details,
) -> Run:
    """Look at the folder of a run; nothing is written before training begins.

    Args:
        script: path of the experiment's own file, whose code its numbers depend on.
        cfg, device, precision, parts: see `identity_of`.
        experiment: name of its folder in RUN_DIR.
        own_rules: of the constants that this experiment has beside the recipe's.
        details: what else its numbers depend on, for example the fingerprint of a circuit.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    details = {"own_code": own_code(Path(script), as_constants(cfg))} | details
    identity = identity_of(cfg, device, precision, parts) | details
    identity = json.loads(json.dumps(identity))  # as it will be read back: a tuple becomes a list
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
    folder = Path(cfg.run_dir) / experiment / variant / f"seed{cfg.seed}"
    run = Run(folder, config, cfg.resume, cfg.accept_code)
    run.refuse_other_settings()
    return run
