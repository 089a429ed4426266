"""What all commands have in common."""

import functools
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from elip.atomic import replacing
from elip.errors import ElipError, Interrupted

P = ParamSpec("P")
STDOUT = "-"
"""Stands for standard output where a file can be named."""
USER_ERROR = 2
"""Exit code for a mistake of the user's, as argparse has it."""


def user_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Return `main` with mistakes of the user's told in one line on stderr and exit code 2; bugs keep a traceback.

    A command that a signal ends says so in one line too, with exit code 128 + the number of the signal, as shells do.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            _check_words(args[0] if args else kwargs.get("argv"))
            return main(*args, **kwargs)
        except ElipError as error:
            print(f"error: {error}", file=sys.stderr)
            return USER_ERROR
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Interrupted) else signal.SIGINT
            print(f"stopped by {signal.Signals(number).name}", file=sys.stderr)
            return 128 + number

    return wrapped


def _check_words(argv: object) -> None:
    """Raise an error for a word on the command line that can name nothing; no operating system passes one on."""
    for word in argv if isinstance(argv, list | tuple) else []:
        if isinstance(word, str) and "\0" in word:
            raise ElipError(f"command line: {word!r} holds a NUL character, which no name and no path has. Remove it.")


def write(target: str, content: str | bytes, option: str) -> None:
    """Write to a file, all or nothing, or to standard output."""
    if target == STDOUT:
        print(content, end="")
        return
    path, data = Path(target), content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not path.is_file():  # a device or a pipe is written into, and stays what it is
            path.write_bytes(data)
            return
        with replacing(path) as file:
            file.write(data)
    except OSError as error:
        raise ElipError(f"{option}: cannot write {target}: {error.strerror}.") from error
