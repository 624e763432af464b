"""A start of one's own: from a folder of images to a file that --weights takes."""

import numpy as np
import pytest
import torch
from PIL import Image

from qcifar.errors import InputError
from studies import pretrain
from tests.helpers.networks import network

SMALL = ["--model-name", "resnet18", "--epochs", "1", "--batch-size", "12", "--val-fraction", "0.25"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of eight images of several modes and sizes, each class with a colour of its own."""
    top, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for k, (name, mode) in enumerate((("red", "RGB"), ("grey", "L"), ("palette", "P"))):
        (top / name).mkdir()
        for number in range(8):
            pixels = draw.integers(80 * k, 80 * k + 80, size=(40 + number, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(top / name / f"{number}.png")
    return top


def test_the_file_is_a_start_for_the_scripts(folder, tmp_path, capsys):
    output = tmp_path / "start.pt"
    pretrain.main([str(folder), str(output), *SMALL])
    said = capsys.readouterr().out
    assert "18 training and 6 held-out images of 3 classes" in said and "held out top1" in said
    state = torch.load(output, weights_only=True)
    assert state["conv1.weight"].dtype == torch.float16 and state["fc.weight"].shape == (3, 512)
    notes = []
    net = network("resnet18", str(output), img_size=32, note=notes.append)
    assert torch.equal(net.state_dict()["conv1.weight"], state["conv1.weight"].float())
    assert any("the last layer starts at random" in note for note in notes)


def test_the_same_command_gives_the_same_file(folder, tmp_path):
    for name in ("one.pt", "two.pt"):
        pretrain.main([str(folder), str(tmp_path / name), *SMALL, "--limit", "14"])
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_images_are_reduced_by_a_box_filter(folder):
    images, labels, classes = pretrain.read_images(folder, 0, seed=0)
    assert images.shape == (24, 3, 32, 32) and classes == 3 and labels.bincount().tolist() == [8, 8, 8]
    with Image.open(folder / "red" / "0.png") as file:
        expected = np.asarray(file.resize((32, 32), Image.Resampling.BOX)).transpose(2, 0, 1)
    assert any(np.array_equal(image.numpy(), expected) for image in images)


@pytest.mark.parametrize(
    ("images", "output", "said"),
    [
        ("nowhere", "a.pt", "no such folder; expected one sub-folder"),
        ("empty", "a.pt", "expected one sub-folder of images for each class"),
        ("broken", "a.pt", "0.png cannot be read as an image"),
        ("empty", "none/a.pt", "there is no folder"),
    ],
)
def test_bad_input_is_one_line(tmp_path, images, output, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken" / "cat").mkdir(parents=True)
    (tmp_path / "broken" / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=said) as error:
        pretrain.main([str(tmp_path / images), str(tmp_path / output)])
    assert "\n" not in str(error.value) and not list(tmp_path.rglob("*.pt"))


def test_too_few_images_for_the_held_out_part(folder, tmp_path):
    with pytest.raises(InputError, match="VAL_FRACTION 0.02: 24 images cannot be split so"):
        pretrain.main([str(folder), str(tmp_path / "a.pt")])
