"""Boxes on pictures: left, top, width, height, in pixels."""

from collections.abc import Sequence
from math import isfinite
from typing import TypeAlias

BoxList: TypeAlias = list[float]
"""left, top, width, height, in pixels of the picture."""


def clip(box: Sequence[float], size: tuple[int, int]) -> BoxList | None:
    """Return the part of a box that lies on a picture; None where that has no area, or a number is not finite.

    Args:
        box: may reach over the edges.
        size: height and width of the picture.
    """
    left, top, width, height = box
    if not all(map(isfinite, box)) or width <= 0 or height <= 0:
        return None
    right, bottom = left + width, top + height
    rows, columns = size
    if left >= 0 and top >= 0 and right <= columns and bottom <= rows:
        return [left, top, width, height]
    left, top = max(left, 0), max(top, 0)
    width, height = min(right, columns) - left, min(bottom, rows) - top
    return [left, top, width, height] if width > 0 and height > 0 else None


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return intersection over union of two boxes, 0 for two empty ones."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    total = one[2] * one[3] + other[2] * other[3] - shared
    return shared / total if total > 0 else 0.0
