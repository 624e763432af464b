"""What the page says in words and tables: verdicts, recipe, differences of configurations, and what is not shown."""

from collections import Counter

from qcifar.comparison.runs import FinishedRun, Report
from qcifar.comparison.series import Pair, Series, comparison_of, marks_of, short_name
from qcifar.comparison.words import IN_PHASE_A, circuit_weights, interval, listed, number, p_value, signed, span
from qcifar.decided import BASELINE
from qcifar.errors import count

VERDICTS = ("better", "worse", "equivalent", "not worse", "undecided")
NOT_OF_THE_IMAGE = ("noise", "shuffled", "constant", "off", "jitter", "planted")  # controls that see nothing of it


def cards(pairs: list[Pair]) -> list[dict]:
    """One for each comparison: what a reader needs who reads nothing else."""
    found, recipes = [], {(*_name_of(pair), pair.entry["recipe"]) for pair in pairs}
    for pair in pairs:
        entry = pair.entry
        several = sum(known[:-1] == _name_of(pair) for known in recipes) > 1
        sentences = [entry["why"]]
        for seeds, whose in (
            (entry["branch_off_seeds"], ""),
            (entry["branch_off_seeds_baseline"], f" of {short_name(entry['baseline'], '')}"),
        ):
            if seeds:
                sentences.append(
                    f"With seed {listed(seeds)} the epoch{whose} that was tested has the branch off: with SCHEDULE "
                    f"shared {IN_PHASE_A}."
                )
        if entry["across_recipes"]:
            sentences.append(f"The recipes differ in more than the branch: {'; '.join(entry['across_recipes'])}.")
        found.append({
            "name": short_name(entry["experiment"], entry["variant"]) + f" (recipe {entry['recipe']})" * several,
            "experiment": entry["experiment"],
            "marks": marks_of(entry),
            "verdict": entry["verdict"],
            "kind": entry["verdict"].replace(" ", "-"),
            "difference": signed(entry["difference"]),
            "interval": interval(entry["interval_seeds"]) if entry["interval_seeds"] else None,
            "no_interval": "there is one seed" if entry["n_seeds"] == 1 else "all seeds have the same difference",
            "wider": interval(entry["interval_seeds_images"]) if entry["interval_seeds_images"] else None,
            "n": f"{count(entry['n_seeds'], 'paired seed')}, {count(entry['test_images'], 'test image')}",
            "means": f"{number(entry['mean'])} % against {number(entry['mean_baseline'])} %",
            "why": sentences,
        })  # fmt: skip
    return found


def _name_of(pair: Pair) -> tuple:
    return tuple(pair.entry[key] for key in ("experiment", "variant", "dataset"))


def in_short(pairs: list[Pair]) -> str:
    """How many verdicts of each kind."""
    if not pairs:
        return "There is nothing to compare: no run shares its recipe, data and seed with a baseline."
    found = Counter(pair.entry["verdict"] for pair in pairs)
    counted = [f"{found[verdict]} {verdict}" for verdict in VERDICTS if found[verdict]]
    twins = " or a planned twin" if any(pair.entry.get("twin") for pair in pairs) else ""
    return f"{count(len(pairs), 'comparison')} with the baseline{twins}: {listed(counted)}."


def numbers(pairs: list[Pair]) -> dict:
    """The table of all comparisons."""
    head = [
        "experiment", "verdict", "seeds", "top-1 (%)", "baseline (%)", "difference (points)", "95 % other seeds",
        "95 % seeds and images", "p sign-flip", "p t", "p Holm", "p equivalence", "margin (points)",
        "detectable (points)", "rules out gain above", "rules out loss above", "recipe",
    ]  # fmt: skip
    rows = [
        [
            pair.label, entry["verdict"], str(entry["n_seeds"]), number(entry["mean"]), number(entry["mean_baseline"]),
            signed(entry["difference"]), interval(entry["interval_seeds"]), interval(entry["interval_seeds_images"]),
            p_value(entry["p_sign_flip"]), p_value(entry["p_t"]), p_value(entry["p_holm"]),
            p_value(entry["p_equivalence"]), number(entry["margin"]), number(entry["detectable"]),
            number(entry["rules_out_gain_above"]), number(entry["rules_out_loss_above"]), entry["recipe"],
        ]
        for pair in pairs
        for entry in (pair.entry,)
    ]  # fmt: skip
    return {"head": head, "rows": rows, "words": 2}


def mcnemar(pairs: list[Pair]) -> dict:
    """Each seed by itself: images fixed and broken."""
    head = ["experiment", "seed", "fixed (images)", "broken (images)", "p exact"]
    rows = [
        [pair.label, str(one["seed"]), str(one["fixed"]), str(one["broken"]), p_value(one["p"])]
        for pair in pairs
        for one in pair.entry["mcnemar"] or []
    ]
    return {"head": head, "rows": rows, "words": 1}


def dependence(pairs: list[Pair]) -> dict:
    """What the trained networks answer without what their branch says of an image, where there is one."""
    head = [
        "experiment", "seeds", "top-1 (%)", "without its branch (%)", "branch of another image (%)",
        "branch at its mean (%)", "fixed (images)", "broken (images)",
    ]  # fmt: skip
    rows = [
        [
            pair.label, str(len(used["seeds"])), number(used["top1"]), number(used["top1_without"]),
            number(used["top1_shuffled"]), "–" if used["top1_constant"] is None else number(used["top1_constant"]),
            number(used["fixed"], 1), number(used["broken"], 1),
        ]
        for pair in pairs
        if (used := pair.entry["dependence"])
    ]  # fmt: skip
    return {"head": head, "rows": rows, "words": 1}


def runs(series: list[Series]) -> dict:
    """Every run that the report was made of."""
    head = [
        "experiment", "seed", "test top-1 (%)", "top-5 (%)", "validation (%)", "best epoch", "epochs", "training (s)",
        "images/s", "parameters", "circuit weights", "α", "recipe", "precision",
    ]  # fmt: skip
    rows = [
        [
            one.label, str(run.seed), number(run.top1), number(100 * run.result["test_top5"]),
            number(100 * run.result["val_top1"]), str(run.result["best_epoch"]), str(run.result["epochs"]),
            number(run.result["train_seconds"], 0), number(run.result["images_per_second"], 0),
            f"{run.result['params_total']:,}", circuit_weights(run.result) or "–",
            "–" if run.result["alpha"] is None else f"{run.result['alpha']:.3g}", run.recipe, run.result["precision"],
        ]
        for one in series
        for run in one.group.runs
    ]  # fmt: skip
    return {"head": head, "rows": rows, "words": 1}


def secondary(rows: list[dict], labels: dict[tuple, str]) -> dict:
    """Outcomes that were not the one decided on; `labels` has the names, with marks, by `comparison_of`."""
    head = ["experiment", "outcome", "unit", "mean", "baseline", "difference", "95 % other seeds", "p t", "p Holm"]
    cells = [
        [
            _label(row, labels), row["outcome"], row["unit"], number(row["mean"], 3),
            number(row["mean_baseline"], 3), signed(row["difference"], 3), interval(row["interval_seeds"], 3),
            p_value(row["p_t"]), p_value(row["p_holm"]),
        ]
        for row in rows
    ]  # fmt: skip
    return {"head": head, "rows": cells, "words": 3}


def by_class(rows: list[dict], labels: dict[tuple, str]) -> list[dict]:
    """One table for each comparison, superclasses first; `labels` as for `secondary`."""
    tables: dict[tuple, list] = {}
    titles = {comparison_of(row): _label(row, labels) for row in rows}
    for row in sorted(rows, key=lambda row: row["kind"] != "superclass"):
        cells = [row["kind"], row["name"].replace("_", " "), signed(row["difference"]), interval(row["interval_seeds"])]
        tables.setdefault(comparison_of(row), []).append([*cells, p_value(row["p_holm"])])
    head = ["kind", "name", "difference (points)", "95 % other seeds", "p Holm"]
    return [{"title": titles[key], "head": head, "rows": cells, "words": 2} for key, cells in tables.items()]


def _label(row: dict, labels: dict[tuple, str]) -> str:
    return labels.get(comparison_of(row)) or short_name(row["experiment"], row["variant"])


def confusions(series: list[Series], pairs: list[dict]) -> dict:
    head = ["true class", "taken for", *(f"{one.label} (%)" for one in series)]
    rows = [[row["true"], row["predicted"], *(number(share, 1) for share in row["shares"])] for row in pairs]
    return {"head": head, "rows": rows, "words": 2}


def recipe(report: Report) -> list[dict]:
    """What all runs of a recipe share: one table for each recipe code."""
    firsts = {}
    for group in report.groups:
        firsts.setdefault((group.first.dataset, group.first.recipe), group.first)
    tables = []
    for (dataset, code), run in firsts.items():
        shared = {name: value for name, value in run.config["identity"].items() if name not in run.config["own"]}
        rows = [[name, _words(value)] for name, value in shared.items()]
        rows.append(["git_commit", _words(run.config.get("git_commit"))])
        title = f"Recipe {code}, data set {dataset}"
        tables.append({"title": title, "head": ["what", "value"], "rows": rows, "words": 2})
    return tables


def differences(series: list[Series]) -> dict:
    """Entries of the identities in which the groups differ; the seed and the code of each experiment are left out."""
    identities = [one.group.first.config["identity"] for one in series]
    names = dict.fromkeys(name for identity in identities for name in identity if name not in ("SEED", "own_code"))
    rows = []
    for name in names:
        values = [_words(identity[name]) if name in identity else "–" for identity in identities]
        if len(set(values)) > 1:
            rows.append([name, *values])
    return {"head": ["constant", *(one.label for one in series)], "rows": rows, "words": len(series) + 1}


def _words(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)


def plan_words(report: Report) -> list[str]:
    """Whether the runs are those that were decided on; the first sentence is the one that counts."""
    plan = report.summary["plan"]
    if plan is None:
        return [
            "There was no plan: outcome, margin and number of seeds were not fixed before the first run, or "
            "nobody can tell. "
            "Take the verdicts as exploratory."
        ]
    named = f"plan “{plan['title']}” ({plan['name']}), stored {plan['stored']}"
    sentences = [*plan["deviations"], *plan.get("not_recorded", ())]
    return [f"{'As' if plan['as_planned'] else 'Not as'} planned: {named}.", *sentences]


def does_not_show(report: Report, pairs: list[Pair]) -> list[str]:
    """The limits of these runs, each with its number."""
    firsts = [group.first for group in report.groups]
    if not firsts:
        return ["No finished run: nothing."]
    results = [run.result for run in firsts]
    data = sorted({run.dataset for run in firsts})
    seeds = [pair.entry["n_seeds"] for pair in pairs]
    found = [f"Other data. These runs saw {listed(data)} only, at {span([r['img_size'] for r in results])} pixels."]
    if "synthetic" in data:
        found.append("Anything about CIFAR-100 where the data set is SYNTHETIC: those images are made from a seed.")
    if any(pair.entry["planted"] for pair in pairs):
        found.append(
            "Any effect of a circuit where a number is PLANTED: there the effect was put in by hand, to see if "
            "it is found."
        )
    found += _about_circuits(report)
    found.append(
        f"Other networks. The backbone is {listed(sorted({str(r.get('model_name')) for r in results}))}, started from "
        f"{listed(sorted({r['weights'] for r in results}))}; a branch beside a weaker or untrained network may do "
        "more or less."
    )
    found.append(
        "What another recipe would give. Learning rate, schedule and augmentation were chosen for the baseline, "
        "and were not tuned for any experiment."
    )
    if seeds:
        if min(seeds) == 1:
            found.append(
                "Anything about other seeds where there is one seed: a difference of one pair can be the seed's."
            )
        if max(seeds) > 1:
            found.append(
                f"Small effects. With {span(seeds)} paired seeds, a true difference smaller than “detectable” in "
                "the table is "
                "missed with a probability above 20 %; undecided is not equal."
            )
    found.append(
        "Other splits. Training and validation images are the same in all runs; only initial weights, order and "
        "augmentation "
        "follow the seed. The 95 % over seeds holds for these test images; only the wider interval speaks of "
        "other images."
    )
    if report.summary["across_recipes"]:
        found.append(
            "That the branch is the cause where recipes were paired across: those runs differ in more than the branch."
        )
    found.append("Which images a branch helps: classes and images were looked at after the fact, many at a time.")
    return found


def _about_circuits(report: Report) -> list[str]:
    hybrids = [group.first for group in report.groups if group.first.experiment != BASELINE]
    if not hybrids:
        return ["Anything about circuits: there is no hybrid among these runs."]
    qubits = [q for run in hybrids if isinstance(q := run.config["identity"].get("N_QUBITS"), int)]
    devices = sorted({str(run.result.get("quantum_device")) for run in hybrids if run.result.get("quantum_device")})
    size = f" of {span(qubits)} qubits" if qubits else ""
    found = [
        f"Anything about quantum hardware. The circuits{size} are simulated"
        f"{f' (quantum device: {listed(devices)})' if devices else ''}; a classical computer does all of it, so "
        "no advantage over "
        "one can be seen."
    ]
    for experiment in dict.fromkeys(run.experiment for run in hybrids):  # a twin of one says nothing about another
        if not any(run.experiment == experiment and _is_classical(run) for run in hybrids):
            found.append(
                f"That the circuit is the cause in {short_name(experiment, '')}. No run of it here puts a classical "
                "part in the circuit's place, so a gain could come from the added weights and inputs alone."
            )
    return found


def _is_classical(run: FinishedRun) -> bool:
    """Whether something classical that is made of the image, and could do the same work, is in the circuit's place."""
    return run.control not in (None, *NOT_OF_THE_IMAGE) and run.result["quantum_device"] is None
