"""Text files that are not UTF-8: where they are not, and how to make them so."""

import codecs
from pathlib import Path
from typing import NamedTuple

from elip.data.conversion import advice
from elip.errors import DataError, shorten

_CHUNK_BYTES = 1 << 20
_AROUND = 12  # bytes shown on either side
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins with the mark of UTF-16, so it comes first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
"""Encodings by the mark that texts start with."""


def marked_encoding(content: bytes) -> str | None:
    """Return the encoding that the mark at the start of a text tells; None where there is no mark."""
    return next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), None)


def wide_encoding(head: bytes) -> str | None:
    """Return the encoding of a text of two or four bytes a letter, by its first bytes; None for others."""
    marked = marked_encoding(head)
    if marked is not None:
        return None if marked == "utf-8-sig" else marked
    # Without a mark: of plain letters every other byte is 0.
    for encoding, zeros, letters in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
        if len(zeros) > 1 and zeros.count(0) > len(zeros) // 2 and letters.count(0) == 0:
            return encoding
    return None


def decode_text(content: bytes) -> str:
    """Return the text in the bytes of a file: UTF-8, or what the mark at its start says.

    Raises:
        DataError: it is none.
    """
    encoding = marked_encoding(content) or "utf-8"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"no {encoding.upper()} text ({error.reason} at byte {error.start}); if it is in another encoding, convert "
            "it before you pack it, e.g. iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(
            "no UTF-8 text (it holds NUL bytes); if it is UTF-16, convert it before you pack it, e.g. "
            "iconv -f UTF-16LE -t UTF-8"
        )
    return text


def recoding(path: Path, encoding: str) -> str:
    """Return the advice how to make a text UTF-8."""
    target = str(path.with_name(f"{path.stem}_utf8{path.suffix}"))
    lines = (
        "from pathlib import Path",
        f"text = Path({str(path)!r}).read_text(encoding={encoding!r})",
        f"Path({target!r}).write_text(text, encoding='utf-8')",
    )
    return advice(lines, target)


def not_utf8(path: Path) -> DataError:
    """Return the error for a text file that is not UTF-8."""
    with path.open("rb") as file:
        encoding = wide_encoding(file.read(_CHUNK_BYTES))
    if encoding:
        return DataError(f"{path}: is text in {encoding.upper()}, not in UTF-8.{recoding(path, encoding)}")
    bad = _first_bad_byte(path)
    return DataError(
        f"{path}: not UTF-8 text: line {bad.line}, byte {bad.place} of the file. In Windows-1252 (cp1252), which "
        f"such files often are in, the place would read {shorten(bad.around.decode('cp1252', errors='replace'))}."
        f"{recoding(path, 'cp1252')}"
    )


class _BadByte(NamedTuple):
    """Where a file stops being UTF-8: line from 1, place from 0, and the bytes of that line around it."""

    line: int
    place: int
    around: bytes


def _first_bad_byte(path: Path) -> _BadByte:
    start, line, held = 0, 1, b""  # `held` is of a letter that the last chunk cut in two
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK_BYTES)
            block = held + chunk
            try:
                _, used = codecs.utf_8_decode(block, "strict", not chunk)
            except UnicodeDecodeError as error:
                before, after = block[: error.start], block[error.start :]
                around = before[-_AROUND:].rpartition(b"\n")[2] + after[:_AROUND].partition(b"\n")[0]
                return _BadByte(line + before.count(b"\n"), start + error.start, around)
            start, line, held = start + used, line + block[:used].count(b"\n"), block[used:]
            if not chunk:
                raise AssertionError(f"{path} is UTF-8")
