"""What is expected and what is wrong, in words for people."""

from typing import Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from elip.mistakes import describe, explain, explain_item, spell


class Item(TypedDict):
    image: str


class Inner(BaseModel):
    rate: float = Field(1.0, gt=0)


class Outer(BaseModel, extra="forbid"):
    inner: Inner = Inner()
    names: list[str] = []


def test_a_config_and_an_item_name_what_they_expect_with_the_same_words() -> None:
    with pytest.raises(ValidationError) as of_config:
        Outer.model_validate_json('{"names": [3]}', strict=True)
    place, message = explain(of_config.value, {"names": [3]}, Outer)
    assert spell(place) == "names[0]"
    assert message.startswith("expected text, got 3.")
    with pytest.raises(ValidationError) as of_item:
        TypeAdapter(Item).validate_json('{"image": 3}', strict=True)
    assert explain_item(of_item.value, {"image": 3}, Item) == "field 'image' must be text, got 3."


def test_a_bound_is_told_at_its_place() -> None:
    with pytest.raises(ValidationError) as error:
        Outer.model_validate_json('{"inner": {"rate": -1.5}}', strict=True)
    place, message = explain(error.value, {"inner": {"rate": -1.5}}, Outer)
    assert (spell(place), message) == ("inner.rate", "expected a number above 0.0, got -1.5.")


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (list[list[float]], "a list of lists"),
        (list[Item], "a list of objects"),
        (tuple[str, str], "a list of 2 texts"),
        (str | None, "text or null"),
        (Item, "an object {...}"),
    ],
)
def test_types_are_described_in_words(shape: Any, words: str) -> None:
    assert describe(shape) == words
