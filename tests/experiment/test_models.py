"""Initial weights of the backbone: seeds, state dicts from files and from torchvision; heads, stems."""

import copy
import functools
import importlib.util
import re
from urllib.error import URLError

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from cifar100_quantum_channels import widen_first_conv
from qcifar.errors import InputError
from qcifar.experiment import weights
from qcifar.experiment.models import OnePixelConv2d, count_parameters, first_conv, for_cpu, split_head
from tests.helpers import slow
from tests.helpers.data import Bomb, cut_in_half
from tests.helpers.networks import NAME, SEED, assert_equal_states, network


@functools.lru_cache(maxsize=2)
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


def backbone(state):
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def test_equal_seeds_give_equal_weights():
    first = network(NAME, "none", SEED).state_dict()
    torch.rand(123)  # whatever was drawn before
    assert_equal_states(network(NAME, "none", SEED).state_dict(), first)
    assert first["fc.weight"].shape == (100, 512)
    other = network(NAME, "none", SEED + 1).state_dict()
    for key in ("conv1.weight", "layer4.1.conv2.weight", "fc.weight", "fc.bias"):
        assert not torch.equal(first[key], other[key])


def test_classifier_does_not_depend_on_the_backbone():
    small, large = (network(name, "none", SEED).state_dict() for name in ("resnet18", "resnet34"))
    assert torch.equal(small["fc.weight"], large["fc.weight"]) and torch.equal(small["fc.bias"], large["fc.bias"])
    five = network(NAME, "none", SEED, classes=5)
    assert five.fc.weight.shape == (5, 512)


def test_global_generator_is_left_alone(tmp_path):
    path = saved(torchvision_state(), tmp_path / "weights.pt")
    for start in ("none", path):
        before = torch.get_rng_state()
        network(NAME, start, SEED)
        assert torch.equal(torch.get_rng_state(), before)


def test_random_start_has_torchvisions_distribution():
    """He initialisation, fan out, for convolutions; 1 and 0 for batch norm; uniform +-1/sqrt(512) for fc."""
    state = network(NAME, "none", SEED).state_dict()
    weight = state["layer3.0.conv2.weight"]
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert (state["bn1.weight"] == 1).all() and (state["bn1.bias"] == 0).all()
    assert 0.99 * 512**-0.5 < state["fc.weight"].abs().max() <= 512**-0.5


def test_imagenet_file_gives_the_backbone_and_the_seed_the_classifier(tmp_path):
    state = torchvision_state(classes=1000)
    got = network(NAME, saved(state, tmp_path / "weights.pt"), SEED).state_dict()
    assert_equal_states(backbone(got), backbone(state))
    random_start = network(NAME, "none", SEED)
    assert torch.equal(got["fc.weight"], random_start.fc.weight) and torch.equal(got["fc.bias"], random_start.fc.bias)


def test_file_with_100_classes_gives_the_classifier_too(tmp_path):
    state = torchvision_state(classes=100)
    got = network(NAME, saved(state, tmp_path / "weights.pt"), SEED).state_dict()
    assert_equal_states(got, state)


@pytest.mark.parametrize("classes", [100, 1000])
def test_file_saved_under_data_parallel(tmp_path, classes):
    state = torchvision_state(classes=classes)
    path = saved({f"module.{key}": value for key, value in state.items()}, tmp_path / "weights.pt")
    got = network(NAME, path, SEED).state_dict()
    classifier = state if classes == 100 else network(NAME, "none", SEED).state_dict()
    assert_equal_states(got, state | {key: classifier[key] for key in ("fc.weight", "fc.bias")})


def test_file_from_before_num_batches_tracked(tmp_path):
    state = torchvision_state(classes=100)
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    old = {key: value for key, value in state.items() if key not in counters}
    got = network(NAME, saved(old, tmp_path / "weights.pt"), SEED).state_dict()
    assert len(counters) == 20
    assert_equal_states(got, state, but=counters)
    assert all(got[key] == 0 for key in counters)


def cut(path):
    saved(torchvision_state(), path)
    cut_in_half(path)


def lacking(key):
    return lambda path: saved({k: v for k, v in torchvision_state(classes=100).items() if k != key}, path)


BAD_FILES = {
    "not there": (lambda path: None, "no such file"),
    "truncated": (cut, "damaged"),
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
    "a checkpoint of something else": (lambda path: saved({"model": [1, 2]}, path), "expected a state dict"),
    "whole numbers": (
        lambda path: saved({k: v.long() for k, v in torchvision_state(classes=100).items()}, path),
        "conv1.weight: expected torch.float32, got torch.int64",
    ),
    "complex numbers": (
        lambda path: saved(torchvision_state(classes=100) | {"fc.bias": torch.zeros(100) + 1j}, path),
        "fc.bias: expected torch.float32, got torch.complex64",
    ),
    "nothing": (lambda path: saved({}, path), "missing"),
    "code": (lambda path: saved({"fc.weight": Bomb(path.with_name("made"))}, path), ""),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_what_is_no_state_dict_of_this_network_is_refused_by_name(tmp_path, case):
    path = tmp_path / "weights.pt"
    make, reason = BAD_FILES[case]
    make(path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{reason}"):
        network(NAME, str(path), SEED)
    assert not (tmp_path / "made").exists()  # nothing in the file was executed


def test_smaller_network_does_not_pass_for_a_larger_one(tmp_path):
    path = saved(torchvision_state("resnet18"), tmp_path / "weights.pt")
    with pytest.raises(InputError, match="does not fit resnet34.*missing"):
        network("resnet34", path, SEED)


@pytest.fixture
def download(monkeypatch, tmp_path):
    """Stands in for the download of torchvision's `get_state_dict`: `download(answer)` sets what comes."""
    asked = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()

    def set_up(answer):
        def load(url, *_, **options):
            asked.append((url, options.get("check_hash")))
            if isinstance(answer, Exception):
                raise answer
            torch.save(answer, tmp_path / "checkpoints" / url.rpartition("/")[2])
            return answer

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
        return asked

    return set_up


@pytest.mark.parametrize("name", ["resnet18", slow("resnet50")])  # resnet50 has a second version
def test_imagenet_is_torchvisions_first_version_checked_by_hash(download, name, monkeypatch):
    state, url = torchvision_state(name), get_model_weights(name).IMAGENET1K_V1.url
    asked = download(state)
    with pytest.raises(InputError, match=f"{name}-.* expected a SHA-256 that begins with .*; delete it"):
        network(name, "imagenet", SEED)  # what lies there is not what the name says
    monkeypatch.setattr(weights, "_sha256", lambda path: re.search(r"-(\w+)\.", path.name)[1] + "0" * 56)
    got = network(name, "imagenet", SEED).state_dict()
    assert asked == [(url, True)]  # once
    assert_equal_states(backbone(got), backbone(state))
    assert torch.equal(got["fc.weight"], network(name, "none", SEED).fc.weight)


@pytest.mark.parametrize("error", [URLError("no network"), RuntimeError("invalid hash value"), OSError("disk full")])
def test_failed_download_says_how_to_go_on(download, error):
    download(error)
    with pytest.raises(InputError, match=r"resnet18.*--weights FILE.*--weights none"):
        network(NAME, "imagenet", SEED)


def wrapped(kind, state):
    """A state dict as other programs, and this one, save it; the classifier of 100 classes included."""
    prefixes = {"Lightning": "model.", "torch.compile": "_orig_mod.", "deep": "encoder.backbone."}
    if kind in prefixes:
        return {"state_dict": {prefixes[kind] + key: value for key, value in state.items()}, "epoch": 3}
    if kind == "this bench's best.pt":
        return {"model": state, "epoch": 3, "identity": {}}
    head = {key.replace("fc.", "classifier."): value for key, value in state.items() if key.startswith("fc.")}
    return {"model": {f"backbone.{key}": value for key, value in backbone(state).items()} | head | {
        "alpha_raw": torch.tensor(0.1), "branch.pre_q.weight": torch.zeros(4, 512)}}  # fmt: skip


@pytest.mark.parametrize("kind", ["Lightning", "torch.compile", "deep", "this bench's best.pt", "the head's best.pt"])
def test_checkpoints_that_wrap_the_state_dict_are_taken(kind, tmp_path):
    state = torchvision_state(classes=100)
    got = network(NAME, saved(wrapped(kind, state), tmp_path / "weights.pt"), SEED).state_dict()
    assert_equal_states(got, state)


def test_a_file_in_torchs_old_format_is_taken_and_the_log_says_what_is_missing(tmp_path):
    state, notes = torchvision_state(classes=100), []
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_equal_states(network(NAME, tmp_path / "old.pt", note=notes.append).state_dict(), state)
    assert notes == ["warning: old.pt has torch's old format, which has no checksums: damage to it cannot be seen"]


def test_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"\0" * 64)
    installed = importlib.util.find_spec("safetensors") is not None
    with pytest.raises(InputError, match="not a safetensors file" if installed else "pip install safetensors"):
        network(NAME, path)
    if installed:
        from safetensors.torch import save_file

        state = torchvision_state(classes=100)
        save_file(state, path)
        assert_equal_states(network(NAME, path).state_dict(), state)


def test_the_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path):
    one, other = (saved(torchvision_state(seed=seed), tmp_path / f"{seed}.pt") for seed in (1, 2))
    copy_of_one = tmp_path / "copy.pt"
    copy_of_one.write_bytes((tmp_path / "1.pt").read_bytes())
    prints = [weights.weights_fingerprint(NAME, str(path)) for path in (one, other, copy_of_one)]
    assert prints[0] == prints[2] != prints[1] and weights.weights_fingerprint(NAME, "none") is None


# One of each family that torchvision has, with the widths of its first convolution and of its features.
FAMILIES = {
    "resnet18": (64, 512), "resnext50_32x4d": (64, 2048), "wide_resnet50_2": (64, 2048), "densenet121": (64, 1024),
    "vgg11": (64, 4096), "mobilenet_v2": (32, 1280), "mobilenet_v3_small": (16, 1024), "efficientnet_b0": (32, 1280),
    "convnext_tiny": (96, 768), "regnet_y_400mf": (32, 440), "shufflenet_v2_x0_5": (24, 1024), "mnasnet0_5": (16, 1280),
}  # fmt: skip
QUICK = {"resnet18", "densenet121", "mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x0_5"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name if name in QUICK else slow(name) for name in FAMILIES])
def test_any_network_gives_its_head_and_its_first_convolution(name):
    """Split and put together again it is the same network, and so it is with channels that count nothing."""
    width, features = FAMILIES[name]
    net = network(name).eval()
    x, extra = torch.randn(2, 3, 32, 32), torch.randn(2, 2, 32, 32)
    logits = net(x)
    wide = copy.deepcopy(net)
    widen_first_conv(wide, 2, "zero")
    assert first_conv(wide)[1].weight.shape[:2] == (width, 5)
    torch.testing.assert_close(wide(torch.cat([x, extra], dim=1)), logits, rtol=1e-4, atol=1e-5)
    head = split_head(net)
    assert (head.in_features, head.out_features) == (features, 100)
    feats = net(x)
    assert feats.shape == (2, features)
    torch.testing.assert_close(head(feats), logits, rtol=0, atol=0)


def test_cifar_stem_keeps_every_pixel_and_follows_the_seed():
    net, again, other = (network(NAME, seed=seed, stem="cifar") for seed in (SEED, SEED, SEED + 1))
    conv = net.conv1
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    seen = []
    net.layer1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    net(torch.randn(2, 3, 32, 32))
    assert seen == [(2, 64, 32, 32)]
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)  # He, fan out
    assert torch.equal(conv.weight, again.conv1.weight) and not torch.equal(conv.weight, other.conv1.weight)
    plain = network(NAME, seed=SEED)  # nothing else is another draw
    assert_equal_states(again.state_dict(), plain.state_dict(), but=("conv1.weight",))


def test_cifar_stem_on_pretrained_weights_is_random_and_said(tmp_path):
    state, notes = torchvision_state(classes=100), []
    path = saved(state, tmp_path / "weights.pt")
    net = network(NAME, path, SEED, stem="cifar", note=notes.append)
    assert_equal_states(net.state_dict(), state, but=("conv1.weight",))
    assert torch.equal(net.conv1.weight, network(NAME, seed=SEED, stem="cifar").conv1.weight)
    assert len(notes) == 1 and "3 x 3 first convolution starts at random; the 7 x 7 one of" in notes[0]
    again, notes = saved(net.state_dict(), tmp_path / "own.pt"), []  # a network with this stem keeps its own
    assert_equal_states(network(NAME, again, 1, stem="cifar", note=notes.append).state_dict(), net.state_dict())
    assert notes == []
    with pytest.raises(InputError, match="own.pt does not fit resnet18.*conv1.weight"):
        network(NAME, again)


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("resnet43", {}, "expected one of torchvision's .*got 'resnet43'; did you mean resnet34"),
        ("fcn_resnet50", {}, "got 'fcn_resnet50'"),  # segmentation
        ("squeezenet1_1", {}, "squeezenet1_1 has no last linear layer"),
        ("googlenet", {"img_size": 96}, "expected logits in training, got GoogLeNetOutputs"),
        ("vit_b_16", {}, "vit_b_16 cannot take images of IMG_SIZE 32 pixels .*Expected 224 but got 32"),
        slow("vgg11", {"img_size": 16}, "vgg11 cannot take images of IMG_SIZE 16 pixels"),
        ("vgg11", {"stem": "cifar"}, "STEM .*got MODEL_NAME vgg11; use --stem imagenet"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torchvision's, of googlenet
def test_networks_that_cannot_do_it_are_refused(name, more, expected):
    with pytest.raises(InputError, match=expected):
        network(name, **more)


def test_densenet_files_of_torchvision_are_older_than_its_code(tmp_path):
    state = torchvision_state("densenet121", classes=100)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in state.items()}
    assert old.keys() != state.keys()
    got = network("densenet121", saved(old, tmp_path / "weights.pt")).state_dict()
    assert_equal_states(got, state)


def test_count_parameters_is_torchvisions():
    expected = get_model_weights("resnet34").IMAGENET1K_V1.meta["num_params"] - 900 * 513  # 100 classes, not 1000
    model = network("resnet34", "none", SEED)
    model.requires_grad_(False)  # frozen ones count
    assert count_parameters(model) == expected


def test_a_last_layer_of_other_classes_starts_at_random_and_the_log_says_so(tmp_path):
    notes = []
    path = tmp_path / "thousand.pt"
    torch.save(torchvision_state(), path)
    network(NAME, path, note=notes.append)
    (said,) = notes
    assert said.startswith("the last layer starts at random: that of WEIGHTS") and "(1000, 512), not (100, 512)" in said


@pytest.mark.parametrize("given", ["ImageNet", "imagenett", "None"])
def test_a_misspelt_name_of_weights_is_guessed(given):
    with pytest.raises(InputError, match=rf"--weights {given}: no such file; did you mean (imagenet|none)\?"):
        weights.weights_fingerprint(NAME, given)


def test_networks_that_are_refused_warn_of_nothing(recwarn):
    with pytest.raises(InputError, match="without auxiliary outputs"):
        network("googlenet", img_size=224)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("name", ["resnet34", slow("resnext50_32x4d"), slow("mobilenet_v2")])
def test_the_form_for_the_cpu_is_the_same_function_with_the_same_gradients(name):
    plain = get_model(name, num_classes=10).double().train()
    fast = for_cpu(copy.deepcopy(plain))
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    used = []
    for conv in (module for module in fast.modules() if isinstance(module, OnePixelConv2d)):
        conv.register_forward_hook(lambda _, given, out: used.append(given[0].shape[2:] == (1, 1)))
    for net in (plain, fast):
        torch.manual_seed(0)  # dropout
        net(x).square().sum().backward()
    assert any(used) and not all(used)
    assert list(plain.state_dict()) == list(fast.state_dict())
    largest = max(float(parameter.grad.abs().max()) for parameter in plain.parameters())
    for (key, ours), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-10 * largest, msg=key)


@pytest.mark.parametrize(
    "conv",
    [
        torch.nn.Conv2d(4, 4, 3, padding=1, groups=2),
        torch.nn.Conv2d(4, 4, 3, padding=2),  # three pixels of one
        torch.nn.Conv2d(4, 4, 2, padding=1),
        torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        torch.nn.Conv2d(4, 4, 3, padding="same"),
    ],
)
def test_a_convolution_for_which_one_pixel_is_no_matrix_product_stays(conv):
    assert type(for_cpu(torch.nn.Sequential(conv))[0]) is torch.nn.Conv2d
