"""Overlap of boxes."""

import pytest

from elip.data.boxes import iou


def test_overlap_is_intersection_over_union() -> None:
    assert iou([0, 0, 4, 4], [0, 0, 4, 4]) == 1
    assert iou([0, 0, 4, 4], [2, 0, 4, 4]) == pytest.approx(8 / 24)
    assert iou([0, 0, 4, 4], [5, 5, 2, 2]) == 0
    assert iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0
