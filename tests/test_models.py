"""Initial weights of the backbone: seeds, state dicts from files and from torchvision, the wider conv1."""

import os
import re
from urllib.error import URLError

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from cifar100_quantum_channels import expand_conv1
from qcifar.errors import InputError
from qcifar.models import build_resnet, count_parameters

NAME, SEED = "resnet18", 7


def torchvision_state(name=NAME, classes=1000, seed=1):
    """State dict of a torchvision network that is nobody's initial state here."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = get_model(name, num_classes=classes)
        for buffer in model.buffers():  # running statistics, too, as if trained
            buffer.add_(torch.rand(buffer.shape) if buffer.is_floating_point() else 3)
        return model.state_dict()


def saved(content, path):
    torch.save(content, path)
    return str(path)


def assert_equal_states(got, expected, but=()):
    assert set(got) == set(expected)
    assert [key for key in expected if key not in but and not torch.equal(got[key], expected[key])] == []


def backbone(state):
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def test_equal_seeds_give_equal_weights():
    first = build_resnet(NAME, "none", SEED).state_dict()
    torch.rand(123)  # whatever was drawn before
    assert_equal_states(build_resnet(NAME, "none", SEED).state_dict(), first)
    assert first["fc.weight"].shape == (100, 512)
    other = build_resnet(NAME, "none", SEED + 1).state_dict()
    for key in ("conv1.weight", "layer4.1.conv2.weight", "fc.weight", "fc.bias"):
        assert not torch.equal(first[key], other[key])


def test_classifier_does_not_depend_on_the_backbone():
    small, large = (build_resnet(name, "none", SEED).state_dict() for name in ("resnet18", "resnet34"))
    assert torch.equal(small["fc.weight"], large["fc.weight"]) and torch.equal(small["fc.bias"], large["fc.bias"])
    five = build_resnet(NAME, "none", SEED, classes=5)
    assert five.fc.weight.shape == (5, 512)


def test_global_generator_is_left_alone(tmp_path):
    path = saved(torchvision_state(), tmp_path / "weights.pt")
    for weights in ("none", path):
        before = torch.get_rng_state()
        build_resnet(NAME, weights, SEED)
        assert torch.equal(torch.get_rng_state(), before)


def test_random_start_has_torchvisions_distribution():
    """He initialisation, fan out, for convolutions; 1 and 0 for batch norm; uniform +-1/sqrt(512) for fc."""
    state = build_resnet(NAME, "none", SEED).state_dict()
    weight = state["layer3.0.conv2.weight"]
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert (state["bn1.weight"] == 1).all() and (state["bn1.bias"] == 0).all()
    assert 0.99 * 512**-0.5 < state["fc.weight"].abs().max() <= 512**-0.5


def test_imagenet_file_gives_the_backbone_and_the_seed_the_classifier(tmp_path):
    state = torchvision_state(classes=1000)
    got = build_resnet(NAME, saved(state, tmp_path / "weights.pt"), SEED).state_dict()
    assert_equal_states(backbone(got), backbone(state))
    random_start = build_resnet(NAME, "none", SEED)
    assert torch.equal(got["fc.weight"], random_start.fc.weight) and torch.equal(got["fc.bias"], random_start.fc.bias)


def test_file_with_100_classes_gives_the_classifier_too(tmp_path):
    state = torchvision_state(classes=100)
    got = build_resnet(NAME, saved(state, tmp_path / "weights.pt"), SEED).state_dict()
    assert_equal_states(got, state)


@pytest.mark.parametrize("classes", [100, 1000])
def test_file_saved_under_data_parallel(tmp_path, classes):
    state = torchvision_state(classes=classes)
    path = saved({f"module.{key}": value for key, value in state.items()}, tmp_path / "weights.pt")
    got = build_resnet(NAME, path, SEED).state_dict()
    classifier = state if classes == 100 else build_resnet(NAME, "none", SEED).state_dict()
    assert_equal_states(got, state | {key: classifier[key] for key in ("fc.weight", "fc.bias")})


def test_file_from_before_num_batches_tracked(tmp_path):
    state = torchvision_state(classes=100)
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    old = {key: value for key, value in state.items() if key not in counters}
    got = build_resnet(NAME, saved(old, tmp_path / "weights.pt"), SEED).state_dict()
    assert len(counters) == 20
    assert_equal_states(got, state, but=counters)
    assert all(got[key] == 0 for key in counters)


class Code:
    """Unpickling it makes the folder `path`."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def truncated(path):
    saved(torchvision_state(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lacking(key):
    return lambda path: saved({k: v for k, v in torchvision_state(classes=100).items() if k != key}, path)


BAD_FILES = {
    "not there": (lambda path: None, "no such file"),
    "truncated": (truncated, "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "text": (lambda path: path.write_text("weights\n"), "damaged"),
    "a folder": (lambda path: path.mkdir(), ""),
    "deeper network": (lambda path: saved(torchvision_state("resnet34"), path), "does not fit resnet18.*unknown"),
    "NaN": (
        lambda path: saved(
            torchvision_state("resnet18") | {"layer1.0.conv1.weight": torch.full((64, 64, 3, 3), torch.nan)}, path
        ),
        "layer1.0.conv1.weight holds NaN",
    ),
    "other blocks": (lambda path: saved(torchvision_state("resnet50"), path), "does not fit resnet18"),
    "one key less": (lacking("layer2.0.conv1.weight"), r"1 keys missing.*layer2\.0\.conv1\.weight"),
    "no classifier bias": (lacking("fc.bias"), r"missing.*fc\.bias"),
    "a list": (lambda path: saved([torch.zeros(2)], path), "expected a state dict"),
    "a tensor": (lambda path: saved(torch.zeros(2), path), "expected a state dict"),
    "a whole checkpoint": (lambda path: saved({"model": torchvision_state()}, path), "expected a state dict"),
    "nothing": (lambda path: saved({}, path), "missing"),
    "code": (lambda path: saved({"fc.weight": Code(path.with_name("made"))}, path), ""),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_state_dict_of_this_network_is_refused_by_name(tmp_path, case):
    path = tmp_path / "weights.pt"
    make, reason = BAD_FILES[case]
    make(path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{reason}"):
        build_resnet(NAME, str(path), SEED)
    assert not (tmp_path / "made").exists()  # nothing in the file was executed


def test_smaller_network_does_not_pass_for_a_larger_one(tmp_path):
    path = saved(torchvision_state("resnet18"), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="does not fit resnet34.*missing"):
        build_resnet("resnet34", path, SEED)


@pytest.fixture
def download(monkeypatch):
    """Stands in for the download of torchvision's `get_state_dict`: `download(answer)` sets what comes."""
    asked = []

    def set_up(answer):
        def load(url, *_, **options):
            asked.append((url, options.get("check_hash")))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
        return asked

    return set_up


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])  # resnet50 has a second version
def test_imagenet_is_torchvisions_first_version_checked_by_hash(download, name):
    state = torchvision_state(name)
    asked = download(state)
    got = build_resnet(name, "imagenet", SEED).state_dict()
    assert asked == [(get_model_weights(name).IMAGENET1K_V1.url, True)]
    assert_equal_states(backbone(got), backbone(state))
    assert torch.equal(got["fc.weight"], build_resnet(name, "none", SEED).fc.weight)


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("invalid hash value"), OSError("disk full")])
def test_failed_download_says_how_to_go_on(download, error):
    download(error)
    with pytest.raises(InputError, match=r"resnet18.*--weights FILE.*--weights none"):
        build_resnet(NAME, "imagenet", SEED)


def wide_and_plain(init):
    """The network with five input channels and the one it was made of."""
    wide, plain = (build_resnet(NAME, "none", SEED) for _ in range(2))
    expand_conv1(wide, 2, init)
    return wide, plain


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("training", [True, False])
def test_extra_channels_at_zero_leave_the_logits_as_they_are(size, training):
    wide, plain = (model.train(training) for model in wide_and_plain("zero"))
    rng = torch.Generator().manual_seed(size)
    x = torch.randn(8, 3, size, size, generator=rng)
    extra = 100 * torch.randn(8, 2, size, size, generator=rng)
    logits = wide(torch.cat([x, extra], dim=1))
    assert torch.equal(logits, plain(x))
    torch.nn.functional.cross_entropy(logits, torch.arange(8)).backward()
    gradient = wide.conv1.weight.grad[:, 3:].abs().amax((0, 2, 3))
    assert gradient.shape == (2,) and (gradient > 0).all()  # they start at zero and do not stay there


@pytest.mark.parametrize("init", ["zero", "mean"])
@pytest.mark.parametrize("extra", [1, 2])
def test_expansion_changes_nothing_but_conv1(init, extra):
    plain, wide = build_resnet(NAME, "none", SEED), build_resnet(NAME, "none", SEED)
    before = torch.get_rng_state()
    expand_conv1(wide, extra, init)
    assert torch.equal(torch.get_rng_state(), before)
    state, old = wide.state_dict(), plain.state_dict()
    assert_equal_states(state, old, but=("conv1.weight",))
    weight, rgb = state["conv1.weight"], old["conv1.weight"]
    assert weight.shape == (64, 3 + extra, 7, 7) and torch.equal(weight[:, :3], rgb)
    expected = rgb.mean(dim=1) if init == "mean" else torch.zeros(64, 7, 7)
    for k in range(3, 3 + extra):
        torch.testing.assert_close(weight[:, k], expected, rtol=0, atol=1e-8)
    for setting in ("stride", "padding", "dilation", "groups", "bias"):
        assert getattr(wide.conv1, setting) == getattr(plain.conv1, setting)
    assert wide.conv1.weight.requires_grad
    assert count_parameters(wide) - count_parameters(plain) == extra * 64 * 49


def test_count_parameters_is_torchvisions():
    expected = get_model_weights("resnet34").IMAGENET1K_V1.meta["num_params"] - 900 * 513  # 100 classes, not 1000
    model = build_resnet("resnet34", "none", SEED)
    model.requires_grad_(False)  # frozen ones count
    assert count_parameters(model) == expected
