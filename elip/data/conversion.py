"""Lines of Python that make an annotation file of one in another form, shown to people; nothing here runs them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from typing_extensions import get_type_hints, is_typeddict

COLUMNS: Mapping[str, Sequence[str]] = {
    field: names.split()
    for field, names in {
        "image": "image images image_path filepath file_path path file_name filename image_name img img_path url",
        "caption": "caption captions text texts title sentence raw comment description alt_text",
        "text": "text caption sentence sent expression",
        "sentence": "sentence sentence2 hypothesis statement text caption",
        "question": "question query",
        "question_id": "question_id questionid qid id",
        "answer": "answer answers",
        "label": "label gold_label",
        "image_id": "image_id imageid img_id",
    }.items()
}
"""Names that columns of other people's files have, by the field that they may fill, the likeliest first."""
ELSE = "COLUMN"
"""Stands in the lines for a column that is for the reader to find."""

_PICTURE = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?)(#\d+|\?.*)?$", re.IGNORECASE)


class Rows(NamedTuple):
    """How a file is read.

    Args:
        modules: to import.
        lines: that leave `rows`, a list of objects.
        columns: names in a row; none where they are not known, and are taken to be those of the fields.
        lists: columns that hold several texts each.
        whole: whether `rows` can be of any form, and may be what is asked for as it is.
    """

    modules: Sequence[str]
    lines: Sequence[str]
    columns: Sequence[str] = ()
    lists: Sequence[str] = ()
    whole: bool = False


def is_picture(cell: str) -> bool:
    """Return whether a text looks like the name or the web address of a picture."""
    return _PICTURE.search(cell) is not None or cell.startswith(("http://", "https://"))


def is_column(cell: str) -> bool:
    """Return whether a text looks like the name of a column."""
    return any(_plain(cell) in names for names in COLUMNS.values())


def find_column(field: str, columns: Sequence[str]) -> str | None:
    """Return the column that is likely to fill a field."""
    by_name = {_plain(column): column for column in columns}
    return next((by_name[name] for name in (field, *COLUMNS.get(field, ())) if name in by_name), None)


def _plain(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def advice(lines: Sequence[str], target: str) -> str:
    """Return the advice to run some lines, and to give what they write."""
    code = "\n".join(f"    {line}" for line in lines)
    return f" To convert it, run in Python\n\n{code}\n\nand give {target} instead."


def conversion(path: Path, rows: Rows, shape: Any) -> str:
    """Return the advice that makes of a file the items of a form.

    Args:
        path: the file.
        rows: how it is read.
        shape: a TypedDict of what an item must hold, or another type of what a small file holds as a whole.

    Returns:
        lines to run and the file to give instead; "" where what is asked for cannot be made of rows.
    """
    if is_typeddict(shape):
        target = str(path.with_name(f"{path.stem}{'_items' * (path.suffix == '.jsonl')}.jsonl"))
        items = _items(
            rows, {name: hint for name, hint in get_type_hints(shape).items() if name in shape.__required_keys__}
        )
        write = 'file.writelines(json.dumps(item) + "\\n" for item in items)'
    else:
        target = str(path.with_name(f"{path.stem}{'_items' * (path.suffix == '.json')}.json"))
        items = _texts(rows) if shape == list[str] else ["items = rows"] if rows.whole else []
        write = "json.dump(items, file)"
    if not items:
        return ""
    lines = [
        f"import {', '.join(sorted({'json', *rows.modules}))}",
        *rows.lines,
        *items,
        f"with open({target!r}, 'w', encoding='utf-8') as file:",
        f"    {write}",
    ]
    missing = any(f'"{ELSE}"' in line for line in items)
    hint = f" For {ELSE} put what fills the field; the columns are: {', '.join(rows.columns)}." if missing else ""
    return hint + advice(lines, target)


def _texts(rows: Rows) -> list[str]:
    column = find_column("answer", rows.columns) or next(iter(rows.columns), None)
    return [f"items = [row[{column!r}] for row in rows]"] if column else ["items = rows"]


def _items(rows: Rows, fields: Mapping[str, Any]) -> list[str]:
    """Return the lines that leave `items` of `rows`."""
    columns = {name: find_column(name, rows.columns) if rows.columns else name for name in fields}
    values = {name: f"row[{column!r}]" if column else f'row["{ELSE}"]' for name, column in columns.items()}
    if {"image", "image_id"} <= fields.keys() and columns["image_id"] is None:
        values["image_id"] = values["image"]  # an id of its own for each picture, over all files
    many = columns.get("caption") in rows.lists
    if {*fields} == {"image", "caption"} and list[str] in (fields["caption"], *get_args(fields["caption"])):
        return [
            "captions = {}",
            "for row in rows:",
            f"    captions.setdefault({values['image']}, []){'.extend' if many else '.append'}({values['caption']})",
            'items = [{"image": image, "caption": texts} for image, texts in captions.items()]',
        ]
    if many:
        values["caption"] = "text"
    pairs = ", ".join(f'"{name}": {value}' for name, value in values.items())
    texts = f" for text in row[{columns['caption']!r}]" if many else ""
    return [f"items = [{{{pairs}}} for row in rows{texts}]"]
