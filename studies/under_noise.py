"""Does training under noise help under noise? The heads of a study, as evaluate_hardware.py found them, paired by seed.

    python sweep.py studies/noise.toml --keep best
    for run in runs/noise/cifar100_hybrid_qhead/*/seed*; do
        python evaluate_hardware.py $run --noise depolarizing=0.05
    done
    python studies/under_noise.py runs/noise

Prints test top-1 of heads that were trained with ideal and with noisy circuits, under both, and for each noise that
some were trained under the paired difference of the two kinds, with Student's interval over the seeds. Writes nothing.
"""

import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from qcifar.comparison.statistics import sign_flip, t_interval
from qcifar.config import canonical_noise, settings_from_constants
from qcifar.errors import InputError, run_script
from qcifar.files import read_json

own_rules = {}
arguments = (("folder", None, "run directory of the study, for example runs/noise"),)
Heads = dict[tuple, dict[str, dict[str, float]]]  # (constants but the noise, seed) -> trained -> tested -> top-1


def main(argv=None) -> int:
    heads = found_in(Path(settings_from_constants(globals(), argv, own_rules, arguments).folder))
    noises = sorted({trained for one in heads.values() for trained in one} - {"none"})
    lines = [line for noise in noises for line in compared(heads, noise)]
    if not lines:
        raise InputError(
            "no seed has heads trained with and without a noise, both evaluated under it: see the docstring's commands"
        )
    print("\n".join(lines))
    return 0


def found_in(folder: Path) -> Heads:
    """What evaluate_hardware.py found of the heads below `folder`, top-1 in percent."""
    heads: Heads = defaultdict(dict)
    paths = sorted(folder.glob("cifar100_hybrid_qhead/**/hardware/results.json"))
    if not paths:
        raise InputError(f"{folder}: no head that evaluate_hardware.py evaluated; expected a run directory, runs/noise")
    for path in paths:
        constants = dict(read_json(path.parents[1] / "config.json")["constants"])
        trained, seed = canonical_noise(constants.pop("QUANTUM_NOISE")), constants["SEED"]
        tested, entries = {}, read_json(path)["entries"]
        most = max(entry["images"] for entry in entries)
        for entry in entries:
            if entry["images"] == most and entry["mode"] in ("ideal", "noise"):
                channels = entry["channels"] or {}
                noise = canonical_noise(",".join(f"{n}={s}" for n, s in channels.items()) or "none")
                tested[noise] = 100 * entry["scores"]["top1"]
        same = {name: value for name, value in constants.items() if name not in ("SEED", "RUN_DIR", "DATA_DIR")}
        heads[repr(sorted(same.items())), seed][trained] = tested
    return heads


def compared(heads: Heads, noise: str) -> list[str]:
    """Lines on the heads that were trained with and without `noise`, tested under it and without it."""
    lines = []
    for kind in sorted({kind for kind, _ in heads}):
        pairs = {seed: one for (k, seed), one in sorted(heads.items()) if k == kind and {"none", noise} <= one.keys()}
        for tested in (noise, "none"):
            top1 = np.array(
                [
                    [one[trained][tested] for trained in ("none", noise)]
                    for one in pairs.values()
                    if all(tested in one[trained] for trained in ("none", noise))
                ]
            )  # (seeds, 2)
            if len(top1) == 0:
                continue
            difference = top1[:, 1] - top1[:, 0]
            interval = t_interval(difference, identical=False)
            ends = "no interval" if interval is None else f"95 % [{interval.low:+.2f}, {interval.high:+.2f}]"
            under = "with ideal circuits" if tested == "none" else f"under {tested}"
            lines.append(
                f"tested {under}, {len(top1)} seeds: trained with ideal circuits {top1[:, 0].mean():.2f} %, under "
                f"{noise} {top1[:, 1].mean():.2f} %; difference {difference.mean():+.2f} points, {ends} over seeds, "
                f"sign flip p {sign_flip(difference):.3g}"
            )
    return lines


if __name__ == "__main__":
    run_script(main)
