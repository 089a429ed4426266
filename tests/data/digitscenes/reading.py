"""A little reader of DigitScenes texts that knows nothing of how they were made: English in, facts out."""

import re

from elip.data.digitscenes.scene import Digit, Scene

COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS = {"top": 0, "upper": 0, "middle": 1, "centre": 1, "bottom": 2, "lower": 2}
COLUMNS = {"left": 0, "middle": 1, "centre": 1, "right": 2}
PLACE = rf"(?:at|in) the ({'|'.join(ROWS)})(?: ({'|'.join(COLUMNS)}))?\b"
RELATIONS = {
    "above": lambda one, other: one.cell // 3 < other.cell // 3,
    "below": lambda one, other: one.cell // 3 > other.cell // 3,
    "to the left of": lambda one, other: one.cell % 3 < other.cell % 3,
    "to the right of": lambda one, other: one.cell % 3 > other.cell % 3,
}


def read_cell(name: str) -> int:
    """Return the cell that "top left" or "middle" means."""
    row, *column = name.split()
    return 3 * ROWS[row] + (COLUMNS[column[0]] if column else 1)


def read_facts(text: str) -> dict[str, object]:
    """Return the colour, value and cell a text tells of one digit, as far as it tells them."""
    facts: dict[str, object] = {}
    if place := re.search(PLACE, text):
        facts["cell"] = read_cell(" ".join(filter(None, place.groups())))
    words = re.findall("[a-z]+", re.sub(PLACE, " ", text))
    colours, values = [word for word in words if word in COLOURS], [word for word in words if word in NUMBERS]
    assert len(colours) <= 1, text
    assert len(values) <= 1, text
    facts |= {"colour": colours[0]} if colours else {}
    return facts | ({"value": NUMBERS.index(values[0])} if values else {})


def fitting(scene: Scene, text: str) -> list[Digit]:
    """Return the digits of a scene that fit all facts of a text."""
    facts = read_facts(text)
    return [digit for digit in scene.digits if all(getattr(digit, name) == fact for name, fact in facts.items())]


def the_one(scene: Scene, text: str) -> Digit:
    """Return the digit a text refers to; there must be one only."""
    (digit,) = fitting(scene, text)
    return digit


def claim_holds(scene: Scene, text: str) -> bool:
    """Return whether a sentence or a yes/no question about one picture is true of it."""
    if count := re.search(r"(?:exactly|just) (\w+) digits?\b", text):
        return len(scene.digits) == NUMBERS.index(count[1])
    for name, relation in RELATIONS.items():
        if f" {name} " in text:
            one, other = text.split(f" {name} ")
            return relation(the_one(scene, one), the_one(scene, other))
    if attribute := re.search(rf"\bthe ({'|'.join(NUMBERS)}) (?:is )?(?:written in )?(\w+)", text):
        return the_one(scene, attribute[1]).colour == attribute[2]
    return bool(fitting(scene, text))
