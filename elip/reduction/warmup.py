"""How a reduction sets in over training."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import cos, floor, pi
from typing import Any, Literal

from elip.errors import ElipError
from elip.reduction.checks import check_keys, check_numbers

SHAPES = {
    "linear": lambda t: t,
    "cosine": lambda t: (1 - cos(pi * t)) / 2,
    "step": lambda t: floor(t),
}
"""Curves from 0 to 1, of a number in [0, 1]."""


@dataclass(frozen=True)
class Warmup:
    """How a reduction sets in over training: from keeping all tokens to its target.

    Args:
        start: share of the training, in [0, 1], until which all tokens are kept.
        end: share from which the target holds.
        shape: linear; cosine, as EViT trains (Liang et al., ICLR 2022, section 3.3); or step, all at once at `end`.
    """

    start: float = 0.0
    end: float = 0.25
    shape: Literal["linear", "cosine", "step"] = "cosine"

    @classmethod
    def parse(cls, values: "Mapping[str, Any] | Warmup | None") -> "Warmup | None":
        """Return the warm-up that a reducer's parameter `warmup` describes, or raise an error."""
        if values is None or isinstance(values, Warmup):
            return values
        known = [f.name for f in fields(cls)]
        if not isinstance(values, Mapping):
            raise ElipError(f"warmup: expected {{{', '.join(known)}}}, got {values!r}.")
        check_keys("warmup", values, known)
        warmup = cls(**values)
        check_numbers("warmup", [warmup.start, warmup.end])
        if warmup.shape not in list(SHAPES):
            raise ElipError(f"warmup.shape: expected one of {', '.join(SHAPES)}, got {warmup.shape!r}.")
        if not 0 <= warmup.start <= warmup.end <= 1:
            raise ElipError(
                f"warmup: start and end are shares of the training with 0 <= start <= end <= 1, "
                f"got {warmup.start} and {warmup.end}."
            )
        return warmup

    def strength(self, progress: float) -> float:
        """Return how much of the reduction is in force, in [0, 1], when `progress` of the training is done."""
        if progress >= self.end:
            return 1.0
        if progress <= self.start:
            return 0.0
        return SHAPES[self.shape]((progress - self.start) / (self.end - self.start))
