"""Checks of numbers that come from a config, told in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from elip.errors import ElipError, did_you_mean


def check_numbers(parameter: str, values: Sequence[Any], whole: bool = False) -> None:
    """Raise an error for the first value that is no number; `parameter` is what they are called."""
    for value in values:
        if not (isinstance(value, int) if whole else is_number(value)) or isinstance(value, bool):
            raise ElipError(f"{parameter}: expected {'whole numbers' if whole else 'numbers'}, got {value!r}.")


def is_number(value: Any) -> bool:
    """Return whether a value is a number; truth values are, as they are in Python."""
    return isinstance(value, int | float)


def check_keys(parameter: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise an error for the first key that is not one of those known."""
    for key in values:
        if key not in known:
            raise ElipError(f"{parameter} has no key {key!r}.{did_you_mean(key, known)} It takes: {', '.join(known)}.")
