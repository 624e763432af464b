"""What a sweep keeps in the run directory: the plan as it was before the first run, and how each job ended.

<RUN_DIR>/plans/<name>.json         the stored plan; its jobs, the number of threads, hash, time and commit
<RUN_DIR>/plans/<name>.state.json   {folder: {"state": "finished", "failed" or "stopped", "reason", "log"}}
<RUN_DIR>/plans/<name>.logs/        one log for each job: all that its processes said
"""

import contextlib
import datetime
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from qcifar.decided import read_states, seal
from qcifar.errors import InputError
from qcifar.files import make_folder, read_json, write_json
from qcifar.sweep.plan import Job, Plan

CHECKPOINTS = {"all": (), "best": ("last.pt",), "none": ("last.pt", "best.pt")}  # --keep: what finished runs lose


@dataclass(frozen=True)
class Sweep:
    """A stored plan in its run directory. `threads` is the number that each of its jobs has."""

    plan: Plan
    home: Path
    threads: int

    @property
    def folder(self) -> Path:
        return self.plan.run_dir / "plans"

    @property
    def path(self) -> Path:
        return self.folder / f"{self.plan.name}.json"

    @property
    def state_path(self) -> Path:
        return self.folder / f"{self.plan.name}.state.json"

    def log(self, job: Job) -> Path:
        return self.folder / f"{self.plan.name}.logs" / (job.folder.replace("/", ",") + ".log")

    def run(self, job: Job) -> Path:
        return self.plan.run_dir / job.folder

    def program(self, job: Job) -> str:
        return str(self.home / job.script)

    def environment(self) -> dict[str, str]:
        """Variables that give a job its number of threads."""
        return {f"{library}_NUM_THREADS": str(self.threads) for library in ("OMP", "MKL", "OPENBLAS")}

    def states(self) -> dict[str, dict]:
        """How each job ended, by folder. Raises `InputError` for a file that says something else."""
        return read_states(self.state_path)

    def record(self, states: dict[str, dict]) -> None:
        write_json(self.state_path, states)

    def entry(self, job: Job, state: str, reason: str = "") -> dict[str, str]:
        return {"state": state, "reason": reason, "log": self.log(job).relative_to(self.plan.run_dir).as_posix()}

    def finished(self, job: Job) -> bool:
        """Whether the run is there, made with the constants and threads of this job.

        Of a run that was made otherwise the script itself says what differs.
        """
        if not (self.run(job) / "result.json").exists():
            return False
        try:
            config = read_json(self.run(job) / "config.json")
        except InputError:
            return False
        before, identity = config.get("constants"), config.get("identity")
        if not isinstance(before, dict) or not isinstance(identity, dict):
            return False
        same = all(before.get(name) == value for name, value in job.constants.items() if name != "RUN_DIR")
        return same and identity.get("threads", self.threads) == self.threads

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """One sweep.py runs a plan at a time. Raises `InputError` where another one does."""
        lock = FileLock(make_folder(self.folder) / f".{self.plan.name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise InputError(f"another sweep.py runs the plan {self.plan.name} in {self.plan.run_dir}") from None
        try:
            yield
        finally:
            lock.release()

    def drop_checkpoints(self, job: Job, keep: str) -> None:
        """Delete the checkpoints of a finished run that `keep` does not name, unless a process has the folder."""
        paths = [path for name in CHECKPOINTS[keep] if (path := self.run(job) / name).exists()]
        lock = FileLock(self.run(job) / ".lock")
        if paths:
            with contextlib.suppress(Timeout), lock.acquire(blocking=False):
                for path in paths:
                    path.unlink(missing_ok=True)


def stored_threads(plan: Plan) -> int | None:
    """The number of threads of the stored plan of that name, else of the one that it extends; None: not fixed yet.

    Raises:
        InputError: the plan extends one that is not stored in this run directory.
    """
    folder = plan.run_dir / "plans"
    if plan.extends is not None and not (folder / f"{plan.extends}.json").exists():
        known = sorted(path.stem for path in folder.glob("*.json") if not path.name.endswith(".state.json"))
        raise InputError(
            f"plan {plan.name} extends {plan.extends}, which is not stored in {folder}; stored are: "
            + (", ".join(known) or "none")
        )
    for name in filter(None, (plan.name, plan.extends)):
        if (path := folder / f"{name}.json").exists():
            threads = read_json(path).get("threads")
            if not isinstance(threads, int) or threads < 1:
                raise InputError(f"{path} is not a stored plan (threads: {threads!r}); move it away")
            return threads
    return None


def store(sweep: Sweep) -> bool:
    """Put the plan into the run directory, before its first run; whether it was new.

    Raises:
        InputError: another plan of that name is stored, or the scripts now make other folders of it.
    """
    plan = sweep.plan
    if sweep.path.exists():
        refuse_another(sweep)
        return False
    shared, jobs = compact_jobs(plan)
    content = {
        "name": plan.name,
        "title": plan.title,
        "stored": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "sha256": plan.sha256,
        "text": plan.text,
        "git_commit": git_commit(sweep.home),
        "outcome": plan.outcome,
        "margin": plan.margin,
        "seeds": list(plan.seeds),
        "family": [
            *({"experiment": experiment, "variant": variant} for experiment, variant in plan.family),
            *(
                {"experiment": twin[0], "variant": twin[1], "against": " ".join(filter(None, twin[2:]))}
                for twin in plan.twins
            ),
        ],
        "checks": [{"experiment": experiment, "variant": variant} for experiment, variant in plan.checks],
        "extends": plan.extends,
        "threads": sweep.threads,
        "existing": existing_runs(sweep),
        "constants": shared,
        "jobs": jobs,
    }
    write_json(sweep.path, content | {"seal": seal(content)})
    return True


def compact_jobs(plan: Plan) -> tuple[dict, list[dict]]:
    """The constants that all jobs share, and the jobs, each with its other constants."""
    told = ("SEED", "RUN_DIR")  # of each job by its seed, and by where the plan lies
    every = [job.constants for job in plan.jobs]
    shared = {
        name: value
        for name, value in every[0].items()
        if name not in told and all(name in one and one[name] == value for one in every)
    }
    jobs = [
        {name: value for name, value in asdict(job).items() if name not in ("constants", "flags")}
        | {"command": job.command}
        | {"constants": {name: value for name, value in job.constants.items() if name not in (*told, *shared)}}
        for job in plan.jobs
    ]
    return shared, jobs


def existing_runs(sweep: Sweep) -> list[dict]:
    """Runs of the plan that are there already, with the code of their identity: who made the plan could see them."""
    found = []
    for job in sweep.plan.jobs:
        folder = sweep.run(job)
        if any((folder / name).exists() for name in ("config.json", "metrics.csv", "result.json")):
            identity = None  # not finished, or damaged
            with contextlib.suppress(InputError):
                identity = read_json(folder / "result.json").get("identity")
            found.append({"folder": job.folder, "identity": identity})
    return found


def refuse_another(sweep: Sweep) -> None:
    """Raise `InputError` if another plan of that name is stored, or one whose runs would now lie elsewhere."""
    plan, path = sweep.plan, sweep.path
    if not path.exists():
        return
    before = read_json(path)
    if before.get("sha256") != plan.sha256:
        raise InputError(
            f"{path} holds another plan of the name {plan.name}, stored {before.get('stored')}: a plan does not change "
            f'once it has begun. Save the new one under a new name, with extends = "{plan.name}" under [decided] if it '
            f"adds seeds or runs, or take another run_dir"
        )
    jobs = before.get("jobs")
    then = [job.get("folder") for job in jobs if isinstance(job, dict)] if isinstance(jobs, list) else []
    if differing := [(old, job.folder) for old, job in zip(then, plan.jobs, strict=False) if old != job.folder]:
        old, new = differing[0]
        raise InputError(f"{path}: the run {old} would now lie in {new}: constants of a script were edited; undo that")


def git_commit(home: Path) -> str:
    """Commit of the scripts' repository, "+" where tracked files differ from it, "unknown" outside one."""
    found = []
    for command in (["rev-parse", "--show-toplevel"], ["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"]):
        try:
            done = subprocess.run(["git", *command], cwd=home, capture_output=True, text=True, check=True, timeout=10)
        except (OSError, subprocess.SubprocessError):
            return "unknown"
        found.append(done.stdout.strip())
    top, commit, changes = found
    return commit + ("+" if changes else "") if Path(top) == home.resolve() else "unknown"
