"""Boxes: what of them is on a picture, and their overlap."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elip.data.boxes import clip, iou

SIZE = (20, 30)
numbers = st.floats(-50, 50)


def test_overlap_is_intersection_over_union() -> None:
    assert iou([0, 0, 4, 4], [0, 0, 4, 4]) == 1
    assert iou([0, 0, 4, 4], [2, 0, 4, 4]) == pytest.approx(8 / 24)
    assert iou([0, 0, 4, 4], [5, 5, 2, 2]) == 0
    assert iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([0, 0, 30, 20], [0, 0, 30, 20]),
        ([-5, -2, 10, 10], [0, 0, 5, 8]),
        ([25, 15, 10, 10], [25, 15, 5, 5]),
        ([-9, -9, 99, 99], [0, 0, 30, 20]),
        ([-1e308, 0, 1.7e308, 5], [0, 0, 30, 5]),
        ([30, 0, 5, 5], None),
        ([-5, 0, 5, 5], None),
        ([40, 40, 5, 5], None),
        ([1, 1, 0, 5], None),
        ([5, 5, -3, 5], None),
        ([nan, 1, 2, 2], None),
        ([1, 1, nan, 2], None),
        ([1, 1, 2, inf], None),
        ([-inf, 1, inf, 2], None),
    ],
)
def test_a_box_is_cut_at_the_edges_and_none_where_no_area_is_left(box: list[float], part: list[float] | None) -> None:
    assert clip(box, SIZE) == part


@given(st.tuples(numbers, numbers, numbers, numbers))
def test_what_is_left_is_on_the_picture_and_part_of_the_box(box: tuple[float, float, float, float]) -> None:
    part = clip(box, SIZE)
    if part is not None:
        for start, length, before, edge in zip(part[:2], part[2:], box[:2], (30, 20), strict=True):
            assert start == max(0, before)
            assert 0 < length <= edge + 1e-9 - start
        assert part[2] <= box[2] + 1e-9
        assert part[3] <= box[3] + 1e-9
