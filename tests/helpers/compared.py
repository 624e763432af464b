"""Made-up runs and their stored plan, as `compare_runs.py` compares them."""

import hashlib
import json

import compare_runs
from qcifar.decided import seal
from tests.helpers.made_runs import BASELINE, HEAD, write_run

WARM = {"EPOCHS_WARMUP": 1}


def put_all(run_dir, seeds=range(6), spread=0.003, head=0.43, **more):
    """Baseline at 40 % and head at `head`, each with a spread over seeds."""
    for seed in seeds:
        write_run(run_dir, BASELINE, seed, top1=0.40 + spread * (seed % 3), images=1000, **more)
        write_run(run_dir, HEAD, seed, top1=head + spread * (seed % 2), images=1000, constants=WARM, **more)


def shown(capsys, *argv):
    """The exit status, and what is printed, line by line."""
    status = compare_runs.main([str(one) for one in argv])
    return status, capsys.readouterr().out.splitlines()


TEXT = """[decided]
margin = 0.4
seeds = {seeds}
{more}
[[runs]]
script = "baseline"
[[runs]]
script = "head"
CONTROL = {controls}
EPOCHS_WARMUP = 1
"""
NAMES = {
    "quantum": "",
    "fourier": "control=fourier",
    "jitter": "control=jitter",
}  # of variants, as these tests write their runs


def store_plan(
    run_dir, seeds=range(6), edits=None, name="small", controls=("quantum",), twins=(), extends=None, **more
):
    """plans/<name>.json as sweep.py stores it; `edits` are made afterwards, `more` before the plan is sealed."""
    kinds = [(BASELINE, "cifar100_baseline.py", "", {})]
    for control in controls:
        kinds.append((HEAD, "cifar100_hybrid_Qhead.py", NAMES[control], {"CONTROL": control, **WARM}))
    jobs = [
        {"script": script, "experiment": experiment, "variant": variant, "seed": seed, "command": [],
         "folder": "/".join(filter(None, (experiment, variant, f"seed{seed}"))), "constants": constants}
        for seed in seeds
        for experiment, script, variant, constants in kinds
    ]  # fmt: skip
    said = [f'extends = "{extends}"'] * bool(extends) + [f"twins = {json.dumps(list(twins))}"] * bool(twins)
    text = TEXT.format(seeds=list(seeds), more="\n".join(said), controls=json.dumps(list(controls)))
    family = [{"experiment": HEAD, "variant": NAMES[control]} for control in controls if control != "jitter"]
    checks = [{"experiment": HEAD, "variant": NAMES[control]} for control in controls if control == "jitter"]
    family += [{**family[0], "against": f"{HEAD} control=fourier"}] * bool(twins)
    content = {
        "name": "small", "title": "Small", "stored": "2026-01-01T00:00:00Z", "git_commit": "", "text": text,
        "sha256": hashlib.sha256(text.encode()).hexdigest(), "outcome": "test_top1", "margin": 0.4,
        "seeds": list(seeds), "family": family, "checks": checks, "extends": extends, "threads": 1, "existing": [],
        "constants": {"EPOCHS": 3, "IMG_SIZE": 32}, "jobs": jobs,
    } | more  # fmt: skip
    path = run_dir / "plans" / "small.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | {"seal": seal(content)} | (edits or {})))
    return path


def of_today(path):
    """The plan as it was stored before runs and constants were recorded."""
    content = json.loads(path.read_text())
    for job in content["jobs"]:
        del job["constants"]
    content["family"] += content.pop("checks")
    for name in ("existing", "constants", "seal"):
        del content[name]
    path.write_text(json.dumps(content))
