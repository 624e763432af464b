"""The three scripts as a user runs them, small: the invariants of the comparison, and bad input."""

import json
import math
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
import torchvision

import cifar100_quantum_channels
import DLfunctions
from qcifar.errors import InputError
from tests.helpers import ROOT, slow
from tests.helpers.data import cut_in_half
from tests.helpers.scripts import (
    ONE_EPOCH,
    RESNET,
    SCRIPTS,
    Killed,
    as_baseline,
    assert_same,
    command,
    dying_after,
    folder_of,
    prepare,
    run,
    stored,
)


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """The same commands once more, elsewhere: name -> (folder, what `evaluate` was called for)."""
    runs = {}
    for name, (module, _) in SCRIPTS.items():
        with pytest.MonkeyPatch.context() as patch:
            calls = []
            for where in (DLfunctions, module):
                patch.setattr(where, "evaluate", _counting(calls))
            _, folder = run(name, tmp_path_factory.mktemp("again"))
        runs[name] = folder, calls
    return runs


def _counting(calls, original=DLfunctions.evaluate):
    def evaluate(model, loader, criterion, autocast, name="test", stop=None):
        calls.append(name)
        return original(model, loader, criterion, autocast, name, stop)

    return evaluate


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """What each script is about to train; no test trains it."""
    return {name: prepare(name, tmp_path_factory.mktemp("prepared")) for name in SCRIPTS}


def test_invariant_1_same_images_order_and_augmentation(prepared):
    streams = {}
    for name, it in prepared.items():
        torch.rand(3)  # whoever draws
        batches = [*it.train_loader.batches(1), *it.val_loader.batches()]
        streams[name] = [x[:, :3] for x, _ in batches]
        resumed = [x for x, _ in it.train_loader.batches(1, first_step=2)]
        assert torch.equal(resumed[0][:, :3], streams[name][2])
    for name in SCRIPTS:
        assert all(torch.equal(a, b) for a, b in zip(streams["baseline"], streams[name], strict=True))


@pytest.mark.parametrize("more", [(), slow(RESNET), slow((*RESNET, "--stem", "cifar"))])
def test_invariant_2_same_initial_backbone_and_classifier(more, prepared, tmp_path):
    scripts = {name: prepare(name, tmp_path, *more) for name in SCRIPTS} if more else prepared
    states = {name: it.model.state_dict() for name, it in scripts.items()}
    base, channels = states["baseline"], states["channels"]
    backbone = {key.removeprefix("backbone."): v for key, v in states["head"].items() if key.startswith("backbone.")}
    assert all(torch.equal(base[key], backbone[key]) for key in backbone)
    left = [base[key] for key in base if key not in backbone]  # the classifier
    assert len(left) == 2
    assert all(torch.equal(v, states["head"][f"classifier.{k}"]) for v, k in zip(left, ("weight", "bias"), strict=True))
    wider = [key for key in base if channels[key].shape != base[key].shape]
    assert len(wider) == 1 and torch.equal(channels[wider[0]][:, :3], base[wider[0]])
    assert all(torch.equal(base[key], channels[key]) for key in base if key not in wider)


@pytest.mark.parametrize("more", [(), slow(RESNET)])
def test_invariant_3_phase_a_is_the_baseline_bit_for_bit(more, calm, tmp_path):
    _, folder = run("head", tmp_path, "--epochs-warmup", "2", *more)
    base, head = stored(run("baseline", tmp_path, *more)[1] if more else calm["baseline"][1]), stored(folder)
    renamed = as_baseline(head[0])
    assert all(torch.equal(base[0][key], renamed[key]) for key in base[0])
    assert np.array_equal(base[3], head[3])
    assert base[2] == [{name: row[name] for name in base[2][0]} for row in head[2]]
    assert all(row["branch_share"] == row["circuit_gradient"] == 0 for row in head[2])
    assert head[2][-1]["alpha"] < 1e-8


def test_invariant_3_phase_a_then_b(calm):
    base, head = stored(calm["baseline"][1]), stored(calm["head"][1])
    assert head[2][0]["train_loss"] == base[2][0]["train_loss"] and head[2][0]["val_loss"] == base[2][0]["val_loss"]
    assert head[2][1]["train_loss"] != base[2][1]["train_loss"]  # phase B: the branch takes part
    assert 0.05 < head[2][1]["alpha"] < 0.15
    assert calm["head"][0]["alpha"] in [row["alpha"] for row in head[2]]


@pytest.mark.parametrize("stem", ["imagenet", slow("cifar")])
def test_invariant_3_five_channels_give_the_baselines_logits_at_step_0(stem, tmp_path):
    base, five = (prepare(name, tmp_path, *RESNET, "--stem", stem) for name in ("baseline", "channels"))
    (x3, _), (x5, _) = next(base.train_loader.batches(0)), next(five.train_loader.batches(0))
    assert x5.shape == (16, 5, 32, 32) and x5[:, 3:].std() > 0.01
    assert torch.equal(base.model(x3), five.model(x5))


def test_invariant_4_one_recipe_and_one_look_at_the_test_set(prepared, calm, again):
    recipes = {}
    for name, it in prepared.items():
        group = {k: v for k, v in it.optimizer.param_groups[0].items() if k != "params"}
        recipes[name] = repr(it.criterion), group, it.scheduler.state_dict()
        assert sum(p.numel() for p in it.optimizer.param_groups[0]["params"]) == calm[name][0]["params_total"]
        calls = [call.removeprefix("SYNTHETIC DATA  ") for call in again[name][1]]
        assert calls == ["validation", "validation", "test"]
    assert recipes["baseline"] == recipes["channels"] == recipes["head"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_invariant_5_the_same_command_twice(name, calm, again):
    assert_same(stored(calm[name][1]), stored(again[name][0]))


@pytest.mark.slow
def test_invariant_5_the_same_command_twice_on_two_threads(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_same(*(stored(run("head", tmp_path / place)[1]) for place in "ab"))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow  # `test_train.py` does this with a small network
@pytest.mark.parametrize("name", SCRIPTS)
def test_invariant_5_killed_and_started_again(name, calm, tmp_path, monkeypatch):
    """Killed inside both epochs, at the phase change and before the test, one after the other."""
    for saves in (2, 1, 2, 2):
        monkeypatch.setattr(DLfunctions, "write_checkpoint", dying_after(saves))
        with pytest.raises(Killed):
            run(name, tmp_path, "--checkpoint-minutes", "0")
        monkeypatch.undo()
    _, folder = run(name, tmp_path)
    assert_same(stored(calm[name][1]), stored(folder))


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_real_process_killed_by_a_signal_goes_on(signum, tmp_path):
    _, calm = run("head", tmp_path / "calm", *RESNET)
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # reductions split as in `calm`
    line = command("head", tmp_path, "--checkpoint-minutes", "0", *RESNET)
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=threads)
    last = folder_of("head", tmp_path) / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if signum == signal.SIGKILL else 128 + signal.SIGTERM), errors
    if signum == signal.SIGTERM:
        assert "stopped by SIGTERM; the run is saved" in errors and "Traceback" not in errors
    _, folder = run("head", tmp_path, *RESNET)
    assert "continuing from epoch" in (folder / "log.txt").read_text()
    assert_same(stored(calm), stored(folder))


def test_invariant_6_a_circuit_that_fails_stops_the_run(tmp_path, monkeypatch):
    def broken(angles, n_qubits, depth):
        raise RuntimeError("qubit lost")

    monkeypatch.setattr(cifar100_quantum_channels, "texture_circuit", broken)
    with pytest.raises(InputError, match="broken.*qubit lost"):
        run("channels", tmp_path)
    assert not (tmp_path / "cifar100_quantum_channels").exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_run_folder_contract(name, calm):
    result, folder = calm[name]
    expected = {
        "config.json", "metrics.csv", "result.json", "predictions.npz", "last.pt", "best.pt", "log.txt", ".lock",
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} - {"tensorboard"} == expected
    assert result == json.loads((folder / "result.json").read_text())
    keys = (
        "experiment control dataset seed epochs best_epoch val_top1 test_top1 test_top5 params_total params_quantum "
        "train_seconds images_per_second alpha quantum_device"
    )
    assert set(keys.split()) <= result.keys()
    assert result["params_quantum"] == {"baseline": None, "channels": 0, "head": 24}[name]
    assert result["control"] == (None if name == "baseline" else "quantum")
    assert result["branch_on"] == (True if name == "head" else None)
    with np.load(folder / "predictions.npz") as file:
        assert file["logits"].shape == (40, 100) and file["logits"].dtype == np.float32
        assert np.mean(file["logits"].argmax(1) == file["label"]) == result["test_top1"]
        assert len(np.unique(file["index"])) == 40
    config = json.loads((folder / "config.json").read_text())
    constants = {key for key in vars(SCRIPTS[name][0]) if key.isupper()} - {"SWITCH", "PREPROCESSING"}
    assert set(config["constants"]) == constants
    assert all("SYNTHETIC DATA" in line for line in (folder / "log.txt").read_text().splitlines())


def test_a_finished_run_says_so_and_other_constants_are_refused(calm, capsys):
    result, folder = calm["baseline"]
    before = (folder / "last.pt").stat().st_mtime_ns
    again, _ = run("baseline", folder.parents[1], "--checkpoint-minutes", "1")  # cannot change a number
    assert again == result and "is finished" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"MAX_LR 0\.0007 -> 0\.1, .*EPOCHS|EPOCHS 2 -> 3, .*MAX_LR 0\.0007 -> 0\.1"):
        run("baseline", folder.parents[1], "--epochs", "3", "--max-lr", "0.1")
    assert (folder / "last.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("kept", [("last.pt", "best.pt"), ("best.pt",), ()])  # as sweep.py's --keep leaves them
def test_a_lost_result_is_made_again_by_the_same_command(kept, calm, tmp_path):
    """Which is the remedy that `qcifar.results.TEST_AGAIN` names."""
    folder = calm["head"][1]
    here = shutil.copytree(folder.parents[2], tmp_path, dirs_exist_ok=True) / folder.relative_to(folder.parents[2])
    for name in {"result.json", "predictions.npz", "last.pt", "best.pt"} - set(kept):
        (here / name).unlink()
    run("head", tmp_path)
    assert_same(stored(here), stored(folder))
    trained_again = (here / "metrics.csv").read_text() != (folder / "metrics.csv").read_text()  # its times differ
    assert trained_again == ("last.pt" not in kept)


def test_no_resume_starts_over(tmp_path):
    run("baseline", tmp_path, "--epochs", "1")
    result, folder = run("baseline", tmp_path, "--no-resume", "--select-by", "loss")
    assert result["epochs"] == 2 and len((folder / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["baseline", slow("channels"), slow("head")])
def test_a_pretrained_network_with_another_stem_says_so_in_the_log(name, tmp_path):
    weights = tmp_path / "weights.pt"
    torch.save(torchvision.models.resnet18(num_classes=100).state_dict(), weights)
    more = [*ONE_EPOCH[name], "--train-limit", "16", "--eval-limit", "8"]  # a step takes ten times as long
    _, folder = run(name, tmp_path, *more, *RESNET, "--weights", str(weights), "--stem", "cifar")
    assert "STEM cifar: the 3 x 3 first convolution starts at random" in (folder / "log.txt").read_text()


OTHERS = [
    "mobilenet_v3_small", "resnext50_32x4d", "wide_resnet50_2", "densenet121", "vgg11_bn", "efficientnet_b0",
    "convnext_tiny", "regnet_y_400mf",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "network"),  # the baseline does nothing to a network but give it 100 classes, as both others do
    [
        *((name, "resnet18") for name in SCRIPTS),
        *(slow(name, other) for other in OTHERS for name in ("channels", "head")),
    ],
)
def test_other_networks_train(name, network, tmp_path):
    more = ["--model-name", network, "--train-limit", "32", *ONE_EPOCH[name]]
    result, folder = run(name, tmp_path, *more)
    assert result["model_name"] == network and math.isfinite(result["test_loss"])
    assert (folder / "best.pt").exists()


def test_memory_that_is_full_in_the_test_is_one_line_also_in_the_log(calm, tmp_path, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has little.")

    shutil.copytree(calm["baseline"][1].parents[1], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / calm["baseline"][1].relative_to(calm["baseline"][1].parents[1])
    (folder / "result.json").unlink()
    monkeypatch.setattr(SCRIPTS["baseline"][0], "evaluate", full)
    with pytest.raises(InputError, match="2.00 GiB; --accumulate 2"):
        run("baseline", tmp_path)
    *_, before, last = (folder / "log.txt").read_text().splitlines()
    assert before.endswith("all 2 epochs are trained; continuing with the best of them") and "--accumulate" in last


def test_bad_files_are_refused_by_name_and_nothing_is_lost(calm, tmp_path):
    shutil.copytree(calm["channels"][1].parents[1], tmp_path, dirs_exist_ok=True)
    folder = folder_of("channels", tmp_path)
    (folder / "result.json").unlink()
    cache = next((folder.parent / "descriptors").glob("val_q_tex_*"))
    whole = cache.read_bytes()
    cut_in_half(cache)
    with pytest.raises(InputError, match=cache.name):
        run("channels", tmp_path)
    cache.write_bytes(whole)
    cut_in_half(folder / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt is damaged"):
        run("channels", tmp_path)
    split = tmp_path / "cifar100_baseline_det" / "split_idx_cifar100.npz"
    np.savez(split, train_idx=np.arange(800), val_idx=np.arange(800, 1000))
    with pytest.raises(InputError, match="split file .*expected all 4000 images, got 1000"):
        run("baseline", tmp_path)
    assert {path.name for path in folder.iterdir()} >= {"best.pt", "last.pt", "metrics.csv", "log.txt"}


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("baseline", ["--epochs", "0"], "EPOCHS (--epochs): expected a whole number of at least 1, got 0"),
        ("baseline", ["--weights", "nowhere.pt"], "nowhere.pt: no such file"),
        ("baseline", ["--train-limit", "9999"], "expected at most the 3200 images of the training split"),
        ("baseline", ["--device", "cuda:99"], "CUDA devices here; use --device cpu"),
        ("head", ["--quantum-device", "no.such"], "QUANTUM_DEVICE no.such"),
        ("head", ["--quantum-device", "lightning.qubit"], "DIFF_METHOD backprop"),
        ("head", ["--epochs-warmup", "9"], "EPOCHS_WARMUP (--epochs-warmup): expected from 0 to EPOCHS 2, got 9"),
        ("channels", ["--n-qubits", "1"], "N_QUBITS (--n-qubits): expected a whole number from 2 to 20, got 1"),
    ],
)
def test_bad_input_leaves_no_run_behind(name, more, expected, tmp_path):
    with pytest.raises(InputError) as caught:
        run(name, tmp_path, *more)
    assert expected in str(caught.value)
    assert not list((tmp_path / SCRIPTS[name][1]).rglob("seed*"))


def test_bad_input_is_one_line_and_a_nonzero_exit(tmp_path):
    done = subprocess.run(command("baseline", tmp_path, "--epocs", "3"), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: unknown flag --epocs; did you mean --epochs?\n"


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_one_line_and_a_nonzero_exit(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    done = subprocess.run(command("baseline", blocked, *RESNET), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(blocked) in done.stderr


@pytest.mark.parametrize("name", ["baseline", slow("channels"), slow("head")])
def test_real_data(name, real_data, tmp_path):
    result, folder = run(name, tmp_path, "--dataset", "cifar100", "--data-dir", str(ROOT / "data"))
    assert result["dataset"] == "cifar100" and "SYNTHETIC" not in (folder / "log.txt").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config["identity"]["dataset_fingerprint"] == real_data.fingerprint
