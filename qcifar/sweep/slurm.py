"""Jobs on a Slurm cluster, through submitit (an optional package) or as a script for `sbatch`.

Slurm sends a signal some time before a job's limit; the script is told to save and end, and the job goes back into
the queue with the same command, which continues the run. submitit itself (its CommandFunction) would not requeue it.
"""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from qcifar.errors import InputError
from qcifar.files import read_json, write_json
from qcifar.sweep.local import reason
from qcifar.sweep.plan import Job
from qcifar.sweep.screen import tail
from qcifar.sweep.store import CHECKPOINTS, Sweep

MOST_TIMEOUTS = 10_000  # submitit gives a job up after 3; one of 10 minutes or less always counts as timed out there


@dataclass(frozen=True)
class Resources:
    """What a job asks for. `signal_seconds` before its end it is told to save."""

    partition: str
    account: str
    minutes: int
    memory_gb: int
    gpus: int
    cpus: int

    @property
    def signal_seconds(self) -> int:
        # Slurm signals up to a minute earlier than asked; that must not be before the job has begun.
        return min(120, 20 * self.minutes)


class ScriptJob:
    """What a submitit job calls: a script as a process.

    `checkpoint` is what submitit calls when Slurm's signal comes, and what it then puts back into the queue.

    Args:
        command: program and arguments.
        environment: variables beside those of the job.
        log: file that its output is added to.
        drop: checkpoints to delete when the run is finished.
    """

    def __init__(self, command: list[str], environment: dict[str, str], log: str, drop: list[str]):
        self.command, self.environment, self.log, self.drop = command, environment, log, drop
        self.pid: int | None = None

    def __call__(self) -> int:
        with open(self.log, "ab") as file:
            file.write(f"$ {' '.join(self.command)}\n".encode(errors="backslashreplace"))
            file.flush()
            start = file.tell()
            process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env=os.environ | self.environment, preexec_fn=ignore_users_signals,
            )  # fmt: skip
        self.pid = process.pid
        self.wait()
        code = process.wait()
        if code != 0:
            raise RuntimeError(reason(code, tail(Path(self.log), start)))
        for path in self.drop:
            Path(path).unlink(missing_ok=True)
        return code

    def wait(self) -> None:
        """Return when the script has ended. It is not reaped: `checkpoint` may interrupt this, and waits, too."""
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)

    def checkpoint(self):
        from submitit.helpers import DelayedSubmission

        if self.pid is not None:
            os.kill(self.pid, signal.SIGUSR1)  # a zombie takes it, too
            self.wait()
        return DelayedSubmission(ScriptJob(self.command, self.environment, self.log, self.drop))


def ignore_users_signals() -> None:
    """Slurm sends a job's signal to all its processes; SIGUSR2, submitit's, would end the script unsaved."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def queued_ids() -> set[str]:
    """Ids of all jobs that Slurm has not ended yet. Raises `InputError` where it does not answer."""
    try:
        done = subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise InputError(f"squeue does not answer ({said[-1] if said else error}); nothing was submitted") from None
    return set(done.stdout.split())


def submit(sweep: Sweep, resources: Resources, keep: str) -> None:
    """Submit the jobs that are neither finished nor in the queue, and say what became of the others.

    Raises:
        InputError: no submitit, no Slurm, or Slurm refuses.
    """
    try:
        import submitit
        from submitit.core.utils import FailedJobError
    except ImportError:
        raise InputError(
            "--executor slurm needs submitit: pip install submitit; --executor sbatch prints a script without it"
        ) from None
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise InputError("--executor slurm: no sbatch and srun here; start sweep.py on a login node of the cluster")
    ids_path = sweep.folder / f"{sweep.plan.name}.slurm.json"
    ids, queued, states = (read_json(ids_path) if ids_path.exists() else {}), queued_ids(), sweep.states()
    count = {"finished": 0, "in the queue": 0, "submitted": 0}
    for job in sweep.plan.jobs:
        if sweep.finished(job):
            sweep.drop_checkpoints(job, keep)
            states[job.folder] = sweep.entry(job, "finished")
            count["finished"] += 1
            continue
        if ids.get(job.folder) in queued:
            count["in the queue"] += 1
            continue
        if job.folder in ids:
            states[job.folder] = ended_without_result(sweep, job)
            print(f"failed before: {job.folder}: {states[job.folder]['reason']}")
        try:
            executor = executor_for(submitit, sweep, job, resources)
            ids[job.folder] = executor.submit(script_job(sweep, job, keep)).job_id
        except (FailedJobError, subprocess.SubprocessError, RuntimeError) as error:
            raise InputError(f"Slurm refuses the job {job.folder}: {' '.join(str(error).split())[-300:]}") from None
        write_json(ids_path, ids)  # at once: what has been submitted is never submitted twice
        count["submitted"] += 1
    sweep.record(states)
    print(", ".join(f"{number} {what}" for what, number in count.items()) + "; the same command says how it stands")


def script_job(sweep: Sweep, job: Job, keep: str) -> ScriptJob:
    log = sweep.log(job).absolute()
    log.parent.mkdir(parents=True, exist_ok=True)
    drop = [str((sweep.run(job) / name).absolute()) for name in CHECKPOINTS[keep]]
    return ScriptJob([sys.executable, sweep.program(job), *job.flags], sweep.environment(), str(log), drop)


def executor_for(submitit, sweep: Sweep, job: Job, resources: Resources):
    folder = (sweep.folder / f"{sweep.plan.name}.slurm").absolute()
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=MOST_TIMEOUTS)
    site = {"slurm_partition": resources.partition, "slurm_account": resources.account}
    executor.update_parameters(
        name=f"{sweep.plan.name}:{job.folder}",
        timeout_min=resources.minutes,
        mem_gb=resources.memory_gb,
        cpus_per_task=resources.cpus or sweep.threads,
        slurm_signal_delay_s=resources.signal_seconds,
        slurm_additional_parameters={"requeue": True},
        slurm_setup=[f'export PYTHONPATH="{sweep.home}:$PYTHONPATH" SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK'],
        **({"gpus_per_node": resources.gpus} if resources.gpus else {}),
        **{name: value for name, value in site.items() if value},
    )
    return executor


def ended_without_result(sweep: Sweep, job: Job) -> dict[str, str]:
    """The state of a job that has left the queue and made no result."""
    log = sweep.log(job)
    said = tail(log, 0).split("\n$ ")[-1] if log.exists() else ""
    return sweep.entry(job, "failed", reason(1, said) if said else "ended before the script was started")
