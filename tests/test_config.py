"""Constants and flags: the contract of names and defaults, and what is refused."""

import argparse
import importlib
import inspect
import json
import re
import time
from pathlib import Path

import pytest

from qcifar.config import RULES, as_constants, own, settings_from_constants, variant_of, whole
from qcifar.errors import InputError
from qcifar.hardware.grammar import sweeps
from tests.helpers import ROOT, slow
from tests.helpers.scripts import SCRIPTS, copy_of_the_code, module_of

MODULES = [module for module, _ in SCRIPTS.values()]
BASELINE, CHANNELS, HEAD = MODULES


# Names and defaults that users and other tools rely on, in the order in which they stand in the scripts.
COMMON = {
    "SEED": 42, "DEVICE": "auto", "PRECISION": "auto", "RUN_DIR": "./runs", "CHECKPOINT_MINUTES": 5, "RESUME": True,
    "ACCEPT_CODE": False,
    "COMPILE": False, "CUDA_GRAPHS": False,
    "DATASET": "cifar100", "DATA_DIR": "./data", "SPLIT_SEED": 42, "VAL_FRACTION": 0.2, "IMG_SIZE": 224,
    "TRAIN_LIMIT": 0, "EVAL_LIMIT": 0,
    "MODEL_NAME": "resnet34", "STEM": "imagenet", "WEIGHTS": "imagenet",
    "EPOCHS": 40, "BATCH_SIZE": 128, "MAX_LR": 7e-4, "WEIGHT_DECAY": 1e-4, "LABEL_SMOOTHING": 0.05, "SELECT_BY": "f1",
    "ACCUMULATE": 1, "SYNC_BATCHNORM": True,
}  # fmt: skip
QUANTUM = {"CONTROL": "quantum", "N_QUBITS": 4, "QUANTUM_DEVICE": "fast"}
DRAWN = {"CIRCUIT_SEED": 0, "PLANT": 0.05}
EXPECTED = {
    BASELINE: COMMON,
    CHANNELS: COMMON | QUANTUM | {
        "CIRCUITS": "default", "QUANTUM_DEPTH": 1, "QUANTUM_IMAGE_SIZE": 28, "ALIGN_MAPS": True,
        "MAP_SCALING": "fixed", "EXTRA_CHANNEL_INIT": "zero",
    } | DRAWN,
    HEAD: COMMON | QUANTUM | {
        "N_LAYERS": 2, "EPOCHS_WARMUP": 5, "SCHEDULE": "shared", "ALPHA_START": 0.1, "ANGLE_SCALING": "tanh",
        "DIFF_METHOD": "backprop", "QUANTUM_NOISE": "none", "SHOTS": 0,
    } | DRAWN,
}  # fmt: skip
DEFAULTS = [(script, name) for script, constants in EXPECTED.items() for name in constants]


def constant_lines(script):
    """Name -> (literal, comment) of each line `NAME = literal  # comment` at the left margin, in order."""
    found = re.findall(r"^([A-Z][A-Z_]*) = (\S.*?)  # (\S.*)$", Path(script.__file__).read_text(), re.MULTILINE)
    return {name: (literal, comment) for name, literal, comment in found}


def parse(script, *argv):
    return settings_from_constants(vars(script), list(argv), script.own_rules)


def flag_of(name):
    return "--" + name.lower().replace("_", "-")


@pytest.mark.parametrize("script", MODULES)
def test_constants_and_defaults_of_the_contract_in_its_order(script):
    assert list(constant_lines(script)) == list(EXPECTED[script])  # each has a comment
    settings = vars(parse(script))
    assert settings == {name.lower(): value for name, value in EXPECTED[script].items()}
    assert list(settings) == [name.lower() for name in EXPECTED[script]]
    assert as_constants(argparse.Namespace(**settings)) == EXPECTED[script]


def test_the_recipe_is_what_the_baseline_has_and_standard_values_are_the_scripts():
    assert list(RULES) == list(COMMON) and BASELINE.own_rules == {}
    for script in (CHANNELS, HEAD):
        own_constants = {name: value for name, value in EXPECTED[script].items() if name not in COMMON}
        assert {name: rule.standard for name, rule in script.own_rules.items()} == own_constants


@pytest.mark.parametrize("script", [CHANNELS, HEAD])
def test_common_constants_have_equal_lines(script):
    """Value, comment and spelling, so that `diff` of two scripts shows the experiment only."""
    base, other = constant_lines(BASELINE), constant_lines(script)
    assert {name: other[name] for name in COMMON} == base


@pytest.mark.parametrize("script", [CHANNELS, HEAD])
def test_main_is_the_same_in_all_scripts(script):
    assert inspect.getsource(script.main) == inspect.getsource(BASELINE.main)


def test_both_quantum_scripts_start_with_the_same_circuit_size():
    for name in QUANTUM:
        assert constant_lines(CHANNELS)[name][0] == constant_lines(HEAD)[name][0]


@pytest.mark.parametrize(("script", "name"), DEFAULTS)
def test_each_constant_has_a_flag_that_changes_it_alone(script, name):
    default = EXPECTED[script][name]
    if isinstance(default, bool):
        given, expected = [flag_of(name) if not default else flag_of(name).replace("--", "--no-", 1)], not default
    else:
        expected = other_value((RULES | script.own_rules)[name], default)
        given = [flag_of(name), str(expected)]
    before = dict(vars(script))
    settings = vars(parse(script, *given))
    assert settings.pop(name.lower()) == expected != default
    assert settings == {key.lower(): value for key, value in EXPECTED[script].items() if key != name}
    assert dict(vars(script)) == before  # the script's globals are read, never written


def other_value(rule, default):
    """A legal value that is not the default."""
    if rule.accepts("readout=0.1") and not rule.accepts("cpu"):
        return "readout=0.1"
    if isinstance(default, (int, float)):
        return default / 2 if 0 < default < 1 else default + 2
    choices = rule.expected.removeprefix("one of ").split(", ") if rule.expected.startswith("one of") else ["cpu"]
    return next(choice for choice in choices if choice != default)


def test_flags_as_users_write_them():
    line = "--epochs 5 --max-lr=3e-4 --no-resume --compile --weights ./my weights.pt".rsplit(" ", 2)
    settings = parse(BASELINE, *line[0].split(), " ".join(line[1:]))
    assert (settings.epochs, settings.max_lr, settings.resume, settings.compile) == (5, 3e-4, False, True)
    assert settings.weights == "./my weights.pt"
    assert type(settings.epochs) is int and type(settings.max_lr) is float
    assert parse(BASELINE, "--no-resume", "--resume").resume is True  # the last one counts
    assert parse(BASELINE, "--checkpoint-minutes", "0").checkpoint_minutes == 0
    assert parse(BASELINE, "--train-limit", "0").train_limit == 0


# script, flags, what the message says
REFUSED = [
    (BASELINE, "--epocs 5", "unknown flag --epocs; did you mean --epochs?"),
    (BASELINE, "--max_lr 1e-3", "unknown flag --max_lr; did you mean --max-lr?"),
    (BASELINE, "--epoch=5", "unknown flag --epoch; did you mean --epochs?"),  # no abbreviations
    (BASELINE, "--qqq", "unknown flag --qqq; --help lists the flags"),
    (BASELINE, "--n-qubits 4", "unknown flag --n-qubits"),  # of the other scripts
    (BASELINE, "42", "unexpected argument 42; --help shows what is expected"),
    (BASELINE, "--epochs", "EPOCHS (--epochs): expected one argument: a whole number of at least 1"),
    (BASELINE, "--resume=maybe", "RESUME: --resume / --no-resume takes no value, got 'maybe'"),
    (BASELINE, "--resume False", "RESUME: --resume / --no-resume takes no value, got 'False'"),
    (BASELINE, "--no-compile true --epochs 3", "COMPILE: --compile / --no-compile takes no value, got 'true'"),
    (BASELINE, "--epochs 0", "EPOCHS (--epochs): expected a whole number of at least 1, got 0"),
    (BASELINE, "--epochs -1", "EPOCHS (--epochs): expected a whole number of at least 1, got -1"),
    (BASELINE, "--epochs 1.5", "EPOCHS (--epochs): expected a whole number of at least 1, got '1.5'"),
    (BASELINE, "--epochs x", "EPOCHS (--epochs): expected a whole number of at least 1, got 'x'"),
    (BASELINE, "--epochs 1e3", "EPOCHS (--epochs): expected a whole number of at least 1, got '1e3'"),
    (BASELINE, "--epochs inf", "EPOCHS (--epochs): expected a whole number of at least 1, got 'inf'"),
    (BASELINE, "--seed -1", "SEED (--seed): expected a whole number from 0 to 4294967295, got -1"),
    (BASELINE, "--seed 4294967296", "SEED (--seed): expected a whole number from 0 to 4294967295, got 4294967296"),
    (BASELINE, "--split-seed 4294967296", "SPLIT_SEED (--split-seed): expected a whole number from 0 to 4294967295"),
    (BASELINE, "--val-fraction 1.5", "VAL_FRACTION (--val-fraction): expected a number above 0 and below 1, got 1.5"),
    (BASELINE, "--val-fraction 0", "VAL_FRACTION (--val-fraction): expected a number above 0 and below 1, got 0.0"),
    (BASELINE, "--val-fraction 1", "VAL_FRACTION (--val-fraction): expected a number above 0 and below 1, got 1.0"),
    (
        BASELINE,
        "--val-fraction nan",
        "VAL_FRACTION (--val-fraction): expected a finite number above 0 and below 1, got nan",
    ),
    (BASELINE, "--max-lr 0", "MAX_LR (--max-lr): expected a number above 0, got 0.0"),
    (BASELINE, "--max-lr=-1e-3", "MAX_LR (--max-lr): expected a number above 0, got -0.001"),
    (BASELINE, "--max-lr inf", "MAX_LR (--max-lr): expected a finite number above 0, got inf"),
    (BASELINE, "--max-lr 1e400", "MAX_LR (--max-lr): expected a finite number above 0, got inf"),
    (BASELINE, "--max-lr nan", "MAX_LR (--max-lr): expected a finite number above 0, got nan"),
    (BASELINE, "--max-lr 7e", "MAX_LR (--max-lr): expected a number above 0, got '7e'"),
    (BASELINE, "--weight-decay -1", "WEIGHT_DECAY (--weight-decay): expected a number from 0, got -1.0"),
    (BASELINE, "--label-smoothing 1", "LABEL_SMOOTHING (--label-smoothing): expected a number from 0 and below 1"),
    (BASELINE, "--checkpoint-minutes -1", "CHECKPOINT_MINUTES (--checkpoint-minutes): expected a number from 0"),
    (BASELINE, "--batch-size 1", "BATCH_SIZE (--batch-size): expected a whole number of at least 2, got 1"),
    (BASELINE, "--train-limit 1", "TRAIN_LIMIT (--train-limit): expected 0 (all) or a whole number of at least 2"),
    (BASELINE, "--train-limit -5", "TRAIN_LIMIT (--train-limit): expected 0 (all) or a whole number of at least 2"),
    (BASELINE, "--eval-limit -1", "EVAL_LIMIT (--eval-limit): expected a whole number of at least 0, got -1"),
    (BASELINE, "--img-size 8", "IMG_SIZE (--img-size): expected a whole number from 16 to 1024, got 8"),
    (BASELINE, "--precision fp64", "PRECISION (--precision): expected one of auto, fp32, tf32, bf16, got 'fp64'"),
    (BASELINE, "--select-by acc", "SELECT_BY (--select-by): expected one of f1, top1, loss, got 'acc'"),
    (BASELINE, "--accumulate 0", "ACCUMULATE (--accumulate): expected a whole number of at least 1, got 0"),
    (BASELINE, "--dataset cifar10", "DATASET (--dataset): expected one of cifar100, synthetic, got 'cifar10'"),
    (BASELINE, "--model-name=", "MODEL_NAME (--model-name): expected the name of one of torchvision's classification"),
    (BASELINE, "--stem none", "STEM (--stem): expected one of imagenet, cifar, got 'none'"),
    (BASELINE, "--run-dir=", "RUN_DIR (--run-dir): expected a folder, got ''"),
    (BASELINE, "--device=", "DEVICE (--device): expected auto, cpu, cuda or cuda:<number>, got ''"),
    (BASELINE, "--device tpu", "DEVICE (--device): expected auto, cpu, cuda or cuda:<number>, got 'tpu'"),
    (CHANNELS, "--n-qubits 1", "N_QUBITS (--n-qubits): expected a whole number from 2 to 20, got 1"),
    (CHANNELS, "--circuits mine", "CIRCUITS (--circuits): expected one of default, published, got 'mine'"),
    (CHANNELS, "--quantum-depth 0", "QUANTUM_DEPTH (--quantum-depth): expected a whole number from 1 to 1000, got 0"),
    (CHANNELS, "--quantum-image-size 1", "QUANTUM_IMAGE_SIZE (--quantum-image-size): expected a whole number from 2"),
    (
        CHANNELS,
        "--n-qubits 5 --quantum-image-size 4",
        "QUANTUM_IMAGE_SIZE (--quantum-image-size): 5 qubits are (1, 5) ce",
    ),
    (CHANNELS, "--map-scaling no", "MAP_SCALING (--map-scaling): expected one of fixed, minmax, got 'no'"),
    (CHANNELS, "--extra-channel-init x", "EXTRA_CHANNEL_INIT (--extra-channel-init): expected one of zero, mean"),
    (CHANNELS, "--control mlp", "CONTROL (--control): expected one of quantum, product, raw, fourier"),
    (HEAD, "--control raw", "CONTROL (--control): expected one of quantum, fourier, linear"),
    (HEAD, "--circuit-seed -1", "CIRCUIT_SEED (--circuit-seed): expected a whole number from 0"),
    (CHANNELS, "--plant 0", "PLANT (--plant): expected a number above 0 to 1"),
    (HEAD, "--n-qubits 21", "N_QUBITS (--n-qubits): expected a whole number from 1 to 20, got 21"),
    (HEAD, "--n-layers 0", "N_LAYERS (--n-layers): expected a whole number from 1 to 1000, got 0"),
    (HEAD, "--epochs-warmup -1", "EPOCHS_WARMUP (--epochs-warmup): expected a whole number of at least 0, got -1"),
    (
        HEAD,
        "--epochs-warmup 41",
        "(--epochs-warmup): expected from 0 to EPOCHS 40, got 41; a short run takes --epochs-warmup 1",
    ),
    (HEAD, "--alpha-start 1", "ALPHA_START (--alpha-start): expected a number above 0 and below 1, got 1.0"),
    (HEAD, "--alpha-start 0", "ALPHA_START (--alpha-start): expected a number above 0 and below 1, got 0.0"),
    (HEAD, "--schedule two", "SCHEDULE (--schedule): expected one of shared, per_phase, got 'two'"),
    (HEAD, "--angle-scaling pi", "ANGLE_SCALING (--angle-scaling): expected one of tanh, none, got 'pi'"),
    (
        HEAD,
        "--diff-method adjoint",
        "DIFF_METHOD (--diff-method): expected backprop with QUANTUM_DEVICE fast, got adjoint",
    ),
    (HEAD, "--diff-method no", "DIFF_METHOD (--diff-method): expected one of backprop, adjoint, parameter-shift"),
    (HEAD, "--quantum-noise readout=2", "QUANTUM_NOISE (--quantum-noise): expected none, or name=number with commas"),
    (HEAD, "--shots -1", "SHOTS (--shots): expected a whole number of at least 0, got -1"),
]


@pytest.mark.parametrize(("script", "given", "expected"), REFUSED)
def test_refused_at_once_with_constant_and_range(script, given, expected, monkeypatch, tmp_path):
    def load_parts(cfg, device):
        pytest.fail("data were loaded")

    monkeypatch.setattr(script, "load_parts", load_parts)
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    with pytest.raises(InputError) as caught:
        script.main(given.split(" "))
    assert time.process_time() - started < 1
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []  # no run folder, no download


def test_every_range_has_a_row_above_or_only_asks_for_a_text():
    rows = {re.findall("[A-Z_]{4,}", expected)[0] for _, _, expected in REFUSED if " (--" in expected}
    switches = {"RESUME", "ACCEPT_CODE", "COMPILE", "CUDA_GRAPHS", "SYNC_BATCHNORM", "ALIGN_MAPS"}
    rules = RULES.keys() | CHANNELS.own_rules.keys() | HEAD.own_rules.keys()
    assert rows | switches | {"DATA_DIR", "WEIGHTS", "QUANTUM_DEVICE"} == rules


def script_with(tmp_path, text):
    """The globals of a script of that text, as `settings_from_constants` gets them."""
    path = tmp_path / "edited.py"
    path.write_text(f'"""An edited script."""\n{text}\n', encoding="utf-8")
    content = {"__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), content)
    return content


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("EPOCHS = 0", "EPOCHS (--epochs): expected a whole number of at least 1, got 0"),
        ("EPOCHS = 5.0", "got 5.0"),
        ("EPOCHS = True", "got True"),
        ('EPOCHS = "5"', "got '5'"),
        ('MAX_LR = "7e-4"', "MAX_LR (--max-lr): expected a number above 0, got '7e-4'"),
        ("MAX_LR = float('nan')", "got nan"),
        ('RESUME = "yes"', "RESUME (--resume): expected True or False, got 'yes'"),
        ("RESUME = 1", "RESUME (--resume): expected True or False, got 1"),
        ("RUN_DIR = None", "RUN_DIR (--run-dir): expected a folder, got None"),
        ("RUN_DIR = 'a\\0b'", "RUN_DIR (--run-dir): expected a folder, got 'a\\x00b'"),
        ("WEIGHTS = '\\0'", "WEIGHTS (--weights): expected imagenet, none or the path of a state dict, got '\\x00'"),
        ("EPOCHS = 10**10", "EPOCHS (--epochs): expected a whole number of at least 1, got 10000000000"),
        ("EPOCHS = 10**5000", "EPOCHS (--epochs): expected a whole number of at least 1, got a number of 16610 bits"),
        ("MAX_LR = 10**400", "MAX_LR (--max-lr): expected a number above 0, got a number of 1329 bits"),
        ("WEIGHT_DECAY = -(10**400)", "WEIGHT_DECAY (--weight-decay): expected a number from 0, got a number of 1329"),
        ("DEPTH = 3", "edited.py: the constant DEPTH has no rule; give it one in own_rules"),
        ("EPOCH = 3", "edited.py: the constant EPOCH has no rule; did you mean EPOCHS?"),
        ("if True:\n    DEPTH = 3", "edited.py: the constant DEPTH has no rule"),
    ],
)
def test_a_bad_constant_is_refused_even_where_a_flag_would_mend_it(tmp_path, line, expected):
    content = script_with(tmp_path, line)
    with pytest.raises(InputError, match=re.escape(expected)):
        settings_from_constants(content, ["--epochs", "3"] if "EPOCHS" in line else [])


def test_an_edited_constant_counts_and_a_flag_counts_more(tmp_path):
    content = script_with(
        tmp_path, "EPOCHS = 3\nMAX_LR = 1  # peak\nlower = 2\n\n\ndef f():\n    SEED = 1\n    return SEED"
    )
    before = dict(content)
    assert vars(settings_from_constants(content, [])) == {"epochs": 3, "max_lr": 1}
    assert vars(settings_from_constants(content, ["--epochs", "4"])) == {"epochs": 4, "max_lr": 1}
    assert content == before


def test_constants_as_people_write_them(tmp_path):
    text = (
        "import numpy\nfrom pathlib import Path\nEPOCHS, SEED = numpy.int64(3), 7\n"
        "RUN_DIR: Path = Path('runs') / 'mine'\n"
        "try:\n    MAX_LR = numpy.float32(0.5)\nfinally:\n    BATCH_SIZE = 8\nBATCH_SIZE *= 2"
    )
    settings = vars(settings_from_constants(script_with(tmp_path, text), []))
    assert settings == {"epochs": 3, "seed": 7, "run_dir": "runs/mine", "max_lr": 0.5, "batch_size": 16}
    assert [type(value) for value in settings.values()] == [int, int, str, float, int]


def test_a_script_in_another_encoding_is_read_as_python_reads_it(tmp_path):
    content = script_with(tmp_path, "EPOCHS = 3")
    latin = '# coding: latin-1\n"""Müller."""\nEPOCHS = 3  # für alle\n'.encode("latin-1")
    (tmp_path / "edited.py").write_bytes(latin)
    assert settings_from_constants(content, []).epochs == 3
    (tmp_path / "edited.py").write_bytes(latin.split(b"\n", 1)[1])
    with pytest.raises(InputError, match=r"edited\.py cannot be read as Python .*; save it as UTF-8"):
        settings_from_constants(content, [])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("depolarizing=0.010", "depolarizing=0.01"),
        ("readout=2e-2, depolarizing=0.01,phase_damping=0", "depolarizing=0.01,readout=0.02"),
        ("depolarizing=0,readout=0.0", "none"),
        ("depolarizing=1.0,amplitude_damping=0.00001", "amplitude_damping=1e-05,depolarizing=1"),
        ("two_qubit_depolarizing=0", "none"),
        ("two_qubit_depolarizing=0,depolarizing=0.1", "depolarizing=0.1,two_qubit_depolarizing=0"),  # has an effect
        ("two_qubit_depolarizing=0.1,depolarizing=0.1", "depolarizing=0.1"),
    ],
)
def test_noise_that_is_the_same_is_one_variant(given, expected):
    cfg = parse(HEAD, "--quantum-noise", given)
    assert cfg.quantum_noise == expected == parse(HEAD, "--quantum-noise", expected).quantum_noise
    assert variant_of(cfg, HEAD.own_rules) == ("" if expected == "none" else f"quantum_noise={expected}")


def test_readout_errors_have_one_range_in_training_and_evaluation():
    for strength, right in (("0.5", True), ("0.6", False)):
        for read in (lambda s: parse(HEAD, "--quantum-noise", f"readout={s}"), lambda s: sweeps(f"readout={s}")):
            if right:
                read(strength)
                continue
            with pytest.raises(InputError, match=r"0.5\)?, where an outcome says nothing of its qubit"):
                read(strength)


def test_a_variant_names_what_is_not_standard_by_flag_or_by_editing(tmp_path):
    assert variant_of(parse(HEAD, "--epochs", "3", "--seed", "7"), HEAD.own_rules) == ""
    assert variant_of(parse(HEAD, "--n-layers", "6", "--n-qubits", "8"), HEAD.own_rules) == "n_qubits=8,n_layers=6"
    assert variant_of(parse(CHANNELS, "--no-align-maps"), CHANNELS.own_rules) == "align_maps=False"
    rules = {"DEPTH": own(3, whole(1))}
    for line, variant in (("DEPTH = 3", ""), ("DEPTH = 4", "depth=4")):
        assert variant_of(settings_from_constants(script_with(tmp_path, line), [], rules), rules) == variant
    odd = parse(HEAD, "--quantum-device", "my/device: ü")
    assert variant_of(odd, HEAD.own_rules) == "quantum_device=my_device__ü"
    longest, other = (parse(HEAD, "--quantum-device", "x" * 300 + end) for end in "ab")
    names = [variant_of(settings, HEAD.own_rules) for settings in (longest, other)]
    assert len(names[0]) == 200 and names[0][:-8] == names[1][:-8] and names[0] != names[1]


def test_help_shows_docstring_flags_comments_and_defaults(tmp_path, capsys):
    text = "VAL_FRACTION = 0.2  # 20 % of the images, Über-α\nRESUME = True  # go on"
    with pytest.raises(SystemExit) as caught:
        settings_from_constants(script_with(tmp_path, text), ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0 and "An edited script." in shown
    assert "--val-fraction X 20 % of the images, Über-α (default 0.2)" in shown
    assert "--resume, --no-resume go on (default True)" in shown


def test_arguments_without_a_flag(tmp_path, capsys):
    content = script_with(tmp_path, "EPOCHS = 3  # passes")
    arguments = (("run", None, "a run's folder"), ("image", None, "100 % of it"))
    for given in (["a", "b", "--epochs", "4"], ["a", "--epochs", "4", "b"], ["--epochs", "4", "a", "b"]):
        settings = settings_from_constants(content, given, arguments=arguments)
        assert vars(settings) == {"epochs": 4, "run": "a", "image": "b"}
    several = (arguments[0], ("images", "*", "all of them"))
    assert settings_from_constants(content, ["a", "b", "c"], arguments=several).images == ["b", "c"]
    with pytest.raises(InputError, match="required: run"):
        settings_from_constants(content, [], arguments=arguments)
    with pytest.raises(SystemExit):
        settings_from_constants(content, ["--help"], arguments=arguments)
    assert "100 % of it" in capsys.readouterr().out


@pytest.mark.parametrize("script", MODULES)
def test_help_of_the_scripts(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    shown = "".join(capsys.readouterr().out.split())  # argparse breaks lines also behind hyphens
    for name, (_, comment) in constant_lines(script).items():
        assert flag_of(name) in shown and "".join(comment.split()) in shown


VERBS = "audit_circuits compare_runs evaluate_hardware export_circuit export_head predict sweep".split()
BENCHMARKS = [f"benchmarks.{name}" for name in "training quantum profile_step simulate_statistics".split()]


@pytest.mark.parametrize("name", BENCHMARKS + VERBS)
def test_verbs_and_benchmarks_have_a_rule_for_each_constant(name):
    module = importlib.import_module(name)
    settings = settings_from_constants(vars(module), [], getattr(module, "own_rules", None))
    assert set(as_constants(settings)) == set(constant_lines(module))


@pytest.mark.parametrize("name", ["EPOCHS", "N_LAYERS"])
def test_a_deleted_constant_is_named(tmp_path, name):
    text = (ROOT / "cifar100_hybrid_Qhead.py").read_text(encoding="utf-8")
    script = tmp_path / "edited.py"
    script.write_text(re.sub(rf"^{name} = .*\n", "", text, flags=re.MULTILINE), encoding="utf-8")
    said = f"^edited\\.py: the constant {name} is missing; put it back at the top of the script$"
    with pytest.raises(InputError, match=said):
        module_of(script).main([])


# How people edit constants: what is edited, to what, and what the run then has.
REWRITTEN = [
    ("SEED = 42 ", "SEED, EPOCHS, lower = 42, 0, 3\nif True:\n    EPOCHS: int = 1 "),  # all at once
    ("EPOCHS = 40 ", "EPOCHS: int = 1 "),
    ("EPOCHS = 40  # passes over the training split\nBATCH_SIZE = 128 ", "EPOCHS, BATCH_SIZE = 1, 32 "),
    ("EPOCHS = 40 ", "EPOCHS = 0\nif True:\n    EPOCHS = 1 "),
]


@pytest.mark.parametrize(("old", "new"), [case if case is REWRITTEN[0] else slow(*case) for case in REWRITTEN])
def test_a_script_with_constants_written_in_another_way_trains_to_the_end(tmp_path, old, new):
    script = copy_of_the_code(tmp_path) / "cifar100_baseline.py"
    text = script.read_text(encoding="utf-8")
    if old == "SEED = 42 ":
        text = re.sub(r"^EPOCHS = .*\n", "", text, flags=re.MULTILINE)
    text, count = re.subn(f"^{re.escape(old)}", new, text, flags=re.MULTILINE)
    assert count == 1
    script.write_text(text, encoding="utf-8")
    argv = "--dataset synthetic --weights none --model-name shufflenet_v2_x0_5 --img-size 32 --train-limit 64"
    more = ["--eval-limit", "50", "--batch-size", "32", "--run-dir", str(tmp_path / "runs")]
    module = module_of(script)
    module.main([*argv.split(), *more])
    result = json.loads((tmp_path / "runs/cifar100_baseline_det/seed42/result.json").read_text())
    assert result["epochs"] == 1
    with pytest.raises(InputError, match=r"^unknown flag --epocs; did you mean --epochs\?$"):
        module.main(["--epocs", "3"])


def test_a_constant_that_gets_no_value_is_missing(tmp_path):
    text = (ROOT / "cifar100_hybrid_Qhead.py").read_text(encoding="utf-8")
    content = script_with(tmp_path, text.replace("EPOCHS = 40 ", "EPOCHS: int "))
    with pytest.raises(InputError, match=r"edited\.py: the constant EPOCHS is missing; put it back"):
        settings_from_constants(content, [], content["own_rules"])
