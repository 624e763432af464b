"""What needs Qiskit (`make hardware`): circuits read back, chips, Aer, and a service that is a double."""

import functools
import io
import json
import os
import signal
import subprocess
import sys

import matplotlib
import numpy as np
import pennylane as qml
import pytest
import torch

from qcifar.errors import InputError, status_of
from qcifar.hardware import with_qiskit
from qcifar.hardware.engine import NoisyCircuit
from qcifar.hardware.gates import portable
from qcifar.hardware.noise import NoiseModel
from qcifar.hardware.qasm import qasm
from tests.helpers import ROOT

pytestmark = pytest.mark.hardware
qiskit = pytest.importorskip("qiskit")
pytest.importorskip("qiskit_aer")
pytest.importorskip("qiskit_ibm_runtime")
from tests.helpers.runtime_double import PLACES, WRONG  # noqa: E402  needs Qiskit


@functools.cache
def circuits():
    from cifar100_hybrid_Qhead import make_circuit
    from cifar100_quantum_channels import make_circuits

    circuit, shape = make_circuit(4, 2)
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(0)).double()

    def head(angles):
        return circuit(angles, weights)

    return {"head": head, "edge": make_circuits("default", 4, 1)[0], "texture": make_circuits("default", 4, 1)[1]}


def points(count=6):
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def assert_same_unitary(made, function, angles):
    """Up to a phase; in PennyLane's matrix with its wires the other way round, as Qiskit orders qubits."""
    from qiskit.quantum_info import Operator

    made.remove_final_measurements()
    expected = qml.matrix(qml.tape.make_qscript(function)(angles), wire_order=range(4)[::-1])
    overlap = np.trace(np.asarray(expected).conj().T @ Operator(made).data) / 16
    assert abs(abs(overlap) - 1) < 1e-12


def bound(made, there, row):
    return made.assign_parameters({one: row[list(there.parameters).index(one.name)] for one in made.parameters})


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("name", ["head", "edge", "texture"])
def test_exports_are_read_back_to_the_same_unitary(name, degree):
    from qiskit import qasm2, qasm3, qpy

    function, (angles, _) = circuits()[name], points(2)
    there = portable(function, 4, degree)
    row = there.values(angles[None])[0]
    read = qasm2.loads(qasm(there, 2, row), custom_instructions=qasm2.LEGACY_CUSTOM_INSTRUCTIONS)
    assert_same_unitary(read, function, angles)
    assert_same_unitary(qasm3.loads(qasm(there, 3, row)), function, angles)
    parametrised = qasm3.loads(qasm(there, 3))
    assert {one.name for one in parametrised.parameters} == set(there.parameters)
    assert_same_unitary(bound(parametrised, there, row), function, angles)
    (kept,) = qpy.load(io.BytesIO(with_qiskit.qpy_bytes(there)))
    assert_same_unitary(bound(kept, there, row), function, angles)


@pytest.mark.parametrize("name", ["head", "texture"])
def test_counts_are_in_pennylanes_order_and_aer_without_noise_is_default_qubit(name):
    from qiskit.primitives import StatevectorSampler

    function, shots = circuits()[name], 20_000
    there = portable(function, 4)
    made, values = with_qiskit.to_qiskit(there), there.values(points())
    sampler = StatevectorSampler(seed=np.random.default_rng(0))
    (result,) = sampler.run([(made, with_qiskit.in_order(made, there, values))], shots=shots).result()
    exact = NoisyCircuit(function, 4).probabilities(points()).numpy()
    error = 5 * np.sqrt(exact * (1 - exact) / shots) + 5 / shots
    assert (abs(with_qiskit.counts_of(result.data, 4) / shots - exact) < error).all()
    counts = with_qiskit.aer_counts(made, there, values, None, shots, seed=0)
    assert (abs(counts / shots - exact) < error).all()
    assert abs(exact - exact[:, with_qiskit.from_qiskit_order(np.arange(16)[None])[0]]).max() > 0.05  # order counts


@pytest.fixture(scope="module")
def manila():
    return with_qiskit.chip_class("FakeManilaV2")()


@pytest.mark.parametrize("name", ["head", "texture"])
def test_a_chips_noise_is_that_of_aer(name, manila):
    function = circuits()[name]
    there = portable(function, 4)
    made, chosen = with_qiskit.transpiled(there, manila, seeds=3)
    assert chosen["two_qubit_gates"] >= chosen["two_qubit_gates_before"] - 6 and chosen["depth"] > 0
    assert chosen["seed"] in range(3) and chosen["qiskit"] == qiskit.__version__ and len(set(chosen["layout"])) == 4
    values, shots = there.values(points()), 20_000
    noisy = NoisyCircuit.from_qiskit(made, NoiseModel.from_qiskit(manila), inputs=made.parameters)
    exact = noisy.probabilities(torch.from_numpy(with_qiskit.in_order(made, there, values))).numpy()
    counts = with_qiskit.aer_counts(made, there, values, manila, shots, seed=1)
    assert (abs(counts / shots - exact) < 5 * np.sqrt(exact * (1 - exact) / shots) + 5 / shots).all()


def test_the_same_seeds_give_a_circuit_of_the_same_size(manila):
    there = portable(circuits()["edge"], 4)
    one, other = (with_qiskit.transpiled(there, manila)[1] for _ in range(2))
    assert [one[name] for name in ("depth", "two_qubit_gates")] == [
        other[name] for name in ("depth", "two_qubit_gates")
    ]  # where it lies on the chip may differ: see docs/hardware.md


def test_chips_that_are_unknown_or_too_small(manila):
    for name, hint in (("FakeManila9", r"did you mean FakeManilaV2\?"), ("nowhere", r"expected one of Fake\w+, ")):
        with pytest.raises(InputError, match=rf"no chip {name} among \d+; {hint}"):
            with_qiskit.chip_class(name)

    def wide(angles):
        for wire in range(6):
            qml.RX(angles[..., wire], wires=wire)
        return [qml.expval(qml.PauliZ(wire)) for wire in range(6)]

    with pytest.raises(InputError, match="fake_manila has 5 qubits, the circuit wide needs 6; expected a larger chip"):
        with_qiskit.transpiled(portable(wide, 6), manila)


# ---- the verb, with a chip and with a service


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    from tests.helpers.scripts import ONE_EPOCH, run

    return run("head", tmp_path_factory.mktemp("head"), *ONE_EPOCH["head"])[1]


@pytest.fixture
def call(head, capsys, monkeypatch):
    """The verb on that run: exit status, or the error; and what it said."""
    import evaluate_hardware

    def called(*argv, step=(), dies=None):
        command = [*step, str(head), "--torch-device", "cpu", *argv]
        if dies is not None:  # in a process of its own
            environment = os.environ | {"QCIFAR_DOUBLE_DIES": dies, "OMP_NUM_THREADS": "1"}
            code = "import sys, tests.helpers.scripts, evaluate_hardware; evaluate_hardware.main(sys.argv[1:])"
            program = [sys.executable, "-c", code, *command]  # the helpers know the small network of the run
            return subprocess.run(program, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True).returncode
        status = status_of(lambda: evaluate_hardware.main(command))
        said = capsys.readouterr()
        return status, said.out + said.err

    monkeypatch.setattr("builtins.input", nobody)
    return called


def nobody(question):
    raise EOFError


def entry(folder, mode, shots):
    entries = json.loads((folder / "hardware" / "results.json").read_text())["entries"]
    return next(one for one in entries if (one["mode"], one["shots"]) == (mode, shots))


def test_a_fake_backend_exact_with_shots_and_checked_by_aer(call, head):
    status, said = call("--fake-backend", "FakeManilaV2", "--shots", "100", "--check", "aer", "--images", "20")
    assert status == 0, said
    exact, drawn = entry(head, "fake", 0), entry(head, "fake", 100)
    assert 0 < exact["scores"]["rms_values"] < drawn["scores"]["rms_values"]
    assert exact["mitigated"]["readout"]["rms_values"] < exact["scores"]["rms_values"]
    assert drawn["mitigated"].keys() == exact["mitigated"].keys() == {"rescaled", "readout"}
    assert drawn["mitigated"]["rescaled"]["rms_values"] < drawn["scores"]["rms_values"]
    assert len(drawn["mitigated"]["readout"]["top1_repeats"]) == 10
    (details,) = exact["details"]
    assert details["aer"]["p"] > 1e-4 and details["two_qubit_gates"] > 0 and details["layout"]


DOUBLE = "--service tests.helpers.runtime_double --shots 200 --images 20 --images-per-job 8".split()


def test_jobs_through_a_killed_process_a_failed_a_short_and_a_waiting_job(call, head, tmp_path, monkeypatch):
    monkeypatch.setenv("QCIFAR_DOUBLE", str(tmp_path))
    use = functools.partial(call, "--backend", "double_five", *DOUBLE)
    stored = functools.partial(tmp_path.glob, "[0-9].json")
    status, said = use(step=["estimate"])
    assert status == 0 and "20 images, 1 circuit(s), 200 shots; to submit: 3 of 3 jobs, 4,000 executions" in said
    assert "at least 1 s of QPU time" in said and not list(stored())
    status, said = use()
    assert status == 2 and "--yes agrees to the cost" in said
    assert use("--yes", "--batch", dies="submitted 1") == -signal.SIGKILL  # the service has job 1, and its id is lost
    (tmp_path / "behaviour.json").write_text('{"0": "too long", "1": "short", "2": "waits"}')
    status, said = use("--yes")
    assert status == 3 and "found by their tags: 1 job(s) whose ids were lost" in said
    assert "failed: Ran too long" in said and "came back short: expected counts (8, 16), got (7, 16)" in said
    assert "3 jobs: 1 with the service, 2 not submitted" in said
    assert len(list(stored())) == 3  # nothing was paid for twice
    (tmp_path / "behaviour.json").unlink()
    status, said = use(step=["poll"])
    assert status == 3 and "1 finished, 2 not submitted" in said
    status, said = use("--yes", step=["submit"])
    assert status == 3 and "to submit: 2 of 3 jobs" in said
    status, said = use(step=["poll"])
    assert status == 0, said
    assert len(list(stored())) == 5
    found = entry(head, "backend", 200)
    assert 0.05 < found["scores"]["rms_values"] < 0.15 and len(found["jobs"]) == 3
    assert found["mitigated"].keys() == {"readout"} and found["details"][0]["readout"] == [[WRONG, WRONG]] * 4
    status, said = use(step=["show"])
    assert status == 0 and "3 jobs: 3 finished" in said and "backend double_five" in said
    status, said = call("--backend", "nowhere", *DOUBLE)
    assert status == 2 and said.count("error:") == 1
    assert "BACKEND (--backend): no nowhere: ValueError: No backend matches the criteria nowhere; expected one" in said
    assert "did you mean generic_backend_5q?" in call("--backend", "generic_backend", *DOUBLE)[1]


def test_training_images_are_measured_too_for_the_rescale_on_request(call, head, tmp_path, monkeypatch):
    monkeypatch.setenv("QCIFAR_DOUBLE", str(tmp_path))
    argv = "--backend double_five --service tests.helpers.runtime_double --shots 1000 --images 30".split()
    status, said = call(*argv, "--calibration-images", "40", "--yes")
    assert status == 0, said
    assert "30 images and 40 training images, 1 circuit(s), 1,000 shots; to submit: 1 of 1 jobs, 70,000 exec" in said
    found = entry(head, "backend", 1000)
    assert found["images"] == 30 and found["mitigated"].keys() == {"rescaled", "readout"}
    errors = {how: one["rms_values"] for how, one in found["mitigated"].items()}
    assert max(errors.values()) < 0.95 * found["scores"]["rms_values"], (errors, found["scores"]["rms_values"])
    status, said = call(*argv, "--calibration-images", "40", step=["show"])
    assert status == 0 and "30 images, 1 jobs: 1 finished" in said


def test_mitigation_of_a_device_takes_training_images_on_request(call, head):
    status, said = call("--device", "default.qubit", "--shots", "50", "--images", "20", "--repeats", "2",
                        "--calibration-images", "60")  # fmt: skip
    assert status == 0, said
    found = entry(head, "device", 50)
    assert found["mitigated"]["rescaled"]["rms_values"] < found["scores"]["rms_values"]  # the line is flatter: noise


@pytest.mark.slow
def test_killed_at_any_place_of_the_service_and_started_again():
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "tests.helpers.killed_at_the_double"]
    done = subprocess.run(program, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 2 * len(PLACES)
    for one in found:
        assert one["ended"] == [-signal.SIGKILL, 0], one
        assert len(one["tags"]) == 3 and len({tag for (tag,) in one["tags"]}) == 3, one  # each was paid for once


def test_no_credentials(tmp_path):
    program = (
        "from qcifar.errors import run_script; from qcifar.hardware.service import Runtime; "
        "run_script(lambda: Runtime('qiskit_ibm_runtime', 'ibm_torino'))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QISKIT_IBM")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # or it looks for all fonts first
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no access to qiskit_ibm_runtime: AccountNotFoundError" in done.stderr and "save_account" in done.stderr
