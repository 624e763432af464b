"""The three scripts as a user runs them, small: the invariants of the comparison, and bad input."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import torchvision

import cifar100_quantum_channels
import DLfunctions
from qcifar.errors import InputError
from qcifar.experiment import folder as run_folder
from qcifar.experiment import identity
from qcifar.experiment.recipe import load_parts
from qcifar.files import write_checkpoint
from tests.helpers.scripts import (
    ROOT,
    SCRIPTS,
    Killed,
    as_baseline,
    assert_same,
    flags,
    folder_of,
    prepare,
    run,
    settings,
    stored,
)  # fmt: skip

WARM = {"baseline": [], "channels": [], "head": ["--epochs-warmup", "0"]}  # one epoch, with the branch on


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """An undisturbed run of each script, in one run folder as a user has them."""
    folder = tmp_path_factory.mktemp("calm")
    return {name: run(name, folder) for name in SCRIPTS}


def test_invariant_1_same_images_order_and_augmentation(tmp_path):
    streams = {}
    for name in SCRIPTS:
        it = prepare(name, tmp_path)
        torch.rand(3)  # whoever draws
        batches = [*it.train_loader.batches(1), *it.val_loader.batches()]
        streams[name] = [x[:, :3] for x, _ in batches]
        resumed = [x for x, _ in it.train_loader.batches(1, first_step=2)]
        assert torch.equal(resumed[0][:, :3], streams[name][2])
    for name in SCRIPTS:
        assert all(torch.equal(a, b) for a, b in zip(streams["baseline"], streams[name], strict=True))


@pytest.mark.parametrize("more", [(), ("--stem", "cifar"), ("--model-name", "mobilenet_v3_small")])
def test_invariant_2_same_initial_backbone_and_classifier(more, tmp_path):
    states = {name: prepare(name, tmp_path, *more).model.state_dict() for name in SCRIPTS}
    base, channels = states["baseline"], states["channels"]
    backbone = {key.removeprefix("backbone."): v for key, v in states["head"].items() if key.startswith("backbone.")}
    assert all(torch.equal(base[key], backbone[key]) for key in backbone)
    left = [base[key] for key in base if key not in backbone]  # the classifier
    assert len(left) == 2
    assert all(torch.equal(v, states["head"][f"classifier.{k}"]) for v, k in zip(left, ("weight", "bias"), strict=True))
    wider = [key for key in base if channels[key].shape != base[key].shape]
    assert len(wider) == 1 and torch.equal(channels[wider[0]][:, :3], base[wider[0]])
    assert all(torch.equal(base[key], channels[key]) for key in base if key not in wider)


def test_invariant_3_phase_a_is_the_baseline_bit_for_bit(calm, tmp_path):
    _, folder = run("head", tmp_path, "--epochs-warmup", "2")
    base, head = stored(calm["baseline"][1]), stored(folder)
    renamed = as_baseline(head[0])
    assert all(torch.equal(base[0][key], renamed[key]) for key in base[0])
    assert np.array_equal(base[3], head[3])
    assert [{**row, "alpha": None} for row in base[2]] == [{**row, "alpha": None} for row in head[2]]
    assert head[2][-1]["alpha"] < 1e-8


def test_invariant_3_phase_a_then_b(calm):
    base, head = stored(calm["baseline"][1]), stored(calm["head"][1])
    assert head[2][0]["train_loss"] == base[2][0]["train_loss"] and head[2][0]["val_loss"] == base[2][0]["val_loss"]
    assert head[2][1]["train_loss"] != base[2][1]["train_loss"]  # phase B: the branch takes part
    assert 0.05 < head[2][1]["alpha"] < 0.15
    assert calm["head"][0]["alpha"] in [row["alpha"] for row in head[2]]


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_invariant_3_five_channels_give_the_baselines_logits_at_step_0(stem, tmp_path):
    base, five = (prepare(name, tmp_path, "--stem", stem) for name in ("baseline", "channels"))
    (x3, _), (x5, _) = next(base.train_loader.batches(0)), next(five.train_loader.batches(0))
    assert x5.shape == (16, 5, 32, 32) and x5[:, 3:].std() > 0.01
    assert torch.equal(base.model(x3), five.model(x5))


def test_invariant_4_one_recipe_and_one_look_at_the_test_set(monkeypatch, tmp_path, calm):
    recipes = {}
    for name, (module, _) in SCRIPTS.items():
        it = prepare(name, tmp_path)
        group = {k: v for k, v in it.optimizer.param_groups[0].items() if k != "params"}
        recipes[name] = repr(it.criterion), group, it.scheduler.state_dict()
        assert sum(p.numel() for p in it.optimizer.param_groups[0]["params"]) == calm[name][0]["params_total"]
        calls = []
        for where in (DLfunctions, module):
            monkeypatch.setattr(where, "evaluate", _counting(calls))
        module.main(flags(name, tmp_path / "counted"))
        monkeypatch.undo()
        assert [n.removeprefix("SYNTHETIC DATA  ") for n in calls] == ["validation", "validation", "test"]
    assert recipes["baseline"] == recipes["channels"] == recipes["head"]


def _counting(calls, original=DLfunctions.evaluate):
    def evaluate(model, loader, criterion, autocast, name="test", stop=None):
        calls.append(name)
        return original(model, loader, criterion, autocast, name, stop)

    return evaluate


@pytest.mark.parametrize("name", SCRIPTS)
def test_invariant_5_the_same_command_twice(name, calm, tmp_path):
    _, folder = run(name, tmp_path)
    assert_same(stored(calm[name][1]), stored(folder))


@pytest.mark.parametrize("name", SCRIPTS)
def test_invariant_5_killed_and_started_again(name, calm, tmp_path, monkeypatch):
    """Killed inside both epochs, at the phase change and before the test, one after the other."""
    for saves in (2, 1, 2, 2):
        left = [saves]

        def write_then_die(path, content, left=left):
            write_checkpoint(path, content)
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        monkeypatch.setattr(DLfunctions, "write_checkpoint", write_then_die)
        with pytest.raises(Killed):
            run(name, tmp_path, "--checkpoint-minutes", "0")
        monkeypatch.undo()
    _, folder = run(name, tmp_path)
    assert_same(stored(calm[name][1]), stored(folder))


def command(name, run_dir, *more):
    script = ROOT / SCRIPTS[name][0].__file__
    return [sys.executable, str(script), *flags(name, run_dir, *more)]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_real_process_killed_by_a_signal_goes_on(signum, calm, tmp_path):
    threads = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # reductions split as in `calm`
    line = command("head", tmp_path, "--checkpoint-minutes", "0")
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=threads)
    last = folder_of("head", tmp_path) / "last.pt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if signum == signal.SIGKILL else 128 + signal.SIGTERM), errors
    if signum == signal.SIGTERM:
        assert "stopped by SIGTERM; saved" in errors and "Traceback" not in errors
    _, folder = run("head", tmp_path)
    assert "going on from epoch" in (folder / "log.txt").read_text()
    assert_same(stored(calm["head"][1]), stored(folder))


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
        "config.json", "metrics.csv", "result.json", "predictions.npz", "last.pt", "best.pt", "log.txt",
    }  # fmt: skip
    assert {path.name for path in folder.iterdir()} == expected
    assert result == json.loads((folder / "result.json").read_text())
    keys = (
        "experiment control dataset seed epochs best_epoch val_top1 test_top1 test_top5 params_total params_quantum "
        "train_seconds images_per_second alpha quantum_device"
    )
    assert set(keys.split()) <= result.keys()
    assert result["params_quantum"] == (24 if name == "head" else 0)
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


def test_another_gpu_model_is_another_run_and_a_cpu_has_none(calm, tmp_path, monkeypatch):
    assert "gpu" not in json.loads((calm["baseline"][1] / "config.json").read_text())["identity"]
    cfg = settings("baseline", tmp_path)
    parts = load_parts(cfg, torch.device("cpu"))

    def begin(model, more=None):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: model)
        monkeypatch.setattr(identity.distributed, "each", lambda name: [name, *(more or [name])])
        opened = run_folder.open_run(cfg, "cifar100_baseline_det", {}, torch.device("cuda"), "bf16", parts)
        opened.begin()
        return opened

    first = begin("NVIDIA A100")
    write_checkpoint(first.last_path, {})
    assert begin("NVIDIA A100").identity == first.identity and first.identity["gpu"] == "NVIDIA A100"
    with pytest.raises(InputError, match="gpu NVIDIA A100 -> NVIDIA H100; use another --run-dir"):
        begin("NVIDIA H100")
    with pytest.raises(InputError, match="gpu NVIDIA A100 -> NVIDIA A100, NVIDIA H100"):
        begin("NVIDIA A100", ["NVIDIA A100", "NVIDIA H100"])


def test_no_resume_starts_over(tmp_path):
    run("baseline", tmp_path, "--epochs", "1")
    result, folder = run("baseline", tmp_path, "--no-resume", "--select-by", "loss")
    assert result["epochs"] == 2 and len((folder / "metrics.csv").read_text().splitlines()) == 3


def test_a_pretrained_network_with_another_stem_says_so_in_the_log(tmp_path):
    weights = tmp_path / "weights.pt"
    torch.save(torchvision.models.resnet18(num_classes=100).state_dict(), weights)
    for name in SCRIPTS:
        _, folder = run(name, tmp_path, "--epochs", "1", "--weights", str(weights), "--stem", "cifar", *WARM[name])
        assert "STEM cifar: the 3 x 3 first convolution starts at random" in (folder / "log.txt").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(
    "network",
    ["resnext50_32x4d", "wide_resnet50_2", "densenet121", "vgg11_bn", "mobilenet_v3_small", "efficientnet_b0",
     "convnext_tiny", "regnet_y_400mf"],
)  # fmt: skip
def test_other_networks_train(name, network, tmp_path):
    more = ["--model-name", network, "--epochs", "1", "--train-limit", "32", *WARM[name]]
    result, folder = run(name, tmp_path, *more)
    assert result["model_name"] == network and math.isfinite(result["test_loss"])
    assert (folder / "best.pt").exists()


@pytest.mark.parametrize(
    "more", [("--schedule", "per_phase"), ("--epochs-warmup", "0"), ("--n-qubits", "3", "--n-layers", "1")]
)
def test_variants_of_the_head(more, calm, tmp_path):
    result, folder = run("head", tmp_path, *more)
    rates = [row["lr"] for row in stored(folder)[2]]
    assert (rates[0] < 1e-6) == ("per_phase" in more)  # the first cycle has ended
    assert result["params_quantum"] == (9 if "--n-qubits" in more else 24)
    assert result["variant"] == folder.parent.name and (folder / "result.json").exists()
    same_recipe = result["recipe"] == calm["baseline"][0]["recipe"] == calm["head"][0]["recipe"]
    assert same_recipe == ("per_phase" not in more)  # phase B has an optimizer and a cycle of its own


def test_head_on_pennylane_learns_what_the_compiled_one_does(tmp_path):
    """At a small rate: at the default one Adam makes rounding grow."""
    more = "--epochs 1 --epochs-warmup 0 --max-lr 1e-5 --alpha-start 0.5 --n-qubits 3".split()
    fast, pennylane = (run("head", tmp_path / d, *more, "--quantum-device", d) for d in ("fast", "default.qubit"))
    scores = [key for key in fast[0] if key.startswith(("val_", "test_")) or key == "alpha"]
    assert [result["quantum_device"] for result, _ in (fast, pennylane)] == ["fast", "default.qubit"]
    one, other = ({key: result[key] for key in scores} for result, _ in (fast, pennylane))
    assert one == pytest.approx(other, abs=3e-5)  # a gradient of the wrong sign: 1e-4 in the loss
    (_, _, rows, logits, _), (_, _, expected_rows, expected, _) = (stored(folder) for _, folder in (fast, pennylane))
    assert rows[0]["train_loss"] == pytest.approx(expected_rows[0]["train_loss"], abs=3e-5)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=3e-4)  # likewise: 2e-3


def test_published_channels_and_cache_reuse(tmp_path, monkeypatch):
    published = "--circuits published --no-align-maps --map-scaling minmax --extra-channel-init mean".split()
    run("channels", tmp_path, *published)
    files = sorted((tmp_path / "cifar100_quantum_channels" / "descriptors").iterdir())
    assert [f.name.rsplit("_", 1)[0] for f in files] == [
        "test_q_edge", "test_q_tex", "train_q_edge", "train_q_tex", "val_q_edge", "val_q_tex",
    ]  # fmt: skip
    monkeypatch.setattr("qcifar.quantum.descriptors.run_circuit", None)  # a second seed reads the caches
    result = cifar100_quantum_channels.main(flags("channels", tmp_path, *published, "--seed", "7"))
    assert result["seed"] == 7


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
    assert before.endswith("all 2 epochs are trained; going on with the best of them") and "--accumulate" in last


def corrupt(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_bad_files_are_refused_by_name_and_nothing_is_lost(calm, tmp_path):
    shutil.copytree(calm["channels"][1].parents[1], tmp_path, dirs_exist_ok=True)
    folder = folder_of("channels", tmp_path)
    (folder / "result.json").unlink()
    cache = next((folder.parent / "descriptors").glob("val_q_tex_*"))
    whole = cache.read_bytes()
    corrupt(cache)
    with pytest.raises(InputError, match=cache.name):
        run("channels", tmp_path)
    cache.write_bytes(whole)
    corrupt(folder / "last.pt")
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
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    done = subprocess.run(command("baseline", blocked), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and str(blocked) in done.stderr


def test_real_data(real_data, tmp_path):
    data = ["--dataset", "cifar100", "--data-dir", str(ROOT / "data")]
    for name in SCRIPTS:
        result, folder = run(name, tmp_path, *data)
        assert result["dataset"] == "cifar100" and "SYNTHETIC" not in (folder / "log.txt").read_text()
        config = json.loads((folder / "config.json").read_text())
        assert config["identity"]["dataset_fingerprint"] == real_data.fingerprint
