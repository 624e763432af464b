"""Jobs as processes on this machine.

Each job is a process group of its own: Ctrl-C in a terminal reaches sweep.py alone, which forwards it, so that no
script gets it twice (the second one ends a script unsaved). When sweep.py dies without a word, Linux sends its jobs
SIGTERM (PR_SET_PDEATHSIG): they save and end. Elsewhere they go on to their end, and the lock of the run folder keeps
a new sweep.py from starting them a second time.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch

from qcifar.device import cores_at_hand, free_memory
from qcifar.errors import Interrupted
from qcifar.files import make_folder
from qcifar.sweep.plan import Job, Plan
from qcifar.sweep.screen import Screen, tail, training
from qcifar.sweep.store import Sweep

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
POLL_SECONDS = 0.2
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


@dataclass
class Running:
    """A job's process; `start` is where its part of the log begins, `gpu` the one that it has."""

    job: Job
    process: subprocess.Popen
    log: Path
    start: int
    gpu: str | None


def gpus_for(plan: Plan) -> list[str]:
    """The GPUs that jobs are dealt out to, as CUDA_VISIBLE_DEVICES names them; none if a job names its own device."""
    if any(job.constants.get("DEVICE") not in ("auto", "cuda") for job in plan.jobs) or not torch.cuda.is_available():
        return []
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return names or [str(number) for number in range(torch.cuda.device_count())]


def choose_threads(plan: Plan, gpus: list[str]) -> int:
    """Threads of each job: the cores shared out among as many jobs as there can be at once."""
    return max(1, cores_at_hand() // min(len(plan.jobs), len(gpus) or cores_at_hand()))


def choose_jobs(plan: Plan, gpus: list[str], threads: int) -> int:
    """How many jobs run at once: one on each GPU, else as many as cores and free memory take."""
    if gpus:
        return len(gpus)
    if any(str(job.constants.get("DEVICE")).startswith("cuda") for job in plan.jobs):
        return 1
    free, need = free_memory(torch.device("cpu")), max(memory(job.constants) for job in plan.jobs)
    fitting = cores_at_hand() if free is None else int(free // need)
    return max(1, min(cores_at_hand() // threads, fitting))


def memory(constants: dict) -> float:
    """Rough number of bytes that a run takes on a CPU: torch and the images, and the activations of a ResNet-34."""
    pixels = (constants.get("IMG_SIZE", 224) / 224) ** 2 * (16 if constants.get("STEM") == "cifar" else 1)
    images = constants.get("BATCH_SIZE", 128) / constants.get("ACCUMULATE", 1)
    return 1.2e9 + images * pixels * 80e6


def data_is_there(job: Job) -> bool:
    """Whether no download can come in between: two at once would write the same files."""
    if job.constants.get("DATASET") != "cifar100":
        return True
    folder = Path(str(job.constants.get("DATA_DIR"))) / "cifar-100-python"
    return all((folder / name).exists() for name in ("train", "test", "meta"))


def reason(code: int, said: str) -> str:
    """Why a job ended, in one line: its error, else the signal or the last line that it said."""
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    if code < 0:
        hint = " (was the memory full?)" if code == -signal.SIGKILL else ""
        return f"ended by {signal.Signals(-code).name}{hint}"
    return lines[-1] if lines else f"exit status {code}"


def bound_to_this_process():
    """What a child calls before it becomes the job, on Linux: SIGTERM for it when this process dies."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def bind():
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return bind


class Processes:
    """Runs the jobs of a sweep, as many at once as there are places.

    Args:
        places: for each job that may run at a time the GPU that it gets, None: no choice.
        keep: which checkpoints of finished runs stay: all, best or none.
    """

    def __init__(self, sweep: Sweep, places: list[str | None], keep: str):
        self.sweep, self.keep, self.free = sweep, keep, list(places)
        self.states, self.running = sweep.states(), []
        self.waiting: deque[Job] = deque()
        self.signals: list[int] = []
        self.bind = bound_to_this_process()

    def run(self) -> int:
        """Run what is not finished yet; returns how many jobs failed.

        Raises:
            Interrupted: a signal arrived; the jobs have saved and ended.
        """
        jobs = self.sweep.plan.jobs
        for job in jobs:
            if self.sweep.finished(job):
                self.end(job, "finished")
            else:
                self.waiting.append(job)
        self.screen = Screen(len(jobs), len(jobs) - len(self.waiting))
        with self.listening():
            while self.running or (self.waiting and not self.signals):
                self.start_some()
                self.collect()
                self.screen.show({run.job.folder: training(run.log, run.start) for run in self.running})
                time.sleep(POLL_SECONDS)
        self.screen.close()
        self.sweep.record(self.states)
        return self.conclude()

    @contextlib.contextmanager
    def listening(self):
        """Signals are forwarded to the jobs; a second one kills them."""

        def handle(signum, frame):
            self.signals.append(signum)
            for run in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(run.process.pid, self.forwarded(signum) if len(self.signals) == 1 else signal.SIGKILL)

        heard = list(STOPPING)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # started by nohup
            heard.remove(signal.SIGHUP)
        before = {number: signal.signal(number, handle) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @staticmethod
    def forwarded(signum: int) -> int:
        return signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM

    def start_some(self) -> None:
        """Fill the free places; the first job goes alone until it has all data that it may have to download."""
        while self.free and self.waiting and not self.signals:
            if self.running and not data_is_there(self.waiting[0]):
                return
            self.start(self.waiting.popleft(), self.free.pop(0))

    def start(self, job: Job, gpu: str | None) -> None:
        log = self.sweep.log(job)
        make_folder(log.parent)
        environment = os.environ | self.sweep.environment() | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
        with log.open("ab") as file:
            file.write(f"$ {' '.join(job.command)}\n".encode(errors="backslashreplace"))
            file.flush()
            start = file.tell()
            # A signal between the start and the list would not be forwarded.
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
            try:
                process = subprocess.Popen(
                    [sys.executable, self.sweep.program(job), *job.flags],
                    stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment,
                    process_group=0, preexec_fn=self.prepare_child,
                )  # fmt: skip
                self.running.append(Running(job, process, log, start, gpu))
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)

    def prepare_child(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        if self.bind:
            self.bind()

    def collect(self) -> None:
        """Note the end of each process that has ended."""
        for run in [run for run in self.running if run.process.poll() is not None]:
            self.running.remove(run)
            self.free.append(run.gpu)
            code, job = run.process.returncode, run.job
            if code == 0 and (self.sweep.run(job) / "result.json").exists():
                self.screen.finished += 1
                self.screen.ended += 1
                self.end(job, "finished")
                self.screen.say(f"finished  {job.folder}")
            elif self.signals:
                self.end(job, "stopped", reason(code, tail(run.log, run.start)))
                self.screen.say(f"stopped   {job.folder}: {self.states[job.folder]['reason']}")
            else:
                self.screen.failed += 1
                self.end(job, "failed", reason(code, tail(run.log, run.start)))
                self.screen.say(f"failed    {job.folder}: {self.states[job.folder]['reason']}")
            self.sweep.record(self.states)

    def end(self, job: Job, state: str, why: str = "") -> None:
        self.states[job.folder] = self.sweep.entry(job, state, why)
        if state == "finished":
            self.sweep.drop_checkpoints(job, self.keep)

    def conclude(self) -> int:
        """Say how all ended; returns how many failed. Raises `Interrupted` after a signal."""
        states = {job.folder: self.states.get(job.folder, {}) for job in self.sweep.plan.jobs}
        count = sum(state.get("state") == "finished" for state in states.values())
        failed = {folder: state for folder, state in states.items() if state.get("state") == "failed"}
        print(f"{count} of {len(states)} runs are finished" + (f", {len(failed)} failed:" if failed else ""))
        for folder, state in failed.items():
            print(f"failed: {folder}: {state['reason']} (log: {self.sweep.plan.run_dir / state['log']})")
        if self.signals:
            how = "the runs are saved" if len(self.signals) == 1 else "the runs go on from their last checkpoint"
            name = signal.Signals(self.signals[0]).name
            raise Interrupted(self.signals[0], f"stopped by {name}; {how}, and the same command continues them")
        return len(failed)
