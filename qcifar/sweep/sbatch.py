"""A plain script for `sbatch`, for sites without Python on the login node: an array with one task for each job."""

import shlex
import sys

from qcifar.sweep.plan import Job
from qcifar.sweep.slurm import Resources
from qcifar.sweep.store import CHECKPOINTS, Sweep

BODY = r"""
# Slurm signals this shell alone (B:). It tells the script to save, waits for that, and goes back into the queue;
# the same command then continues the run. A run that another process has is refused by the lock of its folder.
requeue=
trap 'requeue=yes; kill -USR1 "$job"' USR1
trap : TERM # preemption and scancel reach the script by themselves; the shell waits until it has saved
mkdir -p "$(dirname "$log")"
echo "$ ${command[*]}" >> "$log"
"${command[@]}" >> "$log" 2>&1 &
job=$!
wait "$job"
code=$?
while kill -0 "$job" 2> /dev/null; do # a signal ends wait early
    wait "$job"
    code=$?
done
if [ -f "$run/result.json" ]; then
    for name in "${drop[@]}"; do rm -f "$run/$name"; done
elif [ -n "$requeue" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def directives(sweep: Sweep, jobs: list[Job], resources: Resources) -> list[str]:
    """The lines that say what each task asks for."""
    asked = {
        "job-name": sweep.plan.name,
        "array": f"0-{len(jobs) - 1}",
        "requeue": None,
        "open-mode": "append",
        "output": f"{sweep.folder}/{sweep.plan.name}.%A_%a.out",
        "signal": f"B:USR1@{resources.signal_seconds}",
        "time": resources.minutes,
        "mem": f"{resources.memory_gb}G",
        "cpus-per-task": resources.cpus or sweep.threads,
        "gpus-per-node": resources.gpus or "",
        "partition": resources.partition,
        "account": resources.account,
    }
    return [
        f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in asked.items() if value != ""
    ]


def script(sweep: Sweep, resources: Resources, keep: str) -> str:
    """The text of the script, for the jobs that are not finished; to be submitted in the repository's folder."""
    jobs = [job for job in sweep.plan.jobs if not sweep.finished(job)]
    if not jobs:
        return f"#!/bin/bash\n# all runs of {sweep.plan.name} are finished\n"
    lines = [
        "#!/bin/bash",
        *directives(sweep, jobs, resources),
        f"# {sweep.plan.title}",
        f"# In the repository's folder: sbatch THIS_FILE. PYTHON={sys.executable} is used unless that is set.",
        f"python=${{PYTHON:-{shlex.quote(sys.executable)}}}",
        *(f"export {name}={value}" for name, value in sweep.environment().items()),
        f"drop=({' '.join(CHECKPOINTS[keep])})",
        'case "$SLURM_ARRAY_TASK_ID" in',
    ]
    for number, job in enumerate(jobs):
        lines += [
            f"{number})",
            f"    run={shlex.quote(str(sweep.run(job)))}",
            f"    log={shlex.quote(str(sweep.log(job)))}",
            f'    command=("$python" {shlex.join(job.command[1:])})',
            "    ;;",
        ]
    return "\n".join([*lines, "esac"]) + "\n" + BODY
