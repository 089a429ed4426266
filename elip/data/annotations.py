"""Annotation files as lists that cost every process next to nothing.

JSON is converted once to Arrow files in a cache folder, which all processes of a machine map into memory: 14 million
pairs are neither parsed at every start nor copied into every loader process.
"""

import json
import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import pyarrow as pa

from elip.data.cache import cache_folder, cached_file
from elip.data.fields import FieldCheck
from elip.data.json_files import read_items
from elip.errors import DataError, located

ItemT = TypeVar("ItemT")

_SCHEMA = pa.schema([("item", pa.binary())])
_ROWS_PER_BATCH = 8192
_DIGEST = b"sha256"  # of all items, in the metadata of the last batch of a table

logger = logging.getLogger(__name__)


class Annotations(Generic[ItemT]):
    """The items of one or several annotation files, one after the other, by index from 0.

    Made by `load_annotations`. Handing it to another process hands over file names only.

    Args:
        sources: the annotation files, for messages.
        tables: the Arrow file made from each of them.
    """

    def __init__(self, sources: Sequence[Path], tables: Sequence[Path]) -> None:
        self.sources = tuple(sources)
        self._paths = tuple(tables)
        columns = [_map_table(path) for path in tables]
        self._ends = list(accumulate(len(column) for column in columns))
        self._column = pa.chunked_array([chunk for column in columns for chunk in column.chunks], _SCHEMA.field(0).type)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> ItemT:
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return _parse(self._column[index].as_py())

    def __iter__(self) -> Iterator[ItemT]:
        return (_parse(text) for chunk in self._column.chunks for text in chunk.to_pylist())

    def where(self, index: int) -> str:
        """Return the file and the number, counted from 0, of an item in it: "train.json item 17"."""
        file = bisect_right(self._ends, index)
        start = self._ends[file - 1] if file else 0
        return f"{self.sources[file]} item {index - start}"

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return what tells the content of the files, in their order: file, count of items, sha256 of the items."""
        starts = [0, *self._ends[:-1]]
        return [
            {"file": str(source), "count": end - start, "sha256": _digest(table)}
            for source, table, start, end in zip(self.sources, self._paths, starts, self._ends, strict=True)
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.sources, self._paths)


def load_annotations(paths: Sequence[str | Path], fields: type[ItemT]) -> Annotations[ItemT]:
    """Return the items of the files, in their order, checked against `fields`.

    Args:
        paths: JSON lists, or JSON-lines files that end in .jsonl.
        fields: a TypedDict of the fields an item must hold (see `elip.data.fields`). A file found right once is not
            checked against the same fields again until it changes.

    Raises:
        DataError: a file is missing or malformed, or an item lacks a field or has one of the wrong type; the cache
            folder (`ELIP_CACHE`, else ~/.cache/elip) cannot be written.
    """
    if not paths:
        raise DataError("no annotation file is given: name at least one .json or .jsonl file")
    sources = [Path(path) for path in paths]
    check = FieldCheck(fields)
    return Annotations(sources, [_checked_table(source, check) for source in sources])


def _checked_table(source: Path, check: FieldCheck[Any]) -> Path:
    """Return the Arrow file of `source`; both it and the check are done once for all processes and runs."""
    table = cached_file(source, ".arrow", lambda file: _convert(source, file, check.shape), _check_table)
    allowed = sha256(check.fingerprint.encode()).hexdigest()[:8]
    cached_file(source, f".{allowed}.checked", lambda _: _check_items(source, table, check))
    return table


def _convert(source: Path, table: BinaryIO, shape: Any) -> None:
    logger.info("indexing %s", source)
    items, digest = read_items(source, shape), sha256()
    with pa.ipc.new_file(table, _SCHEMA) as writer:
        while rows := [text.encode() for text in islice(items, _ROWS_PER_BATCH)]:
            writer.write_batch(_batch(rows))
            for row in rows:
                digest.update(row + b"\n")
        # The file's head is written before its items are known, so what is known of them all goes to its end.
        writer.write_batch(_batch([]), custom_metadata={_DIGEST: digest.hexdigest()})


def _batch(rows: list[bytes]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(rows, pa.binary())], schema=_SCHEMA)


def _digest(table: Path) -> str:
    reader = pa.ipc.open_file(pa.memory_map(str(table)))
    return reader.get_batch_with_custom_metadata(reader.num_record_batches - 1).custom_metadata[_DIGEST].decode()


def _check_items(source: Path, table: Path, check: FieldCheck[Any]) -> None:
    for number, item in enumerate(_map_table(table)):
        with located(f"{source} item {number}"):
            check.parse(item.as_py())


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"its copy in the cache is damaged ({error}): delete the files in {cache_folder()}") from error


def _check_table(table: Path) -> None:
    """Fail if an Arrow file is damaged, as far as can be told without reading the items."""
    _digest(table)
    _map_table(table).validate(full=True)


def _map_table(path: Path) -> pa.ChunkedArray:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all().column(0)
