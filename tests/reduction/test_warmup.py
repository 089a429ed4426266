"""How a reduction sets in over training."""

from math import cos, pi
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elip.reduction.warmup import Warmup

SHAPES = ("linear", "cosine", "step")
shares = st.floats(0, 1)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("linear", [0, 0.25, 0.5, 0.75, 1]),
        ("cosine", [0, (1 - cos(pi / 4)) / 2, 0.5, (1 + cos(pi / 4)) / 2, 1]),
        ("step", [0, 0, 0, 0, 1]),
    ],
)
def test_strength_rises_between_the_two_points_in_the_shape_asked_for(shape: Any, expected: list[float]) -> None:
    warmup = Warmup(start=0.2, end=0.6, shape=shape)
    assert [warmup.strength(progress) for progress in (0.2, 0.3, 0.4, 0.5, 0.6)] == pytest.approx(expected)


@given(st.sampled_from(SHAPES), shares, shares, shares, shares)
def test_strength_is_a_share_that_never_falls(shape: Any, start: float, end: float, one: float, other: float) -> None:
    start, end = sorted([start, end])
    warmup = Warmup(start, end, shape)
    earlier, later = sorted([one, other])
    assert 0 <= warmup.strength(earlier) <= warmup.strength(later) <= 1
    assert warmup.strength(1.0) == 1
    assert start == end or warmup.strength(start) == 0


def test_a_warm_up_of_no_length_is_a_step() -> None:
    warmup = Warmup(0.5, 0.5, "linear")
    assert [warmup.strength(progress) for progress in (0.0, 0.49, 0.5, 1.0)] == [0, 0, 1, 1]


def test_a_warm_up_can_be_given_ready_made_or_left_out() -> None:
    ready = Warmup(0.1, 0.2, "step")
    assert Warmup.parse(ready) is ready
    assert Warmup.parse(None) is None
    assert Warmup.parse({}) == Warmup()
    assert Warmup.parse({"end": 0.5, "shape": "linear"}) == Warmup(0.0, 0.5, "linear")
