"""Shares in the logits' variance, and what a trained network answers without its quantum part."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qcifar.quantum.dependence import (
    branch_dependence,
    covariance_share,
    first_images,
    maps_dependence,
    scores_of,
    shuffled_order,
)


def test_shares_of_all_parts_add_up_to_one_and_are_numpys_covariance():
    parts = [torch.randn(200, 7) for _ in range(3)]
    parts[1] -= 0.5 * parts[0]
    total = sum(parts)
    shares = [covariance_share(part, total) for part in parts]
    assert sum(shares) == pytest.approx(1, abs=1e-6)
    expected = sum(np.cov(parts[1][:, k], total[:, k])[0, 1] for k in range(7)) / total.double().var(0).sum().item()
    assert shares[1] == pytest.approx(expected, rel=1e-6)
    assert covariance_share(torch.ones(200, 7), total) == pytest.approx(0, abs=1e-12)


def test_first_images_are_whole_batches():
    batches = [(torch.full((4, 3), float(k)), slice(4 * k, 4 * k + 4)) for k in range(5)]
    loader = SimpleNamespace(batches=lambda: iter(batches), labels=torch.arange(20))
    x, labels = first_images(loader, 6)
    assert len(x) == 8 and torch.equal(labels, torch.arange(8)) and x[4, 0] == 1
    assert len(first_images(loader, 1000)[0]) == 20


def test_scores_count_what_is_fixed_and_broken():
    labels = torch.tensor([0, 1, 2, 0])
    rows = torch.eye(3)
    whole, without, shuffled = rows[[0, 1, 0, 1]], rows[[0, 0, 2, 1]], rows[[1, 1, 1, 1]]
    assert scores_of(whole.numpy(), without, shuffled, rows[[0, 1, 2, 1]], labels) == {
        "top1": 0.5, "top1_without": 0.5, "top1_shuffled": 0.25, "top1_constant": 0.75, "fixed": 1, "broken": 1,
    }  # fmt: skip


def test_maps_of_a_network_that_reads_only_them():
    """At their mean it always says the same; with those of others it is right by chance."""
    n, labels = 600, torch.arange(600) % 3

    class Loader:
        images, matrices = torch.zeros(n), (None, None)

        def extra(self, index, rows, columns):
            return labels[index].float().view(-1, 1, 1, 1).expand(-1, 2, 4, 4)

        def batches(self):
            for places in (slice(0, 400), slice(400, n)):
                index = torch.arange(n)[places]
                yield torch.cat([torch.zeros(len(index), 3, 4, 4), self.extra(index, None, None)], dim=1), places

    class Reads(torch.nn.Module):
        def forward(self, x):
            return -(x[:, 3:, 0, 0].mean(1, keepdim=True) - torch.arange(3.0)).abs()

    loader = Loader()
    loader.labels = labels
    logits = Reads()(torch.cat([x for x, _ in loader.batches()])).numpy()
    scores = maps_dependence(Reads(), loader, torch.autocast("cpu", enabled=False), logits, seed=1)
    assert scores["top1"] == 1 and scores["top1_without"] == pytest.approx(1 / 3)
    assert scores["top1_shuffled"] == pytest.approx(1 / 3, abs=0.1)
    assert scores["top1_constant"] == scores["top1_without"]
    assert (scores["fixed"], scores["broken"]) == (400, 0)


@pytest.mark.parametrize(
    ("offset", "first", "expected"),
    [
        (0.3, 0.2, (0.3, 0.3, 0.3, 0.3)),  # too small at alpha 0.5
        (0.5, 0.2, (0.6, 0.3, 0.6, 0.6)),
        (None, 0.1, (1.0, 0.3, 0.46, 0.6)),  # the mean says the second by 0.6 / 2 - 0.3 / 2 = 0.15 more
        (None, 0.2, (1.0, 0.3, 0.46, 0.3)),
    ],
)
def test_a_branch_that_only_shifts_the_classes_is_told_from_one_that_knows_the_image(offset, first, expected):
    """Of the first class 0.3, of the second 0.6, of the third 0.1, in that order; the classifier says the first.

    An offset (of the second class) is worth as much at its mean and with other images' features. What is known of the
    images (logits of one for their class, at alpha 0.5) is worth more than its mean over all of them.
    """
    n, labels = 1000, torch.tensor([0] * 300 + [1] * 600 + [2] * 100)

    class Net:
        alpha, branch_on = torch.tensor(0.5), True

        def eval(self):
            return self

        def backbone(self, x):
            return x[:, 0, 0, :1]

        def classifier(self, feats):
            return torch.tensor([[first, 0.0, 0.0]]).expand(len(feats), 3)

        def logits_q(self, feats, x):
            known = torch.eye(3)[feats[:, 0].long()]
            return known if offset is None else torch.tensor([[0.0, offset, 0.0]]).expand(len(feats), 3)

    class Loader:
        batch_size = 400

        def batches(self):
            for places in (slice(0, 400), slice(400, 800), slice(800, n)):
                yield labels[places].float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4), places

    loader, net = Loader(), Net()
    loader.labels = labels
    feats = labels.float().view(-1, 1)
    logits = (net.classifier(feats) + net.alpha * net.logits_q(feats, None)).numpy()
    scores = branch_dependence(net, loader, torch.autocast("cpu", enabled=False), logits, seed=1)
    found = [scores[name] for name in ("top1", "top1_without", "top1_shuffled", "top1_constant")]
    assert found == pytest.approx(expected, abs=0.05)
    assert scores["fixed"] - scores["broken"] == round(n * (scores["top1"] - scores["top1_without"]))


def test_order_is_a_permutation_that_follows_the_seed():
    order = shuffled_order(50, 3)
    assert sorted(order.tolist()) == list(range(50)) and not torch.equal(order, shuffled_order(50, 4))
    assert torch.equal(order, shuffled_order(50, 3))
