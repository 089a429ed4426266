"""Boxes on pictures: left, top, width, height, in pixels."""

from collections.abc import Sequence


def iou(one: Sequence[float], other: Sequence[float]) -> float:
    """Return intersection over union of two boxes, 0 for two empty ones."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    total = one[2] * one[3] + other[2] * other[3] - shared
    return shared / total if total > 0 else 0.0
