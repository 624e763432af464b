"""A package like qiskit-ibm-runtime, whose service keeps its jobs in the folder QCIFAR_DOUBLE: for `--service`.

Its local mode forgets a job with the process. Here a job outlives it: circuit and angles are stored as the service gets
them, and run when the result is asked for; what comes back has the shape of SamplerV2's results, with the readout
errors that the backend says it has. A file `behaviour.json` there says which jobs fail, wait, take too long or come
back short: {"0": "fails"}. QCIFAR_DOUBLE_DIES ends the process as by SIGKILL at a place of `PLACES` and a number of a
job, such as "submitted 1".
"""

import io
import json
import os
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from qiskit import QuantumCircuit, qpy
from qiskit.primitives import StatevectorSampler
from qiskit.primitives.containers import BitArray, DataBin
from qiskit.providers.fake_provider import GenericBackendV2
from qiskit.transpiler import InstructionProperties

NAME = "double_five"
WRONG = 0.05  # readout error of each qubit
PLACES = (
    "before submit",  # the intent is on disk, the service has nothing
    "submitted",  # the service has the job, its id is not back
    "asked",  # the id is on disk, and nothing of the result
    "result",  # the result is back, its counts are not on disk
)


def folder() -> Path:
    made = Path(os.environ["QCIFAR_DOUBLE"])
    made.mkdir(parents=True, exist_ok=True)
    return made


def dies(place: str, number: int) -> None:
    """End the process here, if the environment says so."""
    assert place in PLACES
    if os.environ.get("QCIFAR_DOUBLE_DIES") == f"{place} {number}":
        os.kill(os.getpid(), signal.SIGKILL)


def made_backend() -> GenericBackendV2:
    made = GenericBackendV2(5, seed=1)
    for qubits in made.target["measure"]:
        made.target.update_instruction_properties("measure", qubits, InstructionProperties(error=WRONG))
    return made


class Job:
    def __init__(self, number: int):
        self.path = folder() / f"{number}.json"
        self.content = json.loads(self.path.read_text())

    def job_id(self) -> str:
        return f"double-{self.path.stem}"

    def _how(self) -> str:
        said = folder() / "behaviour.json"
        return (json.loads(said.read_text()) if said.exists() else {}).get(self.path.stem, "")

    def status(self) -> str:
        dies("asked", int(self.path.stem))
        return {"fails": "ERROR", "waits": "QUEUED", "too long": "CANCELLED"}.get(self._how(), "DONE")

    def error_message(self) -> str | None:
        return {"fails": "out of calibration", "too long": "Ran too long"}.get(self._how())

    def result(self):
        circuit: QuantumCircuit = qpy.load(io.BytesIO(self.path.with_suffix(".qpy").read_bytes()))[0]
        values = np.load(self.path.with_suffix(".npy"))
        if self._how() == "short":
            values = values[:-1]
        # A generator: from a number, all images would draw the same.
        sampler = StatevectorSampler(seed=np.random.default_rng(int(self.path.stem)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of Qiskit, about its own copy of a transpiled circuit
            (found,) = sampler.run([(circuit, values)], shots=self.content["shots"]).result()
        data = _read_wrongly(found.data.c, np.random.default_rng([1, int(self.path.stem)]))
        dies("result", int(self.path.stem))
        return [SimpleNamespace(data=DataBin(c=data, shape=data.shape))]


def _read_wrongly(data: BitArray, draw: np.random.Generator) -> BitArray:
    """Each bit turned with probability WRONG."""
    shape = *data.array.shape[:-1], 8 * data.array.shape[-1]
    turned = draw.random(shape) < WRONG
    turned[..., : -data.num_bits] = False  # the most significant bit of the first byte is the first
    return BitArray(data.array ^ np.packbits(turned, axis=-1), data.num_bits)


class QiskitRuntimeService:
    def backends(self):
        return [made_backend()]

    def backend(self, name: str):
        if name != NAME:
            raise ValueError(f"No backend matches the criteria {name}")
        return made_backend()

    def jobs(self, limit: int, job_tags: list[str]):
        known = [Job(int(path.stem)) for path in sorted(folder().glob("[0-9]*.json"))]
        return [job for job in known if set(job_tags) <= set(job.content["tags"])][:limit]

    def job(self, job_id: str) -> Job:
        return Job(int(job_id.removeprefix("double-")))


class Batch:
    def __init__(self, backend):
        self.backend = backend
        (folder() / "batches").open("a").write("opened\n")

    def close(self):
        (folder() / "batches").open("a").write("closed\n")


class SamplerV2:
    def __init__(self, mode):
        self.mode = mode
        self.options = SimpleNamespace(environment=SimpleNamespace(job_tags=[]))

    def run(self, pubs, *, shots: int) -> Job:
        (circuit, values), number = pubs[0], len(list(folder().glob("[0-9]*.json")))
        dies("before submit", number)
        content = {"tags": self.options.environment.job_tags, "shots": shots, "images": len(values)}
        path = folder() / f"{number}.json"
        with path.with_suffix(".qpy").open("wb") as file:
            qpy.dump(circuit, file)
        np.save(path.with_suffix(".npy"), values)
        path.write_text(json.dumps(content))
        dies("submitted", number)
        return Job(number)
