"""Claims about one picture, true or false as asked for: the matter of yes/no questions and of entailment sentences."""

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import permutations
from random import Random
from typing import Any, NamedTuple

from elip.data.digitscenes.scene import COLOURS, MAX_DIGITS, NUM_CELLS, Digit, Scene
from elip.data.digitscenes.words import (
    DIGIT_NAMES,
    count_phrase,
    matching,
    name_digit,
    naming,
    place_phrase,
    with_article,
    words_in,
)

_RANGES: dict[str, Collection[Any]] = {"value": range(10), "colour": COLOURS, "cell": range(NUM_CELLS)}


class Claim(NamedTuple):
    """What is claimed, in parts for a template."""

    kind: str
    parts: dict[str, str]


def sample_claim(scene: Scene, rng: Random, holds: bool) -> Claim:
    """Return a random claim that holds for the scene, or one that fails by little."""
    for kind in rng.sample(tuple(_KINDS), len(_KINDS)):
        parts = _KINDS[kind](scene, rng, holds)
        if parts is not None:
            return Claim(kind, parts)
    raise AssertionError("`exists` can be claimed of every scene")


def exists(scene: Scene, rng: Random, holds: bool) -> dict[str, str]:
    """Return colour and digit of something that is (not) in the picture."""
    digit = _digit(scene, rng, ("colour", "value"), holds)
    return {"a_colour": with_article(digit.colour), "digit": DIGIT_NAMES[digit.value]}


def near_miss(scene: Scene, digit: Digit, attributes: Collection[str], rng: Random) -> Digit:
    """Return the digit with one attribute changed so that nothing in the scene agrees with it in all of them."""
    while True:
        name = rng.choice(tuple(attributes))
        other = replace(digit, **{name: rng.choice(tuple(_RANGES[name]))})
        if not matching(scene, other, attributes):
            return other


def _digit(scene: Scene, rng: Random, attributes: Collection[str], holds: bool) -> Digit:
    digit = rng.choice(scene.digits)
    return digit if holds else near_miss(scene, digit, attributes, rng)


def _located(scene: Scene, rng: Random, holds: bool) -> dict[str, str]:
    digit = _digit(scene, rng, ("colour", "value", "cell"), holds)
    return {
        "a_colour": with_article(digit.colour),
        "digit": DIGIT_NAMES[digit.value],
        "place": place_phrase(digit.cell, rng),
    }


def _filled(scene: Scene, rng: Random, holds: bool) -> dict[str, str]:
    return {"place": place_phrase(_digit(scene, rng, ("cell",), holds).cell, rng)}


def _coloured(scene: Scene, rng: Random, holds: bool) -> dict[str, str]:
    return {"colour": _digit(scene, rng, ("colour",), holds).colour}


def _counted(scene: Scene, rng: Random, holds: bool) -> dict[str, str]:
    true = len(scene.digits)
    count = true if holds else rng.choice([count for count in range(1, MAX_DIGITS + 1) if count != true])
    return {"verb": "is" if count == 1 else "are", "count": count_phrase(count)}


def _attribute(scene: Scene, rng: Random, holds: bool) -> dict[str, str] | None:
    """Return the colour of a digit which its value alone names."""
    named = [digit for digit in scene.digits if naming(scene, digit, [("value",)])]
    if not named:
        return None
    digit = rng.choice(named)
    others = [colour for colour in COLOURS if colour != digit.colour]
    return {"digit": DIGIT_NAMES[digit.value], "colour": digit.colour if holds else rng.choice(others)}


def _relation(scene: Scene, rng: Random, holds: bool) -> dict[str, str] | None:
    """Return how two digits lie to each other, where colour and value name both."""
    told = frozenset({"colour", "value"})
    named = [digit for digit in scene.digits if naming(scene, digit, [told])]
    options = [
        (one, relation, other)
        for one, other in permutations(named, 2)
        for relation, truth in _relations(one, other).items()
        if truth is holds
    ]
    if not options:
        return None
    one, relation, other = rng.choice(options)
    return {"one": name_digit(one, told, rng), "relation": relation, "other": name_digit(other, told, rng)}


def _relations(one: Digit, other: Digit) -> dict[str, bool]:
    """Return what can be said clearly: nothing about above and below for two digits of one row."""
    relations: dict[str, bool] = {}
    if one.row != other.row:
        relations |= {"above": one.row < other.row, "below": one.row > other.row}
    if one.column != other.column:
        relations |= {"to the left of": one.column < other.column, "to the right of": one.column > other.column}
    return relations


_KINDS: dict[str, Callable[[Scene, Random, bool], dict[str, str] | None]] = {
    "exists": exists,
    "located": _located,
    "filled": _filled,
    "coloured": _coloured,
    "counted": _counted,
    "attribute": _attribute,
    "relation": _relation,
}


def words() -> set[str]:
    """Return the words that the parts of claims bring along."""
    return words_in(("is", "are", "above", "below", "to the left of", "to the right of"))
