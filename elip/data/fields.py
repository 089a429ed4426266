"""What the items of an annotation file must hold, stated as a `TypedDict` and checked in words for people.

    class RetrievalItem(TypedDict):
        image: str
        caption: str | list[str]
        image_id: NotRequired[str | int]

Take `TypedDict` and `NotRequired` from `typing_extensions`. Fields may be str, int, float, lists of these, also of a
fixed length (`tuple[str, str]`), unions and `Literal`s; an item may hold other fields too.
"""

import json
import types
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from typing_extensions import get_type_hints, is_typeddict

from elip.errors import DataError, did_you_mean, shorten

T = TypeVar("T")

_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_WORDS_FOR_MANY: dict[Any, str] = {str: "texts", int: "whole numbers", float: "numbers"}


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


class FieldCheck(Generic[T]):
    """Checks JSON against a type. Values are taken as written: "3" is no number and true no text.

    Args:
        shape: a TypedDict class, or a type such as `list[str]`.
    """

    def __init__(self, shape: type[T]) -> None:
        self.shape = shape
        self._adapter = TypeAdapter(shape)
        self._fields: dict[str, Any] = get_type_hints(shape) if is_typeddict(shape) else {}

    @property
    def fingerprint(self) -> str:
        """A text that differs for types that allow something else."""
        if not self._fields:
            return str(self.shape)
        return str(sorted((name, str(hint)) for name, hint in get_type_hints(self.shape, include_extras=True).items()))

    def parse(self, text: str | bytes) -> T:
        """Return the value of a JSON text.

        Raises:
            DataError: names the field and says what it must be.
        """
        try:
            return self._adapter.validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "json_invalid":
                raise DataError(f"malformed JSON: {first['ctx']['error']}") from error
            raise DataError(self._explain(json.loads(text), first["loc"])) from error

    def _explain(self, value: Any, where: tuple[int | str, ...]) -> str:
        if not where:
            return f"must be {describe(self.shape)}, got {shorten(value)}"
        key = where[0]
        if isinstance(key, int):
            return f"item {key} must be {describe(get_args(self.shape)[0])}, got {shorten(value[key])}"
        if not self._fields:  # a table of any keys
            shape = get_args(self.shape)[1]
            inside = _inside(value[key], shape, where[1:])
            return f"entry {key!r} must be {describe(shape)}, got {shorten(value[key])}{inside}"
        if key not in value:
            near = did_you_mean(key, value.keys() - self._fields.keys())
            return f"field {key!r} is missing.{near or f' The item has: {shorten(list(value))}.'}"
        match get_args(self._fields[key]), where[1:]:
            case (shape,), (int(number), *rest) if is_typeddict(shape):
                return f"field {key!r} item {number}: {FieldCheck(shape)._explain(value[key][number], tuple(rest))}"
        near = did_you_mean(str(value[key]), [arg for arg in get_args(self._fields[key]) if isinstance(arg, str)])
        return f"field {key!r} must be {describe(self._fields[key])}, got {shorten(value[key])}.{near}"


def _inside(value: Any, shape: Any, where: tuple[int | str, ...]) -> str:
    """Return what is wrong deep in a list of lists, "" where nothing more is to be said."""
    for place in where:
        if not isinstance(place, int) or get_origin(shape) is not list:
            return ""
        value, shape = value[place], get_args(shape)[0]
    numbers = "".join(f"[{place}]" for place in where)
    return f", of which {numbers} must be {describe(shape)}, not {shorten(value)}" if where else ""
