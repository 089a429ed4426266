"""Files made from data files once, for all processes and runs: an index, a count, a note that a check was passed."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from elip.atomic import remove_stale_parts, replacing
from elip.data.opening import file_status
from elip.errors import DataError

_FORMAT = "3"  # part of every file's name: change it with what the files hold

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder of these files: `ELIP_CACHE`, else ~/.cache/elip. It may be emptied while nothing runs."""
    return Path(os.environ.get("ELIP_CACHE") or Path.home() / ".cache" / "elip")


def cached_file(
    source: Path, suffix: str, make: Callable[[BinaryIO], object], check: Callable[[Path], object] = Path.read_bytes
) -> Path:
    """Return the file with this suffix that belongs to the present content of `source`.

    The content is told by path, size and times of change, of which one cannot be set by hand. Processes that ask at the
    same time wait for the one that makes the file, which appears only when it is complete. One that is damaged all the
    same is made once more.

    Args:
        source: the file it is made from.
        suffix: what kind of file it is.
        make: writes it to the file it is given.
        check: fails, with whatever exception, on a damaged one. It is called whenever the file is asked for, and should
            cost little.

    Raises:
        DataError: there is no `source`, the folder cannot be written, or what was made is damaged at once.
    """
    status = file_status(source)
    content = f"{_FORMAT} {source.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
    target = cache_folder() / (sha256(content.encode(errors="surrogateescape")).hexdigest()[:24] + suffix)
    try:
        if _damage(target, check) is not None:
            _make_once(target, make, check)
            damage = _damage(target, check)
            if damage is not None:
                raise DataError(
                    f"{source}: what was made from it is damaged at once: {target} ({damage}). Set the environment "
                    "variable ELIP_CACHE to a folder on another disk."
                )
    except (OSError, NotImplementedError) as error:  # the latter of file systems without locks
        raise DataError(
            f"{source}: cannot write its index to {cache_folder()} ({error}). Set the "
            "environment variable ELIP_CACHE to a folder with space that you may write to."
        ) from error
    return target


def _damage(target: Path, check: Callable[[Path], object]) -> str | None:
    """Return what is wrong with a file, "missing" of one that is not there, None of a sound one."""
    if not target.exists():
        return "missing"
    try:
        check(target)
    except Exception as error:  # readers of damaged files raise anything
        return f"{type(error).__name__}: {error}"
    return None


def _make_once(target: Path, make: Callable[[BinaryIO], object], check: Callable[[Path], object]) -> None:
    """Put a sound file at `target`, unless another process has done so meanwhile."""
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    with _locked(target):
        damage = _damage(target, check)
        if damage is None:
            return
        if damage != "missing":
            logger.warning("%s is damaged and made once more (%s)", target, damage)
        with replacing(target) as file:
            make(file)


@contextlib.contextmanager
def _locked(target: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of a file, and leave no trace of it.

    Who waits for it meanwhile still gets it, and finds the file made. At worst two processes make it, each as a whole.
    """
    lock = Path(f"{target}.lock")
    with FileLock(lock, timeout=timeout):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@functools.cache  # once a process is enough, and many shards make many files
def _remove_stale(folder: Path) -> None:
    """Delete what killed processes have left: unfinished files and locks that nobody holds."""
    remove_stale_parts(folder)
    for lock in folder.glob("*.lock"):
        with contextlib.suppress(OSError, Timeout), _locked(lock.with_suffix(""), timeout=0):
            pass
