"""What a picture shows, drawn from a seeded stream before any pixel exists.

Every random choice comes from `Scene.rng`, a stream named after seed, split, scene and purpose: no choice depends on
how many scenes there are, on the size of the pictures, or on the texts made before. Python's own generator is used,
since its numbers stay the same from version to version.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random

from elip.data.digitscenes.clutter import LEVELS, RGB, Shape, sample_shapes
from elip.data.digitscenes.handwriting import SPLITS, Handwriting

COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
NUM_CELLS = 9
MAX_DIGITS = 3
NOISE_SIDE = 6

_SHARES = {1: 0.2, 2: 0.4, 3: 0.4}  # of pictures with so many digits, until the single ones run out
_REPEAT = 0.3  # chance that a digit takes its colour (its value) from an earlier one, so that counting is worth it
_TONES: tuple[RGB, ...] = (
    (50, 58, 72),  # slate
    (68, 58, 48),  # umber
    (52, 64, 50),  # moss
    (66, 52, 62),  # plum
    (44, 64, 66),  # teal
    (56, 56, 58),  # charcoal
    (62, 62, 46),  # olive
)
_DIRECTIONS = ((1, 0), (0, 1), (1, 1), (1, -1), (2, 1), (1, 2), (2, -1), (1, -2))
_SPLIT_IDS = 10_000_000  # room for the pictures of one split


@dataclass(frozen=True)
class Digit:
    """One digit in a picture."""

    value: int
    colour: str
    cell: int
    """Place in the 3x3 grid, row by row from the top left."""
    handwriting: int = 0
    """Which of the 1,797 samples."""
    size: float = 0.85
    """Height of the sample, as a share of the cell."""
    shift: tuple[float, float] = (0.5, 0.5)
    """Where the digit sits in the room its cell leaves, 0 at the left (top) and 1 at the right (bottom)."""

    @property
    def row(self) -> int:
        """0 at the top, 2 at the bottom."""
        return self.cell // 3

    @property
    def column(self) -> int:
        """0 at the left, 2 at the right."""
        return self.cell % 3


@dataclass(frozen=True)
class Background:
    """The paper: a texture that goes from one muted tone to a lighter one."""

    texture: str
    """"noise", "stripes" or "gradient"."""
    dark: RGB
    light: RGB
    direction: tuple[int, int]
    """The way stripes and gradients run, in x and y."""
    num_stripes: int
    noise: bytes
    """NOISE_SIDE x NOISE_SIDE grey values."""


@dataclass(frozen=True)
class Scene:
    """A picture's description; pictures, boxes and texts all follow from it."""

    seed: int
    split: str
    index: int
    digits: tuple[Digit, ...]
    background: Background
    shapes: tuple[Shape, ...] = ()
    """Printed on the paper, below the digits; no text tells of them."""

    @property
    def stem(self) -> str:
        """The picture's path below the image root, without its ending."""
        return f"{self.split}/{self.index:06d}"

    @property
    def file(self) -> str:
        """The picture's path below the image root."""
        return f"{self.stem}.jpg"

    @property
    def image_id(self) -> int:
        """A number that no other picture of any split has."""
        return SPLITS.index(self.split) * _SPLIT_IDS + self.index

    @property
    def content(self) -> frozenset[tuple[str, int, int]]:
        """Colour, value and cell of every digit: all that a text can tell."""
        return _content(self.digits)

    def rng(self, purpose: str) -> Random:
        """Return the scene's own random stream for one purpose."""
        return _stream(self.seed, self.split, self.index, purpose)


def sample_scenes(
    split: str, num_scenes: int, seed: int, handwriting: Handwriting, clutter: int = 0
) -> Iterator[Scene]:
    """Yield scenes that differ in content from each other and from those of all other splits.

    Clutter, a level of `LEVELS`, makes digits smaller and adds shapes. Contents, handwriting and backgrounds are the
    same at all levels, and so are all texts.
    """
    seen: set[frozenset[tuple[str, int, int]]] = set()
    for index in range(num_scenes):
        rng = _stream(seed, split, index, "scene")
        digits = _sample_digits(rng)
        while _content(digits) in seen or _home(_content(digits)) != split:
            digits = _sample_digits(rng)
        seen.add(_content(digits))
        written = tuple(_write(digit, split, handwriting, rng, clutter) for digit in digits)
        background = _sample_background(rng)
        shapes = sample_shapes(clutter, _stream(seed, split, index, "shapes"))
        yield Scene(seed, split, index, written, background, shapes)


def _stream(*names: object) -> Random:
    return Random("/".join(str(name) for name in names))


def _content(digits: tuple[Digit, ...]) -> frozenset[tuple[str, int, int]]:
    return frozenset((digit.colour, digit.value, digit.cell) for digit in digits)


def _home(content: frozenset[tuple[str, int, int]]) -> str:
    """Return the only split that may show this content: a tenth of all is val's, a tenth test's."""
    tenth = int.from_bytes(sha256(repr(sorted(content)).encode()).digest()[:4], "big") % 10
    return {0: "val", 1: "test"}.get(tenth, "train")


def _sample_digits(rng: Random) -> tuple[Digit, ...]:
    num_digits = rng.choices(list(_SHARES), weights=list(_SHARES.values()))[0]
    digits: list[Digit] = []
    for cell in rng.sample(range(NUM_CELLS), num_digits):
        earlier = rng.choice(digits) if digits else None
        repeat_value, repeat_colour = rng.random() < _REPEAT, rng.random() < _REPEAT
        value = earlier.value if earlier and repeat_value else rng.randrange(10)
        colour = earlier.colour if earlier and repeat_colour else rng.choice(COLOURS)
        digits.append(Digit(value, colour, cell))
    return tuple(digits)


def _write(digit: Digit, split: str, handwriting: Handwriting, rng: Random, clutter: int) -> Digit:
    sample = rng.choice(handwriting.pools[split, digit.value])
    shift = (rng.uniform(0.15, 0.85), rng.uniform(0.15, 0.85))
    return replace(digit, handwriting=sample, size=rng.uniform(*LEVELS[clutter].digit_size), shift=shift)


def _sample_background(rng: Random) -> Background:
    red, green, blue = (tone + rng.randint(-8, 8) for tone in rng.choice(_TONES))
    lift = rng.randint(20, 38)
    return Background(
        texture=rng.choice(("noise", "stripes", "gradient")),
        dark=(red, green, blue),
        light=(red + lift, green + lift, blue + lift),
        direction=rng.choice(_DIRECTIONS),
        num_stripes=rng.randint(2, 6),
        noise=rng.randbytes(NOISE_SIDE * NOISE_SIDE),
    )
