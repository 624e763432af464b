"""A service through SamplerV2, with a package made up here: what it answers when something is not as expected."""

import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from qcifar.errors import InputError
from qcifar.hardware.gates import Portable
from qcifar.hardware.service import Prepared, Runtime

BITS = SimpleNamespace(array=np.array([[[0], [1], [3]], [[0], [0], [2]]], dtype=np.uint8))  # 2 images, 3 shots


class Encoder(json.JSONEncoder):
    def default(self, o):
        return vars(o)


@pytest.fixture
def package(monkeypatch):
    """A package in the place of qiskit-ibm-runtime; its one job has the result `package.result`."""
    made = ModuleType("made_package")
    job = SimpleNamespace(result=lambda: made.result)
    made.backend = SimpleNamespace(name="five", num_qubits=5)
    made.QiskitRuntimeService = lambda: SimpleNamespace(backend=lambda name: made.backend, job=lambda job_id: job)
    made.SamplerV2 = made.Batch = object
    made.RuntimeEncoder = Encoder
    monkeypatch.setitem(sys.modules, "made_package", made)
    return made


def runtime():
    made = Runtime("made_package", "five")
    made.circuits = (Prepared(Portable("two", 2, 0, (), (), (), None), None, np.zeros((2, 0))),)
    return made


def test_counts_of_a_result(package):
    package.result = [SimpleNamespace(data=SimpleNamespace(c=BITS))]
    assert runtime().counts("j1", 0).tolist() == [[1, 0, 1, 1], [2, 1, 0, 0]]  # Qiskit's 1 is PennyLane's 2
    package.result = []
    assert runtime().counts("j1", 0).shape == (0, 4)  # for `Jobs`: short


def test_a_result_that_cannot_be_read_is_kept_and_named(package, tmp_path):
    package.result = [SimpleNamespace(data=SimpleNamespace(meas="other"))]
    here = runtime()
    with pytest.raises(InputError, match=r"the result of j1 cannot be read: AttributeError.*nothing was submitted"):
        here.counts("j1", 0)
    here.folder = tmp_path
    with pytest.raises(InputError, match=r"kept in .*j1\.result\.json"):
        here.counts("j1", 0)
    assert json.loads((tmp_path / "j1.result.json").read_text()) == [{"data": {"meas": "other"}}]
    package.RuntimeEncoder = json.JSONEncoder  # which cannot write it
    with pytest.raises(InputError, match=r"j1 cannot be read: AttributeError.*and not kept: TypeError"):
        here.counts("j1", 0)


def test_more_shots_than_the_backend_takes_are_refused(package):
    here = runtime()
    here.refuse_too_many(10**6)  # it says nothing
    package.backend.max_shots = 1000
    here.refuse_too_many(1000)
    with pytest.raises(InputError, match=r"SHOTS \(--shots\): expected at most 1,000, which five takes, got 1,001"):
        here.refuse_too_many(1001)


def test_another_package_is_not_taken_for_a_service():
    with pytest.raises(InputError, match=r"SERVICE \(--service\): json has no QiskitRuntimeService, SamplerV2, Batch"):
        Runtime("json", "five")
