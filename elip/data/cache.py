"""Files made from data files once, for all processes and runs: an index, a count, a note that a check was passed."""

import os
import uuid
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from elip.data.messages import missing_file
from elip.errors import DataError

_FORMAT = "1"  # part of every file's name: change it with what the files hold


def cache_folder() -> Path:
    """Return the folder of these files: `ELIP_CACHE`, else ~/.cache/elip. It may be emptied while nothing runs."""
    return Path(os.environ.get("ELIP_CACHE") or Path.home() / ".cache" / "elip")


def cached_file(source: Path, suffix: str, make: Callable[[Path], None]) -> Path:
    """Return the file with this suffix that belongs to the present content of `source`.

    The content is told by path, size and time of change. Processes that ask at the same time wait for the one that
    makes the file, which appears only when it is complete.

    Args:
        source: the file it is made from.
        suffix: what kind of file it is.
        make: writes it to the path it is given.

    Raises:
        DataError: there is no `source`, or the folder cannot be written.
    """
    try:
        stat = source.stat()
    except OSError as error:
        raise DataError(f"{source}: {missing_file(source)}") from error
    content = f"{_FORMAT} {source.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    target = cache_folder() / (sha256(content.encode()).hexdigest()[:24] + suffix)
    if not target.exists():
        try:
            _make_once(target, make)
        except OSError as error:
            raise DataError(
                f"{source}: cannot write its index to {cache_folder()} ({error.strerror or error}). Set the "
                "environment variable ELIP_CACHE to a folder with space that you may write to."
            ) from error
    return target


def _make_once(target: Path, make: Callable[[Path], None]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    with FileLock(f"{target}.lock"):
        if target.exists():
            return
        try:
            make(unfinished)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
