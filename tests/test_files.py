"""Files: written whole or not at all, and refused by name before they can do harm."""

import errno
import os
import pickle
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from qcifar.errors import InputError
from qcifar.files import (
    one_at_a_time,
    read_checkpoint,
    read_json,
    read_npz,
    write_checkpoint,
    write_csv,
    write_json,
    write_npz,
)
from tests.helpers.data import Bomb

WRITERS = {
    "json": lambda path: write_json(path, {"top1": 0.5}),
    "csv": lambda path: write_csv(path, [{"epoch": 0, "loss": 0.5}]),
    "npz": lambda path: write_npz(path, index=np.arange(3)),
    "pt": lambda path: write_checkpoint(path, {"weight": torch.arange(3)}),
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(kind, error, tmp_path, monkeypatch):
    path = tmp_path / f"file.{kind}"
    path.write_bytes(b"old")

    def fsync(descriptor):  # the last thing before the file gets its name
        assert path.read_bytes() == b"old"
        raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises((InputError, KeyboardInterrupt)) as caught:
        WRITERS[kind](path)
    assert path.read_bytes() == b"old"
    monkeypatch.undo()
    if isinstance(error, OSError):
        assert f"cannot write {path}" in str(caught.value) and list(tmp_path.iterdir()) == [path]
    WRITERS[kind](path)  # what an interrupted write left behind is not an obstacle
    assert path.read_bytes() != b"old" and list(tmp_path.iterdir()) == [path]


def test_file_then_its_name_are_flushed_to_disk(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, Path.replace

    def flushed(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(path, target):
        done.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "replace", renamed)
    write_json(tmp_path / "a.json", {})
    assert done == ["file", "rename", "folder"]


@pytest.mark.parametrize("failing", ["open", "fsync"])
def test_a_folder_that_cannot_be_flushed_is_no_obstacle(failing, tmp_path, monkeypatch):
    original, refused = getattr(os, failing), []

    def refuse_folders(what, *mode):
        if os.path.isdir(what) if failing == "open" else stat.S_ISDIR(os.fstat(what).st_mode):
            refused.append(what)
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(what, *mode)

    monkeypatch.setattr(os, failing, refuse_folders)
    write_json(tmp_path / "a.json", {"a": 1})
    assert len(refused) == 1 and read_json(tmp_path / "a.json") == {"a": 1}
    if failing == "fsync":
        with pytest.raises(OSError):
            os.fstat(refused[0])  # closed all the same


@pytest.mark.parametrize("kind", WRITERS)
def test_a_place_that_cannot_be_written_is_named(kind, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "new", tmp_path / "file" / "deep" / "new", tmp_path / "folder"):
        with pytest.raises(InputError, match=str(path.parent)):
            WRITERS[kind](path)
    assert (tmp_path / "file").read_text() == "in the way" and list((tmp_path / "folder").iterdir()) == []


def test_nothing_is_executed_when_a_file_is_read(tmp_path):
    marker = tmp_path / "marker"
    np.savez(tmp_path / "a.npz", qvec=np.array([Bomb(marker)], dtype=object))
    torch.save({"model": Bomb(marker)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.npz is damaged"):
        read_npz(tmp_path / "a.npz", ("qvec",))
    with pytest.raises(InputError, match=r"a\.pt is damaged or not a checkpoint"):
        read_checkpoint(tmp_path / "a.pt")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists()  # else the tests that say it did not go off would show nothing


@pytest.mark.parametrize(("read", "name"), [(read_checkpoint, "last.pt"), (lambda path: read_npz(path, ()), "a.npz")])
def test_a_file_that_may_not_be_read_is_not_called_damaged(read, name, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / name).write_bytes(b"...")
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(InputError, match=f"{name} cannot be read: permission denied"):
        read(tmp_path / name)


def test_a_checkpoint_with_one_wrong_byte_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    write_checkpoint(path, {"weight": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[content.find(torch.arange(100.0, 110.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"last\.pt is damaged \(checksum of .*data/0\); delete it"):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_checkpoint_missing_or_truncated(tmp_path, share):
    path = tmp_path / "last.pt"
    with pytest.raises(InputError, match=r"last\.pt: no such file"):
        read_checkpoint(path)
    write_checkpoint(path, {"weight": torch.arange(1000), "epoch": 3})
    assert read_checkpoint(path)["epoch"] == 3 and torch.equal(read_checkpoint(path)["weight"], torch.arange(1000))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"last\.pt is damaged or not a checkpoint"):
        read_checkpoint(path)


def test_one_at_a_time(tmp_path):
    """A second one waits; the lock leaves no file, and is free after an error."""
    path, order = tmp_path / "new" / "cache.npz", []

    def second():
        with one_at_a_time(path):
            order.append("second")

    thread = threading.Thread(target=second)
    with pytest.raises(ValueError, match="broken"), one_at_a_time(path):
        thread.start()
        time.sleep(0.2)
        order.append("first")
        raise ValueError("broken")
    thread.join(timeout=30)
    assert order == ["first", "second"] and list(path.parent.iterdir()) == []


def test_a_lock_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / ".cache.lock").mkdir()
    with (
        pytest.raises(InputError, match=r"cannot lock .*\.cache\.lock: Is a directory"),
        one_at_a_time(tmp_path / "cache"),
    ):
        pass
