"""A service that keeps its jobs on disk, as a real one does, for `qcifar.hardware.jobs`; a process that dies in it."""

import json
import os
import signal
import warnings
from pathlib import Path

import numpy as np

from qcifar import files
from qcifar.errors import InputError
from qcifar.hardware.jobs import DONE, FAILED, WAITING, Jobs

SHOTS, OUTCOMES = 20, 4
PLAN = {"backend": "double", "shots": SHOTS, "images": 5, "images_per_job": 2, "outcomes": [OUTCOMES]}


class DiskService:
    """Jobs as files job-<n>.json in a folder; each submission that arrives is one, and is paid for.

    Args:
        event: called with a name at each place where a process may end.
        behaviour: number of a submission -> "fails", "waits", "short", "few shots", "many shots", "unread".
    """

    def __init__(self, folder: Path, event=lambda name: None, behaviour=None):
        self.folder, self.event, self.behaviour = folder, event, behaviour or {}
        folder.mkdir(parents=True, exist_ok=True)

    def submit(self, circuit, first, last, shots, tag):
        self.event("before the service has it")
        number = len(list(self.folder.glob("job-*.json")))
        job = {"id": f"job-{number}", "tag": tag, "first": first, "last": last, "shots": shots, "number": number}
        (self.folder / f"job-{number}.json").write_text(json.dumps(job))
        self.event("the service has it, the id is not back")
        return job["id"]

    def find(self, tag):
        self.event("looking for a tag")
        return [job["id"] for job in self.stored() if job["tag"] == tag]

    def status(self, job_id):
        self.event("asking")
        how = self.behaviour.get(self._job(job_id)["number"])
        return {"fails": (FAILED, "out of calibration"), "waits": (WAITING, "QUEUED")}.get(how, (DONE, "DONE"))

    def counts(self, job_id, circuit):
        job = self._job(job_id)
        how = self.behaviour.get(job["number"])
        if how == "unread":
            raise InputError(f"double: the result of {job_id} cannot be read")
        images = range(job["first"], job["last"] - (how == "short"))
        shots = job["shots"] + {"few shots": -1, "many shots": 1}.get(how, 0)
        counts = np.array([counts_of(image, shots) for image in images], dtype=np.int64)
        self.event("the result is back, not on disk")
        return counts.reshape(-1, OUTCOMES)

    def stored(self):
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("job-*.json"))]

    def _job(self, job_id):
        return next(job for job in self.stored() if job["id"] == job_id)


def counts_of(image, shots):
    """What the double measures of an image: other counts for each."""
    return [image, shots - image, 0, 0]


def run_to_the_end_or_to(event_number: int | None, folder: Path) -> None:
    """Begin or go on with the jobs of PLAN; at the event of this number, end as by SIGKILL. Counts events in a file."""
    seen = [0]

    def event(name):
        seen[0] += 1
        if seen[0] == event_number:
            os.kill(os.getpid(), signal.SIGKILL)

    renamed, written = os.fsync, files._write_whole

    def before_it_is_renamed(descriptor):
        event("a file is written under its temporary name")
        return renamed(descriptor)

    def and_after(path, write):
        written(path, write)
        event("a file has its name")

    os.fsync, files._write_whole = before_it_is_renamed, and_after
    files._flush_folder = lambda folder: None
    service = DiskService(folder / "service", event)
    jobs = Jobs(folder / "jobs", PLAN, settle=0.0)
    jobs.begin()
    jobs.submit(service, say=lambda line: None)
    jobs.poll(service, say=lambda line: None)
    if event_number is None:
        (folder / "events").write_text(str(seen[0]))


def in_a_process(event_number: int | None, folder: Path) -> int:
    """`run_to_the_end_or_to` in a copy of this process; its exit status, or minus the signal that ended it.

    Forked, since it takes a hundredth of a second; it writes files only, and touches neither torch nor threads.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python, about forks beside torch's threads
        child = os.fork()
    if child == 0:
        try:
            run_to_the_end_or_to(event_number, folder)
        finally:
            os._exit(0 if event_number is None else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
