"""Keep ratios and removals over depth and training: counts, their base, and what is refused."""

import json
import re
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elip.errors import ElipError
from elip.reduction.encoder import EncoderInfo
from elip.reduction.schedule import KeepSchedule, RemovalSchedule, scaled_ratios, scaled_removals

SHAPES = ("linear", "cosine", "step")
shares = st.floats(0, 1)
ratios = st.floats(0.3, 1)
stages = st.sets(st.integers(0, 11), min_size=1, max_size=5).map(sorted)


def info(depth: int, num_patches: int) -> EncoderInfo:
    return EncoderInfo(depth=depth, width=8, num_heads=2, grid=(1, num_patches))


def keep(depth: int = 12, num_patches: int = 196, **params: Any) -> KeepSchedule:
    return KeepSchedule(info(depth, num_patches), **params)


def remove(depth: int = 12, num_patches: int = 196, **params: Any) -> RemovalSchedule:
    return RemovalSchedule(info(depth, num_patches), **params)


@st.composite
def schedules(draw: st.DrawFn) -> KeepSchedule:
    begin = draw(stages)
    shape = st.fixed_dictionaries({"shape": st.sampled_from(["linear", "cosine"]), "first": ratios, "last": ratios})
    listed = st.lists(ratios, min_size=len(begin), max_size=len(begin))
    one = st.floats(0.5, 1)
    return keep(
        num_patches=draw(st.integers(150, 600)),
        begin=begin,
        keep_ratio=draw(one | listed | shape),
        of=draw(st.sampled_from(["initial", "current"])) if len(begin) < 4 else "initial",
        rounding=draw(st.sampled_from(["floor", "ceil"])),
        warmup=draw(st.none() | st.fixed_dictionaries({"start": st.just(0.1), "end": st.just(0.6)})),
    )


# Where ratios are taken of, and how they are rounded


def test_elips_published_ratios_leave_the_published_tokens() -> None:
    assert keep(num_patches=256, begin=(2, 4, 10), keep_ratio=(0.90, 0.65, 0.40)).counts() == {2: 230, 4: 166, 10: 102}


@pytest.mark.parametrize(("of", "left"), [(None, [80, 50]), ("initial", [80, 50]), ("current", [80, 40])])
def test_the_base_of_a_list_is_as_said_and_initial_unless_said(of: Any, left: list[int]) -> None:
    assert [*keep(num_patches=100, begin=[1, 2], keep_ratio=[0.8, 0.5], of=of).counts().values()] == left


@pytest.mark.parametrize(("of", "left"), [("initial", [70, 70, 70]), ("current", [70, 49, 34])])
def test_one_number_is_a_list_of_equal_ones(of: Any, left: list[int]) -> None:
    for keep_ratio in (0.7, [0.7] * 3):
        assert [*keep(num_patches=100, begin=[3, 6, 9], keep_ratio=keep_ratio, of=of).counts().values()] == left


@pytest.mark.parametrize("keep_ratio", [0.7, 0.9])
def test_one_number_for_several_stages_needs_its_base_said(keep_ratio: float) -> None:
    params: dict[str, Any] = {"num_patches": 256, "begin": [3, 6, 9]}
    with pytest.raises(ElipError, match=r"does not say of what\. Give \[.*\], shares of the initial") as raised:
        keep(**params, keep_ratio=keep_ratio)
    message = str(raised.value)
    assert f"or keep_ratio: {keep_ratio:g} with of: current" in message
    spelt_out = json.loads(message[message.index("[") : message.index("]") + 1])
    assert spelt_out == pytest.approx([keep_ratio ** (stage + 1) for stage in range(3)], abs=1e-4)
    assert keep(**params, keep_ratio=spelt_out).counts() == keep(**params, keep_ratio=spelt_out, of="initial").counts()


def test_one_number_that_cannot_be_mistaken_is_taken() -> None:
    assert keep(num_patches=100, begin=[3], keep_ratio=0.7).counts() == {3: 70}
    assert keep(num_patches=100, begin=[3, 6], keep_ratio=1).counts() == {3: 100, 6: 100}


def test_bases_differ_in_what_they_round() -> None:
    of_initial = keep(num_patches=50, begin=[3, 6, 9], keep_ratio=[0.7, 0.49, 0.343])
    assert of_initial.counts() == {3: 35, 6: 24, 9: 17}
    assert keep(num_patches=50, begin=[3, 6, 9], keep_ratio=0.7, of="current").counts() == {3: 35, 6: 24, 9: 16}


def test_shares_of_the_initial_patches_follow_from_either_base() -> None:
    assert keep(begin=[1, 2, 3], keep_ratio=[0.8, 0.5, 0.6]).shares == [0.8, 0.5, 0.5]
    assert keep(begin=[1, 2, 3], keep_ratio=[0.8, 0.5, 0.5], of="current").shares == pytest.approx([0.8, 0.4, 0.2])


def test_rounding_up_is_evits_way() -> None:
    params: dict[str, Any] = {"num_patches": 64, "begin": [3, 6, 9], "keep_ratio": 0.7, "of": "current"}
    assert keep(**params, rounding="ceil").counts() == {3: 45, 6: 32, 9: 23}
    assert keep(**params).counts() == {3: 44, 6: 30, 9: 21}


def test_a_fused_token_counts_where_ratios_are_of_the_tokens_that_arrive() -> None:
    schedule = keep(num_patches=64, begin=[3, 6], keep_ratio=0.7, of="current", rounding="ceil")
    assert schedule.num_keep(6, 45 + 1) == 33


@given(st.integers(1, 99), st.integers(100, 1000), st.sampled_from(["floor", "ceil"]))
def test_products_that_come_out_even_are_not_rounded_off(hundredths: int, num_patches: int, rounding: str) -> None:
    exact = Fraction(hundredths, 100) * num_patches
    schedule = keep(num_patches=num_patches, begin=[0], keep_ratio=hundredths / 100, rounding=rounding)
    assert schedule.counts() == {0: floor(exact) if rounding == "floor" else ceil(exact)}


@pytest.mark.parametrize(
    ("shape", "expected"), [("linear", [80, 70, 60, 50, 40]), ("cosine", [80, 74, 60, 45, 40]), (None, [80] + [70] * 4)]
)
def test_ratios_may_run_from_the_first_stage_to_the_last(shape: str | None, expected: list[int]) -> None:
    ratio: Any = [0.8] + [0.7] * 4 if shape is None else {"shape": shape, "first": 0.8, "last": 0.4}
    assert list(keep(num_patches=100, begin=range(5), keep_ratio=ratio).counts().values()) == expected


def test_a_shape_is_a_line_unless_said_otherwise() -> None:
    line = keep(begin=[1, 2, 3], keep_ratio={"first": 0.9, "last": 0.5})
    assert line.ratios == pytest.approx({1: 0.9, 2: 0.7, 3: 0.5})
    assert keep(begin=[5], keep_ratio={"first": 0.9, "last": 0.5}).ratios == {5: 0.9}


@given(schedules())
def test_ratios_of_a_stage_are_in_bounds_and_counts_never_rise(schedule: KeepSchedule) -> None:
    left = [schedule.num_patches, *schedule.counts().values()]
    assert all(later <= earlier for earlier, later in pairwise(left))
    assert left[-1] >= 1
    assert tuple(schedule.counts()) == schedule.begin


@given(schedules(), st.integers(0, 11), st.integers(1, 700), shares)
def test_a_block_keeps_between_one_and_all_that_arrive(
    schedule: KeepSchedule, block: int, arrived: int, progress: float
) -> None:
    left = schedule.num_keep(block, arrived, progress)
    assert 1 <= left <= arrived
    if block not in schedule.begin:
        assert left == arrived


def test_a_stage_that_finds_few_enough_tokens_does_nothing() -> None:
    assert keep(num_patches=100, begin=[1, 2], keep_ratio=[0.4, 0.9]).counts() == {1: 40, 2: 40}


@given(st.sampled_from(["initial", "current"]), st.sampled_from(["floor", "ceil"]), st.integers(1, 1000))
def test_a_ratio_of_one_keeps_all(of: Any, rounding: Any, num_patches: int) -> None:
    schedule = keep(num_patches=num_patches, begin=[0, 5], keep_ratio=1.0, of=of, rounding=rounding)
    assert schedule.counts() == {0: num_patches, 5: num_patches}


# Warm-up


@given(schedules(), shares, shares)
def test_the_further_the_training_the_fewer_are_kept(schedule: KeepSchedule, one: float, other: float) -> None:
    earlier, later = sorted([one, other])
    for block in schedule.begin:
        at = schedule.num_patches
        assert schedule.num_keep(block, at, earlier) >= schedule.num_keep(block, at, later)


@given(ratios, st.sampled_from(SHAPES), st.integers(1, 1000))
def test_a_warm_up_starts_from_all_tokens_and_ends_at_the_target_exactly(
    ratio: float, shape: str, patches: int
) -> None:
    params: dict[str, Any] = {"num_patches": patches, "begin": [2], "keep_ratio": max(ratio, 1 / patches)}
    warm, plain = keep(**params, warmup={"start": 0.2, "end": 0.5, "shape": shape}), keep(**params)
    assert {warm.num_keep(2, patches, progress) for progress in (0, 0.1, 0.2)} == {patches}
    assert {warm.num_keep(2, patches, p) for p in (0.5, 0.7, 1)} == {plain.num_keep(2, patches)}
    assert warm.counts() == plain.counts()


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_every_ratio_is_reached_exactly_at_the_end_of_the_warm_up(rounding: str) -> None:
    for hundredths in range(1, 101):
        params: dict[str, Any] = {"num_patches": 100, "begin": [0], "keep_ratio": hundredths / 100}
        schedule = keep(**params, rounding=rounding, warmup={"end": 0.5})
        assert schedule.num_keep(0, 100, 1.0) == hundredths


def test_half_way_through_a_line_half_of_the_reduction_is_in_force() -> None:
    schedule = keep(num_patches=100, begin=[0], keep_ratio=0.6, warmup={"end": 1.0, "shape": "linear"})
    assert schedule.num_keep(0, 100, 0.5) == 80


# Removals


def test_one_number_is_removed_in_every_block() -> None:
    assert [remove(r=13).num_remove(block, 196) for block in range(12)] == [13] * 12


def test_a_list_says_it_block_by_block() -> None:
    assert [remove(depth=3, r=[5, 0, 2]).num_remove(block, 196) for block in range(3)] == [5, 0, 2]


@pytest.mark.parametrize(
    ("slope", "expected"),
    [
        (-1, [8, 7, 6, 5, 5, 4, 3, 2, 2, 1, 0, 0]),
        (-0.5, [6, 5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2]),
        (0, [4] * 12),
        (1, [0, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8]),
    ],
)
def test_a_line_over_the_blocks_is_that_of_the_paper(slope: float, expected: list[int]) -> None:
    assert remove(r={"mean": 4, "slope": slope}).per_block == expected


def test_a_mean_alone_is_constant() -> None:
    assert remove(r={"mean": 6}).per_block == [6] * 12


@given(st.integers(0, 40), st.integers(-10, 10), st.integers(2, 32))
def test_a_line_runs_from_its_first_value_to_as_much_beyond_the_mean(mean: int, tenths: int, depth: int) -> None:
    first = int(mean * (1 - Fraction(tenths, 10)))
    line = [int(first + Fraction(2 * block * (mean - first), depth - 1)) for block in range(depth)]
    assert remove(depth, 200, r={"mean": mean, "slope": tenths / 10}).per_block == line
    assert line[-1] == 2 * mean - first


def test_a_line_over_a_single_block_is_its_first_value() -> None:
    assert remove(depth=1, r={"mean": 6, "slope": -1}).per_block == [12]


def test_removals_set_in_as_the_warm_up_says() -> None:
    schedule = remove(r=10, warmup={"start": 0.0, "end": 0.5, "shape": "linear"})
    assert [schedule.num_remove(3, 196, progress) for progress in (0, 0.05, 0.25, 0.49, 0.5, 1)] == [0, 1, 5, 9, 10, 10]
    assert schedule.num_remove(3, 196) == 10


def test_in_no_block_more_than_half_of_the_tokens_go() -> None:
    assert [remove(r=13).num_remove(0, arrived) for arrived in (30, 26, 25, 2, 1)] == [13, 13, 12, 1, 0]


# Strength


@given(schedules().map(lambda schedule: list(schedule.ratios.values())), st.floats(0, 8), st.floats(0, 8))
def test_a_stronger_reduction_keeps_less_in_each_stage(given_ratios: list[float], one: float, other: float) -> None:
    weak, strong = (scaled_ratios(given_ratios, strength) for strength in sorted([one, other]))
    assert all(0 < less <= more <= 1 for less, more in zip(strong, weak, strict=True))
    assert scaled_ratios(given_ratios, 0) == [1] * len(given_ratios)
    assert scaled_ratios(given_ratios, 1) == given_ratios


def test_ratios_are_scaled_in_the_form_that_they_were_given_in() -> None:
    assert scaled_ratios(0.5, 2) == 0.25
    assert scaled_ratios((0.5, 0.25), 0.5) == pytest.approx([0.5**0.5, 0.5])
    shape = {"shape": "cosine", "first": 0.9, "last": 0.5}
    assert scaled_ratios(shape, 2) == pytest.approx({"shape": "cosine", "first": 0.81, "last": 0.25})


def test_removals_are_scaled_in_the_form_that_they_were_given_in() -> None:
    assert scaled_removals(8, 0.3) == 2
    assert scaled_removals([8, 3, 0], 1.5) == [12, 4, 0]
    assert scaled_removals({"mean": 8, "slope": -1}, 0.5) == {"mean": 4, "slope": -1}


@pytest.mark.parametrize("r", [8, [8, 3, 0], {"mean": 8, "slope": 0.5}])
def test_removals_at_strength_one_are_those_given_and_at_none_nothing(r: Any) -> None:
    assert scaled_removals(r, 1) == r
    assert sum(remove(depth=3, r=scaled_removals(r, 0)).per_block) == 0


@pytest.mark.parametrize("value", [["much", 0.5], {"shape": "linear", "first": "much", "last": 0.1}, -0.5, [2.0, 0.5]])
def test_what_is_no_ratio_goes_on_to_be_refused_by_the_schedule(value: Any) -> None:
    with pytest.raises(ElipError, match=r"keep_ratio: (expected numbers|each value)"):
        keep(begin=[1, 2], keep_ratio=scaled_ratios(value, 0.5))


# What is refused


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"begin": [1, 2], "keep_ratio": [0.5]}, "begin has 2 blocks but keep_ratio has 1 values; give one ratio for"),
        ({"begin": [1], "keep_ratio": [0.5, 0.4]}, "begin has 1 blocks but keep_ratio has 2 values"),
        ({"begin": [12], "keep_ratio": 0.5}, "begin: block 12 does not exist; this ViT has blocks 0 to 11."),
        ({"begin": [-1], "keep_ratio": 0.5}, "begin: block -1 does not exist"),
        ({"begin": [3, 3], "keep_ratio": 0.5}, "begin: blocks must rise, got [3, 3]."),
        ({"begin": [1], "keep_ratio": 0}, "keep_ratio: each value must be in (0, 1], got 0."),
        ({"begin": [1], "keep_ratio": 1.01}, "keep_ratio: each value must be in (0, 1], got 1.01."),
        ({"begin": [1], "keep_ratio": float("nan")}, "keep_ratio: each value must be in (0, 1], got nan."),
        ({"begin": [1], "keep_ratio": ["x"]}, "keep_ratio: expected numbers, got 'x'."),
        ({"begin": [1], "keep_ratio": [True]}, "keep_ratio: expected numbers, got True."),
        ({"begin": [1], "keep_ratio": 0.005}, "0.005 of 196 patches leaves none; give at least 0.0051."),
        ({"begin": [1], "keep_ratio": {"first": 0.5}}, "a shape is {shape: linear or cosine, first: A, last: B}, got"),
        ({"begin": [1], "keep_ratio": {"fist": 0.5}}, "keep_ratio has no key 'fist'. Did you mean 'first'? It takes:"),
        ({"begin": [1], "keep_ratio": {"shape": "step", "first": 1, "last": 1}}, "a shape is {shape: linear or cosine"),
        ({"begin": [1], "keep_ratio": {"shape": [], "first": 1, "last": 1}}, "a shape is {shape: linear or cosine"),
        ({"begin": [1], "keep_ratio": {"first": "a", "last": 1}}, "keep_ratio: expected numbers, got 'a'."),
        ({"begin": [1], "keep_ratio": 0.5, "of": "all"}, "of: expected initial or current, got 'all'."),
        ({"begin": [1], "keep_ratio": 0.5, "rounding": "up"}, "rounding: expected floor or ceil, got 'up'."),
        ({"begin": [1], "keep_ratio": 0.5, "warmup": 0.3}, "warmup: expected {start, end, shape}, got 0.3."),
        ({"begin": [1], "keep_ratio": 0.5, "warmup": {"ends": 1}}, "warmup has no key 'ends'. Did you mean 'end'?"),
        ({"begin": [1], "keep_ratio": 0.5, "warmup": {"end": "x"}}, "warmup: expected numbers, got 'x'."),
        ({"begin": [1], "keep_ratio": 0.5, "warmup": {"start": 0.5}}, "0 <= start <= end <= 1, got 0.5 and 0.25."),
        ({"begin": [1], "keep_ratio": 0.5, "warmup": {"end": 1.5}}, "0 <= start <= end <= 1, got 0.0 and 1.5."),
        (
            {"begin": [1], "keep_ratio": 0.5, "warmup": {"shape": "sine"}},
            "warmup.shape: expected one of linear, cosine, step, got 'sine'.",
        ),
        ({"begin": [1], "keep_ratio": 0.5, "warmup": {"shape": []}}, "warmup.shape: expected one of"),
    ],
)
def test_keep_ratios_that_make_no_sense_are_refused_in_words(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ElipError, match=re.escape(message)):
        keep(**params)


@pytest.mark.parametrize(
    ("r", "message"),
    [
        (-1, "r: cannot remove -1 tokens (block 0); give 0 or more."),
        ([0, -2, 0], "r: cannot remove -2 tokens (block 1); give 0 or more."),
        (196, "r: removing 196 of 196 patches (block 0) would leave none."),
        ([0, 0, 500], "r: removing 500 of 196 patches (block 2) would leave none."),
        ([1, 2], "r has 2 values but this ViT has 3 blocks."),
        (8.5, "r: expected whole numbers, got 8.5."),
        (True, "r: expected whole numbers, got True."),
        (["x", 1, 2], "r: expected whole numbers, got 'x'."),
        ({"mean": 100, "slope": -1}, "r: removing 200 of 196 patches (block 0) would leave none."),
        ({"means": 4}, "r has no key 'means'. Did you mean 'mean'?"),
        ({"slope": -1}, "r: a line over the blocks is {mean: R, slope: S}, got {'slope': -1}."),
        ({"mean": "x"}, "r: expected numbers, got 'x'."),
        ({"mean": float("nan")}, "r: mean must be a finite number, got nan."),
        ({"mean": float("inf")}, "r: mean must be a finite number, got inf."),
        ({"mean": 4, "slope": float("nan")}, "r: slope must be in [-1, 1], got nan."),
        ({"mean": 4, "slope": 2}, "r: slope must be in [-1, 1], got 2."),
    ],
)
def test_removals_that_make_no_sense_are_refused_in_words(r: Any, message: str) -> None:
    with pytest.raises(ElipError, match=re.escape(message)):
        remove(depth=3, r=r)


def test_schedules_take_what_a_config_file_gives() -> None:
    written = json.loads('{"begin": [2, 4], "keep_ratio": [1, 0.5], "warmup": {"start": 0, "end": 1}}')
    assert keep(**written).counts() == {2: 196, 4: 98}
