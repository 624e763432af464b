"""Data sets and the split: what is accepted, and what is refused by name before it can do harm."""

import hashlib
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestCentroid
from torchvision.datasets import CIFAR100, cifar

from qcifar.data import cifar as cifar_data
from qcifar.data.cifar import fingerprint, first_after_shuffle, load_dataset, load_split
from qcifar.errors import InputError
from qcifar.files import read_npz, write_npz
from tests.helpers.data import Bomb


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "split.npz"


@pytest.mark.parametrize(("seed", "fraction"), [(42, 0.2), (7, 0.2), (42, 0.35)])
def test_split_equals_scikit_learns(synthetic, path, seed, fraction):
    split = load_split(path, synthetic, seed, fraction)
    labels = synthetic.train_labels.numpy()
    expected = train_test_split(np.arange(4000), test_size=fraction, stratify=labels, random_state=seed)
    assert np.array_equal(split.train, expected[0]) and np.array_equal(split.val, expected[1])


@pytest.mark.parametrize("data", ["synthetic", "real_data"])
def test_split_is_stratified_disjoint_and_complete(data, path, request):
    data = request.getfixturevalue(data)
    split = load_split(path, data, 42, 0.2)
    labels, n = data.train_labels.numpy(), len(data.train_labels)
    assert np.array_equal(np.sort(np.concatenate([split.train, split.val])), np.arange(n))
    assert (np.bincount(labels[split.train]) == 0.8 * n / 100).all()
    assert (np.bincount(labels[split.val]) == 0.2 * n / 100).all()


def test_split_file_contract_and_reproducibility(synthetic, path, tmp_path):
    made = load_split(path, synthetic, 42, 0.2)
    with np.load(path) as file:
        assert np.array_equal(file["train_idx"], made.train) and np.array_equal(file["val_idx"], made.val)
    written = path.stat().st_mtime_ns
    again, elsewhere = load_split(path, synthetic, 42, 0.2), load_split(tmp_path / "b.npz", synthetic, 42, 0.2)
    other = load_split(tmp_path / "c.npz", synthetic, 43, 0.2)
    assert made.fingerprint == again.fingerprint == elsewhere.fingerprint != other.fingerprint
    assert not np.array_equal(made.val, other.val)
    assert path.stat().st_mtime_ns == written


def test_split_stored_is_the_split_used(synthetic, path):
    """A published file counts even where it is not what scikit-learn would make today."""
    labels = synthetic.train_labels.numpy()
    train, val = train_test_split(np.arange(4000, dtype=np.int32), test_size=0.2, stratify=labels, random_state=7)
    write_npz(path, train_idx=train, val_idx=val)  # bare: nothing but the two keys
    split = load_split(path, synthetic, 42, 0.2)
    assert np.array_equal(split.train, train) and np.array_equal(split.val, val)
    assert split.train.dtype == split.val.dtype == np.int64


def test_split_that_is_not_stratified_is_refused(synthetic, path):
    write_npz(path, train_idx=np.arange(800, 4000), val_idx=np.arange(800))
    with pytest.raises(InputError, match=r"expected 0\.2 of every class"):
        load_split(path, synthetic, 42, 0.2)


def changed(index, place, value):
    index = index.copy()
    index[place] = value
    return index


# What happens to a good file's arrays -> what the refusal says.
BAD_SPLITS = {
    "too large": (lambda f: {"train_idx": changed(f["train_idx"], 3, 4000)}, "expected places from 0 to 3999.*4000"),
    "negative": (lambda f: {"val_idx": changed(f["val_idx"], 3, -1)}, "expected places from 0 to 3999.*-1"),
    "repeated": (lambda f: {"val_idx": changed(f["val_idx"], 0, f["val_idx"][1])}, "every image once, got 1 repeated"),
    "in both": (lambda f: {"val_idx": changed(f["val_idx"], 0, f["train_idx"][0])}, "every image once"),
    "incomplete": (lambda f: {"train_idx": f["train_idx"][1:]}, "expected all 4000 images, got 3999"),
    "floats": (lambda f: {"train_idx": f["train_idx"].astype(float)}, "whole numbers, got float64"),
    "a mask": (lambda f: {"train_idx": f["train_idx"] > 0}, "whole numbers, got bool"),
    "two-dimensional": (lambda f: {"val_idx": f["val_idx"][None]}, r"a list of whole numbers.*\(1, 800\)"),
    "empty": (lambda f: {"val_idx": f["val_idx"][:0]}, "an empty list"),
    "other data": (lambda f: {"dataset": np.array("0123456789abcdef")}, "dataset: expected .*got 0123456789abcdef"),
    "pickled": (lambda f: {"val_idx": f["val_idx"].astype(object)}, "damaged"),
}


@pytest.mark.parametrize("case", BAD_SPLITS)
def test_bad_split_is_refused(synthetic, path, case):
    load_split(path, synthetic, 42, 0.2)
    content = read_npz(path, ())
    change, expected = BAD_SPLITS[case]
    write_npz(path, **content | change(content))
    before = path.read_bytes()
    with pytest.raises(InputError, match=expected) as caught:
        load_split(path, synthetic, 42, 0.2)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before  # it may be the only copy


@pytest.mark.parametrize(("seed", "fraction"), [(43, 0.2), (42, 0.3)])
def test_split_made_for_other_constants_is_refused(synthetic, path, seed, fraction):
    load_split(path, synthetic, 42, 0.2)
    with pytest.raises(InputError, match=r"split\.npz: (split_seed|val_fraction)"):
        load_split(path, synthetic, seed, fraction)


def test_bare_split_of_another_size_is_refused(synthetic, path):
    write_npz(path, train_idx=np.arange(3000), val_idx=np.arange(3000, 4000))
    with pytest.raises(InputError, match=r"split\.npz: val_idx: expected 0\.2 of 4000 images, got 1000"):
        load_split(path, synthetic, 42, 0.2)


@pytest.mark.parametrize("missing", ["train_idx", "val_idx"])
def test_split_without_a_key_is_refused(synthetic, path, missing):
    write_npz(path, **{key: np.arange(9) for key in {"train_idx", "val_idx"} - {missing}})
    with pytest.raises(InputError, match=rf"split\.npz: expected the keys .* found no {missing}"):
        load_split(path, synthetic, 42, 0.2)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_split_is_refused(synthetic, path, share):
    load_split(path, synthetic, 42, 0.2)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"split\.npz is damaged"):
        load_split(path, synthetic, 42, 0.2)


def test_impossible_fraction_makes_no_file(synthetic, path):
    with pytest.raises(InputError, match=r"VAL_FRACTION 0\.001: no stratified split of 4000 images"):
        load_split(path, synthetic, 42, 0.001)
    assert not path.exists()


def test_first_after_shuffle():
    index = np.arange(100, 150)
    first = first_after_shuffle(index, 20, 42, "train")
    assert first_after_shuffle(index, 0, 42, "train") is index
    assert np.array_equal(first_after_shuffle(index, 50, 42, "train"), index)
    assert np.array_equal(first, first_after_shuffle(index, 20, 42, "train"))
    assert len(np.unique(first)) == 20 and set(first) < set(index) and list(first) != sorted(first)
    assert np.array_equal(first[:10], first_after_shuffle(index, 10, 42, "train"))
    for seed, purpose in ((43, "train"), (42, "val")):
        assert not np.array_equal(first, first_after_shuffle(index, 20, seed, purpose))


@pytest.mark.parametrize(("data", "sizes"), [("synthetic", (4000, 1000)), ("real_data", (50_000, 10_000))])
def test_sizes_types_and_balance(data, sizes, request):
    data = request.getfixturevalue(data)
    parts = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    for (images, labels), n in zip(parts, sizes, strict=True):
        assert images.shape == (n, 3, 32, 32) and images.dtype == torch.uint8 and images.is_contiguous()
        assert labels.shape == (n,) and labels.dtype == torch.int64
        assert np.array_equal(np.bincount(labels), [n // 100] * 100)
        assert not torch.equal(labels, labels.sort().values)  # the first k are not all of one class


@pytest.mark.slow
def test_published_md5_sums_and_pixels(real_data):
    """That the fixture accepts the files shows that the sums are right, where they are these."""
    assert [md5 for _, md5 in CIFAR100.train_list + CIFAR100.test_list] == [
        "16019d7e3df5f24257cddd939b257f8d", "f0ef6b0ae62326f3e7ffdfab6717acfc",
    ]  # fmt: skip
    mean = real_data.train_images.flatten(2).double().mean((0, 2)) / 255
    assert np.allclose(mean, (0.5071, 0.4865, 0.4409), atol=1e-4)  # R, G, B, as published everywhere


def test_synthetic_set_is_deterministic(synthetic, monkeypatch):
    monkeypatch.setattr(cifar_data, "_synthetic", cifar_data._synthetic.__wrapped__)  # made anew
    torch.rand(3)
    np.random.seed(99)
    again = load_dataset("synthetic", "elsewhere")
    assert again.fingerprint == synthetic.fingerprint
    assert torch.equal(again.train_images, synthetic.train_images)


def test_synthetic_set_can_be_learned(synthetic):
    """Class means of the training part, on raw pixels; measured 0.996, chance 0.01."""
    model = NearestCentroid().fit(synthetic.train_images.flatten(1).numpy(), synthetic.train_labels.numpy())
    assert model.score(synthetic.test_images.flatten(1).numpy(), synthetic.test_labels.numpy()) > 0.9


def test_fingerprint_sees_every_pixel_type_and_shape():
    pixels = np.zeros((4, 3), dtype=np.uint8)
    variants = [pixels, changed(pixels, (3, 2), 1), changed(pixels, (0, 0), 1), pixels.T, pixels.astype(np.int8)]
    prints = [fingerprint(variant) for variant in variants] + [fingerprint(pixels, pixels)]
    assert len(set(prints)) == 6 and fingerprint(pixels.copy()) == prints[0]


FILES = ("train", "test", "meta")


def cifar_like(n, seed):
    rng = np.random.default_rng(seed)
    return {"data": rng.integers(0, 256, (n, 3072)).astype(np.uint8), "fine_labels": rng.integers(0, 100, n).tolist()}


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """A folder of small files in CIFAR-100's format, whose md5 sums torchvision is told to expect."""
    folder = tmp_path / CIFAR100.base_folder
    folder.mkdir()
    contents = cifar_like(12, 1), cifar_like(5, 2), {"fine_label_names": ["apple"]}
    for name, content in zip(FILES, contents, strict=True):
        (folder / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in FILES}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": sums["meta"]})
    return folder, contents


def no_network(monkeypatch, error=None):
    """Let torchvision's download fail; returns the list of what it was asked for."""
    calls = []

    def download(url, *args, **kwargs):
        calls.append(url)
        raise error or URLError("no route to host")

    monkeypatch.setattr(cifar, "download_and_extract_archive", download)
    return calls


def test_files_of_the_known_md5_are_loaded_without_a_download(small_cifar, monkeypatch):
    folder, (train, test, _) = small_cifar
    calls = no_network(monkeypatch)
    data = load_dataset("cifar100", folder.parent)
    assert calls == []
    assert np.array_equal(data.train_images, train["data"].reshape(-1, 3, 32, 32))  # planes R, G, B; rows
    assert np.array_equal(data.test_images, test["data"].reshape(-1, 3, 32, 32))
    assert data.train_labels.tolist() == train["fine_labels"] and data.test_labels.tolist() == test["fine_labels"]
    assert data.train_images.dtype == torch.uint8 and data.train_labels.dtype == torch.int64
    assert data.fingerprint != load_dataset("synthetic", "").fingerprint


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), TimeoutError("timed out"), RuntimeError("File not found or corrupted.")]
)
@pytest.mark.parametrize("missing", [FILES, ("train",), ("test",)])
def test_missing_files_and_no_network(small_cifar, monkeypatch, missing, error):
    folder, _ = small_cifar
    for name in missing:
        (folder / name).unlink()
    calls = no_network(monkeypatch, error)
    with pytest.raises(InputError) as caught:
        load_dataset("cifar100", folder.parent)
    message = str(caught.value)
    assert len(calls) == 1 and "\n" not in message
    for part in (str(folder), str(error), "--data-dir", "--dataset synthetic", "train, test and meta"):
        assert part in message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["altered", "truncated"])
def test_altered_file_is_refused_before_it_is_unpickled(small_cifar, monkeypatch, tmp_path, name, change):
    path, marker = small_cifar[0] / name, tmp_path / "marker"
    calls, whole = no_network(monkeypatch), path.read_bytes()
    path.write_bytes(pickle.dumps(Bomb(marker)) if change == "altered" else whole[:-1])
    expected, got = (hashlib.md5(content).hexdigest() for content in (whole, path.read_bytes()))
    with pytest.raises(InputError, match=f"{path} is damaged or not CIFAR-100: expected md5 {expected}, got {got}"):
        load_dataset("cifar100", tmp_path)
    assert not marker.exists() and calls == []  # nor is the user's file replaced


def test_a_download_that_is_not_cifar_is_never_unpickled(tmp_path, monkeypatch):
    folder, marker = tmp_path / CIFAR100.base_folder, tmp_path / "marker"

    def download(*args, **kwargs):
        folder.mkdir()
        for name in FILES:
            (folder / name).write_bytes(pickle.dumps(Bomb(marker)))

    monkeypatch.setattr(cifar, "download_and_extract_archive", download)
    with pytest.raises(InputError, match="--dataset synthetic"):
        load_dataset("cifar100", tmp_path)
    assert not marker.exists()
