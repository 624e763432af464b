"""Many runs from one plan: which scripts, which constants, which seeds, and what is decided before the first run.

    python sweep.py studies/example.toml                     # start it; the same command goes on after an interruption
    python sweep.py studies/example.toml --dry-run           # every command, with an estimate of time and disk
    python sweep.py --experiments baseline,channels,head --seeds 0-5 --img-size 32 --run-dir runs/px32
    python sweep.py studies/example.toml --executor slurm --partition gpu --gpus 1 --minutes 240
    python sweep.py studies/example.toml --executor sbatch > jobs.sh

The second form takes any flag of the scripts and writes the plan first. Stores the plan in RUN_DIR/plans/ before the
first run, with hash, time and commit, and beside it how each job ended and its log. docs/sweeps.md says more.
Exit status: 0 all finished (or submitted), 1 runs failed, 2 bad input, 128 + signal when interrupted.
"""

import sys
from argparse import Namespace
from pathlib import Path

from qcifar.config import SWITCH, Rule, flag, one_of, settings_from_constants, whole
from qcifar.errors import InputError, count, run_script
from qcifar.sweep import estimate, local, sbatch
from qcifar.sweep.flags import split_flags, write_plan
from qcifar.sweep.plan import Plan, at, read_plan
from qcifar.sweep.slurm import Resources, submit
from qcifar.sweep.store import Sweep, refuse_another, store, stored_threads

# plan, where no file is given
EXPERIMENTS = ""  # baseline, channels, head or files of scripts, with commas
CONTROLS = ""  # values of CONTROL, with commas, for the scripts that have it
SEEDS = ""  # 0-5 or 0,2,4
NAME = ""  # of the plan that is written; empty: made from the flags
# run
RUN_DIR = ""  # where the run folders lie; empty: as the plan says
EXECUTOR = "local"  # local: processes here; slurm: submitted through submitit; sbatch: prints a script for sbatch
JOBS = 0  # at once, local; 0: one on each GPU, else as many as cores and memory take
THREADS = 0  # of each job; 0: the cores shared out, on Slurm CPUS; the plan keeps the number
KEEP = "all"  # checkpoints of finished runs: all, best (best.pt) or none
DRY_RUN = False  # print the commands and what they will take, and run nothing
# Slurm
PARTITION = ""  # empty: the site's default
ACCOUNT = ""  # empty: the site's default
MINUTES = 240  # time limit of a job; a run that needs more is saved, requeued and continued
MEMORY = 8  # of a job, GB
GPUS = 0  # of a job
CPUS = 0  # of a job; 0: as many as THREADS, else 1

anything = Rule(str, lambda value: isinstance(value, str), "a text")
own_rules = {
    "EXPERIMENTS": anything,
    "CONTROLS": anything,
    "SEEDS": anything,
    "NAME": anything,
    "RUN_DIR": anything,
    "EXECUTOR": one_of("local", "slurm", "sbatch"),
    "JOBS": whole(0, 10_000),
    "THREADS": whole(0, 1_000),
    "KEEP": one_of("all", "best", "none"),
    "DRY_RUN": SWITCH,
    "PARTITION": anything,
    "ACCOUNT": anything,
    "MINUTES": whole(2),
    "MEMORY": whole(1, 100_000),
    "GPUS": whole(0, 64),
    "CPUS": whole(0, 1_000),
}

arguments = (("plan", "?", "a plan in TOML (docs/sweeps.md)"),)


def plan_of(cfg, script_flags: list[str], home: Path) -> Plan:
    """The plan in the file that was given, or the one that the flags say, written to a file."""
    if cfg.plan is None:
        given = cfg.experiments, cfg.controls, cfg.seeds, cfg.name, cfg.run_dir
        path = write_plan(*given, script_flags, home, refuse_without_effect)
        say(f"plan: {path}")
        return read_plan(path, home, cfg.run_dir)
    if script_flags:
        raise InputError(
            f"unknown flag {script_flags[0].split('=')[0]}: beside a plan file only sweep.py's own flags count "
            f"(--help lists them); constants of the scripts stand in {cfg.plan}"
        )
    if given := [name for name in ("experiments", "controls", "seeds", "name") if getattr(cfg, name)]:
        raise InputError(f"{flag(given[0])}: a plan file is given, too, and says what runs; leave one of them out")
    plan = read_plan(Path(cfg.plan), home, cfg.run_dir)
    refuse_without_effect(plan)
    return plan


def refuse_without_effect(plan: Plan) -> None:
    """Raise `InputError` for a constant that would have no effect in a run, which the run would refuse."""
    having = {"CONTROL", "PLANT", "CIRCUIT_SEED"}
    jobs = {(job.script, job.variant): job for job in plan.jobs if having <= job.constants.keys()}
    if not jobs:
        return
    from qcifar.quantum.controls import refuse_unused  # imports PennyLane, which takes seconds

    for job in jobs.values():
        with at(f"plan {plan.name}, {job.folder}"):
            refuse_unused(Namespace(**{name.lower(): value for name, value in job.constants.items()}))


def sweep_of(cfg, plan: Plan, home: Path, gpus: list[str]) -> Sweep:
    """The plan with its number of threads: the stored one, else the one asked for, else one that is chosen."""
    stored = stored_threads(plan)
    if stored is not None and cfg.threads not in (0, stored):
        say(f"threads: {stored} as in the stored plan, not {cfg.threads}: another number rounds differently on a CPU")
    chosen = local.choose_threads(plan, gpus) if cfg.executor == "local" else cfg.cpus or 1  # a login node has others
    return Sweep(plan, home, stored or cfg.threads or chosen)


def say(text: str) -> None:
    """On stderr: stdout may be a script for sbatch."""
    print(text, file=sys.stderr, flush=True)


def main(argv=None):
    home = Path(__file__).resolve().parent
    known = {flag(name) for name in own_rules} | {"--no-dry-run", "--help"}
    ours, script_flags = split_flags(sys.argv[1:] if argv is None else argv, known)
    cfg = settings_from_constants(globals(), ours, own_rules, arguments)
    plan = plan_of(cfg, script_flags, home)
    for note in plan.notes:
        say(f"note: {note}")
    gpus = local.gpus_for(plan)
    sweep = sweep_of(cfg, plan, home, gpus)
    at_once = cfg.jobs or local.choose_jobs(plan, gpus, sweep.threads)
    resources = Resources(cfg.partition, cfg.account, cfg.minutes, cfg.memory, cfg.gpus, cfg.cpus)
    if cfg.dry_run:
        refuse_another(sweep)
        print("\n".join(estimate.describe(sweep, cfg.keep, at_once)))
        return
    with sweep.owned():
        new = store(sweep)
        say(f"{plan.title}: {len(plan.jobs)} runs; {'stored' if new else 'goes on with'} {sweep.path}")
        if cfg.executor == "sbatch":
            print(sbatch.script(sweep, resources, cfg.keep), end="")
        elif cfg.executor == "slurm":
            submit(sweep, resources, cfg.keep)
        else:
            say(f"{at_once} at a time, {count(sweep.threads, 'thread')} each")
            places = [gpus[place % len(gpus)] if gpus else None for place in range(at_once)]
            if local.Processes(sweep, places, cfg.keep).run():
                sys.exit(1)  # the failed runs are named


if __name__ == "__main__":
    run_script(main)
