"""README and docs: links and names are real, constants are the scripts', and all code in them runs."""

import ast
import contextlib
import io
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pennylane as qml
import pytest
import torch

from qcifar.config import settings_from_constants
from qcifar.declared import read_script
from qcifar.errors import InputError
from tests.helpers.scripts import ROOT, SCRIPTS, SMALL, module_of

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "studies" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK = [*SMALL, "--epochs", "1", "--train-limit", "32", "--eval-limit", "20"]
BASELINE, DRESSED = "cifar100_baseline.py", "cifar100_dressed_circuit.py"


def blocks(page, *languages):
    """(language, text) of the fenced blocks of a page, in order."""
    return [found for found in FENCE.findall(PAGES[page]) if found[0] in languages]


# ---- docs/extending.md: its blocks are put into the scripts as it says, and its commands are run


def pieces(source):
    """name -> (lines above it, its own lines) of what stands at the left margin; all imports are one piece."""
    lines, found, end = source.splitlines(keepends=True), {}, 0
    for node in ast.parse(source).body:
        match node:
            case ast.Expr():
                name = "docstring"
            case ast.Import() | ast.ImportFrom():
                name = "imports"
            case ast.Assign():
                name = node.targets[0].id
            case _:
                name = getattr(node, "name", type(node).__name__)  # a function, a class, or `if __name__ ...`
        above, text = "".join(lines[end : node.lineno - 1]), "".join(lines[node.lineno - 1 : node.end_lineno])
        if name == "imports" and name in found:
            above, text = found[name][0], found[name][1] + above + text
        found[name], end = (above, text), node.end_lineno
    return found


def edited(source, block):
    """`source` with what `block` defines: in place of what has that name, or above own_rules or prepare."""
    result = pieces(source)
    for name, (above, text) in pieces(block).items():
        if name in result:
            result[name] = result[name][0], result[name][1] + text if name == "imports" else text
            continue
        comments = "".join(re.findall(r"^#.*\n", above, re.MULTILINE))
        space, before = ("", "own_rules") if name.isupper() else ("\n\n", "prepare")
        items = list(result.items())
        items.insert(list(result).index(before), (name, (space + comments, text)))
        result = dict(items)
    return "".join(above + text for above, text in result.values())


def ruff(*arguments):
    """Run ruff with the repository's settings; it must find nothing."""
    command = [sys.executable, "-m", "ruff", *map(str, arguments), "--config", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)  # which tells it what is the project's
    assert done.returncode == 0, done.stdout + done.stderr


def run_command(command, refusal=None):
    """(what `main` returned, what was printed); scripts run in this process, small and on the synthetic set.

    A command with a `refusal` must end with that line, in which … stands for anything.
    """
    program, *words = shlex.split(command)
    if program != "python":
        assert program in ("cp", "diff")
        done = subprocess.run([program, *words], capture_output=True, text=True)
        assert done.stderr == ""
        return None, done.stdout
    module, flags = module_of(Path(words[0]).resolve()), words[1:]
    if words[0] != "compare_runs.py":
        flags = [*QUICK, *(["--epochs-warmup", "0"] if "Qhead" in words[0] else []), *flags]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        if refusal is None:
            return module.main(flags), said.getvalue()
        with pytest.raises(InputError) as caught:
            module.main(flags)
    pattern = ".*".join(map(re.escape, refusal.strip().split("…")))
    assert re.fullmatch(pattern, f"error: {caught.value}", re.DOTALL), caught.value
    return None, said.getvalue()


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The folder of a copy of the scripts after all of docs/extending.md, and command -> (result, what was printed)."""
    folder, done = tmp_path_factory.mktemp("repository"), {}
    for path in ROOT.glob("*.py"):
        shutil.copy(path, folder)
    found = blocks("docs/extending.md", "python", "sh", "text")
    with contextlib.chdir(folder):
        for (language, text), (_, following) in itertools.pairwise([*found, ("", "")]):
            if language == "python":
                title, block = text.split("\n", 1)
                path = folder / title.removeprefix("# ")
                path.write_text(edited(path.read_text(), block))
                ruff("check", "--fix", "--select", "I", path)
            elif language == "sh":
                for command in text.splitlines():
                    done[command] = run_command(command, following if following.startswith("error: ") else None)
    return folder, done


def config(folder, *names):
    return json.loads(folder.joinpath("runs", *names, "config.json").read_text())


@pytest.mark.slow
def test_folders_and_rows_of_the_fourth_experiment_are_those_that_the_page_names(extended):
    folder, done = extended
    (listed,) = [text for _, text in blocks("docs/extending.md", "text") if text.startswith("runs/")]
    rows, recipes = [], set()
    for line in listed.splitlines():
        _, experiment, *variant, seed = Path(line).parts
        found, result = (
            config(folder, experiment, *variant, seed),
            json.loads((folder / line / "result.json").read_text()),
        )
        assert [found["variant"], result["control"]] == [
            "".join(variant),
            None if "baseline" in experiment else "".join(variant).removeprefix("control=") or "quantum",
        ]
        recipes.add(found["recipe"])
        rows.append([experiment, *variant])
    assert len(recipes) == 1
    _, table = done["python compare_runs.py"]
    shown = [line.split() for line in table.splitlines() if line.startswith(("baseline", "cifar100_", "dressed"))]
    names = [" ".join(row).removeprefix("cifar100_").split() for row in rows]
    assert [cells[: len(name)] for cells, name in zip(shown, names, strict=True)] == names
    assert all("undecided" in cells for cells in shown[1:]) and "left out" not in table  # one seed, one recipe


@pytest.mark.slow
def test_the_fourth_experiment_differs_from_the_baseline_where_the_page_says(extended):
    folder, done = extended
    ours, base = (pieces((folder / name).read_text()) for name in (DRESSED, BASELINE))
    assert all(ours[name] == base[name] for name in base if name.isupper() or name in ("main", "If"))
    _, difference = done[f"diff {BASELINE} {DRESSED}"]
    assert len(re.findall("^>", difference, re.MULTILINE)) < 70
    assert read_script(folder / DRESSED).experiment == "cifar100_dressed_circuit"  # as sweep.py and predict.py find it


@pytest.mark.slow
def test_controls_start_alike_and_the_frozen_circuit_keeps_its_weights(extended, tmp_path):
    folder, _ = extended

    def prepared(script, *more):
        module = module_of(folder / script)
        argv = [*QUICK, "--run-dir", str(tmp_path), *more]
        return module.prepare(settings_from_constants(vars(module), argv, module.own_rules)).model

    base = prepared(BASELINE).state_dict()
    models = {name: prepared(DRESSED, "--control", name) for name in ("quantum", "frozen", "linear")}
    states = {name: model.state_dict() for name, model in models.items()}
    for state in states.values():
        assert all(torch.equal(state[f"0.{key}"], value) for key, value in base.items() if not key.startswith("fc."))
        assert all(torch.equal(state[key], states["quantum"][key]) for key in state if not key.startswith("3."))
    assert [sum(p.numel() for p in model[3].parameters()) for model in models.values()] == [16, 16, 16]
    for variant, moved in (("", True), ("control=frozen", False)):
        last = folder / "runs" / "cifar100_dressed_circuit" / variant / "seed42" / "last.pt"
        after = torch.load(last, weights_only=True)["model"]["3.weights"]
        assert torch.equal(after, states["frozen"]["3.weights"]) != moved


@pytest.mark.slow
def test_edited_circuits_have_fingerprints_of_their_own_and_are_compiled(extended):
    folder, done = extended
    head = ("cifar100_hybrid_qhead", "epochs_warmup=0", "seed42")
    before, after = config(folder, *head), config(folder, "reuploading", *head)
    assert before["identity"]["circuits"] != after["identity"]["circuits"] and before["recipe"] == after["recipe"]
    module = SCRIPTS["channels"][0]
    pair = module.make_circuits("default", module.N_QUBITS, module.QUANTUM_DEPTH)
    edge, texture = (module.circuit_fingerprint(circuit, (1, module.N_QUBITS)) for circuit in pair)
    found = config(folder, "differences", "cifar100_quantum_channels", "seed42")["identity"]["circuits"]
    assert found[0] != edge and found[1] == texture
    results = [result for command, (result, _) in done.items() if re.search("reuploading|differences", command)]
    assert [result["quantum_device"] for result in results] == ["fast", "fast"]


@pytest.mark.slow
def test_code_of_the_page_is_formatted_as_the_repository(extended):
    folder, _ = extended
    changed = [path for path in folder.glob("*.py") if path.read_text() != _original(path.name)]
    assert len(changed) == 3
    ruff("check", *changed)
    ruff("format", "--check", *changed)


def _original(name):
    return (ROOT / name).read_text() if (ROOT / name).exists() else None


def test_entries_of_a_result_are_those_of_the_page(calm):
    section = PAGES["docs/run_folder.md"].split("`result.json` has these entries:")[1].split("\n\n")[1]
    named = [name for row in section.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(calm["head"][0])


# ---- the compiler's lines


def run_block(text):
    names = {}
    exec(compile(text, "block", "exec"), names)
    return names


def test_the_compilers_lines_in_the_readme_give_pennylanes_values():
    ((_, text),) = blocks("README.md", "python")
    names = run_block(text)
    inputs, weights = torch.rand(5, 4, dtype=torch.float64), torch.rand(2, 4, 3, dtype=torch.float64)
    node = qml.QNode(names["circuit"], qml.device("default.qubit", wires=4), interface="torch")
    expected = torch.stack(node(inputs, weights), -1)
    torch.testing.assert_close(names["compiled"](inputs, weights).double(), expected, rtol=0, atol=1e-5)
    assert names["values"].shape == (128, 4) and names["weights"].grad.abs().max() > 0


def test_blocks_of_the_compilers_page_run():
    for _, text in blocks("docs/compiler.md", "python")[1:]:
        run_block(text)


@pytest.mark.slow  # a process; `test_imports.py` copies the folder, too
def test_the_compiler_runs_in_another_project(tmp_path):
    """The first block of docs/compiler.md beside a copy of the folder alone."""
    _, alone = blocks("docs/compiler.md", "python")[0]
    ((_, copying),) = blocks("docs/compiler.md", "sh")
    program, how, source, target = shlex.split(copying)
    assert (program, how) == ("cp", "-r")
    shutil.copytree(ROOT / source, tmp_path / Path(target).name)
    (tmp_path / "alone.py").write_text(f"{alone}\nimport sys\n\nassert 'qcifar' not in sys.modules\n")
    done = subprocess.run([sys.executable, "alone.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "probs" in done.stdout and "cannot be compiled" in done.stdout


# ---- names, links and commands


def test_the_readme_is_a_door():
    assert len(PAGES["README.md"].splitlines()) <= 120


def anchors(page):
    """GitHub's anchors of the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", PAGES[page]), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", PAGES[page])):
        path, _, anchor = link.partition("#")
        if not path.startswith(("https://", "http://")):
            target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target.relative_to(ROOT).as_posix()), link


def test_the_tree_names_real_files():
    (tree,) = [text for _, text in blocks("README.md", "text") if "DLfunctions.py" in text]
    parents, count = [ROOT], 0
    for line in tree.splitlines():
        del parents[1 + (len(line) - len(line.lstrip())) // 2 :]
        names = list(itertools.takewhile(re.compile(r"\S+(\.py|/)$").match, line.split()))
        assert names, line
        for name in names:
            path = parents[-1] / name
            assert path.is_dir() if name.endswith("/") else path.is_file(), name
        parents.append(path)
        count += len(names)
    assert count > 15


@pytest.mark.parametrize("page", PAGES)
def test_names_of_tests_files_and_targets_in_the_pages_are_real(page):
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(test_[a-z0-9]+_[a-z0-9]+_\w+)`", PAGES[page]):
        assert f"def {name}(" in sources, name
    for target in re.findall(r"\bmake ([a-z-]+)", "\n".join(re.findall("`.*?`|^ {4}.*", PAGES[page], re.MULTILINE))):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), target
    for name in re.findall(r"`((?:qcifar|tests|benchmarks|docs)/[\w./]+)`", PAGES[page]):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_pages_have_flags_that_exist(page):
    modules = {Path(module.__file__).name: module for module, _ in SCRIPTS.values()}
    code = [text for _, text in FENCE.findall(PAGES[page])] + re.findall(r"^ {4}.*$", PAGES[page], re.MULTILINE)
    for script, flags in re.findall(r"python (cifar100_\w+\.py)(.*)", "\n".join(code)):
        if script in modules:
            given = shlex.split(flags, comments=True)
            settings_from_constants(vars(modules[script]), given, modules[script].own_rules)


def test_constants_of_the_page_are_the_scripts():
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]+?) \|", PAGES["docs/constants.md"], re.MULTILINE))
    given = {}
    for module, _ in SCRIPTS.values():
        settings = settings_from_constants(vars(module), [], module.own_rules)
        given |= {name.upper(): str(value) for name, value in vars(settings).items()}
    assert rows == given


def test_the_engines_lines_in_the_page_on_noise_run():
    ((_, text),) = blocks("docs/noise.md", "python")
    run_block(text)
