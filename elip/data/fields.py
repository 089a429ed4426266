"""What the items of an annotation file must hold, stated as a `TypedDict` and checked in words for people.

    class RetrievalItem(TypedDict):
        image: str
        caption: str | list[str]
        image_id: NotRequired[str | int]

Take `TypedDict` and `NotRequired` from `typing_extensions`. Fields may be str, int, float, lists of these, also of a
fixed length (`tuple[str, str]`), unions and `Literal`s; an item may hold other fields too.
"""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from typing_extensions import get_type_hints, is_typeddict

from elip.errors import DataError
from elip.mistakes import explain_item

T = TypeVar("T")


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
            if error.errors()[0]["type"] == "json_invalid":
                raise DataError(f"malformed JSON: {error.errors()[0]['ctx']['error']}") from error
            raise DataError(explain_item(error, json.loads(text), self.shape)) from error


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, as an `object_pairs_hook` of the json module, which would take the last of equal keys.

    Raises:
        ValueError: a key is there twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, number in Counter(key for key, _ in pairs).items() if number > 1)
        raise ValueError(f"the key {twice!r} is there twice in one object; which one is meant?")
    return made


def refuse_repeated_keys(text: str) -> None:
    """Raise an error if an object in a sound JSON text holds a key twice.

    Raises:
        DataError: it does.
    """
    try:
        json.loads(text, object_pairs_hook=unique_keys, parse_int=str)  # Python refuses very long numbers
    except (ValueError, RecursionError) as error:
        raise DataError(str(error)) from error
