"""Loaders: the same images in the same order with the same augmentation, resumed or not, whoever else draws."""

import os
import subprocess
import sys

import pytest
import torch
from torchvision.transforms import v2

from qcifar.data.augment import Augmentation, resample
from qcifar.data.loader import EvalLoader, TrainLoader
from tests.helpers import ROOT
from tests.helpers.data import assert_same_batches, draw_globally
from tests.helpers.networks import network

RECIPE = Augmentation(24)
COUNT = 50  # images; 7 steps of 7 and one image left over


@pytest.fixture
def make_loader(synthetic):
    """Loader of the first images, whose labels are their places, so that a batch says which it holds."""

    def make(batch_size=7, seed=42, count=COUNT, **more):
        return TrainLoader(synthetic.train_images[:count], torch.arange(count), batch_size, RECIPE, seed, **more)

    return make


def test_an_epoch_visits_each_image_at_most_once(make_loader):
    loader = make_loader()
    assert len(loader) == 7
    skipped = []
    for epoch in range(6):
        seen = torch.cat([labels for _, labels in loader.batches(epoch)])
        assert len(seen) == len(loader) * loader.batch_size == 49
        assert len(seen.unique()) == 49 and seen.min() >= 0 and seen.max() < COUNT
        assert not torch.equal(seen, seen.sort().values)
        assert torch.equal(seen.view(7, 7), loader.order(epoch))
        skipped += set(range(COUNT)) - set(seen.tolist())
    assert len(set(skipped)) > 1  # not the same image each time


def test_a_batch_holds_the_images_that_its_labels_name(make_loader, synthetic):
    recipe = Augmentation(32, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_p=0.0, num_ops=0, erase_p=0.0)
    loader = make_loader()
    loader.recipe = recipe
    plain = v2.Compose(
        [v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    )
    for x, labels in loader.batches(0):
        assert torch.allclose(x, plain(synthetic.train_images[labels]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch_size", [COUNT, COUNT + 1, 1000])
def test_batch_size_as_large_as_the_set_or_larger(make_loader, batch_size):
    loader = make_loader(batch_size)
    ((x, labels),) = loader.batches(0)
    assert len(loader) == 1 and x.shape == (COUNT, 3, 24, 24)
    assert sorted(labels.tolist()) == list(range(COUNT))


def test_iterated_twice_with_others_drawing_in_between(make_loader):
    loader = make_loader()
    calm = list(loader.batches(2))
    assert_same_batches(calm, loader.batches(2))
    disturbed = []
    for batch in loader.batches(2):
        draw_globally()
        disturbed.append(batch)
    assert_same_batches(calm, disturbed)
    assert_same_batches(calm, make_loader().batches(2))  # nothing is remembered


@pytest.mark.parametrize("first_step", [1, 3, 6])
def test_begun_at_a_later_step(make_loader, first_step):
    whole = list(make_loader().batches(1))
    assert_same_batches(whole[first_step:], make_loader().batches(1, first_step))


def test_begun_after_the_last_step(make_loader):
    assert list(make_loader().batches(1, first_step=7)) == []  # a run that was stopped between two epochs


def test_two_epochs_taken_in_turns(make_loader):
    loader = make_loader()
    expected = list(loader.batches(0)), list(loader.batches(1))
    turns = list(zip(loader.batches(0), loader.batches(1), strict=True))
    assert_same_batches(expected[0], [a for a, _ in turns])
    assert_same_batches(expected[1], [b for _, b in turns])


def test_another_seed_or_epoch_gives_other_batches(make_loader):
    base = list(make_loader().batches(0))
    for other in (make_loader(seed=43).batches(0), make_loader().batches(1)):
        for (x, labels), (y, others) in zip(base, other, strict=True):
            assert not torch.equal(labels, others) and not torch.equal(x, y)


def test_augmentation_differs_between_images_steps_epochs_and_seeds(make_loader, synthetic):
    """Copies of one image, so that a batch is what was drawn and nothing else."""
    seen = []
    for seed, epoch in ((1, 0), (1, 1), (2, 0)):
        loader = make_loader(seed=seed)
        loader.images = synthetic.train_images[:1].expand(COUNT, -1, -1, -1)
        seen += [x for batch, _ in loader.batches(epoch) for x in batch]
    assert len(torch.stack(seen).unique(dim=0)) == len(seen) == 3 * 49


def test_extra_channels_leave_the_first_three_alone(make_loader, synthetic):
    def grey(index, rows, columns):
        draw_globally()
        return resample(synthetic.train_images[index].float().mean(1, keepdim=True), rows, columns)

    plain, more = list(make_loader().batches(4)), list(make_loader(extra=grey).batches(4))
    assert_same_batches(plain, [(x[:, :3], labels) for x, labels in more])
    assert more[0][0].shape == (7, 4, 24, 24)


def test_extra_channels_follow_crop_and_flip(make_loader, synthetic):
    """The image itself as a further channel, with nothing but crop and flip drawn, comes out as channel 1."""

    def red(index, rows, columns):
        return resample(synthetic.train_images[index][:, :1].float(), rows, columns)

    loader = make_loader(extra=red)
    loader.recipe = Augmentation(24, num_ops=0, erase_p=0.0)
    for x, _ in loader.batches(0):
        image = (x[:, :1] * 0.229 + 0.485) * 255
        assert (image - x[:, 3:]).abs().max() < 0.51  # the image is rounded to whole grey levels


def test_a_model_that_draws_cannot_shift_the_data(make_loader):
    calm = list(make_loader().batches(0))
    model = network("resnet18")
    disturbed = []
    for x, labels in make_loader().batches(0):
        torch.nn.functional.dropout(model(x), 0.5)
        disturbed.append((x, labels))
    assert_same_batches(calm, disturbed)


def images_at(loader, *share):
    """The batches with the places of their images as a tensor."""
    return [(x, loader.labels[places]) for x, places in loader.batches(*share)]


@pytest.mark.parametrize(("count", "batch_size", "sizes"), [(20, 8, [8, 8, 4]), (16, 8, [8, 8]), (5, 8, [5])])
def test_eval_loader_order_and_last_batch(synthetic, count, batch_size, sizes):
    loader = EvalLoader(synthetic.test_images[:count], torch.arange(count), batch_size, 24)
    batches = images_at(loader)
    assert [len(x) for x, _ in batches] == sizes and len(loader) == len(sizes)
    assert torch.cat([places for _, places in batches]).tolist() == list(range(count))
    draw_globally()
    assert_same_batches(batches, images_at(loader))
    whole = EvalLoader(synthetic.test_images[:count], torch.arange(count), 100, 24)
    assert_same_batches([(torch.cat([x for x, _ in batches]), torch.arange(count))], images_at(whole))
    dealt = [images_at(loader, first, 2) for first in (0, 1)]  # to two processes: the same batches, in turns
    assert_same_batches(batches[::2], dealt[0])
    assert len(dealt[1]) == len(batches) // 2
    for (x, _), (y, _) in zip(batches[1::2], dealt[1], strict=True):
        assert torch.equal(x, y)


def test_eval_loader_extra_channels(synthetic):
    def places(index, rows, columns):
        assert rows.shape == columns.shape == (1, 24, 32)
        return index.float().view(-1, 1, 1, 1).expand(-1, 2, 24, 24)

    images, labels = synthetic.test_images[:10], torch.arange(10)
    plain = images_at(EvalLoader(images, labels, 4, 24))
    more = images_at(EvalLoader(images, labels, 4, 24, places))
    assert_same_batches(plain, [(x[:, :3], labels) for x, labels in more])
    assert torch.cat([x[:, 4, 0, 0] for x, _ in more]).tolist() == list(range(10))


# Written down once: if these change, an old and a new run of one seed saw different images.
GOLDEN_ORDER = {
    (42, 0): [15, 16, 21, 33, 7, 27, 26, 45, 23, 5],
    (7, 3): [30, 37, 32, 44, 2, 6, 39, 48, 47, 42],
}


@pytest.mark.parametrize(("seed", "epoch"), GOLDEN_ORDER)
def test_golden_order(make_loader, seed, epoch):
    assert make_loader(batch_size=10, seed=seed).order(epoch)[0].tolist() == GOLDEN_ORDER[seed, epoch]


PROGRAM = """
import torch
from qcifar.data.augment import Augmentation
from qcifar.data.cifar import load_dataset
from qcifar.data.loader import TrainLoader
torch.set_num_threads({threads})
data = load_dataset("synthetic", "")
loader = TrainLoader(data.train_images[:50], torch.arange(50), 7, Augmentation(24), 42)
torch.save(list(loader.batches(1)), "{path}")
"""


@pytest.mark.slow
def test_another_process_with_other_threads_and_hash_seed(make_loader, tmp_path):
    path = tmp_path / "batches.pt"
    program = PROGRAM.format(threads=2, path=path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=tmp_path, timeout=120)
    assert_same_batches(make_loader().batches(1), torch.load(path))
