"""How one figure grows with another: a straight line, and an exponent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Law:
    """The straight line of least squares through points, and the power that they follow.

    Args:
        fixed: what the line gives at 0.
        per_unit: by how much it rises.
        exponent: slope of the line of least squares through the logarithms: 1 for what is proportional, 0 for what does
            not grow. None where there are values that have no logarithm.
        deviation: the most that the line is beside a point, as a share of it.
    """

    fixed: float
    per_unit: float
    exponent: float | None
    deviation: float

    def at(self, x: float) -> float:
        """Return what the line gives."""
        return self.fixed + self.per_unit * x


def fit(x: Sequence[float], y: Sequence[float]) -> Law:
    """Return the law of two points or more.

    Args:
        x: at least two different values.
        y: as many, none of them 0.

    Raises:
        ValueError: all x are equal.
    """
    if len(set(x)) < 2:
        raise ValueError(f"a law needs two different points, got {list(x)}")
    fixed, per_unit = _line(x, y)
    found = [fixed + per_unit * value for value in x]
    return Law(
        fixed=fixed,
        per_unit=per_unit,
        exponent=_line(np.log(x), np.log(y))[1] if min(*x, *y) > 0 else None,
        deviation=max(abs(a / b - 1) for a, b in zip(found, y, strict=True)),
    )


def _line(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> tuple[float, float]:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    around = x - x.mean()  # small numbers, so that nothing is lost among large ones
    slope = float(around @ (y - y.mean()) / (around @ around))
    return float(y.mean()) - slope * float(x.mean()), slope
