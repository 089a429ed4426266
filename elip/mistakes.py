"""What pydantic finds wrong with values of a config or of an annotation file, in plain words."""

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from typing_extensions import get_type_hints, is_typeddict

from elip.errors import did_you_mean, shorten

Place = tuple[str | int, ...]
"""Keys, and indices of lists, that lead to a value."""

_SHOWN = 60  # characters of a wrong value that a message repeats
_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_WORDS_FOR_MANY: dict[Any, str] = {str: "texts", int: "whole numbers", float: "numbers"}
_EXPECTED = {
    "bool_type": _WORDS[bool],
    "int_type": _WORDS[int],
    "float_type": _WORDS[float],
    "finite_number": "a finite number",
    "string_type": _WORDS[str],
    "string_too_short": "text that is not empty",
    "none_required": _WORDS[type(None)],
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping (lines `key: value`)",
    "model_type": "a mapping (lines `key: value`)",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
    "missing": "one value more",
}


def explain(error: ValidationError, values: Any, model: type[BaseModel] | None = None) -> tuple[Place, str]:
    """Return the place of a mistake and what it is; of several mistakes, an unknown key, or else the first.

    Args:
        error: what pydantic raised.
        values: what it was given.
        model: which model it was given to, None for anything but a model.
    """
    found = [(_place(details["loc"], values), details) for details in error.errors(include_url=False)]
    for place, details in found:
        if details["type"] == "extra_forbidden" and model is not None:
            return place, _unknown_key(place, model)
    first = found[0][0]
    place = max((p for p, _ in found if p[: len(first)] == first), key=len)
    return place, _describe([details for p, details in found if p == place])


def explain_item(error: ValidationError, value: Any, shape: Any) -> str:
    """Return what is wrong with JSON that is checked against a plain type, such as an item of an annotation file.

    Of several mistakes it tells the first, with the whole of its field, as that is where the file is to be mended.

    Args:
        error: what pydantic raised.
        value: what it was given.
        shape: which type it was checked against: a TypedDict, or `list[str]`, `dict[str, list[float]]`, ...
    """
    return _explain_item(value, error.errors(include_url=False)[0]["loc"], shape)


def describe(shape: Any) -> str:
    """Return what values a type allows, in words: `str | list[str]` is "text or a list of texts"."""
    origin, args = get_origin(shape), get_args(shape)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return " or ".join(repr(arg) for arg in args)
    if origin in (list, tuple):
        what = _WORDS_FOR_MANY.get(args[0], "lists" if get_origin(args[0]) is list else "objects")
        return f"a list of {len(args)} {what}" if origin is tuple else f"a list of {what}"
    return _WORDS.get(shape, "an object {...}")


def spell(place: Place) -> str:
    """Return a place as a user writes it: `data.train[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def _place(location: Place, values: Any) -> Place:
    """Return the location without what pydantic adds to tell the members of a union apart."""
    place: Place = ()
    for part in location:
        inside: Any = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
        if part in inside:
            values = values[part]
            place = (*place, part)
    missing = isinstance(values, dict) and location and location[-1] not in (*place, "[key]")
    return (*place, location[-1]) if missing else place


def _describe(mistakes: list[ErrorDetails]) -> str:
    """Return what is wrong with one value; several mistakes are ways in which it could have been right."""
    details = mistakes[0]
    kind, value = details["type"], details["input"]
    if kind == "missing" and isinstance(details["loc"][-1], str):
        return "this key is required."
    if kind == "value_error":
        return f"{details['ctx']['error']}".rstrip(".") + "."
    expected = [_EXPECTED[m["type"]].format(**m.get("ctx", {})) for m in mistakes if m["type"] in _EXPECTED]
    if not expected:
        return f"{details['msg'][0].lower()}{details['msg'][1:]}, got {_show(value)}."
    return f"expected {' or '.join(dict.fromkeys(expected))}, got {_show(value)}.{_remedy(kind, value, expected[0])}"


def _remedy(kind: str, value: Any, expected: str) -> str:
    if kind == "literal_error":
        return did_you_mean(str(value), expected.replace("'", "").replace(" or ", ", ").split(", "))
    if kind in ("list_type", "tuple_type") and isinstance(value, str | int | float):
        return f" For a list of one, write [{value}]."
    if kind == "string_type" and isinstance(value, bool | int | float):
        return " If it is meant as text, put it in quotes."
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f" Write {int(value)}."
    return ""


def _show(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _unknown_key(place: Place, model: type[BaseModel]) -> str:
    sections = dict(_sections(model))
    section = tuple(part for part in place[:-1] if isinstance(part, str))
    known = list(sections.get(section, model).model_fields)
    key = str(place[-1])
    hint = did_you_mean(key, known)
    elsewhere = [spell((*at, key)) for at, other in sections.items() if key in other.model_fields]
    if not hint and len(elsewhere) == 1:
        hint = f" Did you mean {elsewhere[0]!r}?"
    return f"unknown key.{hint} Known: {', '.join(known)}."


def _sections(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yield every model inside `model`, itself first, with the keys that lead to it."""
    yield at, model
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _sections(kind, (*at, name))


def _explain_item(value: Any, where: Place, shape: Any) -> str:
    if not where:
        return f"must be {describe(shape)}, got {shorten(value)}"
    key, rest = where[0], where[1:]
    if isinstance(key, int):
        return f"item {key} must be {describe(get_args(shape)[0])}, got {shorten(value[key])}"
    if not is_typeddict(shape):  # a table of any keys
        inner = get_args(shape)[1]
        inside = _inside(value[key], inner, rest)
        return f"entry {key!r} must be {describe(inner)}, got {shorten(value[key])}{inside}"
    fields: dict[str, Any] = get_type_hints(shape)
    if key not in value:
        near = did_you_mean(key, value.keys() - fields.keys())
        return f"field {key!r} is missing.{near or f' The item has: {shorten(list(value))}.'}"
    match get_args(fields[key]), rest:
        case (inner,), (int(number), *deeper) if is_typeddict(inner):
            return f"field {key!r} item {number}: {_explain_item(value[key][number], tuple(deeper), inner)}"
    near = did_you_mean(str(value[key]), [arg for arg in get_args(fields[key]) if isinstance(arg, str)])
    return f"field {key!r} must be {describe(fields[key])}, got {shorten(value[key])}.{near}"


def _inside(value: Any, shape: Any, where: Place) -> str:
    """Return what is wrong deep in a list of lists, "" where nothing more is to be said."""
    for place in where:
        if not isinstance(place, int) or get_origin(shape) is not list:
            return ""
        value, shape = value[place], get_args(shape)[0]
    numbers = "".join(f"[{place}]" for place in where)
    return f", of which {numbers} must be {describe(shape)}, not {shorten(value)}" if where else ""
