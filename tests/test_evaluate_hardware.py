"""`evaluate_hardware.py` and `export_circuit.py` on runs of the scripts: modes 1, 2 and 4, and bad input."""

import hashlib
import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pennylane as qml
import pytest
import torch
from pennylane_lightning.lightning_qubit import LightningQubit

import evaluate_hardware
import export_circuit
from qcifar.errors import InputError
from qcifar.experiment.finished import load, read_run
from qcifar.hardware import evaluate
from qcifar.hardware.hybrid import Circuit, read_hybrid
from qcifar.hardware.jobs import Jobs, key_of
from qcifar.hardware.results import Results
from qcifar.hardware.scores import Scorer
from tests.helpers.jobs_on_disk import DiskService
from tests.helpers.scripts import ONE_EPOCH, run

OPTIONS = SimpleNamespace(device="cpu", precision="fp32", data_dir="./data")


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Folder of a head whose branch is on in the tested weights."""
    return run("head", tmp_path_factory.mktemp("head"), *ONE_EPOCH["head"])[1]


@pytest.fixture(scope="module")
def evaluations(head, calm):
    """name -> an `Evaluation` of all test images."""
    found = {}
    for name, folder in (("head", head), ("channels", calm["channels"][1])):
        finished = read_run(folder)
        hybrid = read_hybrid(finished, load(finished, OPTIONS), 0)
        ideal = [evaluate.ideal_values(circuit, circuit.angles) for circuit in hybrid.circuits]
        found[name] = evaluate.Evaluation(hybrid, Scorer(hybrid, ideal), 4, 0, True, f"{name}/seed42")
    return found


def results(folder):
    return json.loads((folder / "hardware" / "results.json").read_text())


def evaluated(folder, *argv):
    assert evaluate_hardware.main([str(folder), "--torch-device", "cpu", *argv]) == 0
    return {(one["mode"], one["setting"], one["shots"]): one for one in results(folder)["entries"]}


@pytest.mark.parametrize("name", ["head", "channels"])
def test_ideal_circuits_give_the_runs_own_logits(name, evaluations, head, calm):
    ev, folder = evaluations[name], head if name == "head" else calm["channels"][1]
    stored = np.load(folder / "predictions.npz")
    assert np.array_equal(ev.hybrid.index, stored["index"])
    np.testing.assert_allclose(ev.hybrid.logits(ev.scorer.ideal), stored["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["head", "channels"])
def test_no_noise_is_the_ideal_result_and_some_noise_is_not(name, evaluations):
    ev = evaluations[name]
    rows = list(evaluate.with_noise(ev, {"s": [{"depolarizing": 0.0}, {"depolarizing": 0.2}]}))
    assert rows[0]["scores"]["rms_values"] < 1e-12 and rows[1]["scores"]["rms_values"] > 0.05
    assert rows[0]["scores"]["against_ideal"]["difference"] == 0
    rescaled = rows[1]["mitigated"]["rescaled"]
    assert rescaled["rms_values"] < rows[1]["scores"]["rms_values"]
    assert (rows[1]["sweep"], rows[1]["strength"]) == ("s", 0.2)


def test_shot_noise_falls_as_one_over_the_root_of_the_shots(evaluations):
    ev = evaluations["head"]
    errors = {row["shots"]: row["scores"]["rms_values"] for row in evaluate.with_shots(ev, [0, 100, 10_000, 1_000_000])}
    assert errors[0] == 0
    assert errors[100] / errors[10_000] == pytest.approx(10, rel=0.15)  # 640 values each
    assert errors[100] / errors[1_000_000] == pytest.approx(100, rel=0.15)
    exact = ev.scorer.ideal[0]
    assert errors[100] == pytest.approx(((1 - exact**2).mean() / 100).sqrt().item(), rel=0.1)


def test_the_same_seed_draws_the_same_and_repeats_draw_others(evaluations):
    ev = evaluations["head"]
    probabilities = [evaluate.ideal_probabilities(circuit, circuit.angles) for circuit in ev.hybrid.circuits]
    first, again = (evaluate.sampled(ev, probabilities, 50, "ideal") for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], first[1][0])
    assert not torch.equal(first[0][0], evaluate.sampled(ev, probabilities, 50, "FakeTorino")[0][0])


def test_readout_inversion_undoes_readout_errors(evaluations):
    (row,) = evaluate.with_noise(evaluations["head"], {"s": [{"readout": 0.1}]})
    assert row["scores"]["rms_values"] > 0.01
    assert row["mitigated"]["readout"]["rms_values"] < 1e-12
    assert "zero noise" not in row["mitigated"]


@pytest.mark.slow
def test_modes_in_one_call_and_a_second_call(head, capsys):
    first = evaluated(head, "--shots", "100", "--noise", "depolarizing=0.01/0.1", "--images", "30", "--repeats", "3")
    assert ("shots", "no noise", 100) in first and ("noise", "depolarizing=0.1", 0) in first
    shots = first["shots", "no noise", 100]["scores"]
    assert len(shots["top1_repeats"]) == 3 and shots["standard_error"] is not None and shots["rms_logits"] > 0
    said = capsys.readouterr().out
    assert "with ideal circuits, 30 of them get the class of predictions.npz" in said and "SYNTHETIC" in said
    missing = "no finished run cifar100_baseline_det/seed42 in the same run directory"
    assert f"nothing is compared with the baseline: {missing}" in said
    assert f"the difference from the baseline ends (depolarizing=0.01/0.1, 30 images): not known: {missing}" in said
    for name in ("accuracy.svg", "accuracy.pdf"):
        assert (head / "hardware" / name).stat().st_size > 1000
    both = evaluated(head, "--shots", "100", "--images", "30", "--repeats", "3")
    assert both.keys() == first.keys() and both["shots", "no noise", 100]["scores"] == shots  # from the cache
    assert evaluate_hardware.main(["show", str(head)]) == 0
    assert "depolarizing=0.1" in capsys.readouterr().out


def test_a_later_sweep_takes_no_point_from_an_earlier_one_and_a_new_training_drops_all(head, tmp_path):
    folder = tmp_path / "seed42"
    shutil.copytree(head, folder, ignore=shutil.ignore_patterns("hardware"))
    run = read_run(folder)
    found = Results(run)
    scores = {"against_baseline": None}
    for sweep in ("depolarizing=0.01/0.1", "depolarizing=0.1/0.2"):
        for strength in map(float, sweep.partition("=")[2].split("/")):
            one = {"mode": "noise", "setting": f"depolarizing={strength}", "sweep": sweep, "strength": strength}
            found.add({**one, "images": 30, "shots": 0, "sampling_seed": None, "scores": scores})
    assert len(found.entries) == 4 and len(Results(run).entries) == 4
    found.add(found.entries[0])
    assert len(found.entries) == 4
    assert Results(run._replace(result=run.result | {"train_seconds": 1e9})).entries == []


@pytest.mark.slow
def test_a_device_of_pennylane(head):
    exact = evaluated(head, "--device", "default.qubit", "--images", "30")["device", "default.qubit", 0]
    assert exact["scores"]["rms_values"] < 1e-6
    drawn = evaluated(head, "--device", "default.qubit", "--shots", "100", "--images", "30", "--repeats", "2")
    assert 0.03 < drawn["device", "default.qubit", 100]["scores"]["rms_values"] < 0.2
    again = evaluated(head, "--device", "default.qubit", "--shots", "100", "--images", "30", "--repeats", "2")
    assert again["device", "default.qubit", 100]["scores"] == drawn["device", "default.qubit", 100]["scores"]


@pytest.mark.slow
def test_the_baseline_of_the_same_seed_is_compared_with(calm):
    folder = calm["channels"][1]
    ideal = evaluated(folder, "--shots", "0", "--images", "25")["ideal", "no noise", 0]["scores"]
    base = np.load(calm["baseline"][1] / "predictions.npz")
    right = (base["logits"].argmax(1) == base["label"])[:25].mean()
    assert ideal["against_baseline"]["difference"] == pytest.approx(100 * (ideal["top1"] - right))


@pytest.mark.slow
def test_circuits_are_exported_without_qiskit(head, calm, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    export_circuit.main([str(head), "--angles", "0.1,-0.25,1.5,3", "--output", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "head_circuit.qasm", "head_circuit.qasm3", "head_circuit_parameters.qasm3",
    ]  # fmt: skip
    assert "rx(-0.25) q[1];" in (tmp_path / "head_circuit.qasm").read_text()
    assert "pip install -r requirements-hardware.txt" in capsys.readouterr().out
    export_circuit.main([str(calm["channels"][1])])
    made = {path.name for path in (calm["channels"][1] / "hardware").glob("*.qasm*")}
    assert made >= {"edge_circuit.qasm", "texture_circuit_parameters.qasm3"}
    with pytest.raises(InputError, match=r"ANGLES \(--angles\): expected 4 numbers"):
        export_circuit.main([str(head), "--angles", "0.1,nan,1,2"])


def bad_input(argv, message):
    with pytest.raises(InputError, match=message) as caught:
        evaluate_hardware.main(["--torch-device", "cpu", *argv])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "nothing to do: expected --shots"),
        (["--noise", "depolarising=0.1"], "expected channel=strength"),
        (["--shots", "ten"], r"SHOTS \(--shots\)"),
        (["--shots", "10", "--images", "41"], r"expected at most the 40 test images of this run, got 41"),
        (["--calibration-images", "2", "--device", "default.qubit"], "expected 0, or 3 to 512, got 2"),
        (["--backend", "ibm_torino"], "expected one number of shots"),
        (["--backend", "ibm_torino", "--shots", "10,20"], "expected one number of shots"),
        (["--shots", "10", "--check", "aer"], "name one"),
        (["--backend", "x", "--shots", "10", "--service", "no_such_package"], "no_such_package is not installed"),
    ],
)
def test_bad_input_is_one_line(argv, message, head):
    bad_input([str(head), *argv], message)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--device", "no.such.thing"],
            r"DEVICE \(--device\): no device no.such.thing; expected one of default.clifford",
        ),
        (["--device", "default.quibt"], r"no device default.quibt; did you mean default.qubit\?"),
        (["--backend", "x", "--service", "json"], r"SERVICE \(--service\): json has no QiskitRuntimeService"),
        pytest.param(["--fake-backend", "FakeManila9"], r"did you mean FakeManilaV2\?", marks=pytest.mark.hardware),
    ],
)
def test_unknown_names_are_refused_before_anything_loads(argv, message, head, monkeypatch):
    if "--fake-backend" in argv:
        pytest.importorskip("qiskit_ibm_runtime")

    def loaded(*arguments):
        raise AssertionError("the run was loaded")

    monkeypatch.setattr(evaluate_hardware, "load", loaded)
    bad_input([str(head), "--shots", "10", *argv], message)


def test_nothing_is_stored_for_a_call_that_is_refused(head, tmp_path, monkeypatch):
    folder = shutil.copytree(head, tmp_path / head.name, ignore=shutil.ignore_patterns("results.json"))
    monkeypatch.setattr(evaluate, "free_memory", lambda device: 1)
    bad_input(
        [str(folder), "--shots", "10", "--noise", "depolarizing=0.1"], "an exact density matrix of 4 qubits takes"
    )
    assert not (folder / "hardware" / "results.json").exists()


def test_steps_without_a_backend(head, tmp_path):
    bad_input(["estimate", str(head)], "estimate is a step of --backend")
    bad_input(["evaluate", str(head)], "expected estimate, submit, poll, show or nothing")
    bad_input(["show", str(tmp_path)], "holds no run")


def test_show_reads_jobs_from_disk_alone(head, tmp_path, monkeypatch, capsys):
    copied = shutil.copytree(head, tmp_path / head.name)

    def asked(*arguments):
        raise AssertionError("the network or the service was asked for")

    monkeypatch.setattr(evaluate_hardware, "load", asked)
    monkeypatch.setattr(evaluate_hardware, "Runtime", asked)
    argv = ["show", str(copied), "--backend", "chip", "--shots", "20", "--images-per-job", "3"]
    bad_input(argv, "no such jobs for chip; `submit` submits them")
    checkpoint = hashlib.sha256((copied / "best.pt").read_bytes()).hexdigest()[:12]
    plan = {
        "service": "qiskit_ibm_runtime", "backend": "chip", "shots": 20, "images": 5, "images_per_job": 3,
        "outcomes": [4], "checkpoint": checkpoint,
    }  # fmt: skip
    jobs = Jobs(copied / "hardware" / "jobs" / key_of(plan), plan)
    jobs.begin()
    service = DiskService(tmp_path / "service", behaviour={1: "waits"})
    jobs.submit(service)
    jobs.poll(service)
    assert evaluate_hardware.main(argv) == 3
    assert "5 images, 2 jobs: 1 finished, 1 with the service" in capsys.readouterr().out
    service.behaviour = {}
    jobs.poll(service)
    assert evaluate_hardware.main([*argv, "--images", "5"]) == 3
    assert "`poll` computes the scores" in capsys.readouterr().out
    bad_input([*argv, "--images", "4"], "no such jobs")


@pytest.mark.parametrize(
    "name", ["baseline", *(pytest.param(one, marks=pytest.mark.slow) for one in ("head in phase A", "fourier"))]
)
def test_a_run_without_a_circuit_is_refused(name, calm, tmp_path):
    if name == "baseline":
        bad_input([str(calm["baseline"][1]), "--shots", "10"], "no circuit whose values reach this run's answers")
    elif name == "fourier":
        _, folder = run("head", tmp_path, *ONE_EPOCH["head"], "--control", "fourier")
        bad_input([str(folder), "--shots", "10"], r"CONTROL fourier\); expected the head with")
    else:
        _, folder = run("head", tmp_path, "--epochs", "1")
        bad_input([str(folder), "--shots", "10"], "its best epoch lies in phase A")


@pytest.mark.slow
def test_the_device_of_training_executes_nothing(tmp_path, monkeypatch):
    device = ("--quantum-device", "lightning.qubit", "--diff-method", "adjoint")
    result, folder = run("head", tmp_path, *ONE_EPOCH["head"], "--train-limit", "32", "--eval-limit", "16", *device)
    assert result["quantum_device"] == "lightning.qubit"

    sent = []

    def counted(whole):
        return lambda *given, **more: sent.append(whole) or whole(*given, **more)

    for way in ("execute", "compute_derivatives", "execute_and_compute_derivatives"):
        monkeypatch.setattr(LightningQubit, way, counted(getattr(LightningQubit, way)))
    load(read_run(folder), OPTIONS)
    assert sent  # making the device ready executes circuits
    sent.clear()
    found = evaluated(folder, "--shots", "100", "--repeats", "2")
    assert found["ideal", "no noise", 0]["scores"]["rms_values"] == 0 and not sent


def test_a_circuit_that_measures_before_its_end_is_refused():
    def measured(angles):
        qml.RX(angles[..., 0], wires=0)
        qml.measure(0)
        return [qml.expval(qml.PauliZ(0))]

    circuit = Circuit("measured", measured, 1, *[torch.zeros(2, 1, dtype=torch.float64)] * 2)
    with pytest.raises(InputError, match="the circuit measured measures 1 time before its end: expected gates and"):
        evaluate.refuse_measurements([circuit])


def test_too_many_qubits_for_a_density_matrix_say_how_many_bytes():
    with pytest.raises(InputError, match=r"of 20 qubits takes 8,796,093,022,208 bytes an image"):
        evaluate.refuse_too_wide(20, "NOISE (--noise), head_circuit")


def test_without_qiskit_it_says_what_to_install(head, monkeypatch):
    monkeypatch.setitem(sys.modules, "qiskit_ibm_runtime", None)
    monkeypatch.setitem(sys.modules, "qiskit_ibm_runtime.fake_provider", None)
    for argv in (["--fake-backend", "FakeTorino"], ["--backend", "ibm_torino", "--shots", "10"]):
        with pytest.raises(InputError, match="qiskit-ibm-runtime is not installed: pip install -r requirements-hard"):
            evaluate_hardware.main([str(head), "--torch-device", "cpu", "--images", "5", *argv])
