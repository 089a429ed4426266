"""Keeps a folder to one run at a time."""

import errno
import fcntl
import json
import logging
import os
import socket
import weakref
from datetime import datetime
from pathlib import Path

from elip.atomic import writing
from elip.errors import ElipError

LOCK_NAME = "run.lock"

_NO_LOCKS_HERE = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
_MAX_HOLDER_BYTES = 4096
logger = logging.getLogger(__name__)


class RunLock:
    """The right of this process to write a run into a folder, until it gives it up or ends, in whatever way.

    It is an advisory lock (`flock`) on the file `run.lock`, in which the holder says who it is. The system takes the
    lock from a process that ends, so a file that a killed one left behind keeps nobody out. Where the file system has
    no such locks, a warning says that nothing guards the folder.

    Args:
        folder: exists and takes files.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ElipError: another process has it, which the message names; or the file cannot be made.
        """
        with writing(self._path):
            self._descriptor = _open_current(self._path)
        _held.add(self)
        holder = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        with writing(self._path):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(holder).encode() + b"\n", 0)

    @property
    def is_in_place(self) -> bool:
        """Whether the file that this process has locked is still the one that others would try to lock."""
        return self._descriptor is not None and _is_at(self._path, self._descriptor)

    def release(self) -> None:
        """Give the lock up, and take its file away; does nothing where it was not taken."""
        if self._descriptor is None:
            return
        if self.is_in_place:
            self._path.unlink(missing_ok=True)
        self.forget()

    def forget(self) -> None:
        """Close the file alone. A forked process must: an open copy would keep the lock when the holder has ended."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        _held.discard(self)


def is_held(folder: Path) -> bool:
    """Return whether a process writes a run into a folder; False where the file system has no locks."""
    try:
        descriptor = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)  # and with it the lock
    return False


_held: "weakref.WeakSet[RunLock]" = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all)


def _open_current(path: Path) -> int:
    """Return the descriptor of the file at `path`, locked; one that its holder has just taken away does not count."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        try:
            _lock(descriptor, path)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ElipError(
            f"{path.parent} is in use by another run: {_holder(descriptor)}. Wait for its end or stop it, or choose "
            "another folder with output_dir=..."
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS_HERE:
            raise
        logger.warning(
            f"the file system of {path.parent} has no locks ({error.strerror}): nothing keeps a second run out of this "
            "folder, so take care to start only one"
        )


def _holder(descriptor: int) -> str:
    """Return in words who has the lock, as the file says."""
    try:
        holder = json.loads(os.pread(descriptor, _MAX_HOLDER_BYTES, 0))
        return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "a process that has only just started"


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False
