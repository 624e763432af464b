"""The three scripts as a user runs them, small: the invariants of the comparison, and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import cifar100_baseline
import cifar100_hybrid_Qhead
import cifar100_quantum_channels
import DLfunctions
import qcifar.run
from qcifar.config import settings_from_constants
from qcifar.errors import InputError
from qcifar.files import read_checkpoint, write_checkpoint
from qcifar.recipe import load_parts

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "baseline": (cifar100_baseline, "cifar100_baseline_det"),
    "channels": (cifar100_quantum_channels, "cifar100_quantum_channels"),
    "head": (cifar100_hybrid_Qhead, "cifar100_hybrid_qhead"),
}
SMALL = (
    "--dataset synthetic --weights none --model-name resnet18 --img-size 32 --epochs 2 --batch-size 16 "
    "--train-limit 48 --eval-limit 40 --device cpu"
).split()
HEAD = ["--epochs-warmup", "1"]
TIMED = {"seconds", "images_per_second"}
MEASURED = {"images_per_second", "train_seconds", "peak_host_mb"}


def flags(name, run_dir, *more):
    return [*SMALL, *(HEAD if name == "head" else []), "--run-dir", str(run_dir), *more]


def run(name, run_dir, *more):
    """Run a script in this process; returns its result and its folder."""
    module, experiment = SCRIPTS[name]
    result = module.main(flags(name, run_dir, *more))
    return result, run_dir / experiment / "seed42"


def stored(folder):
    """What has to come back to the bit: weights, optimizer, metrics without times, logits."""
    last = read_checkpoint(folder / "last.pt")
    history = [{k: v for k, v in row.items() if k not in TIMED} for row in last["progress"]["history"]]
    moments = [state["exp_avg"] for _, state in sorted(last["optimizer"]["state"].items())]
    logits = np.load(folder / "predictions.npz")["logits"]
    result = json.loads((folder / "result.json").read_text())
    result = {k: v for k, v in result.items() if k not in MEASURED}
    return last["model"], moments, history, logits, result


def assert_same(a, b):
    assert a[0].keys() == b[0].keys() and all(torch.equal(a[0][name], b[0][name]) for name in a[0])
    assert len(a[1]) == len(b[1]) and all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))
    assert a[2] == b[2]
    assert np.array_equal(a[3], b[3])
    assert a[4] == b[4]


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """An undisturbed run of each script, in one run folder as a user has them."""
    folder = tmp_path_factory.mktemp("calm")
    return {name: run(name, folder) for name in SCRIPTS}


def capture_training(monkeypatch, name, run_dir, *more):
    """Start a script but stop where training begins; returns the arguments of `train_model`."""
    module, caught = SCRIPTS[name][0], {}

    class Caught(Exception):
        pass

    def instead(*args, **kwargs):
        caught["args"], caught["kwargs"] = args, kwargs
        raise Caught

    monkeypatch.setattr(module, "train_model", instead)
    with pytest.raises(Caught):
        module.main(flags(name, run_dir, *more))
    monkeypatch.undo()
    return caught["args"], caught["kwargs"]


def test_invariant_1_same_images_order_and_augmentation(monkeypatch, tmp_path):
    streams = {}
    for name in SCRIPTS:
        (_, train_loader, val_loader, *_), _ = capture_training(monkeypatch, name, tmp_path)
        torch.rand(3)  # whoever draws
        streams[name] = [x[:, :3] for x, _ in train_loader.batches(1)] + [x[:, :3] for x, _ in val_loader.batches()]
        resumed = [x for x, _ in train_loader.batches(1, first_step=2)]
        assert torch.equal(resumed[0][:, :3], streams[name][2])
    for name in SCRIPTS:
        assert all(torch.equal(a, b) for a, b in zip(streams["baseline"], streams[name], strict=True))


def test_invariant_2_same_initial_backbone_and_classifier(monkeypatch, tmp_path):
    states = {name: capture_training(monkeypatch, name, tmp_path)[0][0].state_dict() for name in SCRIPTS}
    base = states["baseline"]
    head = {key.replace("backbone.", "").replace("classifier.", "fc."): v for key, v in states["head"].items()}
    assert all(torch.equal(base[key], head[key]) for key in base)
    assert torch.equal(states["channels"]["conv1.weight"][:, :3], base["conv1.weight"])
    assert all(torch.equal(base[key], states["channels"][key]) for key in base if key != "conv1.weight")


def test_invariant_3_phase_a_is_the_baseline_bit_for_bit(calm, tmp_path):
    _, folder = run("head", tmp_path, "--epochs-warmup", "2")
    base, head = stored(calm["baseline"][1]), stored(folder)
    renamed = {key.replace("backbone.", "").replace("classifier.", "fc."): v for key, v in head[0].items()}
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


def test_invariant_3_five_channels_give_the_baselines_logits_at_step_0(monkeypatch, tmp_path):
    (base, base_loader, *_), _ = capture_training(monkeypatch, "baseline", tmp_path)
    (five, five_loader, *_), _ = capture_training(monkeypatch, "channels", tmp_path)
    (x3, _), (x5, _) = next(base_loader.batches(0)), next(five_loader.batches(0))
    assert x5.shape == (16, 5, 32, 32) and x5[:, 3:].std() > 0.01
    assert torch.equal(base(x3), five(x5))


def test_invariant_4_one_recipe_and_one_look_at_the_test_set(monkeypatch, tmp_path, calm):
    recipes = {}
    for name, (module, _) in SCRIPTS.items():
        (_, _, _, criterion, optimizer, scheduler, _), arguments = capture_training(monkeypatch, name, tmp_path)
        settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        recipes[name] = (
            repr(criterion), settings, scheduler.state_dict(),
            {k: v for k, v in arguments.items() if k not in ("on_epoch_start", "on_epoch_end", "autocast")},
        )  # fmt: skip
        assert sum(p.numel() for p in optimizer.param_groups[0]["params"]) == calm[name][0]["params_total"]
        calls = []
        monkeypatch.setattr(DLfunctions, "evaluate", _counting(calls))
        monkeypatch.setattr(qcifar.run, "evaluate", _counting(calls))
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


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it, nothing is tidied up."""


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
    last = tmp_path / "cifar100_hybrid_qhead" / "seed42" / "last.pt"
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
    constants = {key for key in vars(SCRIPTS[name][0]) if key.isupper()} - {"CLASSES", "PREPROCESSING"}
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
    cfg = settings_from_constants(vars(cifar100_baseline), flags("baseline", tmp_path))
    parts = load_parts(cfg, torch.device("cpu"))

    def begin(model, more=None):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: model)
        monkeypatch.setattr(qcifar.run.distributed, "each", lambda name: [name, *(more or [name])])
        opened = qcifar.run.open_run(cfg, "cifar100_baseline_det", torch.device("cuda"), "bf16", parts)
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


@pytest.mark.parametrize(
    "more", [("--schedule", "per_phase"), ("--epochs-warmup", "0"), ("--n-qubits", "3", "--n-layers", "1")]
)
def test_variants_of_the_head(more, calm, tmp_path):
    result, folder = run("head", tmp_path, *more)
    rates = [row["lr"] for row in stored(folder)[2]]
    assert (rates[0] < 1e-6) == ("per_phase" in more)  # the first cycle has ended
    assert result["params_quantum"] == (9 if "--n-qubits" in more else 24)
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
    monkeypatch.setattr("qcifar.descriptors.run_circuit", None)  # a second seed reads the caches
    result = cifar100_quantum_channels.main(flags("channels", tmp_path, *published, "--seed", "7"))
    assert result["seed"] == 7


def test_memory_that_is_full_in_the_test_is_one_line_also_in_the_log(calm, tmp_path, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has little.")

    shutil.copytree(calm["baseline"][1].parents[1], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / calm["baseline"][1].relative_to(calm["baseline"][1].parents[1])
    (folder / "result.json").unlink()
    monkeypatch.setattr(qcifar.run, "evaluate", full)
    with pytest.raises(InputError, match="2.00 GiB; --accumulate 2"):
        run("baseline", tmp_path)
    *_, before, last = (folder / "log.txt").read_text().splitlines()
    assert before.endswith("all 2 epochs are trained; going on with the best of them") and "--accumulate" in last


def corrupt(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_bad_files_are_refused_by_name_and_nothing_is_lost(calm, tmp_path):
    shutil.copytree(calm["channels"][1].parents[1], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "cifar100_quantum_channels" / "seed42"
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
        ("channels", ["--n-qubits", "1"], "N_QUBITS (--n-qubits): the descriptors entangle"),
    ],
)
def test_bad_input_leaves_no_run_behind(name, more, expected, tmp_path):
    with pytest.raises(InputError) as caught:
        run(name, tmp_path, *more)
    assert expected in str(caught.value)
    assert not (tmp_path / SCRIPTS[name][1] / "seed42").exists()


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
