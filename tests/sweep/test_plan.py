"""What a plan says: its jobs, folders and family; and one line with the place for whatever is wrong in it."""

import hashlib
import re
import tomllib

import pytest

from qcifar.decided import read_seeds
from qcifar.errors import InputError
from qcifar.sweep.plan import Places, constant_flags, read_plan
from tests.helpers import ROOT
from tests.helpers.scripts import SCRIPTS, folder_of

GOOD = """title = "What the head's layers do"
run_dir = "runs/controls"

[decided]
outcome = "test_top1"
margin = 0.5
seeds = "0-2"
family = "all"

[common]
IMG_SIZE = 32
WEIGHTS = "none"

[[runs]]
script = "baseline"

[[runs]]
script = "head"
EPOCHS_WARMUP = 1
N_LAYERS = [1, 2]
ANGLE_SCALING = ["tanh", "none"]
"""


def written(tmp_path, text, name="study.toml"):
    path = tmp_path / name
    path.write_text(text)
    return path


def read(tmp_path, text, run_dir=""):
    return read_plan(written(tmp_path, text), ROOT, run_dir)


def test_jobs_of_a_grid_seed_by_seed(tmp_path):
    plan = read(tmp_path, GOOD)
    heads = [
        "cifar100_hybrid_qhead/n_layers=1,epochs_warmup=1",
        "cifar100_hybrid_qhead/n_layers=1,epochs_warmup=1,angle_scaling=none",
        "cifar100_hybrid_qhead/epochs_warmup=1", "cifar100_hybrid_qhead/epochs_warmup=1,angle_scaling=none",
    ]  # fmt: skip
    assert [job.folder for job in plan.jobs] == [
        f"{run}/seed{seed}" for seed in range(3) for run in ("cifar100_baseline_det", *heads)
    ]
    assert (
        plan.jobs[1].command
        == (
            "python cifar100_hybrid_Qhead.py --img-size 32 --weights none --epochs-warmup 1 --n-layers 1 "
            "--angle-scaling tanh --seed 0 --run-dir runs/controls"
        ).split()
    )
    assert plan.family == tuple(tuple(run.split("/")) for run in heads)
    assert (plan.name, plan.title, plan.outcome, plan.margin) == (
        "study",
        "What the head's layers do",
        "test_top1",
        0.5,
    )
    assert (plan.seeds, plan.extends, plan.notes) == ((0, 1, 2), None, ())
    assert plan.sha256 == hashlib.sha256((tmp_path / "study.toml").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("more", [{}, {"N_QUBITS": 6, "QUANTUM_DEVICE": "my/device: ü"}, {"ALIGN_MAPS": False}])
def test_folders_and_constants_are_those_of_the_scripts(name, more, tmp_path):
    module = SCRIPTS[name][0]
    given = {key: value for key, value in more.items() if key in module.own_rules}
    lines = [
        f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in given.items()
    ]
    text = "\n".join(['run_dir = "here"\n[decided]\nseeds = [5]\n[[runs]]', f'script = "{name}"', "EPOCHS = 2", *lines])
    (job,) = read(tmp_path, text).jobs
    flags = ["--seed", "5", "--epochs", "2", *constant_flags(given)]
    if name == "head":
        flags += ["--epochs-warmup", "5"]
    assert f"here/{job.folder}" == str(folder_of(name, "here", *flags))
    assert job.constants["EPOCHS"] == 2 and job.constants["SEED"] == 5 and job.constants.items() >= given.items()


def test_what_may_be_left_out(tmp_path):
    plan = read(tmp_path, '[decided]\nseeds = [3]\n[[runs]]\nscript = "baseline"\n')
    assert (plan.title, str(plan.run_dir), plan.outcome, plan.margin) == ("study", "runs", "test_top1", 0.5)
    assert plan.family == () and plan.jobs[0].folder == "cifar100_baseline_det/seed3"
    assert str(read(tmp_path, GOOD, "elsewhere").run_dir) == "elsewhere"


def test_a_family_by_names(tmp_path):
    named = GOOD.replace('"all"', '["head n_layers=1,epochs_warmup=1"]')
    assert read(tmp_path, named).family == (("cifar100_hybrid_qhead", "n_layers=1,epochs_warmup=1"),)
    whole = GOOD.replace('"all"', '["cifar100_hybrid_qhead"]')
    assert read(tmp_path, whole).family == read(tmp_path, GOOD).family


def test_a_fourth_experiment_by_its_file(tmp_path):
    script = (ROOT / "cifar100_baseline.py").read_text().replace("cifar100_baseline_det", "cifar100_mine")
    (tmp_path / "mine.py").write_text(
        script.replace("own_rules = {}", 'DEPTH = 2\nown_rules = {"DEPTH": own(2, whole(1))}')
    )
    plan = read_plan(written(tmp_path, '[decided]\nseeds = [1]\n[[runs]]\nscript = "mine.py"\n'), tmp_path)
    assert plan.jobs[0].folder == "cifar100_mine/seed1" and plan.notes  # no baseline


def test_what_is_easily_not_meant_is_said(tmp_path):
    (note,) = read(tmp_path, GOOD.replace("EPOCHS_WARMUP = 1", 'EPOCHS_WARMUP = 1\nPRECISION = "fp32"')).notes
    assert note == "runs differ in PRECISION: where that has an effect, they will not be paired"


def test_runs_of_two_recipes_are_refused_since_they_are_never_paired(tmp_path):
    said = r"\[\[runs\]\] 2, line 19: EPOCHS is 5 for cifar100_hybrid_qhead and 40 for cifar100_baseline_det: "
    with pytest.raises(InputError, match=said + "it belongs to the recipe"):
        read(tmp_path, GOOD.replace("EPOCHS_WARMUP = 1", "EPOCHS = 5\nEPOCHS_WARMUP = 1"))


def test_only_the_outcome_that_verdicts_are_made_from_can_be_planned(tmp_path):
    for outcome in ("test_top5", "test_f1"):
        with pytest.raises(InputError, match=rf"line 5: outcome: expected test_top1, got '{outcome}': a verdict is"):
            read(tmp_path, GOOD.replace("test_top1", outcome))


def test_controls_that_test_the_bench_are_a_family_of_their_own(tmp_path):
    several = 'CONTROL = ["quantum", "off", "fourier", "jitter", "planted"]\nEPOCHS_WARMUP = 1\n'
    text = GOOD.split("EPOCHS_WARMUP")[0] + several
    plan = read(tmp_path, text)
    assert [variant for _, variant in plan.family] == ["epochs_warmup=1", "control=fourier,epochs_warmup=1"]
    assert plan.checks == tuple((HEAD, f"control={name},epochs_warmup=1") for name in ("off", "jitter", "planted"))
    named = read(tmp_path, text.replace('"all"', '["head"]'))
    assert len(named.family) == 5 and named.checks == ()


HEAD = "cifar100_hybrid_qhead"
FULL = "n_layers=1,epochs_warmup=1"


def with_twins(twins):
    return GOOD.replace('family = "all"', f'family = "all"\ntwins = {twins}')


def test_twins_are_comparisons_with_another_than_the_baseline(tmp_path):
    plan = read(tmp_path, with_twins(f'["head epochs_warmup=1 vs head {FULL}"]'))
    assert plan.twins == ((HEAD, "epochs_warmup=1", HEAD, FULL),) and len(plan.family) == 4
    text = GOOD.split("[[runs]]")[0].replace('"all"', '"all"\ntwins = ["head vs head control=fourier"]')
    text += '[[runs]]\nscript = "head"\nEPOCHS = 3\nCONTROL = ["quantum", "fourier"]\n'
    assert read(tmp_path, text).twins == ((HEAD, "", HEAD, "control=fourier"),)  # "head" alone: as the script has it


@pytest.mark.parametrize(
    ("twins", "said"),
    [
        ('"head"', r"line 9: twins: expected a list such as"),
        ('["head"]', r"line 9: twins: expected \"head vs head control=fourier\" or so, got 'head'"),
        ("[3]", "line 9: twins: expected .* got 3"),
        (f'["head vs head {FULL}"]', "twins: 'head' means 4 variants .*; name one"),
        (f'["head {FULL} vs channels"]', "twins: no job makes 'channels'; the plan makes"),
        (f'["head {FULL} vs head {FULL}"]', "compares runs with themselves"),
        (f'["head {FULL} vs baseline"]', "comparisons with the baseline stand in family"),
    ],
)
def test_twins_that_cannot_be_compared(twins, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read(tmp_path, with_twins(twins))


BAD = [  # what is replaced, by what, and what is said, with its place
    ('"0-2"', '"0-2', r"study.toml: not TOML: .*line 7"),
    ("title =", "titel =", r"study.toml, line 1: unknown key titel; did you mean title\?"),
    ("margin = 0.5", "margins = 0.5", r"study.toml, \[decided\], line 6: unknown key margins; did you mean margin\?"),
    ('title = "What the head\'s layers do"', "title = 3", r"study.toml, line 1: title: expected a text, got 3"),
    ("margin = 0.5", "margin = 0", r"\[decided\], line 6: margin: expected percentage points above 0, got 0"),
    ("margin = 0.5", 'margin = "0.5"', r"margin: expected percentage points above 0, got '0.5'"),
    ("margin = 0.5", "margin = nan", r"margin: expected percentage points above 0, got nan"),
    ('"test_top1"', '"test_top"', r"\[decided\], line 5: outcome: expected test_top1, got 'test_top'"),
    ('"0-2"', '"0-"', r"\[decided\], line 7: seeds: expected whole numbers from 0 on, .* got '0-'"),
    ('"0-2"', '""', r"line 7: seeds: .* got none"),
    ('"0-2"', "[]", r"line 7: seeds: .* got none"),
    ('"0-2"', "[0, 1, 1]", r"line 7: seeds: 1 given twice"),
    ('"0-2"', '"0-2,2"', r"line 7: seeds: 2 given twice"),
    ('"0-2"', '"3-1"', r"line 7: seeds: .* got '3-1': from 3 to 1"),
    ('"0-2"', "[0, 1.5]", r"line 7: seeds: .* got \[0, 1.5\]"),
    ('"0-2"', "[-1]", r"line 7: seeds: .* got \[-1\]"),
    ('seeds = "0-2"', "", r"\[decided\], line 4: no seeds"),
    ('family = "all"', 'family = ["channels"]', r"line 8: family: no job makes 'channels'; the plan makes cifar"),
    ('family = "all"', 'family = ["baseline"]', r"line 8: family: no job makes 'baseline'"),
    ('family = "all"', "family = []", r'line 8: family: expected "all" or a list'),
    ('family = "all"', 'extends = "study"', r"line 8: extends: expected another plan's name, got 'study'"),
    ('"baseline"', '"baselin"', r"\[\[runs\]\] 1, line 15: unknown script baselin; did you mean baseline\?"),
    ('"baseline"', '"DLfunctions.py"', r"\[\[runs\]\] 1, line 15: DLfunctions.py: STOPPING in line"),
    ('script = "baseline"', "", r"\[\[runs\]\] 1, line 14: expected script = "),
    ("N_LAYERS", "N_LAYER", r"\[\[runs\]\] 2, line 20: unknown constant of .*: N_LAYER; did you mean N_LAYERS\?"),
    ("[1, 2]", "[1, 0]", r"\[\[runs\]\] 2, line 20: N_LAYERS \(--n-layers\): expected .* from 1 to 1000, got 0"),
    ("[1, 2]", '"2"', r"line 20: N_LAYERS \(--n-layers\): .* got '2'"),
    ("[1, 2]", "[]", r"line 20: N_LAYERS: an empty list"),
    ("[1, 2]", "[1, 1]", r"line 20: N_LAYERS: a value is given twice"),
    ("IMG_SIZE = 32", "IMG_SIZE = 8", r"\[common\], line 11: IMG_SIZE \(--img-size\): expected a whole number from 16"),
    ("IMG_SIZE = 32", "N_LAYERS = 3", r"line 11: N_LAYERS is not .* \(baseline has none\); .* script = 'head'"),
    ("IMG_SIZE = 32", "IMG_SIZES = 32", r"line 11: unknown constant of .*: IMG_SIZES; did you mean IMG_SIZE\?"),
    ("IMG_SIZE = 32", "SEED = 3", r"line 11: SEED cannot be set here: seeds stand under \[decided\]"),
    ("IMG_SIZE = 32", 'RUN_DIR = "x"', r"line 11: RUN_DIR cannot be set here: it stands at the top"),
    ("IMG_SIZE = 32", "RESUME = false", r"line 11: RESUME cannot be set here"),
    ("EPOCHS_WARMUP = 1", "MAX_LR = [1e-3, 1e-4]", r"would lie in .*/seed0: they differ in MAX_LR only, .* run_dir"),
    ('"head"', '"baseline"', r"\[\[runs\]\] 2, line 19: unknown constant of cifar100_baseline.py: EPOCHS_WARMUP"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), BAD)
def test_bad_plans_get_one_line_with_the_place(old, new, said, tmp_path):
    assert GOOD.count(old) == 1
    with pytest.raises(InputError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert re.search(said, str(caught.value)) and "\n" not in str(caught.value), str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "study.toml"))


def test_the_same_run_twice(tmp_path):
    text = '[decided]\nseeds = [1]\n[[runs]]\nscript = "baseline"\n[[runs]]\nscript = "baseline"\n'
    with pytest.raises(
        InputError, match=r"two jobs would lie in cifar100_baseline_det/seed1: two \[\[runs\]\] say the same"
    ):
        read(tmp_path, text)


def test_two_experiments_of_one_name(tmp_path):
    for name in ("mine.py", "yours.py"):
        (tmp_path / name).write_text((ROOT / "cifar100_baseline.py").read_text())
    text = '[decided]\nseeds = [1]\n[[runs]]\nscript = "mine.py"\n[[runs]]\nscript = "yours.py"\n'
    with pytest.raises(InputError, match=r"mine\.py and yours\.py give their experiments the same name"):
        read_plan(written(tmp_path, text), tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("study.toml", "", "no \\[decided\\]"),
        ("study.toml", "[decided]\nseeds = [1]\n", "no \\[\\[runs\\]\\]"),
        ("study.toml", "runs = 3\n[decided]\nseeds = [1]\n", "runs: expected tables"),
        ("a.state.toml", GOOD, "a plan's file is named by"),
        ("study.toml", GOOD.replace('"0-2"', '"0-99998"'), "more than 100,000 runs"),
    ],
)
def test_files_that_are_no_plan(name, text, said, tmp_path):
    with pytest.raises(InputError, match=said):
        read_plan(written(tmp_path, text, name), ROOT)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"none.toml: no such plan; plans here"):
        read_plan(tmp_path / "none.toml", ROOT)
    (tmp_path / "latin.toml").write_bytes('title = "Müller"'.encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        read_plan(tmp_path / "latin.toml", ROOT)


def test_seeds():
    assert read_seeds("0-2, 7,9-9") == (0, 1, 2, 7, 9) and read_seeds([4, 2]) == (4, 2)


def test_flags_of_constants():
    given = {"EPOCHS": 5, "ALIGN_MAPS": False, "COMPILE": True, "DATA_DIR": "-odd", "MAX_LR": 1e-05}
    assert constant_flags(given) == "--epochs 5 --no-align-maps --compile --data-dir=-odd --max-lr 1e-05".split()


def test_places_of_keys_that_are_written_otherwise(tmp_path):
    text = 'common = {IMG_SIZE = 8}\n[[ runs ]]\n"script" = 1\n'
    where = Places(tmp_path / "x.toml", text)
    assert tomllib.loads(text)
    assert where("common", "IMG_SIZE") == f"{tmp_path / 'x.toml'}, [common]"  # inside another line: the table only
    assert where("runs", "script") == f"{tmp_path / 'x.toml'}, [[runs]] 1, line 3"


def test_the_plan_of_the_page_is_one(tmp_path):
    (text,) = re.findall(r"^```toml\n(.*?)^```$", (ROOT / "docs" / "sweeps.md").read_text(), re.MULTILINE | re.DOTALL)
    plan = read(tmp_path, text)
    assert len(plan.jobs) == 6 * 4 and plan.notes == ()
    named = text.replace('"all"', '["head n_layers=4,epochs_warmup=1"]')  # as the page says
    assert read(tmp_path, named).family == (("cifar100_hybrid_qhead", "n_layers=4,epochs_warmup=1"),)


def test_the_example_is_a_plan():
    plan = read_plan(ROOT / "studies" / "example.toml", ROOT)
    assert len(plan.jobs) == 6 and len(plan.family) == 2 and plan.notes == ()
