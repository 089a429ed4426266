"""What all commands have in common."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from elip.errors import ElipError

P = ParamSpec("P")
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
