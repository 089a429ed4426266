"""Files of other forms than annotation files have: what they are, and the lines that convert them.

A file is told by its content, whatever its name. Nothing in it is run or unpickled, and no archive is unpacked.
"""

import bz2
import csv
import gzip
import json
import lzma
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import get_type_hints, is_typeddict

from elip.data.conversion import Rows, advice, conversion, find_column, is_column, is_picture
from elip.data.encoding import not_utf8, wide_encoding
from elip.data.first_bytes import kind_by_first_bytes
from elip.data.opening import open_file
from elip.errors import DataError, shorten
from elip.mistakes import describe

LINES_SUFFIXES = (".jsonl", ".ndjson")
"""Of files that hold one JSON object a line; all others hold one JSON list."""

_HEAD_BYTES = 1 << 16
_MAX_OBJECT_BYTES = 1 << 30  # a larger JSON object is not read only to tell what it is
_LINES_COMPARED = 20
_NAMES_SHOWN = 12
_PACKED: Mapping[bytes, Any] = {b"\x1f\x8b": gzip, b"BZh": bz2, b"\xfd7zXZ\0": lzma}
_PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".lzma")
_PICKLE = re.compile(rb"\x80[\x02-\x05]|\((dp|lp)\d*\r?\n")
_TEXT_CONTROLS = frozenset(b"\t\n\v\f\r\x1b")
_YAML_SUFFIXES = (".yaml", ".yml")
_YAML_LINE = re.compile(r"\s|#|---|-( |$)|[\w\"'-]+:( |$)")
_YAML_KEY = re.compile(r"(?:- +|  )?[\"']?(\w+)[\"']?:( |$)")
_DELIMITERS = {
    "\t": "tab-separated text (TSV)",
    ",": "comma-separated text (CSV)",
    ";": "semicolon-separated text (CSV)",
    "|": "text with columns parted by |",
}


class Foreign(NamedTuple):
    """What a file is.

    Args:
        kind: in words.
        rows: how it is read, where that can be done in a few lines.
        advice: what else is to be said or done, with the space before it.
    """

    kind: str
    rows: Rows | None = None
    advice: str = ""


def refuse_foreign(path: Path, shape: Any, lists: bool) -> None:
    """Pass a file that looks like JSON of the right form, and refuse others.

    Args:
        path: the file.
        shape: a TypedDict of what an item must hold, for the lines that convert it; or what a small file holds as a
            whole; None if nothing is known.
        lists: whether items are expected, in a list or one a line; else any JSON will do.

    Raises:
        DataError: what the file is and, where that takes only a few lines of Python, how to convert it; or that it
            cannot be read.
    """
    with open_file(path) as file:
        head = file.read(_HEAD_BYTES)
    found = _by_first_bytes(path, head) or _by_text(path, head, lists) or _other_items(path, head, shape)
    if found is not None:
        way = conversion(path, found.rows, shape) if found.rows else ""
        raise DataError(f"{path}: this is {found.kind}. {_needed(shape)}.{found.advice}{way}")


def _needed(shape: Any) -> str:
    if is_typeddict(shape):
        return f"Needed is a JSON list of objects {{{', '.join(get_type_hints(shape))}}}, or one such object a line"
    return "Needed is JSON" if shape is None else f"Needed is JSON, {describe(shape)}"


def _by_first_bytes(path: Path, head: bytes) -> Foreign | None:
    """Return what a file is that is no text in UTF-8."""
    for magic, module in _PACKED.items():
        if head.startswith(magic):
            return _packed(path, module)
    if head.startswith(b"PK\x03\x04"):
        return _zip(path)
    if head.startswith(b"PAR1"):
        return _table(path, "Parquet", pq.read_schema, "pyarrow.parquet", "pyarrow.parquet.read_table({})")
    if head.startswith((b"ARROW1", b"FEA1")):
        return _table(path, "Arrow", _file_schema, "pyarrow", "pyarrow.ipc.open_file({}).read_all()")
    if head.startswith(b"\xff\xff\xff\xff"):
        return _table(path, "Arrow", _stream_schema, "pyarrow", "pyarrow.ipc.open_stream({}).read_all()")
    if _PICKLE.match(head):
        lines = [f"rows = pickle.load(open({str(path)!r}, 'rb'), encoding='latin1')"]
        trust = " Loading a pickle runs what it says: do so only if you trust where it comes from."
        return Foreign("a Python pickle", Rows(["pickle"], lines, whole=True), trust)
    if head[257:262] == b"ustar":
        return Foreign(
            "a tar archive", None, " Shards, to pre-train on, must be named *.tar; other archives be unpacked."
        )
    if (kind := kind_by_first_bytes(head)) is not None:
        return Foreign(kind)
    if wide_encoding(head):
        raise not_utf8(path)
    if any(byte < ord(" ") and byte not in _TEXT_CONTROLS for byte in head):
        return Foreign("a binary file of an unknown kind")
    return None


def _packed(path: Path, module: Any) -> Foreign:
    name = module.__name__
    target = (
        path.with_suffix("") if path.suffix.lower() in _PACKED_SUFFIXES else path.with_name(f"{path.name}.unpacked")
    )
    try:
        with module.open(path) as packed:
            inside = packed.read(_HEAD_BYTES)
    except (OSError, EOFError, lzma.LZMAError) as error:
        return Foreign(f"compressed with {name} and damaged ({error})")
    if inside[257:262] == b"ustar":
        return Foreign(f"a tar archive compressed with {name}", None, " Shards must be named *.tar, *.tar.gz or *.tgz.")
    lines = (
        f"import {name}, shutil",
        f"with {name}.open({str(path)!r}) as packed, open({str(target)!r}, 'wb') as file:",
        "    shutil.copyfileobj(packed, file)",
    )
    return Foreign(f"compressed with {name}", None, advice(lines, str(target)))


def _zip(path: Path) -> Foreign:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        return Foreign(f"a ZIP archive and damaged ({error})")
    if "xl/workbook.xml" in names:
        return Foreign("an Excel workbook", None, " Save it as CSV in UTF-8 and give that, and the way on is shown.")
    if any(name.endswith("data.pkl") for name in names):
        return Foreign("a file of PyTorch's (a checkpoint?)")
    folder = str(path.with_suffix("")) if path.suffix else f"{path}_unpacked"
    lines = ("import zipfile", f"zipfile.ZipFile({str(path)!r}).extractall({folder!r})")
    return Foreign(f"a ZIP archive of {_named(names)}", None, advice(lines, f"one of the files in {folder}"))


def _named(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _file_schema(path: str) -> pa.Schema:
    with pa.OSFile(path) as file:
        return pa.ipc.open_file(file).schema


def _stream_schema(path: str) -> pa.Schema:
    with pa.OSFile(path) as file:
        return pa.ipc.open_stream(file).schema


def _table(path: Path, kind: str, read_schema: Callable[[str], pa.Schema], module: str, reader: str) -> Foreign:
    try:
        schema = read_schema(str(path))
    except (pa.ArrowException, OSError) as error:
        return Foreign(f"a damaged {kind} file ({shorten(str(error))})")
    lines, modules = [f"rows = {reader.format(repr(str(path)))}.to_pylist()"], [module]
    for field in schema:
        content = f"row[{field.name!r}]"
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            content += "['bytes']"
        elif not (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)):
            continue
        folder = str(path.with_name(f"{path.stem}_images"))
        modules.append("os")
        lines += [
            f"os.makedirs({folder!r}, exist_ok=True)",
            "for number, row in enumerate(rows):",
            f"    name = os.path.join({folder!r}, f'{{number:08d}}.jpg')",
            "    with open(name, 'wb') as file:",
            f"        file.write({content})",
            f"    row[{field.name!r}] = os.path.abspath(name)",
        ]
        break
    lists = [field.name for field in schema if pa.types.is_list(field.type) or pa.types.is_large_list(field.type)]
    return Foreign(f"{kind} with the columns {_named(schema.names)}", Rows(modules, lines, schema.names, lists))


def _by_text(path: Path, head: bytes, lists: bool) -> Foreign | None:
    """Return what a text is that is not JSON of the right form; None for what is, or may be, and for no text at all."""
    text = head.decode("utf-8-sig", errors="replace")
    start = text.lstrip()[:1]
    by_line = path.suffix.lower() in LINES_SUFFIXES
    if not start or (start in "[{" and not lists) or start == ("{" if by_line else "["):
        return None
    if start == "[":
        return Foreign("a JSON list, though its name says that it holds one object a line", None, " Name it *.json.")
    if start == "{":
        return _json_object(path, text)
    if not lists and re.match(r'\s*("|-?\d|true\b|false\b|null\b)', text):
        return None
    if "\ufffd" in text[:-1]:
        raise not_utf8(path)
    cut = len(head) == _HEAD_BYTES
    return _json_value(text) or _yaml(path, text) or _table_text(path, text, cut)


def _json_value(text: str) -> Foreign | None:
    """Return what a text is that is JSON, and neither a list nor an object."""
    try:
        return Foreign(f"a single value of JSON, {shorten(json.dumps(json.loads(text)), 40)}")
    except ValueError:
        return None


def _yaml(path: Path, text: str) -> Foreign | None:
    lines = [line.rstrip() for line in text.split("\n") if line.strip()]
    looks_so = all(map(_YAML_LINE.match, lines)) and any(map(_YAML_KEY.match, lines))
    if path.suffix.lower() not in _YAML_SUFFIXES and not looks_so:
        return None
    starts = [place for place, line in enumerate(lines) if line.startswith("-") and not line.startswith("---")]
    if not starts:
        return Foreign("YAML, and no list")
    first = lines[starts[0] : (starts[1:] or [len(lines)])[0]]
    columns = [found[1] for found in map(_YAML_KEY.match, first) if found]
    return Foreign("YAML", Rows(["yaml"], [f"rows = yaml.safe_load({_opened(path)})"], columns, whole=True))


def _table_text(path: Path, text: str, cut: bool) -> Foreign:
    lines = [line for line in text.split("\n") if line.strip()]
    lines = lines[:-1] if cut and len(lines) > 1 else lines
    expected = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    for delimiter, kind in _DELIMITERS.items():
        cells = _cells(lines, delimiter)
        if cells and (any(map(is_column, cells[0])) or any(map(is_picture, cells[-1])) or delimiter == expected):
            return _columns(path, kind, delimiter, cells)
    stripped = f"map(str.strip, {_opened(path)})"
    if is_picture(lines[0].split()[0]) and len(lines[0].split()) > 1:
        code = f"rows = [dict(zip(('image', 'caption'), line.split(None, 1))) for line in {stripped} if line]"
        return Foreign("plain text with a picture and its caption a line", Rows([], [code], ["image", "caption"]))
    code = f"rows = [{{'text': line}} for line in {stripped} if line]"
    return Foreign(f"plain text, which begins {shorten(lines[0].strip(), 40)}", Rows([], [code], ["text"]))


def _cells(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """Return the first rows of a text as parted by a delimiter; none where that does not give columns."""
    options: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if delimiter == "\t" else {"skipinitialspace": True}
    try:
        cells = list(islice(csv.reader(lines, delimiter=delimiter, **options), _LINES_COMPARED))
    except csv.Error:
        return []
    return cells if len(cells[0]) > 1 and len({len(row) for row in cells}) == 1 else []


def _columns(path: Path, kind: str, delimiter: str, cells: Sequence[Sequence[str]]) -> Foreign:
    options = f"delimiter={delimiter!r}, " + (
        "quoting=csv.QUOTE_NONE" if delimiter == "\t" else "skipinitialspace=True"
    )
    sample, headed = cells[-1], any(map(is_column, cells[0]))
    columns = list(cells[0]) if headed else _guessed(sample)
    if headed:
        lines = [f"rows = list(csv.DictReader({_opened(path)}, {options}))"]
        kind = f"{kind} with the columns {_named(columns)}"
    else:
        values = ", ".join(f"{name!r}: row[{place}]{_trimmed(sample[place])}" for place, name in enumerate(columns))
        lines = [f"rows = [{{{values}}} for row in csv.reader({_opened(path)}, {options})]"]
        kind = f"{kind} without names of columns, such as {shorten(list(sample))}"
    web = any(cell.startswith(("http://", "https://")) for cell in sample)
    advice = (
        " Its pictures are on the web: download them first. (img2dataset makes tar shards of them, which pre-training "
        "reads as they are.)"
    )
    return Foreign(kind, Rows(["csv"], lines, columns), advice if web else "")


def _guessed(cells: Sequence[str]) -> list[str]:
    """Return names for columns by one row: the first picture, and of the others the longest text as its caption."""
    names = [f"column {place}" for place in range(len(cells))]
    pictures = [place for place, cell in enumerate(cells) if is_picture(cell)]
    texts = [place for place in range(len(cells)) if place not in pictures]
    if pictures and texts:
        names[pictures[0]] = "image"
        names[max(texts, key=lambda place: len(cells[place]))] = "caption"
    return names


def _trimmed(cell: str) -> str:
    """Return what takes the number of the caption off a picture's name: Flickr30k has `1000.jpg#0`."""
    return ".split('#')[0]" if re.search(r"\.\w+#\d+$", cell) else ""


def _opened(path: Path) -> str:
    return f"open({str(path)!r}, encoding='utf-8-sig', newline='')"


def _other_items(path: Path, head: bytes, shape: Any) -> Foreign | None:
    """Return what the items of a file are that lack fields, where others are likely to fill them."""
    by_line = path.suffix.lower() in LINES_SUFFIXES
    item = _first_item(head.decode("utf-8-sig", errors="replace"), by_line) if is_typeddict(shape) else {}
    missing = shape.__required_keys__ - item.keys() if item else set()
    if not missing:
        return None
    form = "JSON-lines" if by_line else "a JSON list"
    read = f"[json.loads(row) for row in {_opened(path)} if row.strip()]" if by_line else f"json.load({_opened(path)})"
    if {"from", "value"} <= _first(item, "conversations").keys() and "image" in item:
        lines = [
            f"data = {read}",
            "rows = [{'image': one['image'], 'question': ask['value'].replace('<image>', '').strip(),",
            "         'answer': reply['value'], 'caption': reply['value']} for one in data if 'image' in one",
            "        for ask, reply in zip(one['conversations'][::2], one['conversations'][1::2])]",
        ]
        return Foreign(f"{form} of LLaVA's conversations", Rows([], lines, ["image", "question", "answer", "caption"]))
    columns = list(item)
    filled = {field for field in missing if find_column(field, columns)}
    if not filled or missing - filled - {"image_id"}:  # for which the picture stands in
        return None
    several = [name for name, value in item.items() if isinstance(value, list)]
    return Foreign(f"{form} of objects with {_named(columns)}", Rows([], [f"rows = {read}"], columns, several))


def _first_item(text: str, by_line: bool) -> dict[str, Any]:
    """Return the first object of a list, or of lines; empty if there is none, or it is longer than the text."""
    start = text.lstrip() if by_line else text.lstrip()[1:].lstrip()
    try:
        item = json.JSONDecoder().raw_decode(start)[0]
    except (ValueError, RecursionError):
        return {}
    return item if isinstance(item, dict) else {}


def _json_object(path: Path, text: str) -> Foreign:
    """Return what the one JSON object is that stands where a list should."""
    start = f"must be a JSON list [{{...}}, ...], but starts with {shorten(text.lstrip()[:20])}"
    by_line = f"a file with one object a line must end in {LINES_SUFFIXES[0]}"
    if path.stat().st_size > _MAX_OBJECT_BYTES or _goes_on(text):
        raise DataError(f"{path}: {start}; {by_line}")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise not_utf8(path) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} line {error.lineno}, column {error.colno}: malformed JSON: {error.msg}. It {start}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: {start}, and cannot be read ({error})") from error
    source = f"data = json.load(open({str(path)!r}, encoding='utf-8-sig'))"
    found = _coco(data, source) or _karpathy(data, source) or _wrapped(data, source)
    if found is None:
        raise DataError(f"{path}: {start}; {by_line}")
    return found


def _goes_on(text: str) -> bool:
    """Return whether more follows the first object of a text."""
    text = text.lstrip()
    try:
        return bool(text[json.JSONDecoder().raw_decode(text)[1] :].strip())
    except (ValueError, RecursionError):
        return False


def _first(data: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the first entry of a list of objects in `data`, empty if there is none; inside it likewise."""
    inside: Any = data
    for name in names:
        entries = inside.get(name)
        inside = entries[0] if isinstance(entries, list) and entries and isinstance(entries[0], dict) else {}
    return inside


def _coco(data: Mapping[str, Any], source: str) -> Foreign | None:
    picture, annotation = _first(data, "images"), _first(data, "annotations")
    if not {"id", "file_name"} <= picture.keys() or not {"image_id", "caption"} <= annotation.keys():
        return None
    lines = [
        source,
        "names = {image['id']: image['file_name'] for image in data['images']}",
        "rows = [{'image': names[one['image_id']], 'caption': one['caption']} for one in data['annotations']]",
    ]
    return Foreign("a file of COCO captions, pictures and captions apart", Rows([], lines, ["image", "caption"]))


def _karpathy(data: Mapping[str, Any], source: str) -> Foreign | None:
    if not {"filename", "sentences"} <= _first(data, "images").keys() or "raw" not in _first(
        data, "images", "sentences"
    ):
        return None
    splits = sorted({str(image.get("split")) for image in data["images"] if isinstance(image, dict)})
    lines = [
        source,
        "splits = ('train', 'restval')  # or ('val',), ('test',)",
        "rows = [{'image': os.path.join(image.get('filepath', ''), image['filename']), 'caption': one['raw']}",
        "        for image in data['images'] if image.get('split') in splits for one in image['sentences']]",
    ]
    kind = f"a file of Karpathy's splits ({', '.join(splits)}), each picture with its sentences"
    return Foreign(kind, Rows(["os"], lines, ["image", "caption"]))


def _wrapped(data: Mapping[str, Any], source: str) -> Foreign | None:
    """Return how the items are read that lie deeper in an object, or by name or column."""
    values = list(data.values())
    lists = [name for name in data if _first(data, name)]
    if lists:
        name = max(lists, key=lambda one: len(data[one]))
        lines = [source, f"rows = data[{name!r}]"]
        columns = list(_first(data, name))
        kind = f"one JSON object, and its entry {name!r} the list, of objects with {_named(columns)}"
        return Foreign(kind, Rows([], lines, columns))
    if not values:
        return None
    if all(isinstance(value, dict) for value in values):
        lines = [source, "rows = [{'key': key, **row} for key, row in data.items()]"]
        columns = ["key", *values[0]]
        return Foreign(f"a JSON object of objects with {_named(columns[1:])}, by key", Rows([], lines, columns))
    texts = all(isinstance(value, str) for value in values)
    if all(map(is_picture, islice(data, _LINES_COMPARED))) and (texts or _all_lists(values)):
        each = "" if texts else " for text in texts"
        name = "text" if texts else "texts"
        lines = [source, f"rows = [{{'image': image, 'caption': text}} for image, {name} in data.items(){each}]"]
        return Foreign("a JSON object of captions by picture", Rows([], lines, ["image", "caption"]))
    if _all_lists(values) and len({len(value) for value in values}) == 1 and len(values) > 1:
        lines = [source, "rows = [dict(zip(data, row)) for row in zip(*data.values())]"]
        return Foreign(f"a JSON object of columns: {_named(list(data))}", Rows([], lines, list(data)))
    return None


def _all_lists(values: Sequence[Any]) -> bool:
    return all(isinstance(value, list) for value in values)
