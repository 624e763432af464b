"""A finished run, built again by its script, with the weights of its best epoch: for whoever asks it something new."""

import ast
import importlib
import math
import tempfile
from pathlib import Path
from typing import NamedTuple

from qcifar.config import flag, settings_from_constants
from qcifar.declared import experiment_of
from qcifar.errors import InputError
from qcifar.experiment.code import ROOT
from qcifar.experiment.identity import differences
from qcifar.experiment.recipe import SPLIT_FILE, Prepared
from qcifar.files import read_checkpoint, read_json
from qcifar.results import REMEDY

EXAMPLE = "expected the folder of a finished run, for example runs/cifar100_baseline_det/seed42"
# Of a config.json: what is needed here, and of which type.
NEEDED = {"experiment": str, "variant": str, "constants": dict, "identity": dict}


class FinishedRun(NamedTuple):
    folder: Path
    config: dict  # config.json
    result: dict  # result.json


def read_config(folder: Path) -> FinishedRun:
    """The run in `folder`, finished or not, without its result. Raises `InputError` if there is none."""
    if not folder.is_dir():
        raise InputError(f"no folder {folder}: {EXAMPLE}")
    if not (folder / "config.json").exists():
        raise InputError(f"{folder} holds no run (no config.json): {EXAMPLE}")
    config = read_json(folder / "config.json")
    wrong = [name for name, kind in NEEDED.items() if not isinstance(config.get(name), kind)]
    if wrong:
        raise InputError(f"{folder / 'config.json'} is not one of this test bench ({wrong[0]} is missing): {EXAMPLE}")
    return FinishedRun(folder, config, {})


def read_run(folder: Path) -> FinishedRun:
    """The run in `folder`. Raises `InputError` unless it is finished and has its best.pt."""
    run = read_config(folder)
    if not (folder / "result.json").exists():
        raise InputError(f"{folder} is not finished (no result.json): the command that began it continues it")
    if not (folder / "best.pt").exists():
        raise InputError(
            f"{folder} has no best.pt, which sweep.py --keep none deletes; train the run again, with --no-resume"
        )
    result = read_json(folder / "result.json", REMEDY)
    if not isinstance(result.get("best_epoch"), int):
        raise InputError(f"{folder / 'result.json'} is not one of this test bench (no best_epoch): {EXAMPLE}")
    return run._replace(result=result)


def script_of(run: FinishedRun) -> str:
    """Name of the script that opens runs of the experiment; of several, of the one that made this one."""
    experiment, code = run.config["experiment"], run.config["identity"].get("own_code")
    found = [path for path in sorted(ROOT.glob("*.py")) if experiment == _opens(path)]
    if not found:
        raise InputError(
            f"{run.folder}: no script in {ROOT} opens runs of {experiment}: expected one that calls "
            f'open_run(__file__, cfg, "{experiment}", …); put it there'
        )
    made = [path for path in found if isinstance(code, dict) and path.name in code]
    return (made or found)[0].stem


def _opens(script: Path) -> str | None:
    """Name of the experiment whose runs a script opens."""
    try:
        return experiment_of(ast.parse(script.read_bytes()))
    except (SyntaxError, ValueError):
        return None


def settings_of(run: FinishedRun, script, cfg, scratch: str):
    """The run's constants, with what training alone needs left out.

    RESUME False: `prepare` does not look at the run's own files, which were made on this or another machine and by
    this or other code; only training would take the folder or delete anything. All weights come from best.pt, so those
    that the run started from are not needed, and no memory for a backward pass.
    """
    given = run.config["constants"]
    texts = [f"{flag(name)}={value}" for name, value in given.items() if not isinstance(value, bool)]
    texts += [f"--{'' if value else 'no-'}{flag(name)[2:]}" for name, value in given.items() if isinstance(value, bool)]
    try:
        settings = settings_from_constants(vars(script), texts, script.own_rules)
    except InputError as error:
        raise InputError(f"{run.folder / 'config.json'} does not fit {script.__name__}.py now: {error}") from None
    settings.run_dir, settings.data_dir = str(run_dir_of(run, settings, scratch)), cfg.data_dir
    settings.device, settings.precision = cfg.device, cfg.precision
    if cfg.precision == "auto" and run.config["identity"].get("precision") in ("fp32", "bf16"):
        settings.precision = run.config["identity"]["precision"]
    settings.weights, settings.resume, settings.compile, settings.cuda_graphs = "none", False, False, False
    trained = min(settings.batch_size, run.config.get("images", {}).get("train", settings.batch_size))
    settings.accumulate = max(1, math.gcd(settings.batch_size, trained) // 2)
    return settings


def run_dir_of(run: FinishedRun, settings, scratch: str) -> Path:
    """RUN_DIR of a run that lies where its script put it; else `scratch`, where split and caches are made anew."""
    parts = [run.config["experiment"], *filter(None, [run.config["variant"]]), f"seed{settings.seed}"]
    lies = run.folder.resolve()
    run_dir = lies.parents[len(parts) - 1] if len(lies.parents) >= len(parts) else Path(scratch)
    return run_dir if run_dir.joinpath(*parts) == lies and (run_dir / SPLIT_FILE).exists() else Path(scratch)


def load(run: FinishedRun, cfg, **instead) -> Prepared:
    """What the run's script prepares, with the weights of the run's best epoch.

    Args:
        instead: settings that take the place of the run's, where its experiment has such.

    Raises:
        InputError: the script is not there or cannot prepare; it has other circuits now; best.pt is of another run.
    """
    script = importlib.import_module(script_of(run))
    with tempfile.TemporaryDirectory() as scratch:
        settings = settings_of(run, script, cfg, scratch)
        for name in instead.keys() & vars(settings).keys():
            setattr(settings, name, instead[name])
        it = script.prepare(settings)
    before = run.config["identity"]
    if before.get("circuits") != it.run.identity.get("circuits"):
        raise InputError(f"{run.folder}: the circuit of {script.__name__}.py is another one now; undo the change")
    _, edited = differences(before, it.run.identity)
    if edited:
        print(f"note: since this run, {', '.join(edited)} changed; its predictions may have changed, too")
    load_best(run, it)
    return it


def load_best(run: FinishedRun, it: Prepared) -> None:
    """Give the prepared model the weights of best.pt. Raises `InputError` if it is of another run or does not fit."""
    path, remedy = run.folder / "best.pt", "train the run again, with --no-resume"
    saved = read_checkpoint(path, it.test_loader.images.device, remedy)
    known = isinstance(saved, dict) and isinstance(saved.get("identity"), dict)
    if not known or differences(saved["identity"], run.config["identity"])[0]:
        raise InputError(f"{path} is not of the run that config.json beside it describes; {remedy}")
    if saved.get("epoch") != run.result["best_epoch"] - 1:
        raise InputError(f"{path} is not of the best epoch, {run.result['best_epoch']}, of result.json; {remedy}")
    if it.on_epoch_start:
        it.on_epoch_start(saved["epoch"])
    try:
        it.model.load_state_dict(saved["model"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise InputError(f"{path} does not fit the network that its script builds now: {first}") from None
    it.model.eval()
