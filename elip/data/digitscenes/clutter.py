"""Shapes printed on the paper that no text tells of, and how small digits are among them.

Only exact operations are used, as in `draw`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]
Plane = NDArray[np.float64]

_TONES: tuple[RGB, ...] = (  # between the paper's and the inks, and like none of either
    (130, 130, 130),  # grey
    (140, 105, 70),  # brown
    (120, 125, 70),  # olive
    (95, 120, 150),  # steel
    (140, 105, 140),  # mauve
    (110, 100, 90),  # taupe
)
_TURNS = ((1.0, 0.0), (0.8, 0.6), (0.6, 0.8), (0.0, 1.0), (-0.6, 0.8), (-0.8, 0.6))  # cosine and sine, without rounding
_RADII = (0.03, 0.085)
_FORMS: dict[str, Callable[[Plane, Plane], NDArray[np.bool_]]] = {  # all within the circle of radius 1
    "disc": lambda u, v: u * u + v * v <= 1,
    "ring": lambda u, v: abs(u * u + v * v - 0.75) <= 0.25,
    "half": lambda u, v: (u * u + v * v <= 1) & (v >= 0),
    "square": lambda u, v: np.maximum(abs(u), abs(v)) <= 0.7,
    "frame": lambda u, v: abs(np.maximum(abs(u), abs(v)) - 0.56) <= 0.14,
    "triangle": lambda u, v: (v >= -0.5) & (v + 1.73 * abs(u) <= 1),
    "cross": lambda u, v: (np.minimum(abs(u), abs(v)) <= 0.22) & (np.maximum(abs(u), abs(v)) <= 0.95),
    "bar": lambda u, v: (abs(u) <= 0.95) & (abs(v) <= 0.25),
}


class Clutter(NamedTuple):
    """How much a picture holds that does not matter."""

    num_shapes: tuple[int, int]
    """The fewest and the most in a picture."""
    digit_size: tuple[float, float]
    """The least and the largest height of a digit, as a share of its cell."""


LEVELS = (Clutter((0, 0), (0.82, 0.94)), Clutter((12, 18), (0.62, 0.72)), Clutter((28, 40), (0.46, 0.56)))
"""By the number that is asked for; without clutter, digits fill their cells."""


@dataclass(frozen=True)
class Shape:
    """One thing printed on the paper."""

    form: str
    """One of those above."""
    tone: RGB
    centre: tuple[float, float]
    """x and y as shares of the picture's side; it may stick out of the picture."""
    radius: float
    """As a share of the side."""
    turn: tuple[float, float]
    """Cosine and sine of the angle that it is turned by."""

    def cover(self, size: int, finer: int) -> tuple[slice, slice, Plane]:
        """Return rows and columns of the pixels that the shape may touch, and how much of each it covers, 0 to 1.

        Args:
            size: side of the picture, pixels.
            finer: grid points in a row of one pixel.
        """
        spans = [slice(*_span(at - self.radius, at + self.radius, size)) for at in self.centre]
        across, down = (
            ((np.arange(finer * span.start, finer * span.stop) + 0.5) / (finer * size) - at) / self.radius
            for span, at in zip(spans, self.centre, strict=True)
        )
        x, y = across[None, :], down[:, None]
        cosine, sine = self.turn
        inside = _FORMS[self.form](cosine * x + sine * y, cosine * y - sine * x)
        columns, rows = spans
        shape = (rows.stop - rows.start, finer, columns.stop - columns.start, finer)
        return rows, columns, inside.reshape(shape).mean(axis=(1, 3))


def sample_shapes(level: int, rng: Random) -> tuple[Shape, ...]:
    """Return the shapes of a picture, the lowest first; later ones lie over earlier ones.

    Args:
        level: of clutter.
    """
    return tuple(_sample_shape(rng) for _ in range(rng.randint(*LEVELS[level].num_shapes)))


def _sample_shape(rng: Random) -> Shape:
    return Shape(
        form=rng.choice(tuple(_FORMS)),
        tone=rng.choice(_TONES),
        centre=(rng.random(), rng.random()),
        radius=rng.uniform(*_RADII),
        turn=rng.choice(_TURNS),
    )


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    """Return the first pixel that a stretch of shares of the side touches, and the one after the last."""
    return max(int(low * size), 0), min(int(high * size) + 1, size)
