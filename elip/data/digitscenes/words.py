"""How colours, digits and places are called in all texts of DigitScenes.

Texts are lower case and free of hyphens and apostrophes, so that cleaning a caption leaves its words whole. Every
word comes from the tables here or from a template in a table called WORDINGS, which is how the vocabulary knows it.
"""

import re
from collections.abc import Collection, Iterable
from random import Random

from elip.data.digitscenes.scene import COLOURS, Digit, Scene

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PLACE_NAMES = (
    *("top left", "top middle", "top right"),
    *("middle left", "middle", "middle right"),
    *("bottom left", "bottom middle", "bottom right"),
)
PLACE_SYNONYMS = {"top": "upper", "middle": "centre", "bottom": "lower"}

WORDINGS: dict[frozenset[str], tuple[str, ...]] = {
    frozenset({"colour"}): ("the {colour} digit", "the {colour} number", "the digit in {colour}"),
    frozenset({"value"}): ("the {digit}", "the digit {digit}", "the number {digit}"),
    frozenset({"cell"}): ("the digit {place}", "the number {place}"),
    frozenset({"colour", "value"}): (
        "the {colour} {digit}",
        "the {digit} in {colour}",
        "the {digit} written in {colour}",
    ),
    frozenset({"colour", "cell"}): ("the {colour} digit {place}", "the {colour} number {place}"),
    frozenset({"value", "cell"}): ("the {digit} {place}",),
    frozenset({"colour", "value", "cell"}): ("the {colour} {digit} {place}",),
}
"""Names of one digit by the attributes they tell."""


def place_name(cell: int, rng: Random) -> str:
    """Return what a place is called, now and then by another word: "top left" or "upper left"."""
    name = PLACE_NAMES[cell]
    if rng.random() < 0.7:
        return name
    first, *rest = name.split()
    return " ".join([PLACE_SYNONYMS[first], *rest])


def place_phrase(cell: int, rng: Random) -> str:
    """Return where a place is: "at the top left", "in the middle"."""
    name = place_name(cell, rng)
    return f"at the {name}" if " " in name else f"in the {name}"


def with_article(noun: str) -> str:
    """Return the noun after "a" or "an"; of all our words only "eight" takes "an"."""
    return f"{'an' if noun.startswith('eight') else 'a'} {noun}"


def count_phrase(count: int) -> str:
    """Return a number of digits in words: "one digit", "two digits"."""
    return f"{DIGIT_NAMES[count]} digit{'' if count == 1 else 's'}"


def matching(scene: Scene, digit: Digit, attributes: Iterable[str]) -> list[Digit]:
    """Return the digits of the scene that agree with `digit` (not necessarily one of them) in all attributes."""
    names = tuple(attributes)
    return [other for other in scene.digits if all(getattr(other, name) == getattr(digit, name) for name in names)]


def naming(scene: Scene, digit: Digit, allowed: Iterable[Collection[str]]) -> list[frozenset[str]]:
    """Return the sets of attributes, out of the allowed ones, that only this digit of the scene has."""
    return [frozenset(names) for names in allowed if matching(scene, digit, names) == [digit]]


def name_digit(digit: Digit, attributes: frozenset[str], rng: Random) -> str:
    """Return a noun phrase that tells these attributes of a digit: "the red seven", "the digit at the top left"."""
    return rng.choice(WORDINGS[attributes]).format(
        colour=digit.colour, digit=DIGIT_NAMES[digit.value], place=place_phrase(digit.cell, rng)
    )


def words_in(templates: Iterable[str]) -> set[str]:
    """Return all words of the templates, without their {placeholders}."""
    return {word for template in templates for word in re.findall(r"[a-z]+", re.sub(r"\{\w+\}", " ", template))}


def words() -> set[str]:
    """Return all words that colours, digits, counts, places and articles are told with."""
    fixed = (*COLOURS, *DIGIT_NAMES, *PLACE_NAMES, *PLACE_SYNONYMS.values(), "digit digits at in the a an")
    return words_in(fixed) | words_in(wording for wordings in WORDINGS.values() for wording in wordings)
