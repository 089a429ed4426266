"""Writing files so that nothing half-written is left, and a full disk is told in words."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from elip.errors import ElipError

_PLACES = ("*.part", "eval/*/*.part", "sheets/*.part")
_NAME = re.compile(r".+\.(?:pt|yaml|json|jsonl|png)(?:\.[0-9a-f]{8})?\.part")  # without the number: of earlier versions
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # of a pipe nobody reads, opening would wait


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Return a context in which a failure of the file system becomes an `ElipError` that names `path`."""
    if "\0" in str(path):
        raise ElipError(f"cannot write {str(path)!r}: the name holds a NUL byte. Choose another one.")
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = _file_system_error(error)
        if reason is None:
            raise
        raise ElipError(
            f"cannot write {path}: {reason.strerror or reason}. {_remedy(reason, path)}, or choose another folder with "
            "output_dir=... (or --out, where a command has it)."
        ) from error


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Put what `write` writes at `path`: all of it, or on any failure what was there before.

    It is written beside `path` first, to a new file of a name that no one can foresee, so that a link laid there leads
    nowhere and two writers never meet. A link at `path` itself is replaced, and what it leads to stays as it is.

    Raises:
        ElipError: the file system refuses; the message names `path`.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    with writing(path):
        descriptor = os.open(part, _NEW, 0o666)
        try:
            with open(descriptor, "wb") as file:
                with contextlib.suppress(OSError):  # not every file system has locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                write(file)
                file.flush()
                os.fsync(file.fileno())
                os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the folder may be gone; the first error says so
                part.unlink()
            raise
        _sync_folder(path.parent)


def remove_stale_parts(folder: Path) -> list[Path]:
    """Delete, in the folder of a run, the parts of files whose writers were killed, and return which they were.

    A part that another process is writing is locked by it, and stays. Links are neither followed nor deleted.
    """
    stale = [part for place in _PLACES for part in sorted(folder.glob(place)) if _is_stale(part)]
    for part in stale:
        part.unlink(missing_ok=True)
    return stale


def _is_stale(part: Path) -> bool:
    """Return whether a path is a part of ours that no process is writing."""
    if _NAME.fullmatch(part.name) is None:
        return False
    try:
        descriptor = os.open(part, _OLD)
    except OSError:  # a link, a pipe, or gone
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _remedy(reason: OSError, path: Path) -> str:
    if reason.errno in _FULL:
        return "Free some space there"
    if reason.errno == errno.ENOENT and not path.parent.exists():
        return f"The folder {path.parent} is gone: make it again"
    return "Make it writable"


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
