"""Files to read: what stands in the way of one is said in words, and nothing is waited for that never comes."""

import os
import stat
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from elip.errors import DataError, did_you_mean

_NAMES_COMPARED = 2000  # finding the nearest of a million image names would take minutes
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def file_status(path: Path) -> os.stat_result:
    """Return the size, times and so on of a regular file, which links may lead to.

    Raises:
        DataError: there is none, or no leave to look; or it is a pipe, a device and so on, which may never end.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{shown(path)}: {missing_file(path)}") from error
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # NUL, or half of a pair of UTF-16
        raise DataError(f"{shown(path)}: no file can have this name: {error}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise DataError(f"{shown(path)}: cannot be read: it is {kind}, not a file")
    return status


def open_file(path: Path) -> BinaryIO:
    """Return a regular file, opened to read bytes.

    Raises:
        DataError: see `file_status`; or there is no leave to read it.
    """
    file_status(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read: {error.strerror}") from error


def missing_file(path: Path) -> str:
    """Return in words that `path` does not exist, with the nearest name in its folder."""
    try:
        names = [entry.name for entry in islice(path.parent.iterdir(), _NAMES_COMPARED)]
    except FileNotFoundError:
        return f"no such file, not even a folder {shown(path.parent)}"
    except OSError:  # a folder whose names may not be read
        names = []
    return f"no such file in {shown(path.parent)}.{did_you_mean(path.name, names)}"


def shown(path: Path) -> str:
    """Return a path for messages: as it is, or as Python writes it where it holds what would garble a line."""
    name = str(path)
    return name if name.isprintable() else repr(name)
