"""Captions: each one tells the colour, the digit and the place of everything in the picture."""

from typing import NamedTuple

from elip.data.digitscenes.scene import Digit, Scene
from elip.data.digitscenes.words import DIGIT_NAMES, count_phrase, place_phrase, with_article, words_in

NUM_CAPTIONS = 5


class _Form(NamedTuple):
    frame: str
    item: str
    last_joint: str


# Three digits in the longest form make 24 words: with [CLS] the 25 tokens that pre-training reads.
_FORMS = (
    _Form("{items}", "{a_colour} {digit} {place}", " and "),
    _Form("{items}", "{place} {a_colour} {digit}", " and "),
    _Form("{items}", "{colour} {digit} {place}", ", "),
    _Form("{items}", "{digit} in {colour} {place}", ", "),
    _Form("there is {items}", "{a_colour} {digit} {place}", " and "),
    _Form("we see {items}", "{colour} {digit} {place}", " and "),
    _Form("{count}: {items}", "{place} {a_colour} {digit}", ", "),
    _Form("only {items}", "{a_colour} {digit} {place}", " and "),
)


def captions(scene: Scene) -> list[str]:
    """Return the five captions of a picture, each in another form and order."""
    rng = scene.rng("captions")
    texts = []
    for form in rng.sample(_FORMS, NUM_CAPTIONS):
        order = rng.sample(scene.digits, len(scene.digits))
        items = [_item(form, digit, place_phrase(digit.cell, rng)) for digit in order]
        listed = form.last_joint.join([", ".join(items[:-1]), items[-1]] if items[1:] else items)
        texts.append(form.frame.format(items=listed, count=count_phrase(len(items))))
    return texts


def words() -> set[str]:
    """Return the words that stand in the captions' forms."""
    return words_in(part for form in _FORMS for part in form)


def _item(form: _Form, digit: Digit, place: str) -> str:
    return form.item.format(
        a_colour=with_article(digit.colour), colour=digit.colour, digit=DIGIT_NAMES[digit.value], place=place
    )
