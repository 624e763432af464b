"""Which run is compared with which: pairs of equal recipe and seed, and the same test images."""

from dataclasses import dataclass

import numpy as np

from qcifar.comparison.runs import FinishedRun, Group
from qcifar.decided import BASELINE
from qcifar.errors import InputError
from qcifar.experiment.identity import differences

SHOWN = 4  # differing settings that a reason names


@dataclass(frozen=True)
class Paired:
    """Two groups on the same seeds, in the same order."""

    group: Group
    base: Group
    across: list[str]  # in what their recipes differ; empty where they are the same

    def correct(self) -> tuple[np.ndarray, np.ndarray]:
        """(seeds, images) bool of the group, and of what it is compared with."""
        return tuple(np.stack([run.predictions.correct for run in one.runs]) for one in (self.group, self.base))


def group_runs(runs: list[FinishedRun]) -> list[Group]:
    """Runs that differ in nothing but the seed, the baselines first and planted ones last."""
    groups: dict[tuple, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault((run.dataset, run.recipe, run.experiment, run.variant), []).append(run)
    made = [Group(tuple(sorted(members, key=lambda run: run.seed))) for members in groups.values()]

    def place(group: Group) -> tuple:
        run = group.first
        return run.control == "planted", run.dataset, run.experiment != BASELINE, group.name

    return sorted(made, key=place)


def with_predictions(runs: list[FinishedRun]) -> tuple[list[FinishedRun], list[dict]]:
    """The runs with metrics and with the predictions that their result was made from, and why the others lack them."""
    kept, left_out = [], []
    for run in runs:
        try:
            _ = run.predictions, run.history
            kept.append(run)
        except InputError as error:
            left_out.append({"folder": str(run.folder), "reason": str(error)})
    return kept, left_out


def pair_groups(
    groups: list[Group], against: str = BASELINE, across_recipes: bool = False
) -> tuple[list[Paired], list[dict]]:
    """Each group with that of `against` of the same data set and recipe.

    Args:
        against: name of a group, "experiment" or "experiment variant".
        across_recipes: pair those without such a partner with the one whose recipe differs least.

    Returns:
        The pairs, and {"folder", "reason"} for each run without a partner.
    """
    bases = [group for group in groups if group.name == against]
    pairs, left_out = [], []
    for group in groups:
        if group in bases:
            continue
        candidates = [base for base in bases if base.first.dataset == group.first.dataset]
        same = [base for base in candidates if base.first.recipe == group.first.recipe]
        base = same[0] if same else min(candidates, key=lambda one: len(recipe_differences(one, group)), default=None)
        if base is None or not (same or across_recipes):
            left_out += [{"folder": str(run.folder), "reason": _no_partner(base, group, against)} for run in group.runs]
            continue
        pair, without = _on_common_seeds(group, base, [] if same else recipe_differences(base, group))
        pairs += [pair] if pair.group.runs else []
        left_out += without
    return pairs, left_out


def _no_partner(base: Group | None, group: Group, against: str) -> str:
    if base is None:
        return f"no run of {against} on {group.first.dataset} to compare it with"
    found = recipe_differences(base, group)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return (
        f"recipe {group.first.recipe} differs from {against}'s {base.first.recipe} in "
        f"{', '.join(found[:SHOWN])}{more}; --across-recipes compares them all the same"
    )


def recipe_differences(base: Group, group: Group) -> list[str]:
    """In what the recipes of two groups differ, in words."""
    before, now = (
        {name: value for name, value in one.first.config["identity"].items() if name not in one.first.config["own"]}
        for one in (base, group)
    )
    settings, files = differences(before, now)
    return settings + [f"code of {file}" for file in files]


def _on_common_seeds(group: Group, base: Group, across: list[str]) -> tuple[Paired, list[dict]]:
    partners = {run.seed: run for run in base.runs}
    kept, left_out = [], []
    for run in group.runs:
        partner = partners.get(run.seed)
        if partner is None:
            reason = f"no run of {base.name} with seed {run.seed}"
        elif not run.predictions.of_the_same_images(partner.predictions):
            reason = f"its predictions are of other test images than those of {partner.folder}"
        else:
            kept.append((run, partner))
            continue
        left_out.append({"folder": str(run.folder), "reason": reason})
    kept, others = _on_the_same_images(kept)
    ours, theirs = (tuple(side) for side in zip(*kept, strict=True)) if kept else ((), ())
    return Paired(Group(ours), Group(theirs), across), left_out + others


def _on_the_same_images(pairs: list[tuple[FinishedRun, FinishedRun]]) -> tuple[list, list[dict]]:
    """Those on the test images that most seeds have, in their order, and why the others are left out.

    Images are compared over seeds, too: what one seed says of an image stands beside what the others say of it.
    """
    kinds: list[list] = []
    for pair in pairs:
        alike = (kind for kind in kinds if kind[0][0].predictions.of_the_same_images(pair[0].predictions))
        kind = next(alike, None)
        if kind is None:
            kinds.append([pair])
        else:
            kind.append(pair)
    if not kinds:
        return [], []
    most = max(kinds, key=len)
    reason = f"its predictions are of other test images, or in another order, than those of {most[0][0].folder}"
    others = [{"folder": str(run.folder), "reason": reason} for kind in kinds if kind is not most for run, _ in kind]
    return most, others
