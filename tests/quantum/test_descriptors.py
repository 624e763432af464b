"""Descriptors: preprocessing against PIL, circuits against PennyLane image by image, the cache, the maps."""

import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pennylane as qml
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cifar100_quantum_channels import make_circuits
from qcifar.data.augment import (
    Augmentation,
    PlacedParameters,
    draw_parameters,
    evaluation_matrices,
    interpolation_matrix,
)
from qcifar.errors import InputError
from qcifar.quantum import descriptors
from qcifar.quantum.descriptors import (
    QuantumMaps,
    cached_descriptors,
    grey_resized,
    grid_shape,
    input_angles,
    note_constant,
    run_circuit,
)
from qcifar.quantum.runner import make_qnode, make_runner
from qcifar.streams import stream
from tests.helpers import slow

GRIDS = {1: (1, 1), 2: (1, 2), 3: (1, 3), 4: (2, 2), 5: (1, 5), 6: (2, 3), 7: (1, 7), 8: (2, 4), 9: (3, 3),
         10: (2, 5), 11: (1, 11), 12: (3, 4)}  # fmt: skip
INDEX = np.arange(30, 0, -3)  # places of ten images in the original file, not in order


def pil_grey(image, size):
    """One (3, H, W) uint8 image by Pillow: (size, size) uint8."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    return np.asarray(picture.convert("L").resize((size, size), Image.BILINEAR))


def pil_angles(image, n_qubits, size):
    """Angles of one image, cell by cell; a cell that begins or ends inside a pixel takes all of that pixel."""
    grey, (rows, columns) = pil_grey(image, size).astype(np.float64) / 255, GRIDS[n_qubits]
    if size % rows == 0 and size % columns == 0:
        cells = grey.reshape(rows, size // rows, columns, size // columns).mean((1, 3)).ravel()
    else:
        tops, lefts = ([(i * size // k, -(-(i + 1) * size // k)) for i in range(k)] for k in (rows, columns))
        cells = np.array([grey[t:b, left:right].mean() for t, b in tops for left, right in lefts])
    return (cells - cells.mean()) / (cells.std() + 1e-6) * math.pi / 3  # 1e-6: a flat image has no deviation


def by_pennylane(circuit, angles):
    """One QNode call for each image, in float64."""
    qnode = qml.QNode(circuit, qml.device("default.qubit", wires=angles.shape[1]), interface="torch")
    return torch.stack([torch.stack(list(qnode(row))) for row in angles])


def qnode_of(circuit, n_qubits=4, device="default.qubit"):
    return make_runner(circuit, device, n_qubits)


@pytest.mark.parametrize("size", [28, 16, 32, 40, 7])
def test_grey_and_resize_equal_pillow(images, size):
    expected = np.stack([pil_grey(image, size) for image in images])
    assert np.array_equal(grey_resized(images, size).numpy(), expected)


def test_grey_and_resize_of_oblong_images_equal_pillow(images):
    oblong = torch.cat([images[:40], images[40:80]], dim=3)[:, :, :21]  # (40, 3, 21, 64)
    expected = np.stack([pil_grey(image, 28) for image in oblong])
    assert np.array_equal(grey_resized(oblong, 28).numpy(), expected)


@pytest.mark.parametrize(("n_qubits", "size"), [(4, 28), (4, 32), (6, 28), (6, 30), (9, 28), (9, 30), (5, 5)])
def test_angles_equal_pillow_and_numpy(images, n_qubits, size):
    angles = input_angles(images, n_qubits, size)
    expected = np.stack([pil_angles(image, n_qubits, size) for image in images])
    assert angles.shape == (len(images), n_qubits) and angles.dtype == torch.float64
    np.testing.assert_allclose(angles.numpy(), expected, rtol=0, atol=1e-6)


def test_images_of_one_colour_have_angles_zero():
    flat = torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    assert max(input_angles(flat, n_qubits, 28).abs().max() for n_qubits in (4, 6, 9)) < 1e-8


def test_grid_is_as_square_as_possible():
    assert {n_qubits: grid_shape(n_qubits) for n_qubits in range(1, 13)} == GRIDS


def test_fewer_pixels_than_cells_are_refused(images):
    with pytest.raises(InputError, match=r"--quantum-image-size.*\(1, 5\).*at least 5.*got 4"):
        input_angles(images[:2], 5, 4)


@pytest.mark.slow
@pytest.mark.parametrize(("device", "tolerance"), [("fast", 1e-5), ("default.qubit", 1e-10)])  # fast: float32
@pytest.mark.parametrize("pair", ["default", "published"])
@pytest.mark.parametrize(("n_qubits", "depth", "n_images"), [(4, 1, 20), (4, 2, 20), slow(12, 1, 40)])
def test_run_circuit_equals_pennylane_image_by_image(images, pair, n_qubits, depth, n_images, device, tolerance):
    angles = input_angles(images[40 : 40 + n_images], n_qubits, 28)
    some = [0, 15, 16, 31, 39] if n_images > 20 else list(range(20))  # 12 qubits are run in pieces
    for circuit in make_circuits(pair, n_qubits, depth):
        values = run_circuit(qnode_of(circuit, n_qubits, device), angles, "test")
        assert values.dtype == torch.float64 and values.shape == angles.shape
        torch.testing.assert_close(values[some], by_pennylane(circuit, angles[some]), rtol=0, atol=tolerance)


def test_pieces_of_any_size_give_the_same(images, monkeypatch):
    circuit, angles = make_circuits("default", 4, 1)[1], input_angles(images[:23], 4, 28)
    whole = run_circuit(make_qnode(circuit, "default.qubit", 4), angles, "test")
    for size in (1, 5, 23):
        monkeypatch.setattr(descriptors, "AMPLITUDES_PER_CHUNK", size << 4)
        pieces = run_circuit(make_qnode(circuit, "default.qubit", 4), angles, "test")
        torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3600, "train edge: about 48.0 hours; descriptors are computed once and then cached\n"),
        (30, "train edge: about 0.4 hours; descriptors are computed once and then cached\n"),
        (12.5, ""),  # ten minutes
    ],
)
def test_descriptors_that_take_long_say_how_long_after_the_first_piece(seconds, said, monkeypatch, capsys):
    clock, shown = [0.0], []

    def slowly(angles):
        shown.append(capsys.readouterr().out)
        clock[0] += seconds
        return torch.zeros_like(angles)

    monkeypatch.setattr(descriptors, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(descriptors, "AMPLITUDES_PER_CHUNK", 2 << 4)
    run_circuit(slowly, torch.zeros(96, 4, dtype=torch.float64), "train edge")
    assert shown == ["", said, *46 * [""]] and capsys.readouterr().out == ""


def raising_circuit(angles):
    raise ValueError("no such wire")


def nan_circuit(angles):
    for i in range(angles.shape[-1]):
        qml.RY(torch.log(angles[..., i]), wires=i)  # of a negative number
    return [qml.expval(qml.PauliZ(i)) for i in range(angles.shape[-1])]


def short_circuit(angles):
    qml.AngleEmbedding(angles, wires=range(4))
    return [qml.expval(qml.PauliZ(i)) for i in range(3)]


def unbounded_circuit(angles):
    qml.AngleEmbedding(angles, wires=range(4))
    return [qml.expval(1.5 * qml.PauliZ(i)) for i in range(4)]


REASONS = {
    raising_circuit: "no such wire",
    nan_circuit: "nan",
    short_circuit: r"\(20, 4\).*\(20, 3\)",
    unbounded_circuit: r"from -1 to 1, got 1\.",
}


@pytest.mark.parametrize("circuit", REASONS)
def test_failing_circuit_is_named_with_its_images(circuit):
    angles = torch.full((20, 4), 0.3, dtype=torch.float64)
    angles[17, 2] = -0.3
    with pytest.raises(InputError, match=f"{circuit.__name__}.*{REASONS[circuit]}") as caught:
        run_circuit(make_qnode(circuit, "default.qubit", 4), angles, "test")
    first, last = map(int, re.search(r"images (\d+) to (\d+)", str(caught.value)).groups())
    assert 0 <= first <= 17 <= last <= 19


def test_a_value_that_is_no_number_is_named_with_its_image_and_the_range_of_its_angles():
    angles = torch.full((20, 4), 0.3, dtype=torch.float64)
    angles[17] = torch.tensor([0.1, -0.3, 0.2, 1.5])
    with pytest.raises(InputError, match=r"got nan for image 17, whose angles go from -0\.3 to 1\.5"):
        run_circuit(make_qnode(nan_circuit, "default.qubit", 4), angles, "test")


@pytest.mark.parametrize("bad", [-0.3, math.nan, math.inf])
def test_images_that_fail_late_are_named_by_their_own_places(bad):
    angles = torch.full((40, 12), 0.3, dtype=torch.float64)  # 12 qubits are run in pieces
    angles[39, 5] = bad
    with pytest.raises(InputError, match=r"nan_circuit.*(images \d+ to 39|image 39)\b"):
        run_circuit(qnode_of(nan_circuit, 12), angles, "test")


def parameters_of(**changes):
    """What the channels script writes down about a cache, with small fingerprints."""
    return {
        "circuit": "c" * 12, "n_qubits": 4, "depth": 1, "image_size": 28, "preprocessing": "L",
        "device": "default.qubit", "data": "d" * 16, "split": "s" * 16,
    } | changes  # fmt: skip


def cached(folder, images, part="val", kind="edge", index=INDEX, qnode=None, **changes):
    parameters = parameters_of(**changes)
    n_qubits = parameters["n_qubits"]
    qnode = qnode or qnode_of(make_circuits("default", n_qubits, 1)[0], n_qubits)
    return cached_descriptors(folder, part, kind, qnode, images[: len(index)], index, parameters)


@pytest.mark.parametrize("device", ["fast", "default.qubit"])
def test_cache_of_real_images_equals_pillow_and_pennylane(real_data, tmp_path, device):
    chosen, index = real_data.test_images[:64], np.arange(64)
    expected_angles = torch.from_numpy(np.stack([pil_angles(image, 4, 28) for image in chosen]))
    for kind, circuit in zip(("edge", "tex"), make_circuits("default", 4, 1), strict=True):
        qnode = qnode_of(circuit, 4, device)
        values = cached_descriptors(tmp_path, "test", kind, qnode, chosen, index, parameters_of())
        expected = by_pennylane(circuit, expected_angles)
        torch.testing.assert_close(values.double(), expected, rtol=0, atol=1e-5)


def test_cache_file(images, tmp_path):
    values = cached(tmp_path, images)
    (path,) = tmp_path.iterdir()
    assert re.fullmatch(r"val_q_edge_[0-9a-f]{12}\.npz", path.name)
    with np.load(path) as file:
        content = dict(file)
    assert {"qvec", "inputs", "index"} <= set(content)
    for name in ("qvec", "inputs"):
        assert content[name].shape == (10, 4) and content[name].dtype == np.float32
    assert np.array_equal(content["index"], INDEX) and np.array_equal(content["qvec"], values.numpy())
    expected = np.stack([pil_angles(image, 4, 28) for image in images[:10]])
    np.testing.assert_allclose(content["inputs"], expected, rtol=0, atol=1e-6)


def test_second_call_reads(images, tmp_path):
    first = cached(tmp_path, images)
    again = cached(tmp_path, torch.zeros_like(images), qnode=raising_circuit)  # not even the images are looked at
    assert torch.equal(first, again) and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="no such wire"):
        cached(tmp_path, images, depth=2, qnode=raising_circuit)


def test_two_runs_at_once_compute_once(images, tmp_path):
    """The second one waits for the first, whose file it then reads."""
    qnode, calls, waiting = qnode_of(make_circuits("default", 4, 1)[0]), [], threading.Event()

    def slowly(angles):
        calls.append(len(angles))
        waiting.wait(0.5)
        return qnode(angles)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: cached(tmp_path, images, qnode=slowly), range(2))
    alone = cached(tmp_path / "alone", images, qnode=slowly)
    assert torch.equal(first, second) and torch.equal(first, alone)
    assert calls == 2 * calls[: len(calls) // 2] and len(list(tmp_path.glob("*"))) == 2  # as often as for one alone


def test_key_names_everything_that_changes_the_content(images, tmp_path):
    changes = [
        {}, {"circuit": "e" * 12}, {"n_qubits": 6}, {"depth": 2}, {"image_size": 32}, {"preprocessing": "RGB"},
        {"device": "lightning.qubit"}, {"data": "e" * 16}, {"split": "e" * 16}, {"part": "test"}, {"kind": "tex"},
        {"index": INDEX[::-1]}, {"index": INDEX + 1}, {"index": INDEX[:9]},
    ]  # fmt: skip
    keys = set()
    for k, change in enumerate(changes):
        cached(tmp_path / str(k), images, **change)
        (path,) = (tmp_path / str(k)).iterdir()
        keys.add(path.stem.split("_")[-1])
    assert len(keys) == len(changes)


def test_another_release_of_lightning_has_another_cache(images, tmp_path, monkeypatch):
    for release in ("0.45.0", "0.46.0"):
        monkeypatch.setattr("importlib.metadata.version", lambda name, release=release: release)
        cached(tmp_path, images, device="lightning.qubit")
        cached(tmp_path, images)
    assert len(list(tmp_path.iterdir())) == 3


def rewritten(change):
    """Damage: `change(content)` applied to the arrays of an npz file."""

    def damage(path):
        with np.load(path) as file:
            content = dict(file)
        change(content)
        np.savez(path, **content)

    return damage


DAMAGES = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:300]), "damaged"),
    "nan": (rewritten(lambda c: c["qvec"].__setitem__((3, 1), np.nan)), "1 images with NaN"),
    "nan angles": (rewritten(lambda c: c["inputs"].__setitem__((3, 1), np.inf)), "1 images with NaN"),
    "rows": (rewritten(lambda c: c.update(qvec=c["qvec"][:9])), r"\(10, 4\).*\(9, 4\)"),
    "columns": (rewritten(lambda c: c.update(qvec=c["qvec"][:, :3])), r"\(10, 4\).*\(10, 3\)"),
    "float64": (rewritten(lambda c: c.update(qvec=c["qvec"].astype(float))), "float32.*float64"),
    "range": (rewritten(lambda c: c.update(qvec=c["qvec"] + 2)), "from -1 to 1"),
    "other images": (rewritten(lambda c: c.update(index=INDEX[::-1])), "index"),
    "fewer images": (rewritten(lambda c: c.update(index=INDEX[:9])), "index"),
    "no json": (rewritten(lambda c: c.update(parameters=np.array("{"))), "parameters"),
    "pickled": (rewritten(lambda c: c.update(index=np.array([{}] * 10))), "damaged"),
    "no qvec": (rewritten(lambda c: c.pop("qvec")), "found no qvec"),
    "no inputs": (rewritten(lambda c: c.pop("inputs")), "found no inputs"),
    "no index": (rewritten(lambda c: c.pop("index")), "found no index"),
    "reversed": (rewritten(lambda c: c.update(qvec=c["qvec"][::-1])), "checksum"),
    "zeros": (rewritten(lambda c: c.update(qvec=0 * c["qvec"])), "checksum"),
    "other angles": (rewritten(lambda c: c.update(inputs=c["inputs"] / 2)), "checksum"),
    "one array": (lambda path: np.save(path.open("wb"), np.zeros(3)), "one array, as np.save writes it"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_caches_are_refused(images, tmp_path, damage):
    cached(tmp_path, images)
    (path,) = tmp_path.iterdir()
    spoil, reason = DAMAGES[damage]
    spoil(path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{reason}"):
        cached(tmp_path, images)


def test_cache_of_another_circuit_under_this_name_is_refused(images, tmp_path):
    cached(tmp_path / "mine", images)
    cached(tmp_path / "other", images, circuit="e" * 12)
    (mine,), (other,) = (tmp_path / "mine").iterdir(), (tmp_path / "other").iterdir()
    other.replace(mine)
    with pytest.raises(InputError, match=f"{re.escape(str(mine))}.*circuit.*{'c' * 12}.*{'e' * 12}"):
        cached(tmp_path / "mine", images)


@pytest.mark.parametrize("circuit", [raising_circuit, nan_circuit, short_circuit])
def test_failing_circuit_leaves_no_file(images, tmp_path, circuit):
    with pytest.raises(InputError, match=circuit.__name__):
        cached_descriptors(tmp_path, "val", "edge", qnode_of(circuit), images[:10], INDEX, parameters_of())
    assert list(tmp_path.iterdir()) == []


def random_descriptors(n_qubits=4, n_images=12):
    rng = stream(3, "descriptors")
    return [torch.from_numpy(rng.uniform(-1, 1, (n_images, n_qubits))).float() for _ in range(2)]


def whole_image(size):
    """Matrices that resize a 32 x 32 map to `size` without a crop."""
    matrix = interpolation_matrix(torch.tensor([0]), torch.tensor([32]), size)
    return matrix, matrix


def drawn(batch, size):
    """Parameters of the training augmentation and their matrices."""
    parameters = draw_parameters(stream(4, "crops"), batch, Augmentation(size))
    return parameters, PlacedParameters(parameters, torch.device("cpu")).matrices(size)


def enlarged(descriptors, size, shape):
    grids = torch.stack(descriptors, dim=1).unflatten(2, shape)  # (n, 2, rows, columns)
    return torch.nn.functional.interpolate(grids, (size, size), mode="bilinear", align_corners=False)


@pytest.mark.parametrize(("n_qubits", "shape"), [(4, (2, 2)), (6, (2, 3)), (9, (3, 3))])
@pytest.mark.parametrize("size", [32, 40])
def test_maps_are_enlarged_as_torch_does(n_qubits, shape, size):
    descriptors, index = random_descriptors(n_qubits), torch.tensor([5, 0, 11])
    aligned = QuantumMaps(descriptors, size, True, "fixed")(index, *whole_image(32))
    torch.testing.assert_close(aligned, enlarged(descriptors, 32, shape)[index], rtol=0, atol=1e-6)
    free = QuantumMaps(descriptors, size, False, "fixed")(index, *whole_image(size))
    torch.testing.assert_close(free, enlarged(descriptors, size, shape)[index], rtol=0, atol=1e-6)


def test_aligned_maps_follow_crop_and_flip():
    size, index = 48, torch.arange(12)
    parameters, matrices = drawn(12, size)
    assert 0 < parameters.flip.sum() < 12 and (parameters.crop[2:] < 32).any()
    maps = QuantumMaps(random_descriptors(), size, True, "fixed")(index, *matrices)
    for k, plain in enumerate(enlarged(random_descriptors(), 32, (2, 2))):
        box = parameters.crop[:, k].tolist()
        expected = F.resized_crop(plain, *box, [size, size], InterpolationMode.BILINEAR, antialias=True)
        expected = F.horizontal_flip(expected) if parameters.flip[k] else expected
        torch.testing.assert_close(maps[k], expected, rtol=0, atol=1e-5)


def test_aligned_maps_follow_the_evaluation_crop():
    maps = QuantumMaps(random_descriptors(), 48, True, "fixed")(torch.arange(12), *evaluation_matrices(48, "cpu"))
    resized = F.resize(enlarged(random_descriptors(), 32, (2, 2)), [55, 55], antialias=True)  # int(1.15 * 48)
    torch.testing.assert_close(maps, F.center_crop(resized, [48, 48]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("scaling", ["fixed", "minmax"])
def test_free_maps_do_not_depend_on_the_crop(scaling):
    index, (_, matrices) = torch.arange(12), drawn(12, 40)
    maps = QuantumMaps(random_descriptors(), 40, False, scaling)
    assert torch.equal(maps(index, *matrices), maps(index, *whole_image(40)))
    aligned = QuantumMaps(random_descriptors(), 40, True, scaling)
    assert not torch.equal(aligned(index, *matrices), aligned(index, *whole_image(40)))


@pytest.mark.parametrize("align", [True, False])
def test_scaling(align):
    extremes = torch.tensor([[1.0, -1.0, 1.0, 1.0], [-1.0, -1.0, 1.0, -1.0], [0.01, 0.02, 0.02, 0.02]])
    index, (_, matrices) = torch.arange(3), drawn(3, 40)
    fixed = QuantumMaps([extremes, -extremes], 40, align, "fixed")
    assert fixed(index, *matrices).abs().max() <= 1 + 1e-6
    maps = fixed(index, *whole_image(40))
    torch.testing.assert_close(maps.amax((0, 2, 3)), torch.ones(2))  # the amplitude is kept
    assert maps[2].abs().max() < 0.021
    maps = QuantumMaps([extremes, -extremes], 40, align, "minmax")(index, *whole_image(32 if align else 40))
    torch.testing.assert_close(maps.amin((2, 3)), torch.zeros(3, 2))
    torch.testing.assert_close(maps.amax((2, 3)), torch.ones(3, 2), rtol=0, atol=2e-4)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("size", [16, 32, 50])
def test_shape_and_constant_grids(align, size):
    values = torch.linspace(-1, 1, 12)[:, None].expand(-1, 4)
    index, (_, matrices) = torch.tensor([3, 3, 0, 11, 7]), drawn(5, size)
    maps = QuantumMaps([values, -values], size, align, "fixed")(index, *matrices)
    assert maps.shape == (5, 2, size, size)
    expected = torch.stack([values, -values], dim=1)[index, :, :1, None].expand(maps.shape)
    torch.testing.assert_close(maps, expected, rtol=0, atol=1e-6)
    stretched = QuantumMaps([values, -values], size, align, "minmax")(index, *matrices)
    assert stretched.abs().max() <= 1.0  # nothing to stretch, and no division by zero


def test_descriptors_that_are_the_same_for_all_images_are_named():
    notes = []
    note_constant("edge", torch.rand(5, 4), notes.append)
    note_constant("tex", torch.zeros(1, 4), notes.append)
    assert notes == []
    note_constant("edge", torch.rand(4).expand(5, 4), notes.append)
    assert notes == [
        "warning: the edge descriptors are the same for all images: their circuit does not follow its angles"
    ]
