"""Mistakes a user can make, told in words for the user.

Command lines print the message of an `ElipError` on one line and exit with code 2; anything else is a bug of ours and
keeps its traceback. Where a signal ends them (`Interrupted`), they say so on one line and exit with 128 + its
number.
"""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class ElipError(ValueError):
    """What is wrong, where (file, key, item), and what to do about it."""


class ConfigError(ElipError):
    """A config file, an override or a parameter in it is wrong."""


class DataError(ElipError):
    """An annotation file, an item in it or an image is wrong."""


class CheckpointError(ElipError):
    """A checkpoint is missing, damaged, or made for something else."""


class Interrupted(KeyboardInterrupt):
    """A signal asks to end at once.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the name in `known` nearest to `name`, or "" if none is near.

    Near is a name spelt alike, else one of which `name` is a word: "size" for "image_size".
    """
    known = list(known)
    matches = get_close_matches(name, known, n=1) or [other for other in known if name in other.split("_")]
    return f" Did you mean {matches[0]!r}?" if matches else ""


@contextmanager
def located(place: str) -> Iterator[None]:
    """Put `place` (a file and item, a field) in front of a DataError raised inside."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def shorten(value: object, length: int = 80) -> str:
    """Return `value` as Python writes it, cut to `length` characters."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 4] + " ..."
