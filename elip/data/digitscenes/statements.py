"""Statements about two pictures, true or false as asked for, none of which speaks of one picture alone."""

from collections.abc import Callable, Sequence
from itertools import product
from random import Random
from typing import NamedTuple

from elip.data.digitscenes.scene import COLOURS, NUM_CELLS, Digit, Scene
from elip.data.digitscenes.words import DIGIT_NAMES, count_phrase, place_phrase, with_article, words_in

_FRAMES = {
    "whole": ("one of the two pictures shows {things}.",),
    "only": (
        "only the {side} picture shows {thing}.",
        "there is {thing} in the {side} picture but not in the {opposite} picture.",
    ),
    "both": ("both pictures show {thing}.", "each of the two pictures shows {thing}."),
    "one": ("only one of the two pictures shows {thing}.", "exactly one picture shows {thing}."),
    "neither": ("neither picture shows {thing}.", "none of the two pictures shows {thing}."),
    "each": (
        "the left picture shows {thing} and the right picture shows {other}.",
        "there is {thing} in the left picture and {other} in the right picture.",
    ),
    "more": ("the {side} picture shows more digits than the {opposite} picture.",),
    "fewer": ("the {side} picture shows fewer digits than the {opposite} picture.",),
    "equal": ("both pictures show the same number of digits.", "there are as many digits on the left as on the right."),
    "unequal": ("the two pictures show different numbers of digits.",),
    "total": ("together the two pictures show {count}.", "the two pictures show {count} in all."),
    "common": ("the two pictures have a {attribute} in common.", "there is a {attribute} that both pictures show."),
    "apart": ("the two pictures have no {attribute} in common.", "there is no {attribute} that both pictures show."),
}
_SHARES = {"whole": 12, "only": 4, "each": 3}
"""How often a kind of statement is tried first, beside 1 for the others: what pictures show comes before counting."""
_PER_LABEL = 2
_NUM_PARTNERS = 30  # scenes tried for a kind of statement before another kind is taken

Fact = tuple[str, str | int]
"""A colour, a value or a filled cell."""
Thing = frozenset[Fact]
"""What a picture may show: a digit of which so much is told."""
_FACTS: dict[str, Sequence[str | int]] = {"colour": COLOURS, "value": range(10), "cell": range(NUM_CELLS)}
_SIMPLE = tuple((name,) for name in _FACTS)
_TOLD = (*_SIMPLE, ("colour", "value"))
"""What may be told of a digit. Two digits that share colour and value are rare, so only some kinds tell both."""
_ALL_TOLD = ("colour", "value", "cell")
_THINGS: dict[tuple[str, ...], list[Thing]] = {
    told: [frozenset(zip(told, facts, strict=True)) for facts in product(*(_FACTS[name] for name in told))]
    for told in _TOLD
}


class Statement(NamedTuple):
    """A sentence about two pictures, and whether it holds."""

    left: Scene
    right: Scene
    text: str
    holds: bool


def statements(scenes: Sequence[Scene], index: int) -> list[Statement]:
    """Return two true and two false statements about scene `index`, >= 1, and some earlier one, on either side.

    The kind of statement is drawn before the other scene, so that neither label prefers one kind.
    """
    rng = scenes[index].rng("statements")
    return [_statement(scenes, index, holds, rng) for holds in (True, False) * _PER_LABEL]


def words() -> set[str]:
    """Return the words that stand in the statements."""
    return words_in(frame for frames in _FRAMES.values() for frame in frames) | words_in(("colour digit",))


def _statement(scenes: Sequence[Scene], index: int, holds: bool, rng: Random) -> Statement:
    counts = [_SHARES.get(kind, 1) for kind in _FRAMES]
    for kind in rng.sample(tuple(_FRAMES), counts=counts, k=sum(counts)):
        for partner in rng.sample(range(index), min(index, _NUM_PARTNERS)):
            left, right = rng.sample((scenes[index], scenes[partner]), 2)
            parts = _MAKERS[kind](left, right, holds, rng)
            if parts is not None:
                return Statement(left, right, rng.choice(_FRAMES[kind]).format(**parts), holds)
    raise AssertionError("`total` can be stated of any two scenes")


Maker = Callable[[Scene, Scene, bool, Random], dict[str, str] | None]


def _shown(scene: Scene) -> set[Thing]:
    return {frozenset((name, getattr(digit, name)) for name in told) for digit in scene.digits for told in _TOLD}


def _told(digit: Digit, attributes: Sequence[str]) -> Thing:
    return frozenset((name, getattr(digit, name)) for name in attributes)


def _phrase(thing: Thing, rng: Random) -> str:
    facts = dict(thing)
    noun = DIGIT_NAMES[int(facts["value"])] if "value" in facts else "digit"
    noun = with_article(f"{facts['colour']} {noun}" if "colour" in facts else noun)
    return f"{noun} {place_phrase(int(facts['cell']), rng)}" if "cell" in facts else noun


def _shown_by(
    when_true: tuple[int, ...], when_false: tuple[int, ...], told: Sequence[tuple[str, ...]] = _SIMPLE
) -> Maker:
    """Return a maker that takes a thing by the number of pictures which show it."""

    def make(left: Scene, right: Scene, holds: bool, rng: Random) -> dict[str, str] | None:
        shown = (_shown(left), _shown(right))
        wanted = rng.choice(when_true if holds else when_false)
        options = [thing for thing in _THINGS[rng.choice(told)] if sum(thing in one for one in shown) == wanted]
        return {"thing": _phrase(rng.choice(options), rng)} if options else None

    return make


def _whole(left: Scene, right: Scene, holds: bool, rng: Random) -> dict[str, str] | None:
    """Return all that one of the pictures shows; where the statement is to fail, as many digits that none shows."""
    shown = rng.choice((left, right)).digits
    digits = rng.sample(shown, len(shown))
    if not holds:
        cells = rng.sample(range(NUM_CELLS), len(digits))
        digits = [Digit(rng.randrange(10), rng.choice(COLOURS), cell) for cell in cells]
    things = [_told(digit, _ALL_TOLD) for digit in digits]
    if sum({*things} <= {_told(digit, _ALL_TOLD) for digit in scene.digits} for scene in (left, right)) != holds:
        return None
    *first, last = [_phrase(thing, rng) for thing in things]
    return {"things": " and ".join([", ".join(first), last] if first else [last])}


def _only(left: Scene, right: Scene, holds: bool, rng: Random) -> dict[str, str] | None:
    """Return a side and what it alone shows; where the statement is to fail, the other one or both show it."""
    side, opposite = rng.sample(("left", "right"), 2)
    here, there = (_shown(left), _shown(right)) if side == "left" else (_shown(right), _shown(left))
    found = (here - there if holds else rng.choice((there - here, here & there))) & {*_THINGS[rng.choice(_TOLD)]}
    options = [thing for things in _THINGS.values() for thing in things if thing in found]  # in an order that stays
    return {"thing": _phrase(rng.choice(options), rng), "side": side, "opposite": opposite} if options else None


def _each(left: Scene, right: Scene, holds: bool, rng: Random) -> dict[str, str] | None:
    """Return one thing for each side; where the statement is to fail, just one of the sides fails."""
    in_left, in_right = _shown(left), _shown(right)
    either = [thing for things in _THINGS.values() for thing in things if thing in in_left | in_right]
    wanted = 2 if holds else 1
    options = [
        (one, other)
        for one, other in product(either, repeat=2)
        if one != other and (one in in_left) + (other in in_right) == wanted
    ]
    if not options:
        return None
    one, other = rng.choice(options)
    return {"thing": _phrase(one, rng), "other": _phrase(other, rng)}


def _compared(sign: int) -> Maker:
    """Return a maker that says which picture has more (sign 1) or fewer (sign -1) digits."""

    def make(left: Scene, right: Scene, holds: bool, rng: Random) -> dict[str, str] | None:
        side, opposite = rng.sample(("left", "right"), 2)
        lead = len(left.digits) - len(right.digits)
        truth = (lead if side == "left" else -lead) * sign > 0
        return {"side": side, "opposite": opposite} if truth is holds else None

    return make


def _equal(wanted: bool) -> Maker:
    def make(left: Scene, right: Scene, holds: bool, rng: Random) -> dict[str, str] | None:
        return {} if ((len(left.digits) == len(right.digits)) is wanted) is holds else None

    return make


def _total(left: Scene, right: Scene, holds: bool, rng: Random) -> dict[str, str]:
    total = len(left.digits) + len(right.digits)
    options = [total] if holds else [count for count in (total - 1, total + 1) if 2 <= count <= 6]
    return {"count": count_phrase(rng.choice(options))}


def _common(wanted: bool) -> Maker:
    """Return a maker that says of colours or of digits that the pictures have one (none) in common."""

    def make(left: Scene, right: Scene, holds: bool, rng: Random) -> dict[str, str] | None:
        name, word = rng.choice((("colour", "colour"), ("value", "digit")))
        common = _shown(left) & _shown(right) & {*_THINGS[(name,)]}
        return {"attribute": word} if (bool(common) is wanted) is holds else None

    return make


_MAKERS: dict[str, Maker] = {
    "whole": _whole,
    "only": _only,
    "both": _shown_by(when_true=(2,), when_false=(1,)),
    "one": _shown_by(when_true=(1,), when_false=(0, 2)),
    "neither": _shown_by(when_true=(0,), when_false=(1,), told=_TOLD),
    "each": _each,
    "more": _compared(1),
    "fewer": _compared(-1),
    "equal": _equal(True),
    "unequal": _equal(False),
    "total": _total,
    "common": _common(True),
    "apart": _common(False),
}
