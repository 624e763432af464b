"""What was found on a run, in its folder: hardware/results.json, one entry for each setting, written as it is found."""

import time
from pathlib import Path

from qcifar.experiment.finished import FinishedRun
from qcifar.experiment.identity import git_commit
from qcifar.files import read_json, write_json
from qcifar.hardware.scores import no_end, where_it_ends
from qcifar.results import fingerprint_of

FILE = Path("hardware") / "results.json"
# Of two entries that agree in these, the later one stays.
KEY = ("mode", "setting", "sweep", "images", "shots", "sampling_seed")


class Results:
    """The entries of one run."""

    def __init__(self, run: FinishedRun):
        self.path = run.folder / FILE
        names = ("experiment", "variant", "control", "seed", "dataset", "recipe", "best_epoch")
        same = {name: run.result.get(name) for name in names} | {"result": fingerprint_of(run.result)}
        self.content = {**same, "entries": [], "ends": {}}
        if self.path.exists():
            before = read_json(self.path)
            if {name: before.get(name) for name in same} == same:
                self.content = before

    @property
    def entries(self) -> list[dict]:
        return self.content["entries"]

    def add(self, entry: dict) -> None:
        """Write an entry, in place of an older one of the same setting."""
        entry = {**entry, "time": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "commit": git_commit()}
        key = [entry[name] for name in KEY]
        known = [[one[name] for name in KEY] for one in self.entries]
        place = known.index(key) if key in known else len(known)
        self.content["entries"][place : place + 1] = [entry]
        self.content["ends"] = ends_of(self.content["entries"])
        write_json(self.path, self.content)


def ends_of(entries: list[dict]) -> dict[str, dict]:
    """{sweep: at which strength what the run has over the baseline is gone}, for sweeps of one number of images."""
    found = {}
    for sweep, images in sorted({(one["sweep"], one["images"]) for one in entries if one.get("sweep")}):
        rows = sorted(
            (one for one in entries if (one.get("sweep"), one["images"]) == (sweep, images)),
            key=lambda one: one["strength"],
        )
        ideal = next((one for one in entries if one["mode"] == "ideal" and one["images"] == images), None)
        against = [one["scores"]["against_baseline"] for one in rows]
        if ideal is None:
            end = no_end("the ideal circuits were not computed on these images")
        elif all(against) and ideal["scores"]["against_baseline"]:
            end = where_it_ends([one["strength"] for one in rows], against, ideal["scores"]["against_baseline"])
        else:
            reasons = [one["no_baseline"] for one in (ideal, *rows) if one.get("no_baseline")]
            end = no_end(f"not known: {reasons[0] if reasons else 'no run of the baseline was compared with'}")
        found[f"{sweep}, {images} images"] = end
    return found
