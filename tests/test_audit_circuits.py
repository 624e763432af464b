"""`audit_circuits.py` as a user runs it: the scripts' circuits, a stranger's, bad input, time."""

import contextlib
import io
import json
import re
import shutil
import time
from types import SimpleNamespace

import pytest
import torch

import audit_circuits
from qcifar.audit.classical import regressions
from qcifar.errors import InputError
from qcifar.experiment.finished import load, read_run
from qcifar.files import read_json, write_json
from qcifar.flags import check_command_line
from tests.helpers import ROOT

QUICK = "--pairs 200 --gradient-samples 10 --images 50 --data-dir nowhere".split()
FILES = {
    "audit.json", "audit.txt", "circuit.svg", "cones.svg", "fidelities.svg", "gradients.svg",
}  # fmt: skip
MINE = """
import pennylane as qml

def ansatz(angles, weights, n_qubits):
    qml.AngleEmbedding(angles, wires=range(n_qubits))
    qml.BasicEntanglerLayers(weights, wires=range(n_qubits))
    return [qml.expval(qml.PauliZ(i)) for i in range(n_qubits)]
"""


def folders(output):
    return {path.name: {file.name for file in path.iterdir()} for path in output.iterdir()}


def printed(output, *argv):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        audit_circuits.main([*argv, "--output", str(output), "--data-dir", str(ROOT / "data")])
    return said.getvalue()


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    """Folder, what was printed, and the seconds, of the command without anything."""
    folder, started = tmp_path_factory.mktemp("audit"), time.perf_counter()
    return folder, printed(folder), time.perf_counter() - started


def test_the_scripts_circuits_with_their_constants(standard):
    folder, shown, seconds = standard
    assert seconds < 30  # 10 with the imports, on two cores of its own
    names = ("head_circuit", "edge_circuit", "texture_circuit")
    assert folders(folder) == dict.fromkeys(names, FILES)
    for name in names:
        found = json.loads((folder / name / "audit.json").read_text())
        assert (found["name"], found["left_out"]) == (name, [])
        table = (folder / name / "audit.txt").read_text()
        assert table in shown and table.startswith(f"{name}\n===")


@pytest.mark.slow
def test_the_page_has_what_is_printed_and_commands_that_work(real_data, standard, tmp_path):
    """All but times."""
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    first, second, _ = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    channels = str(ROOT / "cifar100_quantum_channels.py:make_circuits")
    for block, shown in ((first, standard[1]), (second, printed(tmp_path, channels, "--circuits", "published"))):
        lines = [line for line in block.splitlines() if "microseconds" not in line]
        assert [line for line in lines if line not in shown.splitlines()] == []
    commands = re.findall(r"python audit_circuits\.py([^#\n`]*)", page)
    assert len(commands) >= 4
    for command in commands:
        check_command_line(ROOT / "audit_circuits.py", command.split())


@pytest.mark.slow
def test_the_published_circuits(tmp_path, capsys):
    target = str(ROOT / "cifar100_quantum_channels.py:make_circuits")
    audit_circuits.main([target, *QUICK, "--circuits", "published", "--n-qubits", "2", "--output", str(tmp_path)])
    assert folders(tmp_path).keys() == {"published_edge_circuit", "published_texture_circuit"}
    assert "-sin(0.7 v1)" in capsys.readouterr().out


def test_a_strangers_circuit(tmp_path, capsys):
    (tmp_path / "my_circuits.py").write_text(MINE)
    target = f"{tmp_path / 'my_circuits.py'}:ansatz"
    audit_circuits.main([target, "--n-qubits", "2", "--n-layers", "3", *QUICK, "--output", str(tmp_path / "out")])
    assert folders(tmp_path / "out") == {"ansatz": FILES}
    found = json.loads((tmp_path / "out" / "ansatz" / "audit.json").read_text())
    assert (found["n_inputs"], found["weight_shape"], found["layers"]) == (2, [3, 2], 3)
    assert "weights (3, 2) assumed" in capsys.readouterr().out


def test_the_same_command_twice_gives_the_same_numbers(tmp_path):
    (tmp_path / "my_circuits.py").write_text(MINE)
    contents = []
    for run in ("one", "two"):
        output = tmp_path / run
        audit_circuits.main(
            [f"{tmp_path / 'my_circuits.py'}:ansatz", "--n-qubits", "2", *QUICK, "--output", str(output)]
        )
        found = json.loads((output / "ansatz" / "audit.json").read_text())
        contents.append(
            {key: value for key, value in found.items() if key not in ("microseconds_per_image", "simulability")}
        )
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--n-qubits 17", r"N_QUBITS \(--n-qubits\): expected a whole number from 0 to 16, got 17"),
        ("--circuits mine", r"CIRCUITS \(--circuits\): expected one of file, default, published"),
        ("--pairs 3", r"PAIRS \(--pairs\): expected a whole number of at least 100"),
        ("--n-qubit 3", "unknown flag --n-qubit; did you mean --n-qubits"),
        ("nowhere.py:f", r"nowhere\.py: no such file"),
        ("nowhere", r"nowhere: expected FILE\.py:name"),
        ("one.py:f two.py:g", "two.py:g"),
        ("--angles nowhere.npz", r"nowhere\.npz: no such file"),
    ],
)
def test_bad_input_is_one_line(tmp_path, flags, expected):
    with pytest.raises(InputError, match=expected) as caught:
        audit_circuits.main([*flags.split(), "--output", str(tmp_path / "out")])
    assert "\n" not in str(caught.value)


def test_flags_are_checked_before_anything_loads_and_a_file_is_no_flag():
    script = ROOT / "audit_circuits.py"
    check_command_line(script, ["mine.py:f", "--n-qubits", "3"])
    with pytest.raises(InputError, match="PAIRS"):
        check_command_line(script, ["mine.py:f", "--pairs", "3"])


@pytest.mark.slow
def test_the_circuits_of_a_run_go_into_its_folder(calm, tmp_path, capsys):
    folder = tmp_path / "seed42"
    shutil.copytree(calm["channels"][1], folder)
    audit_circuits.main([str(folder), *QUICK])
    assert "edge_circuit" in capsys.readouterr().out
    for name in ("edge_circuit", "texture_circuit"):
        assert {file.name for file in (folder / "audit" / name).iterdir()} == FILES
        assert read_json(folder / "audit" / name / "audit.json")["n_inputs"] == 4
    assert f"python audit_circuits.py {calm['channels'][1]}" in (folder / "log.txt").read_text()


@pytest.mark.slow
def test_a_trained_head_is_looked_at_where_it_works(calm, tmp_path, capsys):
    folder = tmp_path / "seed42"
    shutil.copytree(calm["head"][1], folder)
    audit_circuits.main([str(folder), *QUICK])
    said = capsys.readouterr().out
    assert "regressions on          angles of 40 synthetic test images in this run, trained weights" in said
    it = load(read_run(folder), SimpleNamespace(device="cpu", precision="fp32", data_dir="nowhere"))
    with torch.inference_mode():
        features = torch.cat([it.model.backbone(x) for x, _ in it.test_loader.batches()])
        angles = torch.pi * torch.tanh(it.model.branch.pre_q(features))
        expected = regressions("", angles, it.model.branch.circuit(angles))
    found = read_json(folder / "audit" / "head_circuit" / "audit.json")["classical"]
    assert found["rows"] == 40 and found["linear"] == pytest.approx(expected.linear, abs=1e-3)
    _, measured, weights = audit_circuits.trained(folder, SimpleNamespace(data_dir="nowhere", angles="auto", images=33))
    assert measured.shape == (33, 4) and torch.equal(
        weights, it.model.branch.circuit.weights.detach().double().view(-1)
    )
    torch.testing.assert_close(measured, angles[:33].double(), rtol=0, atol=1e-5)
    (folder / "best.pt").unlink()
    audit_circuits.main([str(folder), *QUICK])
    assert "times pi tanh(z), z standard normal" in capsys.readouterr().out
    (folder / "best.pt").write_bytes(b"damaged")
    audit_circuits.main([str(folder), *QUICK])
    assert re.search(r"note: .*best\.pt.*; the regressions are on angles of random", capsys.readouterr().out)


@pytest.mark.slow
def test_runs_whose_circuits_cannot_be_audited_are_refused(calm, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="this run has no circuit"):
        audit_circuits.main([str(calm["baseline"][1])])
    with pytest.raises(InputError, match="--n-qubits: the sizes are those of the run"):
        audit_circuits.main([str(calm["head"][1]), "--n-qubits", "3"])
    with pytest.raises(InputError, match="holds no run"):
        audit_circuits.main([str(tmp_path)])
    edited = tmp_path / "edited"
    edited.mkdir()
    config = read_json(calm["head"][1] / "config.json")
    config["constants"]["CONTROL"] = "fourier"  # the circuit's fingerprint is recorded all the same
    write_json(edited / "config.json", config)
    with pytest.raises(InputError, match="edited: this run has no circuit; CONTROL fourier has none"):
        audit_circuits.main([str(edited)])
    config["constants"]["CONTROL"] = "mine"  # a control of somebody's own without a circuit
    write_json(edited / "config.json", config)
    write_json(edited / "result.json", {"quantum_device": None})
    with pytest.raises(InputError, match="edited: this run has no circuit; CONTROL mine has none"):
        audit_circuits.main([str(edited)])
    (edited / "result.json").unlink()
    mine = audit_circuits.ROOT / "cifar100_baseline.py"  # stands for a script without make_circuit
    with monkeypatch.context() as patched:
        patched.setattr(audit_circuits, "script_of", lambda run: mine.stem)
        with pytest.raises(
            InputError, match=r"baseline\.py has neither make_circuit nor make_circuits.*baseline\.py:name"
        ):
            audit_circuits.main([str(edited)])
    config["constants"]["CONTROL"] = "quantum"
    config["identity"]["circuits"] = ["0" * 12]
    write_json(edited / "config.json", config)
    with pytest.raises(InputError, match="none of its circuits is one that cifar100_hybrid_Qhead.py makes now"):
        audit_circuits.main([str(edited)])
