"""metrics.csv as TensorBoard shows it: event files in the run's folder, where `tensorboard` is installed.

    pip install tensorboard
    tensorboard --logdir runs

They hold nothing that metrics.csv does not hold, no number depends on them, and nothing reads them back. So they are
written anew, with all epochs so far, whenever training begins or goes on, and one epoch is appended at a time: what a
process that was killed left behind cannot count twice. The parts of tensorboard used here do not load TensorFlow.
"""

import numbers
import os
import time
from pathlib import Path

from qcifar import distributed
from qcifar.errors import InputError
from qcifar.files import make_folder

PATTERN = "events.out.tfevents.*"  # the names that TensorBoard looks for


def delete_event_files(folder: Path) -> None:
    for path in folder.glob(PATTERN):
        path.unlink(missing_ok=True)


def empty_event_files(folder: Path) -> None:
    """Leave no event, but the newest file: a TensorBoard that has it open does not go on to another if it is gone."""
    *older, newest = sorted(folder.glob(PATTERN)) or [None]
    for path in older:
        path.unlink()
    if newest is not None:
        os.truncate(newest, 0)


def scalars(row: dict) -> dict[str, float]:
    """The numbers of a row of metrics.csv under grouped names: `train_loss` -> `loss/train`, `lr` -> `run/lr`."""
    found = {}
    for name, value in row.items():
        part, _, what = name.partition("_")
        tag = f"{what}/{part}" if part in ("train", "val") and what else f"run/{name}"
        if isinstance(value, numbers.Real) and not isinstance(value, bool) and name != "epoch":
            found[tag] = float(value)
    return found


class EventFile:
    """The event file of a training that begins or goes on now, in place of those of earlier starts.

    A file that cannot be written ends with one line on the screen; the run goes on.

    Args:
        folder: for event files only; made where tensorboard is installed.
        history: rows of metrics.csv so far, in whose place nothing else may be shown.
    """

    def __init__(self, folder: Path, history: list[dict]):
        self.path = folder / PATTERN.replace("*", str(time.time_ns())) if distributed.rank() == 0 else None
        if self.path is None or not _installed():
            self.path = None
            return
        ended, now = 0.0, time.time()  # seconds of training since the end of an epoch, from the last one back
        events = []
        for row in reversed(history):
            events.append(_epoch(row, now - ended))
            ended += row["seconds"]
        self._write([*_beginning(now - ended), *reversed(events)], anew=True)

    def add(self, row: dict) -> None:
        """Append an epoch."""
        if self.path is not None:
            self._write([_epoch(row, time.time())])

    def _write(self, events: list, anew: bool = False) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        try:
            if anew:
                make_folder(self.path.parent)
                empty_event_files(self.path.parent)
            with self.path.open("ab") as file:
                writer = RecordWriter(file)
                for event in events:
                    writer.write(event.SerializeToString())
        except (InputError, OSError) as error:
            distributed.say(f"no more events for TensorBoard: {error}")
            self.path = None


def _installed() -> bool:
    try:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401
    except Exception:  # not there, or at odds with the protobuf that is there: nothing needs it
        return False
    return True


def _beginning(when: float) -> list:
    """What an event file begins with; a TensorBoard that is open drops all that it has read of this run so far."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    start = SessionLog(status=SessionLog.START)
    return [Event(wall_time=when, file_version="brain.Event:2"), Event(wall_time=when, step=0, session_log=start)]


def _epoch(row: dict, when: float):
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(row).items()]
    return Event(wall_time=when, step=row["epoch"], summary=Summary(value=values))
