"""CONTROL of both hybrid scripts: each runs, is paired with the baseline, and differs where it says."""

import math

import numpy as np
import pytest
import torch

from qcifar.errors import InputError
from qcifar.files import read_checkpoint
from tests.helpers import slow
from tests.helpers.scripts import as_baseline, assert_same, prepare, run, stored

HEAD = ["fourier", "planted", *map(slow, ("mlp", "linear", "tanh", "product", "frozen"))]
CHANNELS = ["shuffled", *map(slow, ("planted", "product", "raw", "fourier", "noise", "constant"))]
LEARN = {"fourier": 81 * 4, "mlp": 20, "linear": 0, "tanh": 0, "product": 24, "frozen": 0, "planted": 0}


def test_head_off_is_the_baseline_bit_for_bit(calm, tmp_path):
    result, folder = run("head", tmp_path, "--control", "off")
    found, expected = stored(folder), stored(calm["baseline"][1])
    assert_same((*found[:4], {}), (*expected[:4], {}))
    assert (result["control"], result["variant"]) == ("off", "control=off,epochs_warmup=1")
    assert result["recipe"] == calm["baseline"][0]["recipe"] and result["branch_on"] is False


@pytest.mark.parametrize("name", ["head", slow("channels")])
def test_jitter_is_the_baseline_but_for_one_weight_and_parts_from_it(calm, tmp_path, name):
    it, base = prepare(name, tmp_path, "--control", "jitter"), prepare("baseline", tmp_path)
    mine, theirs = (torch.cat([p.detach().flatten() for p in one.model.parameters()]) for one in (it, base))
    assert int((mine != theirs).sum()) == 1
    result, folder = run(name, tmp_path, "--control", "jitter")
    assert not np.array_equal(stored(folder)[3], stored(calm["baseline"][1])[3])
    assert result["recipe"] == calm["baseline"][0]["recipe"] and "CONTROL jitter" in (folder / "log.txt").read_text()


def test_jitter_reaches_the_answers_in_bf16(tmp_path):
    """A step in the last place of fp32 would be rounded away there, and A/A runs would be equal to the bit."""
    logits = []
    for name, more in (("baseline", ()), ("head", ("--control", "jitter"))):
        it = prepare(name, tmp_path, "--precision", "bf16", *more)
        x, _ = next(it.train_loader.batches(0))
        with torch.no_grad(), it.autocast:
            logits.append(it.model(x))
    assert not torch.equal(*logits)


@pytest.mark.parametrize("control", HEAD)
def test_controls_of_the_head(control, calm, tmp_path):
    result, folder = run("head", tmp_path, "--control", control)
    (state, _, rows, _, _), (_, _, base_rows, _, _) = stored(folder), stored(calm["baseline"][1])
    names = [name for name in base_rows[0] if name != "dataset"]
    assert [rows[0][name] for name in names] == [base_rows[0][name] for name in names]  # phase A
    assert rows[0]["branch_share"] == 0 and rows[1]["branch_share"] != 0 and rows[1]["alpha"] != rows[0]["alpha"]
    assert (rows[1]["circuit_gradient"] > 0) == (LEARN[control] > 0)
    assert (result["control"], result["recipe"]) == (control, calm["baseline"][0]["recipe"])
    assert result["params_quantum"] == {"product": 24}.get(control, 0)
    assert f"CONTROL {control}: {LEARN[control]} weights learn" in (folder / "log.txt").read_text()
    assert not np.array_equal(state["alpha_raw"], stored(calm["head"][1])[0]["alpha_raw"])
    dependence = result["dependence"]
    assert (dependence is None) == (result["branch_on"] is False) == (result["best_epoch"] == 1)
    if dependence is not None:
        assert dependence["top1"] == result["test_top1"]
        gained = dependence["fixed"] - dependence["broken"]
        assert round(40 * (dependence["top1"] - dependence["top1_without"])) == gained


@pytest.mark.parametrize("control", HEAD)
def test_branch_starts_as_the_circuits_does_and_varies_as_much(control, tmp_path):
    it, quantum = (prepare("head", tmp_path, "--control", name) for name in (control, "quantum"))
    for one in (it, quantum):
        one.on_epoch_start(1)  # phase B
    assert quantum.model.branch.gain.item() == 1
    for name, weight in it.model.state_dict().items():
        if name.startswith(("backbone.", "classifier.", "branch.pre_q.", "branch.post_q.")):
            assert torch.equal(weight, quantum.model.state_dict()[name]), name
    loaders = it.train_loader, quantum.train_loader
    if control != "planted":
        for one in (it, quantum):
            one.model.eval()
        spread = []
        for one, loader in zip((it, quantum), loaders, strict=True):
            x, _ = next(loader.batches(1))
            with torch.no_grad():
                spread.append(one.model.logits_q(one.model.backbone(x[:, :3]), x).var(0).sum().item())
        assert spread[0] == pytest.approx(spread[1], rel=1e-3)
    else:  # in expectation: one class of 100 at `gain` with probability PLANT, all others 0
        x, _ = next(quantum.train_loader.batches(1))
        quantum.model.eval()
        with torch.no_grad():
            wanted = quantum.model.logits_q(quantum.model.backbone(x[:, :3]), x).var(0).sum().item()
        variance = 0.05 / 100 * (1 - 0.05 / 100) * it.model.branch.gain.item() ** 2  # of each class's logit
        assert 100 * variance == pytest.approx(wanted, rel=1e-3)


@pytest.mark.slow
def test_a_control_that_is_stopped_in_phase_b_goes_on_with_its_gain(tmp_path, monkeypatch):
    calm_result, calm_folder = run("head", tmp_path / "calm", "--control", "fourier")
    import DLfunctions

    whole = DLfunctions.write_checkpoint
    seen = []

    def write_then_stop(path, content):
        whole(path, content)
        seen.append(path.name)
        if content.get("progress", {}).get("epoch") == 1 and content["progress"]["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(DLfunctions, "write_checkpoint", write_then_stop)
    with pytest.raises(KeyboardInterrupt):
        run("head", tmp_path / "stopped", "--control", "fourier", "--checkpoint-minutes", "0")
    monkeypatch.undo()
    result, folder = run("head", tmp_path / "stopped", "--control", "fourier", "--checkpoint-minutes", "0")
    assert_same(stored(folder), stored(calm_folder))
    assert result["test_top1"] == calm_result["test_top1"]
    gain = read_checkpoint(folder / "last.pt")["model"]["branch.gain"].item()
    assert gain != 1 and math.isfinite(gain)


@pytest.mark.parametrize("control", CHANNELS)
def test_controls_of_the_channels(control, calm, tmp_path):
    it = prepare("channels", tmp_path, "--control", control)
    x, labels = next(it.train_loader.batches(0))
    base, base_labels = next(prepare("baseline", tmp_path).train_loader.batches(0))
    assert torch.equal(x[:, :3], base) and torch.equal(labels, base_labels) and x.shape[1] == 5
    result, folder = run("channels", tmp_path, "--control", control)
    assert (result["control"], result["variant"]) == (control, f"control={control}")
    assert result["recipe"] == calm["baseline"][0]["recipe"]
    assert (result["quantum_device"] is None) == (control in ("raw", "fourier", "planted"))
    assert result["dependence"]["top1"] == result["test_top1"]
    state, base_state = (stored(one)[0] for one in (folder, calm["baseline"][1]))
    assert state["conv1.weight"].shape[1] == 5 and base_state.keys() == state.keys()


@pytest.mark.slow
def test_constant_maps_are_the_mean_of_the_training_images_in_all_parts(tmp_path):
    it, quantum = (prepare("channels", tmp_path, "--control", name) for name in ("constant", "quantum"))
    mean = quantum.train_loader.extra.grids.mean((0, 2, 3))
    for loader in (it.train_loader, it.val_loader, it.test_loader):
        torch.testing.assert_close(
            loader.extra.grids, mean[:, None, None].expand_as(loader.extra.grids), rtol=0, atol=1e-6
        )


def test_raw_maps_are_the_angles(tmp_path):
    from qcifar.quantum.descriptors import input_angles

    it = prepare("channels", tmp_path, "--control", "raw")
    angles = input_angles(it.parts.test.images, 4, 28).float()
    for k in range(2):
        assert torch.equal(it.test_loader.extra.grids[:, k].flatten(1), angles)


@pytest.mark.parametrize(("name", "more"), [("head", "--plant 0.1"), ("channels", "--control raw --circuit-seed 1")])
def test_a_constant_without_effect_is_refused(name, more, tmp_path):
    with pytest.raises(InputError, match="has an effect with CONTROL"):
        prepare(name, tmp_path, *more.split())


def test_planted_head_sees_the_baselines_images_and_a_hint(tmp_path):
    it = prepare("head", tmp_path, "--control", "planted", "--plant", "0.5")
    base = prepare("baseline", tmp_path)
    (x, labels), (images, _) = (next(one.train_loader.batches(0)) for one in (it, base))
    assert torch.equal(x[:, :3], images) and x.shape[1] == 4
    told = x[:, 3, 0, 0].long()
    assert torch.equal(told[told >= 0], labels[told >= 0]) and 0 < int((told >= 0).sum()) < len(told)
    assert as_baseline(it.model.state_dict()).keys() >= base.model.state_dict().keys()
