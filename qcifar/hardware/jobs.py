"""Jobs on a machine that is paid for: nothing is lost, and nothing is paid for twice, wherever a process ends.

Of each job, three files are written before the next thing happens: the intent, with a tag that no other job has; the
id, as soon as the service gives it; the counts. No job is submitted before the service was asked for its tag. A job
that failed keeps what is known of it, and is submitted again, under another tag, only when somebody agrees to that.

    <folder>/plan.json          what is asked, of which machine
             0003-1.intent.json    job 3, first attempt: its tag
             0003-1.id.json        the service has it
             0003-1.failed.json    it failed, and why
             0003-1.short.npz      the counts that came back, if there are too few
             0003.npz              its counts (images, 2^n)
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from qcifar.errors import InputError
from qcifar.files import one_at_a_time, read_json, read_npz, write_json, write_npz

SETTLE = 60.0  # seconds after which a service lists a job that it has taken
WAITING, DONE, FAILED = "waiting", "done", "failed"


class Service(Protocol):
    """What is needed of a service."""

    def submit(self, circuit: int, first: int, last: int, shots: int, tag: str) -> str:
        """Submit images `first` to `last` - 1 through a circuit; the job's id."""

    def find(self, tag: str) -> list[str]:
        """Ids of the jobs with this tag."""

    def status(self, job_id: str) -> tuple[str, str]:
        """WAITING, DONE or FAILED; and what the service says of it."""

    def counts(self, job_id: str, circuit: int) -> np.ndarray:
        """(images, 2^n) of a job that is done. Raises `InputError`, with its id, if they cannot be had or read."""


@dataclass(frozen=True)
class Job:
    number: int
    circuit: int
    first: int  # images first to last - 1
    last: int


@dataclass(frozen=True)
class State:
    """Where each job stands; a job is in one of these."""

    not_submitted: list[Job]
    unknown: list[Job]  # intended, and no id: the process ended in between
    submitted: list[Job]
    finished: list[Job]
    reasons: dict[int, str]  # number of a job whose last attempt failed -> why


class Jobs:
    """The jobs of one measurement, on disk in `folder`.

    Args:
        plan: {"backend", "shots", "images", "images_per_job", "outcomes": [2^n of each circuit], ...}; all that decides
            what is measured. The tags follow from it.
        settle: see SETTLE.
    """

    def __init__(self, folder: Path, plan: dict, settle: float = SETTLE):
        self.folder, self.plan, self.settle = folder, plan, settle
        self.key = key_of(plan)
        size, images = plan["images_per_job"], plan["images"]
        spans = [(c, first) for c in range(len(plan["outcomes"])) for first in range(0, images, size)]
        self.all = [Job(k, c, first, min(first + size, images)) for k, (c, first) in enumerate(spans)]

    def begin(self) -> None:
        """Write the plan, or check that the one that is there is the same."""
        path = self.folder / "plan.json"
        if path.exists():
            if read_json(path) != json.loads(json.dumps(self.plan)):
                raise InputError(f"{path} is of other jobs than these; move the folder away")
        else:
            write_json(path, self.plan)

    def state(self) -> State:
        found = State([], [], [], [], {})
        for job in self.all:
            attempt = self._attempt(job)
            if attempt > 1 and not self._counts(job).exists():
                found.reasons[job.number] = read_json(self._file(job, attempt - 1, "failed"))["reason"]
            if self._counts(job).exists():
                found.finished.append(job)
            elif self._file(job, attempt, "id").exists():
                found.submitted.append(job)
            elif self._file(job, attempt, "intent").exists():
                found.unknown.append(job)
            else:
                found.not_submitted.append(job)
        return found

    def recover(self, service: Service) -> int:
        """Find by their tags the jobs whose ids are not here; how many were found. Nothing is submitted.

        Those without an intent, too: the folder may have been lost, or the run copied before another one submitted.
        """
        with one_at_a_time(self.folder / "jobs"):
            state = self.state()
            return sum(self._recover(service, job) for job in [*state.unknown, *state.not_submitted])

    def submit(self, service: Service, say=print) -> None:
        """Submit what is not with the service; it is asked for each tag first."""
        with one_at_a_time(self.folder / "jobs"):
            state = self.state()
            for job in sorted([*state.unknown, *state.not_submitted], key=lambda one: one.number):
                if self._recover(service, job):
                    continue
                attempt = self._attempt(job)
                tag = self.tag(job, attempt)
                write_json(self._file(job, attempt, "intent"), {"tag": tag, "time": time.time()})
                job_id = service.submit(job.circuit, job.first, job.last, self.plan["shots"], tag)
                write_json(self._file(job, attempt, "id"), {"id": job_id, "tag": tag})
                say(f"job {job.number + 1} of {len(self.all)}: {job_id}, images {job.first} to {job.last - 1}")

    def poll(self, service: Service, say=print) -> State:
        """Take in what is done; a job that failed, or that came back short, is noted with its reason.

        Raises:
            InputError: a result cannot be read. It was paid for: its job stays submitted, and the others are taken in.
        """
        unread = []
        with one_at_a_time(self.folder / "jobs"):
            for job in self.state().submitted:
                attempt = self._attempt(job)
                job_id = read_json(self._file(job, attempt, "id"))["id"]
                status, said = service.status(job_id)
                if status == DONE:
                    try:
                        counts = service.counts(job_id, job.circuit)
                    except InputError as error:
                        unread.append(str(error))
                        continue
                    wrong = self._wrong(job, counts)
                    if not wrong:
                        write_npz(self._counts(job), counts=counts, id=np.array(job_id))
                        continue
                    if not self._is_short(job, counts):
                        unread.append(f"job {job.number + 1} ({job_id}): {wrong}; it stays with the service")
                        continue
                    write_npz(self.folder / f"{job.number:04d}-{attempt}.short.npz", counts=counts, id=np.array(job_id))
                    status, said = FAILED, wrong
                if status == FAILED:
                    write_json(self._file(job, attempt, "failed"), {"id": job_id, "reason": said})
                    say(f"job {job.number + 1} of {len(self.all)} ({job_id}) failed: {said}")
        if unread:
            more = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
            raise InputError(unread[0] + more)
        return self.state()

    def counts(self) -> list[np.ndarray]:
        """(images, 2^n) of each circuit, when all are finished."""
        found: list[list[np.ndarray]] = [[] for _ in self.plan["outcomes"]]
        for job in self.all:
            counts = read_npz(self._counts(job), ("counts",))["counts"]
            if wrong := self._wrong(job, counts):
                raise InputError(f"{self._counts(job)}: {wrong}; delete it and poll again")
            found[job.circuit].append(counts)
        return [np.concatenate(parts) for parts in found]

    def ids(self) -> list[str]:
        """Of the finished jobs."""
        return [str(read_npz(self._counts(job), ("id",))["id"]) for job in self.state().finished]

    def tag(self, job: Job, attempt: int) -> str:
        return f"qcifar-{self.key}-{job.number:04d}-{attempt}"

    def _recover(self, service: Service, job: Job) -> bool:
        """Whether the service has the job by its tag; with an intent here, until it must have listed it."""
        attempt = self._attempt(job)
        intent = {"tag": self.tag(job, attempt), "time": 0.0}
        if self._file(job, attempt, "intent").exists():
            intent = read_json(self._file(job, attempt, "intent"))
        # Never longer than `settle` from now: a clock that was set back has the intent in the future.
        end = time.monotonic() + min(intent["time"] + self.settle - time.time(), self.settle)
        while not (found := service.find(intent["tag"])):
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, 5.0))
        write_json(self._file(job, attempt, "id"), {"id": found[0], "tag": intent["tag"]})
        return True

    def _attempt(self, job: Job) -> int:
        attempt = 1
        while self._file(job, attempt, "failed").exists():
            attempt += 1
        return attempt

    def _wrong(self, job: Job, counts: np.ndarray) -> str:
        """What is wrong with the counts of a job, in words; nothing: ""."""
        images, outcomes, shots = job.last - job.first, self.plan["outcomes"][job.circuit], self.plan["shots"]
        how = "came back short" if self._is_short(job, counts) else "came back otherwise than it was asked for"
        if counts.shape != (images, outcomes):
            return f"{how}: expected counts ({images}, {outcomes}), got {tuple(counts.shape)}"
        if (counts.sum(1) != shots).any() or counts.min() < 0:
            return f"{how}: expected {shots} shots an image, got {counts.sum(1).min()} to {counts.sum(1).max()}"
        return ""

    def _is_short(self, job: Job, counts: np.ndarray) -> bool:
        """Too few images or shots: what is missing has to be measured again. All else is an error on this side."""
        if counts.shape[1:] != (self.plan["outcomes"][job.circuit],) or (counts < 0).any():
            return False
        return len(counts) < job.last - job.first or bool((counts.sum(1) < self.plan["shots"]).any())

    def _file(self, job: Job, attempt: int, what: str) -> Path:
        return self.folder / f"{job.number:04d}-{attempt}.{what}.json"

    def _counts(self, job: Job) -> Path:
        return self.folder / f"{job.number:04d}.npz"


def key_of(plan: dict) -> str:
    """12 hex digits of all that is asked."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:12]
