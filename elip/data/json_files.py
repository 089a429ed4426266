"""JSON files of data sets: lists and JSON-lines item by item in bounded memory, small files whole."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, TypeVar

from elip.data.encoding import not_utf8
from elip.data.fields import FieldCheck, refuse_repeated_keys, unique_keys
from elip.data.foreign import LINES_SUFFIXES, refuse_foreign
from elip.data.opening import open_file
from elip.errors import DataError, located, shorten

T = TypeVar("T")

_CHUNK_CHARS = 1 << 20
_MAX_ITEM_CHARS = 1 << 26  # an item that is longer is taken for malformed, so that a slip does not fill the memory


def read_items(path: Path, shape: Any = None) -> Iterator[str]:
    """Yield the JSON text of each item; the items are checked to be JSON objects.

    Files that end in .jsonl or .ndjson hold one object a line (empty lines count for nothing), others one JSON list.

    Args:
        path: the file.
        shape: a TypedDict of what the items should hold, to tell how a file of another form becomes one of them.

    Raises:
        DataError: the file is missing, unreadable, of another form, not UTF-8, holds no item, or is malformed (with
            line and column); an item is no object, or holds a key twice.
    """
    refuse_foreign(path, shape, lists=True)
    number = -1
    with _opened(path) as file:
        items = _read_lines(path, file) if path.suffix.lower() in LINES_SUFFIXES else _JsonList(path, file).items()
        for number, (item, text) in enumerate(items):
            if not isinstance(item, dict):
                raise DataError(f"{path} item {number}: must be an object {{...}}, got {shorten(item)}")
            yield text
    if number < 0:
        raise DataError(f"{path}: holds no items")


def read_json(path: Path, shape: type[T]) -> T:
    """Return the content of a JSON file, checked against a type such as `list[str]` (see `elip.data.fields`).

    Raises:
        DataError: the file is missing, unreadable or malformed, or holds something else.
    """
    refuse_foreign(path, shape, lists=False)
    with _opened(path) as file:
        text = file.read()
    with located(str(path)):
        value = FieldCheck(shape).parse(text)
        refuse_repeated_keys(text)
        return value


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with TextIOWrapper(open_file(path), encoding="utf-8-sig") as file:
            yield file
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error


def _read_lines(path: Path, file: TextIO) -> Iterator[tuple[object, str]]:
    for number, line in enumerate(file, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            yield json.loads(text, object_pairs_hook=unique_keys), text
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number}, column {error.colno}: malformed JSON: {error.msg}") from error
        except (RecursionError, ValueError) as error:
            raise DataError(f"{path} line {number}: cannot be read: {error}") from error


class _JsonList:
    """Reads one JSON list chunk by chunk; holds no more of the file than a chunk and an item."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path = path
        self.file = file
        self.text = ""
        self.position = 0
        self.lines_gone = 0
        self.columns_gone = 0  # of the line that `text` starts in
        self.decoder = json.JSONDecoder(object_pairs_hook=unique_keys)

    def items(self) -> Iterator[tuple[object, str]]:
        """Yield each item and its text."""
        if not self._peek():
            return
        self.position += 1  # behind the bracket
        more = self._peek() != "]"
        while more:
            yield self._value()
            mark = self._peek()
            if mark not in (",", "]"):
                raise self._malformed("expecting ',' or ']' after an item", self.position)
            more = mark == ","
            self.position += more
            self._peek()
        self.position += 1
        if self._peek():
            raise self._malformed("text after the end of the list", self.position)

    def _value(self) -> tuple[object, str]:
        """Return the value that starts at the position, and move behind it."""
        while True:
            try:
                item, end = self.decoder.raw_decode(self.text, self.position)
                break
            except json.JSONDecodeError as error:
                offset = error.pos - self.position
                if len(self.text) - self.position > _MAX_ITEM_CHARS or not self._read_more():
                    raise self._malformed(error.msg, self.position + offset) from error
            except (RecursionError, ValueError) as error:
                raise self._malformed(str(error), self.position) from error
        text = self.text[self.position : end]
        self.position = end
        return item, text

    def _peek(self) -> str:
        """Move to the next character that is not white space and return it, "" at the end of the file."""
        while True:
            while self.position < len(self.text):
                if not self.text[self.position].isspace():
                    return self.text[self.position]
                self.position += 1
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        """Forget what lies behind the position and read on; return whether there was more."""
        gone, rest = self.text[: self.position], self.text[self.position :]
        self.lines_gone += gone.count("\n")
        self.columns_gone = len(gone) - gone.rfind("\n") - 1 + (0 if "\n" in gone else self.columns_gone)
        chunk = self.file.read(max(_CHUNK_CHARS, len(rest)))
        self.text, self.position = rest + chunk, 0
        return bool(chunk)

    def _malformed(self, problem: str, position: int) -> DataError:
        before = self.text[:position]
        line = self.lines_gone + before.count("\n") + 1
        column = len(before) - before.rfind("\n") + (0 if "\n" in before else self.columns_gone)
        return DataError(f"{self.path} line {line}, column {column}: malformed JSON: {problem}")
