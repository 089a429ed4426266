"""What all commands have in common."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from elip.errors import ElipError

P = ParamSpec("P")
STDOUT = "-"
"""Stands for standard output where a file can be named."""
USER_ERROR = 2
"""Exit code for a mistake of the user's, as argparse has it."""


def user_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Return `main` with mistakes of the user's told in one line on stderr and exit code 2; bugs keep a traceback."""

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except ElipError as error:
            print(f"error: {error}", file=sys.stderr)
            return USER_ERROR

    return wrapped


def write(target: str, text: str, option: str) -> None:
    """Write to a file, or to standard output."""
    if target == STDOUT:
        print(text, end="")
        return
    try:
        Path(target).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ElipError(f"{option}: cannot write {target}: {error.strerror}.") from error
