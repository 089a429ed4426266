"""Sentences that a picture entails, contradicts or leaves open.

A picture leaves open who wrote its digits, how and when, and what lies beyond its frame. A sentence on such matters
contradicts it nevertheless if it speaks of a digit the picture lacks: it takes the picture to tell the labels apart.
"""

from random import Random

from elip.data.digitscenes.claims import exists, sample_claim
from elip.data.digitscenes.scene import COLOURS, Scene
from elip.data.digitscenes.words import DIGIT_NAMES, with_article, words_in

LABELS = ("entailment", "neutral", "contradiction")

_CLAIM_FRAMES = {
    "exists": (
        "there is {a_colour} {digit}.",
        "the picture shows {a_colour} {digit}.",
        "we see {a_colour} {digit}.",
    ),
    "located": ("{a_colour} {digit} is {place}.", "there is {a_colour} {digit} {place}."),
    "filled": ("there is a digit {place}.", "something is written {place}."),
    "coloured": ("there is a {colour} digit.", "something is written in {colour}.", "some digit is {colour}."),
    "counted": ("there {verb} exactly {count}.", "the picture shows exactly {count}."),
    "attribute": ("the {digit} is {colour}.", "the {digit} is written in {colour}."),
    "relation": ("{one} is {relation} {other}.",),
}
_UNSEEN_FRAMES = (
    "there is {a_colour} {digit} written by {writer}.",
    "in the picture {writer} has written {a_colour} {digit}.",
    "the picture shows {a_colour} {digit} that {writer} wrote {time}.",
    "there is {a_colour} {digit} written with {tool}.",
    "we see {a_colour} {digit} written {time}.",
    "{a_colour} {digit} in the picture is part of {whole}.",
)
_BEYOND_FRAMES = (
    "there is {a_colour} {digit} on the back of the paper.",
    "just outside the picture there is {a_colour} {digit}.",
    "the paper shows {a_colour} {digit} beyond the {side} of the picture.",
    "{writer} took the picture {time}.",
    "the digits were written {time}.",
)
_UNSEEN = {
    "writer": ("a child", "a teacher", "a woman", "a man", "a student", "a clerk"),
    "time": ("on a monday", "at night", "in a hurry", "this morning", "last year"),
    "tool": ("a new pen", "an old pen", "a borrowed pen", "the left hand"),
    "whole": ("a date", "a price", "a house number", "a telephone number"),
    "side": ("left", "right", "top", "bottom"),
}


def entailment_sentences(scene: Scene) -> list[tuple[str, str]]:
    """Return a sentence and its label, for each of the three labels."""
    rng = scene.rng("entailment")
    sentences = {
        "entailment": _claim(scene, rng, True),
        "neutral": _unseen(scene, rng, True) if rng.random() < 0.7 else _beyond(rng),
        "contradiction": _unseen(scene, rng, False) if rng.random() < 0.4 else _claim(scene, rng, False),
    }
    return [(sentences[label], label) for label in LABELS]


def words() -> set[str]:
    """Return the words that stand in the sentences."""
    tables = (*_CLAIM_FRAMES.values(), _UNSEEN_FRAMES, _BEYOND_FRAMES, *_UNSEEN.values())
    return words_in(wording for table in tables for wording in table)


def _claim(scene: Scene, rng: Random, holds: bool) -> str:
    claim = sample_claim(scene, rng, holds)
    return rng.choice(_CLAIM_FRAMES[claim.kind]).format(**claim.parts)


def _unseen(scene: Scene, rng: Random, present: bool) -> str:
    """Return something open about a digit that is in the picture, or that is not and so cannot be so."""
    return rng.choice(_UNSEEN_FRAMES).format(**exists(scene, rng, present), **_open_parts(rng))


def _beyond(rng: Random) -> str:
    """Return something that no digit of the picture has a part in."""
    any_digit = {"a_colour": with_article(rng.choice(COLOURS)), "digit": rng.choice(DIGIT_NAMES)}
    return rng.choice(_BEYOND_FRAMES).format(**any_digit, **_open_parts(rng))


def _open_parts(rng: Random) -> dict[str, str]:
    return {name: rng.choice(options) for name, options in _UNSEEN.items()}
