"""What pydantic finds wrong with the values of a config, in plain words."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from elip.errors import did_you_mean

Place = tuple[str | int, ...]
"""Keys, and indices of lists, that lead to a value."""

_SHOWN = 60  # characters of a wrong value that a message repeats
_EXPECTED = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "none_required": "null",
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
