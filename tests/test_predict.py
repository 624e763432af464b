"""`predict.py`: exported test images give the run's own predictions; images of all kinds; bad input."""

import csv
import json
import math
import pickle
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import predict
from qcifar.errors import InputError
from qcifar.experiment import finished
from qcifar.files import read_checkpoint, write_checkpoint
from tests.helpers import ROOT
from tests.helpers.data import cut_in_half
from tests.helpers.scripts import ONE_EPOCH, RESNET, SCRIPTS, run

DATA_DIR = ROOT / "data"
FLAGS = SimpleNamespace(device="cpu", precision="auto", data_dir="unused")


def export(data, index, folder):
    """Test images as PNG, named by their place."""
    folder.mkdir()
    for place in index:
        pixels = data.test_images[int(place)].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{place:05d}.png")
    return folder


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """A head whose best epoch has the branch on."""
    return run("head", tmp_path_factory.mktemp("later"), "--epochs", "1", "--epochs-warmup", "0")


@pytest.fixture
def copied(calm, tmp_path):
    """Where a finished run of the baseline was copied to, away from its RUN_DIR."""
    return shutil.copytree(calm["baseline"][1], tmp_path / "copied")


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)).save(path)
    return path


# ---- the run's own predictions


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_exported_test_images_give_the_runs_own_predictions(name, calm, later, synthetic, tmp_path, capsys):
    _, folder = later if name == "head" else calm[name]
    with np.load(folder / "predictions.npz") as file:
        index, logits = file["index"], torch.from_numpy(file["logits"])
    images, output = export(synthetic, index, tmp_path / "images"), tmp_path / "out.csv"
    before = contents(folder)
    predict.main([str(folder), str(images), "--output", str(output)])
    assert contents(folder) == before
    assert f"SYNTHETIC DATA  {folder}" in capsys.readouterr().out
    rows = {row["file"]: row for row in table(output)}
    assert len(rows) == len(index) == 40
    top = logits.double().softmax(1).topk(5)
    for place, values, classes in zip(index, top.values.tolist(), top.indices.tolist(), strict=True):
        row = rows[f"{place:05d}.png"]
        assert row["class_1"] == f"class {classes[0]}"
        assert [float(row[f"probability_{k}"]) for k in range(1, 6)] == pytest.approx(values, abs=2e-6)
    assert ("without_class_5" in rows[f"{index[0]:05d}.png"]) == (name != "baseline")


@pytest.mark.parametrize("name", SCRIPTS)
def test_logits_are_the_runs(name, calm, later, synthetic):
    _, folder = later if name == "head" else calm[name]
    with np.load(folder / "predictions.npz") as file:
        index, logits = file["index"], torch.from_numpy(file["logits"])
    it = finished.load(finished.read_run(folder), FLAGS)
    found = predict.logits_of(it, synthetic.test_images[index])
    torch.testing.assert_close(found[""], logits, rtol=0, atol=1e-5)
    assert ("without_" in found) == (name != "baseline")
    if name == "baseline":
        return
    assert (found["without_"] - logits).abs().max() > 1e-6
    again = predict.logits_of(it, synthetic.test_images[index])
    assert all(torch.equal(again[way], found[way]) for way in found)  # the branch is on again
    with torch.inference_mode():
        x = torch.cat([x for x, _ in it.test_loader.batches()])
        if name == "head":
            expected = it.model.classifier(it.model.backbone(x))
        else:
            x[:, 3:] = x[:, 3:].mean(0)
            expected = it.model(x)
    torch.testing.assert_close(found["without_"], expected, rtol=0, atol=1e-5)
    right = (found["without_"].argmax(1) == synthetic.test_labels[index]).double().mean().item()
    assert right == finished.read_run(folder).result["dependence"]["top1_without"]  # one word for one thing


def test_a_head_whose_best_epoch_lies_in_phase_a_says_so(tmp_path, photo, capsys):
    _, folder = run("head", tmp_path, "--epochs", "1", "--epochs-warmup", "1")
    predict.main([str(folder), str(photo)])
    said = capsys.readouterr().out
    assert "phase A" in said and "logits_q left out" in said
    cells = [line.split("%") for line in said.splitlines()[-5:]]
    assert all(with_branch.split()[1:] == without.split() for with_branch, without, _ in cells)


@pytest.mark.slow
def test_real_images_as_the_run_saw_them(real_data, tmp_path):
    more = ["--dataset", "cifar100", "--data-dir", str(DATA_DIR), "--epochs", "1", "--epochs-warmup", "0"]
    _, folder = run("head", tmp_path, *more)
    with np.load(folder / "predictions.npz") as file:
        index, logits = file["index"], torch.from_numpy(file["logits"])
    images = export(real_data, index, tmp_path / "images")
    predict.main([str(folder), str(images), "--data-dir", str(DATA_DIR)])
    rows = table(folder / "predict_images.csv")
    order = np.argsort(index)
    assert [row["class_1"] for row in rows] == [predict.CLASS_NAMES[k] for k in logits.argmax(1)[order]]


def test_names_of_classes_are_those_of_the_data():
    path = DATA_DIR / "cifar-100-python" / "meta"
    if not path.exists():
        pytest.skip("no CIFAR-100 in ./data")
    with path.open("rb") as file:
        assert tuple(pickle.load(file, encoding="latin1")["fine_label_names"]) == predict.CLASS_NAMES


# ---- finding the script and its settings


def test_a_run_elsewhere_on_another_machine_by_edited_code_still_predicts(copied, photo, capsys):
    """As from a GPU in another lab: other threads and packages, code edited, and the weights it began with not here."""
    config = json.loads((copied / "config.json").read_text())
    config["constants"] |= {"WEIGHTS": "/gone/start.pt", "DATA_DIR": "/gone", "RUN_DIR": "/gone", "COMPILE": True}
    changed = {"threads": 77, "torch": "0.1", "code": {"DLfunctions.py": "other"}, "precision": "fp32"}
    config["identity"] |= changed
    (copied / "config.json").write_text(json.dumps(config))
    best = read_checkpoint(copied / "best.pt")
    write_checkpoint(copied / "best.pt", best | {"identity": config["identity"]})
    before = contents(copied)
    predict.main([str(copied), str(photo)])
    said = capsys.readouterr().out
    assert "note: since this run, " in said and "DLfunctions.py" in said
    assert contents(copied) == before and not (copied.parent / "cifar100_baseline_det").exists()


def test_memory_for_a_backward_pass_is_not_asked_for(copied):
    config = json.loads((copied / "config.json").read_text())
    config["constants"] |= {"BATCH_SIZE": 128, "TRAIN_LIMIT": 0}
    config["images"]["train"] = 3200
    script = SCRIPTS["baseline"][0]
    settings = finished.settings_of(finished.FinishedRun(copied, config, {}), script, FLAGS, "scratch")
    assert (settings.batch_size, settings.accumulate, settings.run_dir) == (128, 64, "scratch")
    assert settings.batch_size // settings.accumulate == 2


def test_the_script_is_the_one_that_made_the_run(tmp_path, monkeypatch):
    for name, experiment in (("a_copy", "mine"), ("mine", "mine"), ("other", "other")):
        (tmp_path / f"{name}.py").write_text(f"def prepare(cfg):\n    return open_run(__file__, cfg, '{experiment}')\n")
    (tmp_path / "broken.py").write_text("def (:")
    monkeypatch.setattr(finished, "ROOT", tmp_path)

    def found(experiment, **code):
        config = {"experiment": experiment, "identity": {"own_code": code}}
        return finished.script_of(finished.FinishedRun(tmp_path, config, {}))

    assert [found("mine", **{"mine.py": "x"}), found("mine"), found("other")] == ["mine", "a_copy", "other"]
    with pytest.raises(InputError, match="no script in .* opens runs of gone"):
        found("gone")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_found_by_the_experiments_that_they_open(name):
    module, experiment = SCRIPTS[name]
    config = {"experiment": experiment, "identity": {}}
    assert finished.script_of(finished.FinishedRun(ROOT, config, {})) == module.__name__


# ---- images


def saved(folder, name, mode, value, **how):
    path = folder / name
    Image.new(mode, (40, 30), value).save(path, **how)
    return path


@pytest.mark.parametrize(
    ("name", "mode", "value", "expected"),
    [
        ("grey.png", "L", 77, (77, 77, 77)), ("bits.png", "1", 1, (255, 255, 255)),
        ("alpha.png", "RGBA", (10, 20, 30, 0), (255, 255, 255)), ("half.png", "RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("grey_alpha.png", "LA", (0, 0), (255, 255, 255)), ("deep.png", "I;16", 0x8080, (128, 128, 128)),
        ("deep.tif", "I", 65535, (255, 255, 255)), ("float.tif", "F", 0.2, (51, 51, 51)),
        ("print.jpg", "CMYK", (0, 0, 0, 255), (0, 0, 0)), ("video.jpg", "YCbCr", (255, 128, 128), (255, 255, 255)),
        ("palette.gif", "P", 0, (0, 0, 0)), ("colour.webp", "RGB", (200, 0, 0), (200, 0, 0)),
    ],
)  # fmt: skip
def test_every_kind_of_image(name, mode, value, expected, tmp_path):
    pixels = predict.read_image(saved(tmp_path, name, mode, value))
    assert pixels.shape == (3, 32, 32) and pixels.dtype == torch.uint8
    assert (pixels.int() - torch.tensor(expected).view(3, 1, 1)).abs().max() <= 6  # JPEG and WebP lose a little


def test_a_transparent_palette_and_a_turned_photo(tmp_path):
    palette = Image.new("P", (32, 32), 3)
    palette.putpalette([10, 20, 30] * 256)
    palette.save(tmp_path / "palette.png", transparency=3)
    assert (predict.read_image(tmp_path / "palette.png") == 255).all()
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 200  # bright on top; orientation 6: to be shown turned clockwise, bright to the right
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = predict.read_image(tmp_path / "turned.png")
    assert (turned[:, :, 16:] == 200).all() and (turned[:, :, :16] == 0).all()


def test_32_pixels_stay_as_they_are_and_others_are_pillows(synthetic, tmp_path):
    image = synthetic.test_images[3]
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "same.png")
    assert torch.equal(predict.read_image(tmp_path / "same.png"), image)
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3)).astype(np.uint8))
    wide.save(tmp_path / "wide.png")
    expected = np.array(wide.resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(predict.read_image(tmp_path / "wide.png").permute(1, 2, 0).numpy(), expected)


def bad_images(folder):
    """name -> what is said of it."""
    folder.mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("no image")
    (folder / "empty.png").write_bytes(b"")
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8))
    noise.save(folder / "cut.jpg")
    noise.save(folder / "cut.png")
    for name in ("cut.jpg", "cut.png"):
        cut_in_half(folder / name)
    Image.new("F", (8, 8), 300.0).save(folder / "range.tif")
    Image.new("F", (8, 8), math.nan).save(folder / "nan.tif")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    cannot, unknown = "cannot be read as an image", "is not an image that Pillow knows"
    return {
        "cut.jpg": cannot, "cut.png": cannot, "empty.png": unknown, "huge.png": cannot, "nan.tif": "from 0 to 1",
        "notes.txt": unknown, "range.tif": "from 0 to 1",
    }  # fmt: skip


def test_bad_images_are_left_out_of_a_folder_by_name(calm, photo, tmp_path, capsys):
    folder = tmp_path / "photos"
    expected = bad_images(folder)
    shutil.copy(photo, folder / "good.png")
    (folder / ".hidden").write_text("not looked at")
    (folder / "sub").mkdir()
    output = tmp_path / "out" / "table.csv"
    for _ in range(2):  # it may write over its own table
        predict.main([str(calm["baseline"][1]), str(folder), "--output", str(output)])
    assert [row["file"] for row in table(output)] == ["good.png"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert len(lines) == 2 * len(expected)
    for line, (name, reason) in zip(lines, expected.items(), strict=False):
        assert f"{folder / name} " in line and reason in line
    for name, reason in expected.items():  # alone, each is an error
        with pytest.raises(InputError, match=reason):
            predict.main([str(calm["baseline"][1]), str(folder / name)])


def test_one_image_is_shown(calm, photo, capsys):
    _, folder = calm["channels"]
    before = set(folder.iterdir())
    predict.main([str(folder), str(photo)])
    assert set(folder.iterdir()) == before
    lines = capsys.readouterr().out.splitlines()[-6:]
    assert "without it (both maps at their mean)" in lines[0]
    assert [line.split()[0] for line in lines[1:]] == list("12345")
    assert all(line.count("%") == 2 for line in lines[1:])


# ---- bad input


def damaged(folder, what):
    """Damage a copied run; returns what is said of it."""
    config = json.loads((folder / "config.json").read_text())
    match what:
        case "unfinished":
            (folder / "result.json").unlink()
            return r"is not finished \(no result\.json\)"
        case "no checkpoint":
            (folder / "best.pt").unlink()
            return r"has no best\.pt, which sweep\.py --keep none deletes; train the run again, with --no-resume"
        case "no run":
            (folder / "config.json").unlink()
            return "holds no run"
        case "cut checkpoint":
            cut_in_half(folder / "best.pt")
            return r"best\.pt is damaged"
        case "checkpoint of another run":
            saved = read_checkpoint(folder / "best.pt")
            write_checkpoint(folder / "best.pt", saved | {"identity": saved["identity"] | {"SEED": 7}})
            return r"best\.pt is not of the run"
        case "checkpoint of another epoch":
            write_checkpoint(folder / "best.pt", read_checkpoint(folder / "best.pt") | {"epoch": 77})
            return r"best\.pt is not of the best epoch"
        case "weights of another network":
            write_checkpoint(folder / "best.pt", read_checkpoint(folder / "best.pt") | {"model": {"x": torch.zeros(1)}})
            return r"best\.pt does not fit the network"
        case "foreign config":
            (folder / "config.json").write_text('{"experiment": 3}')
            return r"config\.json is not one of this test bench \(experiment"
        case "unknown experiment":
            (folder / "config.json").write_text(json.dumps(config | {"experiment": "cifar10_other"}))
            return "no script in .* opens runs of cifar10_other"
        case "constant that is gone":
            config["constants"]["DROPOUT"] = 0.5
            (folder / "config.json").write_text(json.dumps(config))
            return r"does not fit cifar100_baseline\.py now: unknown flag --dropout"
        case "another circuit":
            config["identity"]["circuits"] = ["other"]
            (folder / "config.json").write_text(json.dumps(config))
            return r"the circuit of cifar100_baseline\.py is another one now"
        case "foreign result":
            (folder / "result.json").write_text("{}")
            return r"result\.json is not one of this test bench"


DAMAGE = [
    "unfinished", "no checkpoint", "no run", "cut checkpoint", "checkpoint of another run",
    "checkpoint of another epoch", "weights of another network", "foreign config", "unknown experiment",
    "constant that is gone", "another circuit", "foreign result",
]  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_run_that_cannot_predict_is_one_line(what, copied, photo):
    expected = damaged(copied, what)
    with pytest.raises(InputError, match=expected) as caught:
        predict.main([str(copied), str(photo)])
    assert "\n" not in str(caught.value)


def test_paths_that_are_wrong_are_one_line(calm, photo, tmp_path):
    run_folder = str(calm["baseline"][1])
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder").mkdir()
    shutil.copy(photo, tmp_path / "folder" / "a.png")
    images = str(tmp_path / "folder")
    for argv, expected in (
        ([str(tmp_path / "gone"), images], "no folder"),
        ([run_folder, str(tmp_path / "gone.png")], "no such file or folder"),
        ([run_folder, str(tmp_path / "empty")], "no image in .*: 0 files"),
        ([run_folder, images, "--output", str(tmp_path)], "is a folder"),
        ([run_folder, images, "--output", f"{run_folder}/metrics.csv"], "not a table of predict.py"),
        ([run_folder, images, "--output", str(photo / "x.csv")], "photo.png"),
        ([run_folder], "required: images"),
        ([run_folder, images, "--precision", "fp8"], "PRECISION"),
    ):
        with pytest.raises(InputError, match=expected) as caught:
            predict.main(argv)
        assert "\n" not in str(caught.value)
    assert (calm["baseline"][1] / "metrics.csv").read_text().startswith("epoch")


def started(folder, *argv):
    """`predict.py` as a user starts it, from another folder: the flags of the script it imports are not its own."""
    command = [sys.executable, str(ROOT / "predict.py"), *map(str, argv)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow  # a process that imports torch and PennyLane
def test_as_a_user_starts_it(photo, tmp_path):
    _, folder = run("channels", tmp_path / "runs", *RESNET, *ONE_EPOCH["channels"])
    done = started(tmp_path, folder.resolve(), photo, "--device", "cpu")
    assert done.returncode == 0 and "1  class" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_wrong_flag_as_a_user_gives_it(photo, tmp_path):
    done = started(tmp_path, "run", photo, "--devise", "cpu")
    assert (done.returncode, done.stderr) == (2, "error: unknown flag --devise; did you mean --device?\n")
