"""What `evaluate_hardware.py` left in the runs' folders: circuits under shots and noise, on chips and devices."""

from dataclasses import dataclass

from qcifar.comparison.figures import Drawn, finish, first_panels, name_axes, panels
from qcifar.comparison.series import COLOURS, INK, MARKERS, Series, plain
from qcifar.comparison.words import interval, number, signed
from qcifar.errors import InputError, count
from qcifar.files import read_json
from qcifar.results import fingerprint_of

FILE = "hardware/results.json"
MODES = {"ideal": "ideal", "shots": "ideal", "noise": "noise", "fake": "fake chip", "device": "device",
         "backend": "backend"}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The results of one run."""

    series: Series
    seed: int
    content: dict  # results.json

    @property
    def label(self) -> str:
        return f"{self.series.label}, seed {self.seed}"

    @property
    def sweeps(self) -> dict[str, list[dict]]:
        """Each sweep, as it was asked for -> its entries on the largest number of images, by strength."""
        swept = [entry for entry in self.content["entries"] if entry["sweep"]]
        images, found = max((entry["images"] for entry in swept), default=0), {}
        for entry in sorted(swept, key=lambda entry: entry["strength"]):
            if entry["images"] == images:
                found.setdefault(entry["sweep"], []).append(entry)
        return found


def find(series: list[Series]) -> tuple[list[Found], list[str]]:
    """The results of all runs that have some, and a sentence for each file that cannot be read."""
    found, trouble = [], []
    for one in series:
        for run in one.group.runs:
            path = run.folder / FILE
            if not path.exists():
                continue
            try:
                content = read_json(path)
                if content["result"] != fingerprint_of(run.result):
                    raise InputError(f"{path} is of an earlier run in this folder; evaluate this one")
                made = Found(one, run.seed, content)
                _rows(made), made.sweeps, sentences([made])  # what a damaged file lacks shows here
                found.append(made)
            except InputError as error:
                trouble.append(str(error))
            except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
                trouble.append(f"{path} is not one of evaluate_hardware.py ({type(error).__name__}: {error})")
    return found, trouble


def table(found: list[Found]) -> dict:
    """All settings of all runs; a mitigated number has a row of its own after the one that it corrects."""
    head = [
        "run", "setting", "mitigated", "shots", "test images", "top-1 (%)", "95 % other images",
        "standard error of repeats", "difference to ideal (points)", "95 % other images", "fixed (images)",
        "broken (images)", "difference to baseline (points)", "rms error of ⟨Z⟩",
        "rms error of α·logits_q", "rms of α·logits_q, ideal",
    ]  # fmt: skip
    return {"head": head, "rows": [row for one in found for row in _rows(one)], "words": 3}


def _rows(found: Found) -> list[list[str]]:
    rows = []
    for entry in found.content["entries"]:
        for how, scores in [("", entry["scores"]), *entry["mitigated"].items()]:
            ideal, base, error = scores["against_ideal"], scores["against_baseline"], scores["standard_error"]
            changes = ["–"] * 4
            if entry["mode"] != "ideal":  # which is not compared with itself
                changes = [
                    signed(ideal["difference"]), interval(ideal["interval"]), f"{ideal['fixed']:g}",
                    f"{ideal['broken']:g}",
                ]  # fmt: skip
            rows.append([
                found.label, plain(f"{MODES[entry['mode']]}: {entry['setting']}"), how or "–",
                f"{entry['shots']:,}" if entry["shots"] else "exact", f"{entry['images']:,}",
                number(100 * scores["top1"]),
                f"[{number(100 * scores['interval'][0])}, {number(100 * scores['interval'][1])}]",
                "–" if error is None else number(100 * error, 3), *changes,
                signed(base["difference"]) if base else "–",
                "–" if entry["mode"] == "ideal" else f"{scores['rms_values']:.2g}",
                "–" if scores["rms_logits"] is None or entry["mode"] == "ideal" else f"{scores['rms_logits']:.2g}",
                "–" if scores["rms_logits_ideal"] is None else f"{scores['rms_logits_ideal']:.2g}",
            ])  # fmt: skip
    return rows


def sentences(found: list[Found]) -> list[str]:
    """What chips made of the circuits, and where the difference from the baseline ends."""
    said = []
    for one in found:
        chips = {}
        for entry in one.content["entries"]:
            for part in entry.get("details") or []:
                chips[part["backend"], part["circuit"]] = part
        for (backend, circuit), part in chips.items():
            said.append(
                f"{one.label}: on {backend}, {circuit} has depth {part['depth']} (before: {part['depth_before']}) and "
                f"{part['two_qubit_gates']} gates on two qubits (before: {part['two_qubit_gates_before']}); best of "
                f"{part['seeds']} transpiler seeds, number {part['seed']}, Qiskit {part['qiskit']}, qubits "
                f"{', '.join(map(str, part['layout']))}."
            )
        for sweep, end in one.content["ends"].items():
            at = "" if end["strength"] is None else f"{end['strength']:.3g}, "
            said.append(f"{one.label}: the difference from the baseline ends ({sweep}): {at}{end['why']}.")
    return said


def figure(found: list[Found]) -> Drawn | None:
    """Paired difference from the ideal circuits against the strength of noise, one panel for each kind of noise."""
    names = list(dict.fromkeys(name for one in found for name in one.sweeps))
    if not names:
        return None
    names, cut = first_panels(names)
    drawn, axes = panels([plain(name) for name in names], 2.0)
    for name, ax in zip(names, axes, strict=True):
        for k, one in enumerate(one for one in found if name in one.sweeps):
            rows, colour = one.sweeps[name], COLOURS[k % len(COLOURS)]
            against = [entry["scores"]["against_ideal"] for entry in rows]
            strengths, middle = [entry["strength"] for entry in rows], [each["difference"] for each in against]
            ends = [[each["interval"][end] for each in against] for end in (0, 1)]
            ax.plot(strengths, middle, marker=MARKERS[k % len(MARKERS)], markersize=3.5, color=colour, label=one.label)
            ax.fill_between(strengths, *ends, color=colour, alpha=0.12, linewidth=0)
            ax.axhline(0, color=INK, linewidth=0.9)
            if min(strengths) > 0:
                ax.set_xscale("log")
                ax.xaxis.set_major_formatter(lambda value, place: f"{value:g}")  # math is text in these figures
        ax.legend(fontsize=6.5)
    name_axes(drawn, "strength of the noise", "top-1 minus ideal (points)")
    images = max(rows[0]["images"] for one in found for rows in one.sweeps.values())
    caption = (
        f"Test top-1 under noise minus that of the ideal circuits of the same run, computed without sampling, n = "
        f"{count(images, 'test image')} at most. Shaded: 95 % for other images, paired (Bonett and Price).{cut}"
    )
    return finish(drawn, "hardware", "Accuracy under noise", caption, caption)
