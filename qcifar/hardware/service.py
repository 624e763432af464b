"""A service that runs jobs through SamplerV2: IBM's, or another package with the interface of qiskit-ibm-runtime.

One circuit with parameters and an array of angles are one PUB, and one PUB is a job: hundreds of images wait once.
Credentials are those that Qiskit keeps (`QiskitRuntimeService.save_account`); none are asked for here.
"""

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcifar.errors import InputError, describe, did_you_mean
from qcifar.files import write_whole
from qcifar.hardware.gates import Portable
from qcifar.hardware.jobs import DONE, FAILED, WAITING
from qcifar.hardware.with_qiskit import counts_of, in_order, needed, transpiled

DELAY = 250e-6  # seconds between two shots, IBM's default: the qubits come to rest
ENDED = {"DONE": DONE, "ERROR": FAILED, "CANCELLED": FAILED, "FAILED": FAILED, "COMPLETED": DONE}
NEEDED = ("QiskitRuntimeService", "SamplerV2", "Batch")  # of a package
LISTED = 10  # jobs with one tag; there is one


@dataclass(frozen=True)
class Prepared:
    """A circuit as the service takes it, and its angles."""

    circuit: Portable
    made: object  # the transpiled `QuantumCircuit`
    values: np.ndarray  # (K, parameters of `circuit`)


class Runtime:
    """A backend of a service; a `jobs.Service` once it has been given circuits.

    Args:
        module: name of the package: qiskit_ibm_runtime, or another with its QiskitRuntimeService, SamplerV2 and Batch.
        name: of the backend.

    Raises:
        InputError: the package is not installed, or is no such package; there are no credentials, there is no such
            backend, or no network.
    """

    def __init__(self, module: str, name: str):
        self.module, self.name, self.mode = needed(module), name, None
        if missing := [one for one in NEEDED if not hasattr(self.module, one)]:
            raise InputError(f"SERVICE (--service): {module} has no {', '.join(missing)}; expected {', '.join(NEEDED)}")
        self.circuits: tuple[Prepared, ...] = ()
        self.folder: Path | None = None  # where a result is kept that cannot be read
        try:
            self.service = self.module.QiskitRuntimeService()
        except Exception as error:  # AccountNotFoundError, and what a network gives
            raise InputError(
                f"no access to {module}: {describe(error)}; store your account once with "
                f"QiskitRuntimeService.save_account(token=...), in Qiskit's own file"
            ) from None
        try:
            self.backend = self.service.backend(name)
        except Exception as error:
            known = ""
            with contextlib.suppress(Exception):
                names = sorted(one.name for one in self.service.backends())
                known = "; " + did_you_mean(name, names, "expected one of " + ", ".join(names))
            raise InputError(f"BACKEND (--backend): no {name}: {describe(error)}{known}") from None

    def transpiled(self, circuit: Portable):
        """See `with_qiskit.transpiled`."""
        return transpiled(circuit, self.backend)

    def refuse_too_many(self, shots: int) -> None:
        """Raise `InputError` for more shots than the backend says it takes."""
        with self._speaking("asking for its limits"):
            most = getattr(self.backend, "max_shots", None)
        if most and shots > most:
            raise InputError(f"SHOTS (--shots): expected at most {most:,}, which {self.name} takes, got {shots:,}")

    @contextlib.contextmanager
    def batch(self, together: bool):
        """Jobs of the block run one after the other, without other people's between them; False: each for itself."""
        if not together:
            yield
            return
        with self._speaking("opening a batch"):
            self.mode = self.module.Batch(backend=self.backend)
        try:
            yield
        finally:
            self.mode.close()
            self.mode = None

    def submit(self, circuit: int, first: int, last: int, shots: int, tag: str) -> str:
        one = self.circuits[circuit]
        columns = in_order(one.made, one.circuit, one.values[first:last])
        with self._speaking("submitting a job"):
            sampler = self.module.SamplerV2(mode=self.mode or self.backend)
            sampler.options.environment.job_tags = [tag]
            return sampler.run([(one.made, columns)], shots=shots).job_id()

    def find(self, tag: str) -> list[str]:
        with self._speaking("looking for a job"):
            return [job.job_id() for job in self.service.jobs(job_tags=[tag], limit=LISTED)]

    def status(self, job_id: str) -> tuple[str, str]:
        with self._speaking("asking for a job"):
            job = self.service.job(job_id)
            status = job.status()
            name = str(getattr(status, "name", status)).upper()
            state = ENDED.get(name, WAITING)
            return state, (job.error_message() or name) if state == FAILED else name

    def counts(self, job_id: str, circuit: int) -> np.ndarray:
        with self._speaking(f"fetching the result of {job_id}"):
            result = self.service.job(job_id).result()
        n = self.circuits[circuit].circuit.n_qubits
        try:
            if len(result) == 0:  # `Jobs` says that it came back short
                return np.zeros((0, 2**n), dtype=np.int64)
            return counts_of(result[0].data, n)
        except Exception as error:  # of another version, or without our register: a job that was paid for did not fail
            raise InputError(
                f"{self.name}: the result of {job_id} cannot be read: {describe(error)}{self._kept(job_id, result)}; "
                f"the service has it still, and nothing was submitted again"
            ) from error

    def _kept(self, job_id: str, result) -> str:
        """Keep a result that cannot be read, if the package can write it; what to say of it."""
        if self.folder is None or not hasattr(self.module, "RuntimeEncoder"):
            return ""
        path = self.folder / f"{job_id}.result.json"
        try:
            content = json.dumps(result, cls=self.module.RuntimeEncoder).encode()
            write_whole(path, lambda file: file.write(content))
        except Exception as error:  # the first error matters more
            return f" (and not kept: {describe(error)})"
        return f" (kept in {path})"

    def least_seconds(self, executions: int) -> float:
        """Time on the machine that so many shots take at least: the pauses between them, with nothing else."""
        return executions * (getattr(self.backend, "default_rep_delay", None) or DELAY)

    @contextlib.contextmanager
    def _speaking(self, doing: str):
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # of the network, of the service
            raise InputError(
                f"{self.name}: {doing} failed: {describe(error)}; nothing is lost: the same command goes on"
            ) from error


def save_circuits(made: list) -> bytes:
    """Transpiled circuits as QPY: another version, or another seed, would transpile them otherwise."""
    file = io.BytesIO()
    needed("qiskit.qpy").dump(made, file)
    return file.getvalue()


def load_circuits(content: bytes) -> list:
    return needed("qiskit.qpy").load(io.BytesIO(content))
