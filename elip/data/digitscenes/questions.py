"""Questions about one picture, each with the answers of ten annotators who mostly agree."""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from elip.data.digitscenes.claims import sample_claim
from elip.data.digitscenes.scene import COLOURS, NUM_CELLS, Digit, Scene
from elip.data.digitscenes.words import DIGIT_NAMES, PLACE_NAMES, PLACE_SYNONYMS, name_digit, naming, words_in

NUM_QUESTIONS = 4
NUM_ANNOTATORS = 10
ANSWERS = ("yes", "no", *(str(value) for value in range(10)), *COLOURS, *PLACE_NAMES)
"""What a majority of annotators may say: the candidates when answers are ranked."""

_COUNT_FRAMES = {
    "all": ("how many digits are there?", "how many digits can you see?", "what is the number of digits?"),
    "colour": ("how many digits are {colour}?", "how many {colour} digits are there?"),
    "value": ("how many times is the {digit} written?", "how often can you see the digit {digit}?"),
}
_FRAMES = {
    "colour": ("what colour is {name}?", "which colour does {name} have?", "in what colour is {name} written?"),
    "value": ("what is {name}?", "which number is {name}?", "what value does {name} have?"),
    "place": ("where is {name}?", "where can you see {name}?", "in what place is {name}?"),
}
_CLAIM_FRAMES = {
    "exists": ("is there {a_colour} {digit}?", "can you see {a_colour} {digit}?"),
    "located": ("is there {a_colour} {digit} {place}?", "can you see {a_colour} {digit} {place}?"),
    "filled": ("is there a digit {place}?", "is something written {place}?"),
    "coloured": ("is there a {colour} digit?", "is any digit {colour}?"),
    "counted": ("{verb} there exactly {count}?", "{verb} there just {count}?"),
    "attribute": ("is the {digit} {colour}?", "is the {digit} written in {colour}?"),
    "relation": ("is {one} {relation} {other}?",),
}
_SLIPS = {  # what an annotator says who sees the same and calls it something else
    **{str(value): (name,) for value, name in enumerate(DIGIT_NAMES)},
    **{"red": ("orange", "pink"), "green": ("lime",), "blue": ("light blue",), "yellow": ("gold",)},
    **{"purple": ("violet", "pink"), "white": ("grey",), "yes": ("no",), "no": ("yes",)},
}


class SceneQuestion(NamedTuple):
    """A question, the answer that the scene gives, and what ten people said."""

    text: str
    answer: str
    answers: list[str]


def questions(scene: Scene) -> list[SceneQuestion]:
    """Return four questions of different kinds about a picture."""
    rng = scene.rng("questions")
    asked: list[SceneQuestion] = []
    for kind in rng.sample(tuple(_KINDS), len(_KINDS)):
        pair = _KINDS[kind](scene, rng)
        if pair and len(asked) < NUM_QUESTIONS:
            asked.append(SceneQuestion(*pair, _annotators(pair[1], rng)))
    return asked


def words() -> set[str]:
    """Return the words that stand in questions and answers."""
    tables = (_COUNT_FRAMES, _FRAMES, _CLAIM_FRAMES, _SLIPS)
    return words_in(wording for table in tables for wordings in table.values() for wording in wordings) | words_in(
        ANSWERS
    )


def _annotators(answer: str, rng: Random) -> list[str]:
    """Return ten answers, at least seven of them `answer`."""
    num_slips = rng.choices((0, 1, 2, 3), weights=(50, 25, 15, 10))[0]
    slips = [rng.choice(_slips(answer)) for _ in range(num_slips)]
    answers = [answer] * (NUM_ANNOTATORS - num_slips) + slips
    rng.shuffle(answers)
    return answers


def _slips(answer: str) -> tuple[str, ...]:
    if answer not in PLACE_NAMES:
        return _SLIPS[answer]
    first, *rest = answer.split()
    return (" ".join([PLACE_SYNONYMS[first], *rest]), first)


def _about(told: str, scene: Scene, rng: Random, ways: tuple[tuple[str, ...], ...]) -> tuple[str, Digit] | None:
    """Return a question for one attribute, and the digit asked for, which others of its attributes name."""
    options = [(digit, names) for digit in scene.digits for names in naming(scene, digit, ways)]
    if not options:
        return None
    digit, names = rng.choice(options)
    return rng.choice(_FRAMES[told]).format(name=name_digit(digit, names, rng)), digit


def _colour(scene: Scene, rng: Random) -> tuple[str, str] | None:
    asked = _about("colour", scene, rng, (("value",), ("cell",), ("value", "cell")))
    return asked and (asked[0], asked[1].colour)


def _value(scene: Scene, rng: Random) -> tuple[str, str] | None:
    asked = _about("value", scene, rng, (("colour",), ("cell",), ("colour", "cell")))
    return asked and (asked[0], str(asked[1].value))


def _place(scene: Scene, rng: Random) -> tuple[str, str] | None:
    asked = _about("place", scene, rng, (("colour",), ("value",), ("colour", "value")))
    return asked and (asked[0], PLACE_NAMES[asked[1].cell])


def _count(scene: Scene, rng: Random) -> tuple[str, str]:
    subject = rng.choice(tuple(_COUNT_FRAMES))
    digit = rng.choice(scene.digits)
    if subject != "all" and rng.random() < 0.2:
        digit = Digit(rng.randrange(10), rng.choice(COLOURS), rng.randrange(NUM_CELLS))
    count = sum(subject == "all" or getattr(other, subject) == getattr(digit, subject) for other in scene.digits)
    text = rng.choice(_COUNT_FRAMES[subject]).format(colour=digit.colour, digit=DIGIT_NAMES[digit.value])
    return text, str(count)


def _claim(scene: Scene, rng: Random, holds: bool) -> tuple[str, str]:
    claim = sample_claim(scene, rng, holds)
    return rng.choice(_CLAIM_FRAMES[claim.kind]).format(**claim.parts), "yes" if holds else "no"


_KINDS: dict[str, Callable[[Scene, Random], tuple[str, str] | None]] = {
    "colour": _colour,
    "value": _value,
    "place": _place,
    "count": _count,
    "yes": lambda scene, rng: _claim(scene, rng, True),
    "no": lambda scene, rng: _claim(scene, rng, False),
}
