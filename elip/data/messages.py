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
    if not path.parent.is_dir():
        return f"no such file, not even a folder {path.parent}"
    names = [entry.name for entry in islice(path.parent.iterdir(), _NAMES_COMPARED)]
    return f"no such file in {path.parent}.{did_you_mean(path.name, names)}"


def shorten(value: object, length: int = 80) -> str:
    """Return `value` as Python writes it, cut to `length` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 4] + " ..."
