"""Words for broken data: where it is, and what lies near."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from elip.errors import DataError, did_you_mean

_NAMES_COMPARED = 2000  # finding the nearest of a million image names would take minutes


@contextmanager
def located(place: str) -> Iterator[None]:
    """Put `place` (a file and item, a field) in front of a DataError raised inside."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


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


def shorten(value: object, length: int = 80) -> str:
    """Return `value` as Python writes it, cut to `length` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 4] + " ..."
