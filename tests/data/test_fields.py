"""Checks of an item's fields, and their words."""

import json
from typing import Any, Literal

import pytest
from typing_extensions import NotRequired, TypedDict

from elip.data.fields import FieldCheck
from elip.errors import DataError


class Item(TypedDict):
    image: str
    caption: str | list[str]
    image_id: NotRequired[str | int]
    label: NotRequired[Literal["entailment", "neutral", "contradiction"]]
    box: NotRequired[list[float]]


class Looser(TypedDict):
    image: str


def check(**fields: Any) -> Item:
    return FieldCheck(Item).parse(json.dumps(fields))


def test_an_item_may_hold_less_than_all_and_more_than_known_fields() -> None:
    check(image="a.jpg", caption="a cat", extra={"anything": 1})
    check(image="a.jpg", caption=["a cat", "a dog"], image_id=3, label="neutral", box=[0, 0.5])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "a.jpg", "captions": "a cat"}, r"field 'caption' is missing\. Did you mean 'captions'\?"),
        ({"image": "a.jpg", "zzz": 1}, r"field 'caption' is missing\. The item has: \['image', 'zzz'\]"),
        ({"image": 3, "caption": "a cat"}, r"field 'image' must be text, got 3\."),
        ({"image": True, "caption": "a cat"}, r"field 'image' must be text, got True\."),
        (
            {"image": "a.jpg", "caption": ["a cat", 3]},
            r"field 'caption' must be text or a list of texts, got \['a cat', 3\]",
        ),
        ({"image": "a.jpg", "caption": None}, r"field 'caption' must be text or a list of texts, got None"),
        (
            {"image": "a.jpg", "caption": "", "image_id": 1.5},
            r"field 'image_id' must be text or a whole number, got 1\.5",
        ),
        ({"image": "a.jpg", "caption": "", "box": ["1"]}, r"field 'box' must be a list of numbers, got \['1'\]"),
        (
            {"image": "a.jpg", "caption": "", "label": "nuetral"},
            r"'label' must be 'entailment' or 'neutral' or 'contradiction', got 'nuetral'\. Did you mean 'neutral'\?",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_it_must_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(**fields)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(DataError, match=r"got \['x+ \.\.\.\.$"):
        check(image=["x" * 1000], caption="")


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(DataError, match=r"must be an object \{\.\.\.\}, got 3"):
        FieldCheck(Item).parse("3")


def test_text_that_no_tokenizer_can_read_is_refused() -> None:
    with pytest.raises(DataError, match=r"malformed JSON: .*hex escape"):
        FieldCheck(Item).parse(r'{"image": "a", "caption": "\ud800"}')


def test_checks_of_different_fields_have_different_fingerprints() -> None:
    fingerprints = [FieldCheck(shape).fingerprint for shape in (Item, Looser, list[str], list[int])]
    assert len(set(fingerprints)) == 4
    assert FieldCheck(Item).fingerprint == fingerprints[0]
