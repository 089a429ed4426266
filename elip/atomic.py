"""Writing files so that nothing half-written is left, and a full disk is told in words."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from elip.errors import ElipError

_NAME = re.compile(r".+\.[0-9a-f]{8}\.part")
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


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Return a context with a new file that takes the place of `path` when it ends well; else that stays as it was.

    The file lies beside `path` at first, under a name that no one can foresee, so that a link laid there leads nowhere
    and two writers never meet. A link at `path` itself is replaced, and what it leads to stays as it is.

    Raises:
        OSError: the file system refuses.
    """
    part, descriptor = _new_part(path)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a loss of power may leave the name and not what it names
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the folder may be gone; the first error says so
            part.unlink()
        raise
    _sync_folder(path.parent)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Put what `write` writes at `path`: all of it, or on any failure what was there before. See `replacing`.

    Raises:
        ElipError: the file system refuses; the message names `path`.
    """
    with writing(path), replacing(path) as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    """Put a text at `path` in UTF-8, as `write_atomically` does.

    Raises:
        ElipError: the file system refuses; the message names `path`.
    """
    write_atomically(path, lambda file: file.write(text.encode()))


def remove_stale_parts(folder: Path, places: Sequence[str] = ("*",)) -> list[Path]:
    """Delete the parts of files whose writers were killed, and return which they were.

    A part that another process is writing is locked by it, and stays. Links are neither followed nor deleted.

    Args:
        folder: where files are written.
        places: patterns of their names, relative to the folder.
    """
    parts = [part for place in places for part in sorted(folder.glob(f"{place}.part"))]
    return [part for part in parts if _remove_if_stale(part)]


def _new_part(path: Path) -> tuple[Path, int]:
    """Return a new file beside `path`, locked as long as its descriptor is open."""
    while True:
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        try:
            descriptor = os.open(part, _NEW, 0o666)
        except OSError as error:
            error.filename = str(path)
            raise
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if part.exists():
            return part, descriptor
        os.close(descriptor)  # another process took it for a stale one just before it was locked


def _remove_if_stale(part: Path) -> bool:
    """Delete a path if it is a part of ours that no process is writing, and return whether it was."""
    if _NAME.fullmatch(part.name) is None:
        return False
    try:
        descriptor = os.open(part, _OLD)
    except OSError:  # a link, a pipe, or gone
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        stale = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if stale:
            part.unlink(missing_ok=True)  # while it is locked, so that a writer who waits for the lock sees it gone
        return stale
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
