"""Files that are written whole or not at all: to a temporary name, flushed to disk, then renamed."""

import contextlib
import csv
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from qcifar import distributed
from qcifar.errors import InputError


def make_folder(path: Path) -> Path:
    """Create `path` and its parents. Raises `InputError` where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the folder {path}: {error.strerror}; choose another one") from None
    return path


def write_whole(path: Path, write) -> None:
    """Call `write(binary file)` on a temporary file beside `path`, then rename it to `path`.

    Of several processes, rank 0 writes; all return when the file is there.

    Raises:
        InputError: the file cannot be written.
    """
    distributed.on_first(lambda: _write_whole(path, write))


def _write_whole(path: Path, write) -> None:
    make_folder(path.parent)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")  # two processes may make the same cache
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _flush_folder(path.parent)
    except BaseException as error:
        if path.parent.is_dir():
            partial.unlink(missing_ok=True)
        if not isinstance(error, (OSError, RuntimeError)):  # torch.save says RuntimeError when the disk is full
            raise
        raise InputError(f"cannot write {path}: {error}; is the disk full or read-only?") from None


@contextlib.contextmanager
def one_at_a_time(path: Path):
    """The block runs in one run at a time, for what several runs share and the first of them makes; others wait.

    Of several processes of a run, rank 0 waits for the lock `.<name>.lock` beside `path`. It is free when its owner
    has ended, however that ended.

    Raises:
        InputError: the lock cannot be taken there.
    """
    lock = FileLock(make_folder(path.parent) / f".{path.name}.lock")

    def take():
        try:
            lock.acquire()
        except OSError as error:
            raise InputError(f"cannot lock {lock.lock_file}: {error.strerror}") from None

    distributed.on_first(take)
    try:
        yield
    finally:
        if distributed.rank() == 0:  # who waits for a file that is gone gets it, too, and finds that all is made
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
        lock.release()


def _flush_folder(folder: Path) -> None:
    """Bring a new name to disk, so that a power cut cannot undo it; not every system (Windows) can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read_json(path: Path, remedy: str = "move it away to start over") -> dict:
    """The object in a JSON file. Raises `InputError`, with the remedy, where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path} ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a JSON object, got {type(content).__name__}; {remedy}")
    return content


def write_csv(path: Path, rows: list[dict]) -> None:
    """One line for each row; the columns are those of all rows, and what a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, lambda file: file.write(text.getvalue().encode()))


def write_npz(path: Path, **arrays) -> None:
    write_whole(path, lambda file: np.savez(file, **arrays))


def read_npz(path: Path, keys: tuple[str, ...], remedy: str = "") -> dict[str, np.ndarray]:
    """Read the arrays of an npz file without unpickling anything.

    Args:
        remedy: what to do about a file that is missing or damaged; by default it is to be deleted.

    Raises:
        InputError: the file is truncated, is not an npz, holds pickled objects or lacks one of `keys`.
    """
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("one array, as np.save writes it, in place of an npz file")
        with file:
            content = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file{f'; {remedy}' if remedy else ''}") from None
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied; change its permissions") from None
    except Exception as error:  # zipfile, zlib, ValueError, OSError: all mean the same here
        raise InputError(f"{path} is damaged ({error}); {remedy or 'delete it and run again'}") from None
    missing = [key for key in keys if key not in content]
    if missing:
        raise InputError(
            f"{path}: expected the keys {', '.join(keys)}, found no {', '.join(missing)}; {remedy or 'delete it'}"
        )
    return content


def write_checkpoint(path: Path, content: dict) -> None:
    write_whole(path, lambda file: torch.save(content, file))


def read_checkpoint(path: Path, device: torch.device | str = "cpu", remedy: str = "delete it and run again") -> dict:
    """`torch.load` of tensors and plain values only (`weights_only=True`); `remedy` ends the message of a refusal.

    Raises:
        InputError: no such file, damaged, or with anything in it that would have to be executed.
    """
    try:
        if zipfile.is_zipfile(path):  # as torch.save writes; torch.load does not look at its checksums
            with zipfile.ZipFile(path) as archive:
                if (wrong := archive.testzip()) is not None:
                    raise InputError(f"{path} is damaged (checksum of {wrong}); {remedy}")
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied; change its permissions") from None
    except InputError:
        raise
    except Exception as error:  # torch raises half a dozen types for a damaged file
        first = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is damaged or not a checkpoint ({first}); {remedy}") from None
