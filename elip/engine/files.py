"""Writing files so that nothing half-written is left, and a full disk is told in words."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from elip.errors import ElipError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Return a context in which a failure of the file system becomes an `ElipError` that names `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = _file_system_error(error)
        if reason is None:
            raise
        remedy = "Free some space there" if reason.errno in _FULL else "Make it writable"
        raise ElipError(
            f"cannot write {path}: {reason.strerror or reason}. {remedy}, or choose another folder with output_dir=..."
        ) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Put what `write` writes at `path`: all of it, or on any failure what was there before."""
    part = path.with_name(f"{path.name}.part")
    with writing(path):
        try:
            with part.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a renaming in `folder` survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_system_error(error: BaseException | None) -> OSError | None:
    """Return the `OSError` behind `error`; `torch.save` hides it in a RuntimeError."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error
