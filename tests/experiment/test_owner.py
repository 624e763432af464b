"""One process owns a run folder, and a run is continued by the code and the threads that began it."""

import json
import multiprocessing
import shutil

import pytest
import torch

from qcifar.errors import InputError
from qcifar.experiment import code
from qcifar.files import read_json, write_checkpoint
from tests.helpers.scripts import RESNET, SCRIPTS, copy_of_the_code, edit, flags, folder_of, prepare, run, run_file

SHORT = ("--epochs", "1", "--train-limit", "16", "--eval-limit", "16")


def hold(folder, taken, release):
    """Another process that owns the folder."""
    run = prepare("baseline", folder, *SHORT).run
    run.begin()
    taken.set()
    release.wait(60)


@pytest.fixture
def live(tmp_path):
    """The folder of a baseline run that another process is in."""
    context = multiprocessing.get_context("fork")
    taken, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path, taken, release))
    process.start()
    assert taken.wait(60)
    yield folder_of("baseline", tmp_path, *SHORT)
    release.set()
    process.join()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The result and the RUN_DIR of a finished run of the baseline, which no test touches."""
    run_dir = tmp_path_factory.mktemp("trained")
    return run("baseline", run_dir, *SHORT)[0], run_dir


@pytest.fixture
def finished(trained, tmp_path):
    """The result of a finished run, and the folder of a copy of it in this test's RUN_DIR."""
    result, run_dir = trained
    shutil.copytree(run_dir, tmp_path, dirs_exist_ok=True)
    return result, folder_of("baseline", tmp_path, *SHORT)


@pytest.mark.parametrize("more", [(), ("--max-lr", "0.1"), ("--no-resume",)])
def test_a_second_process_is_told_and_changes_nothing(live, tmp_path, more):
    before = {path: path.read_bytes() for path in live.iterdir()}
    with pytest.raises(InputError, match=r"seed42 is in use by another process; wait for it to end"):
        run("baseline", tmp_path, *SHORT, *more)
    assert {path: path.read_bytes() for path in live.iterdir()} == before


def test_the_folder_is_free_after_an_error_and_after_the_end(tmp_path):
    it = prepare("baseline", tmp_path, *SHORT)
    it.run.begin()
    with pytest.raises(ValueError), it.run.why_it_ended():
        raise ValueError
    run("baseline", tmp_path, *SHORT)
    run("baseline", tmp_path, *SHORT, "--no-resume")


def test_what_came_between_looking_and_beginning_is_seen(tmp_path):
    late = prepare("baseline", tmp_path, *SHORT, "--max-lr", "0.1")  # looks at an empty folder
    run("baseline", tmp_path, *SHORT)
    with pytest.raises(InputError, match=r"MAX_LR 0\.0007 -> 0\.1"):
        late.run.begin()
    assert read_json(late.run.config_path)["constants"]["MAX_LR"] == 0.0007


def test_a_lost_config_is_written_again(tmp_path):
    it = prepare("baseline", tmp_path, *SHORT)
    it.run.begin()
    write_checkpoint(it.run.last_path, {"identity": it.run.identity, "model": {}})
    it.run.give_back()
    it.run.config_path.unlink()
    with pytest.raises(InputError, match=r"MAX_LR 0\.0007 -> 0\.5"):
        run("baseline", tmp_path, *SHORT, "--max-lr", "0.5")
    assert not it.run.config_path.exists()
    prepare("baseline", tmp_path, *SHORT).run.begin()
    assert read_json(it.run.config_path)["identity"] == it.run.identity


def test_a_finished_run_that_lost_its_config_is_shown_for_its_own_settings_only(finished, tmp_path):
    result, folder = finished
    for path in ("config.json", "last.pt", "best.pt"):
        (folder / path).unlink()
    with pytest.raises(InputError, match=r"result\.json is not the result of these settings, or config\.json is lost"):
        run("baseline", tmp_path, *SHORT, "--max-lr", "0.5")
    assert run("baseline", tmp_path, *SHORT)[0] == result
    assert read_json(folder / "config.json")["constants"]["MAX_LR"] == 0.0007


def test_other_instructions_of_the_processor_are_another_run(finished, tmp_path, monkeypatch):
    _, folder = finished
    before = read_json(folder / "config.json")["identity"]["instructions"]
    assert before == torch.backends.cpu.get_cpu_capability()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "OTHER")
    with pytest.raises(InputError, match=rf"instructions {before} -> OTHER \(a processor with {before} continues it\)"):
        run("baseline", tmp_path, *SHORT)


def test_other_threads_are_another_run_and_the_remedy_is_named(finished, tmp_path):
    _, folder = finished
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.raises(InputError, match=rf"threads {threads} -> {threads + 1} \(OMP_NUM_THREADS={threads} gives"):
            run("baseline", tmp_path, *SHORT)
    finally:
        torch.set_num_threads(threads)
    assert (folder / "result.json").exists()


@pytest.mark.slow  # five processes; `test_code.py` and `test_folder.py` have its parts
def test_edited_code_is_noticed_and_once_accepted_it_stays_so(tmp_path):
    """Files are edited, and the script is started as a user does: its own module, the script and shared code."""
    script = copy_of_the_code(tmp_path) / "cifar100_baseline.py"
    (tmp_path / "my_scale.py").write_text("loss_scale = 1\n")
    edit(script, "from torch import nn\n", "from torch import nn\n\nfrom my_scale import loss_scale\n")
    argv = flags("baseline", tmp_path / "runs", *SHORT, *RESNET)
    folder = tmp_path / "runs" / "cifar100_baseline_det" / "seed42"

    def started(*more):
        done = run_file(script, *argv, *more)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr.splitlines()[-1] if done.stderr else ""

    assert started()[0] == 0
    first = read_json(folder / "result.json")
    (folder / "result.json").unlink()  # as if it had been stopped before the test
    (tmp_path / "my_scale.py").write_text("loss_scale = 2\n")
    edit(script, "criterion = nn.Cross", "criterion = loss_scale and nn.Cross")
    edit(tmp_path / "qcifar/data/augment.py", "SOURCE = 32", "SOURCE = 64 // 2")
    code, said = started()
    assert code == 2 and "--no-resume deletes it and starts over, --accept-code goes on with it" in said
    assert "other code: qcifar/data/augment.py, cifar100_baseline.py, my_scale.py changed" in said
    assert started("--accept-code")[0] == 0
    result = read_json(folder / "result.json")
    assert result["accepted_code"] and result["recipe"] != first["recipe"]
    assert result["test_loss"] == first["test_loss"]  # nothing was trained by the edited code
    (accepted,) = read_json(folder / "config.json")["accepted_code"]
    assert "my_scale.py" in accepted["own_code"] and "qcifar/data/augment.py" in accepted["code"]
    (folder / "result.json").unlink()  # both checkpoints are of the code before the edits
    assert started()[0] == 0 and read_json(folder / "result.json")["accepted_code"]
    edit(tmp_path / "my_scale.py", "2", "3")
    code, said = started()
    assert code == 2 and "other code: my_scale.py changed" in said


@pytest.mark.slow
def test_identity_is_on_disk_before_training_and_names_all_code(tmp_path):
    for name in SCRIPTS:
        it = prepare(name, tmp_path, *SHORT, *(["--epochs-warmup", "0"] if name == "head" else []))
        it.run.begin()
        stored = json.loads(it.run.config_path.read_text())
        assert stored["identity"]["code"] == code.shared_code()
        assert SCRIPTS[name][0].__name__ + ".py" in stored["identity"]["own_code"]
        it.run.give_back()
    shutil.rmtree(tmp_path / "cifar100_baseline_det" / "seed42")


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.json", "[1]", "expected a JSON object, got list"),
        ("config.json", '{"identity": 3}', "is not one of this test bench"),
        ("config.json", "{}", "is not one of this test bench"),
        ("result.json", "3", "expected a JSON object, got int"),
        ("result.json", '{"variant": ""}', "is not a result of this test bench"),
        ("result.json", '{"variant": null, "test_top1": "good"}', "is not a result of this test bench"),
    ],
)
def test_files_of_the_wrong_form_are_named_in_one_line(file, content, expected, finished, tmp_path):
    _, folder = finished
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=f"{file}.*{expected}") as caught:
        run("baseline", tmp_path, *SHORT)
    assert "\n" not in str(caught.value) and (folder / file).read_text() == content


@pytest.mark.parametrize("name", ["log.txt", "last.pt", "config.json", "tensorboard"])
def test_a_link_is_not_followed_out_of_the_folder(name, tmp_path):
    folder, outside = folder_of("baseline", tmp_path, *SHORT), tmp_path / "outside.txt"
    folder.mkdir(parents=True)
    outside.write_text("mine")
    (folder / name).symlink_to(outside)
    with pytest.raises(InputError):
        run("baseline", tmp_path, *SHORT)
    assert outside.read_text() == "mine"
