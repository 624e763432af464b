"""Mode 5 through `runtime_double`, in processes that are killed: python -m tests.helpers.killed_at_the_double

Prints one line of JSON for each place: the place, how the first process ended, how the second did, and which jobs the
service has. It forks before Qiskit starts threads of its own, so that Python imports everything once.
"""

import functools
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

from cifar100_hybrid_Qhead import make_circuit
from qcifar.hardware import on_backend
from qcifar.hardware.hybrid import Circuit
from qcifar.hardware.jobs import Jobs
from qcifar.hardware.service import Runtime
from tests.helpers import runtime_double

SHOTS, IMAGES, PER_JOB = 50, 5, 2


def evaluated() -> SimpleNamespace:
    """What mode 5 needs of an evaluation: a circuit of two qubits and the angles of five images."""
    function, shape = make_circuit(2, 1)
    weights = torch.linspace(0, 5, 6, dtype=torch.float64).view(shape)
    angles = torch.linspace(-2, 2, 2 * IMAGES, dtype=torch.float64).view(IMAGES, 2)
    circuit = Circuit("head", lambda given: function(given, weights), 2, angles, angles)
    return SimpleNamespace(hybrid=SimpleNamespace(circuits=(circuit,), labels=torch.zeros(IMAGES)))


def to_the_end(folder: Path) -> int:
    """The same command each time; 0 when all is there."""
    it = on_backend.open_measurement(
        evaluated(), Runtime("tests.helpers.runtime_double", runtime_double.NAME), folder, "", SHOTS, PER_JOB
    )
    on_backend.submit(it, True, False)
    state = on_backend.poll(it, 0.0)
    if len(state.finished) < len(it.jobs.all):
        return 3
    (counts,) = it.jobs.counts()
    return int(counts.shape != (IMAGES, 4) or (counts.sum(1) != SHOTS).any())


def in_a_fork(folder: Path, dies: str) -> int:
    """Exit status of `to_the_end`, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        os.environ |= {"QCIFAR_DOUBLE": str(folder / "service"), "QCIFAR_DOUBLE_DIES": dies}
        with open(os.devnull, "w") as sys.stdout:
            os._exit(to_the_end(folder / "jobs"))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    importlib.import_module("qiskit_ibm_runtime")  # takes seconds, and transpiling loads it, if it is there
    on_backend.Jobs = functools.partial(Jobs, settle=0.0)  # the double lists a job at once
    for place in runtime_double.PLACES:
        for number in (0, 2):
            with tempfile.TemporaryDirectory() as name:
                folder, dies = Path(name), f"{place} {number}"
                ended = [in_a_fork(folder, dies), in_a_fork(folder, "")]
                tags = [
                    json.loads(path.read_text())["tags"] for path in sorted((folder / "service").glob("[0-9].json"))
                ]
            print(json.dumps({"place": dies, "ended": ended, "tags": tags}), flush=True)


if __name__ == "__main__":
    main()
