"""A plan from flags: `--experiments baseline,head --seeds 0-5 --epochs 5` becomes a TOML file, which is then read."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from qcifar.config import Rule, check, flag
from qcifar.decided import MARGIN, OUTCOME, read_seeds
from qcifar.declared import ScriptText
from qcifar.errors import InputError
from qcifar.files import write_whole
from qcifar.sweep.plan import ELSEWHERE, Plan, at, check_plan, refuse_unknown, script_text


def split_flags(argv: list[str], known: set[str]) -> tuple[list[str], list[str]]:
    """The words of `argv` for sweep.py, and flags for the scripts: those not in `known`, each with its value."""
    ours, scripts = [], []
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or word.split("=")[0] in known:
            ours.append(word)
            continue
        if "=" not in word and words and not words[0].startswith("--"):
            word += "=" + words.pop(0)
        scripts.append(word)
    return ours, scripts


def constant_of(word: str, texts: list[ScriptText]) -> tuple[str, object]:
    """`--epochs=5` -> ("EPOCHS", 5), by the rules of the first script that has it. Raises `InputError`."""
    given, _, value = word.partition("=")
    rules: dict[str, Rule] = {}
    for text in texts:
        rules = text.rules() | rules
    switches = {"--no-" + flag(name)[2:]: name for name, rule in rules.items() if rule.read is bool}
    flags = {flag(name): name for name in rules} | switches
    refuse_unknown("flags of the scripts", "flag", given, flags)
    name = flags[given]
    if name in ELSEWHERE:
        raise InputError(f"{given} cannot be set here: {ELSEWHERE[name]}")
    if rules[name].read is bool:
        if "=" in word:
            raise InputError(f"{given} takes no value, got {value!r}")
        return name, given not in switches
    try:
        found = rules[name].read(value)
    except ValueError:
        raise InputError(f"{name} ({flag(name)}): expected {rules[name].expected}, got {value!r}") from None
    check(name, found, rules[name])
    return name, found


def literal(value) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, float):  # TOML wants digits on both sides of the point, and knows 1e-05
        return repr(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def plan_text(names: list[str], texts: list[ScriptText], controls: list[str], seeds: str, given: dict) -> str:
    """The TOML of a plan: what all scripts have stands under [common], the rest under their [[runs]]."""
    shared = {name: value for name, value in given.items() if all(name in text.rules() for text in texts)}
    lines = [
        f"title = {literal(', '.join(names) + '; seeds ' + seeds)}",
        *(
            "",
            "[decided]",
            f'outcome = "{OUTCOME}"',
            f"margin = {MARGIN}",
            f"seeds = {literal(seeds)}",
            'family = "all"',
        ),
        *("", "[common]", *(f"{name} = {literal(value)}" for name, value in shared.items())),
    ]
    for name, text in zip(names, texts, strict=True):
        own = {key: value for key, value in given.items() if key in text.rules() and key not in shared}
        if controls and "CONTROL" in text.rules():
            own["CONTROL"] = controls
        lines += ["", "[[runs]]", f"script = {literal(name)}", *(f"{key} = {literal(v)}" for key, v in own.items())]
    return "\n".join(lines) + "\n"


def write_plan(
    experiments: str,
    controls: str,
    seeds: str,
    name: str,
    run_dir: str,
    script_flags: list[str],
    home: Path,
    refuse: Callable[[Plan], None] = lambda plan: None,
) -> Path:
    """Write the plan that the flags say to `<RUN_DIR>/plans/<name>.toml`; the same flags name the same file.

    Args:
        refuse: raises `InputError` for a plan that is not to be written; a file that cannot be run would stay.

    Raises:
        InputError: an unknown script, flag or value; a file of that name that says something else.
    """
    names = [part.strip() for part in experiments.split(",") if part.strip()]
    if not names:
        raise InputError("no plan: expected a file, or --experiments baseline,channels,head with --seeds 0-5")
    read_seeds(seeds)
    texts = [script_text("EXPERIMENTS (--experiments)", script, home) for script in names]
    wanted = [part.strip() for part in controls.split(",") if part.strip()]
    if wanted and not any("CONTROL" in text.rules() for text in texts):
        raise InputError(f"CONTROLS (--controls): {', '.join(names)}: no script of these has the constant CONTROL")
    for text in texts:
        for control in wanted if "CONTROL" in text.rules() else ():
            with at(f"--controls, {text.path.name}"):
                check("CONTROL", control, text.rules()["CONTROL"])
    given = dict(constant_of(word, texts) for word in script_flags)
    text = plan_text(names, texts, wanted, seeds, given)
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    stem = name or re.sub(r"[^\w-]", "_", "-".join(Path(script).stem for script in names))[:80] + f"-{digest}"
    path = Path(run_dir or "./runs") / "plans" / f"{stem}.toml"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise InputError(f"{path} is there and says something else; give another --name")
    with at("these flags say no plan"):
        refuse(check_plan(path, text, home, run_dir))
    write_whole(path, lambda file: file.write(text.encode()))
    return path
