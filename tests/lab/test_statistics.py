"""Intervals: worked by hand, against scipy, and by how often they hold what they should."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from elip.errors import ElipError
from elip.lab.statistics import (
    Interval,
    bootstrap,
    bootstrap_items_and_seeds,
    bootstrap_mean,
    by_cluster,
    mean_over_seeds,
    t_quantile,
    verdict,
)
from elip.task import ItemScores

Z = stats.norm.ppf(0.975)
TABLES = arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.integers(-20, 20))


def plain_percentile(table: np.ndarray, samples: int, seed: int = 0) -> tuple[float, float]:
    """Return bounds of the percentile bootstrap over seeds and items, as it is in books."""
    random, (rows, columns) = np.random.default_rng(seed), table.shape
    items = random.multinomial(columns, np.full(columns, 1 / columns), samples) / columns
    seeds = random.multinomial(rows, np.full(rows, 1 / rows), samples) / rows
    low, high = np.quantile(((items @ table.T) * seeds).sum(1), [0.025, 0.975])
    return low, high


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_t_is_that_of_scipy(level: float) -> None:
    for freedom in (1, 1.3, 2, 3.7, 4, 20, 500.5, 1e6):
        assert t_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-6)


def test_the_interval_over_seeds_is_students() -> None:
    # mean 60, deviations -4, 0, 4: variance 16, error 4 / sqrt(3), t of 2 degrees of freedom 4.30265
    half = 4.30265 * 4 / math.sqrt(3)
    assert near(mean_over_seeds([56, 60, 64]), Interval(60, 60 - half, 60 + half), 1e-4)
    values = np.random.default_rng(0).normal(50, 3, 7)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert near(mean_over_seeds(values, level=0.9), Interval(values.mean(), low, high), 1e-6)


def near(found: Interval, expected: Interval, within: float) -> bool:
    """Return whether all three numbers are."""
    pairs = ((found.mean, expected.mean), (found.low, expected.low), (found.high, expected.high))
    return all(abs(one - other) <= within for one, other in pairs)


def test_two_items_worked_by_hand() -> None:
    # Resamples of 0 and 1 are 0, 1/2, 1/2 and 1: the middle 95% goes from 0 to 1. Their spread is sqrt(1/8), the
    # error of the mean sqrt(1/4), so the stretch is sqrt(2) times t (12.706) over z.
    half = 0.5 * math.sqrt(2) * stats.t.ppf(0.975, 1) / Z
    assert near(bootstrap_mean([0, 1], samples=20_000), Interval(0.5, 0.5 - half, 0.5 + half), 0.03 * half)


def test_of_many_items_it_is_the_percentile_interval_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(10, 400)
    found = bootstrap_mean(values, samples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    stretch = math.sqrt(400 / 399) * stats.t.ppf(0.975, 399) / Z
    expected = [values.mean() + stretch * (bound - values.mean()) for bound in theirs]
    assert (found.low, found.high) == pytest.approx(expected, abs=0.03)
    assert found.high - found.mean > found.mean - found.low  # skewed as the values are


def test_a_figure_that_is_no_mean_has_the_interval_of_scipy() -> None:
    values = np.random.default_rng(0).normal(size=(2, 300))
    values[1] += values[0]

    def correlation(places: np.ndarray) -> float:
        return float(np.corrcoef(values[:, places])[0, 1])

    found = bootstrap(correlation, 300, samples=3000)
    theirs = stats.bootstrap(
        tuple(values),
        lambda x, y: np.corrcoef(x, y)[0, 1],
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=3000,
        rng=1,
    ).confidence_interval
    assert found.mean == correlation(np.arange(300))
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.01)


def test_the_error_of_a_table_is_that_of_its_two_ways() -> None:
    # Rows differ by 2, columns by 4, no rest: mean squares 3 x 2 = 6 (1 degree) and 2 x 16 = 32 (2 degrees), so the
    # error is sqrt((6 + 32) / 6), and its degrees of freedom are 38 ^ 2 / (6 ^ 2 / 1 + 32 ^ 2 / 2) = 2.635.
    table = np.array([[1.0, 5.0, 9.0], [3.0, 7.0, 11.0]])
    half = stats.t.ppf(0.975, 38**2 / (36 + 512)) * math.sqrt(38 / 6)
    found = bootstrap_items_and_seeds(table, samples=40_000)
    assert found.mean == 6.0
    assert found.high - found.low == pytest.approx(2 * half, rel=0.1)  # the resampled shape is no normal one


def test_what_seeds_have_in_common_leaves_a_paired_difference() -> None:
    random = np.random.default_rng(0)
    shared = random.normal(0, 10, (5, 1)) + random.normal(0, 10, 80)
    one, other = (shared + random.normal(0, 1, (5, 80)) for _ in range(2))
    alone, paired = bootstrap_items_and_seeds(one + 2), bootstrap_items_and_seeds(one + 2 - other)
    assert verdict(paired) == "better"
    assert paired.high - paired.low < 0.1 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 2, "better"), (-3, -0.1, "worse"), (-1, 1, "tie"), (0, 1, "tie"), (0, 0, "tie")]
)
def test_a_difference_within_its_interval_is_a_tie(low: float, high: float, expected: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high)) == expected


def seed_effects(random: np.random.Generator) -> np.ndarray:
    return 0.1 * random.normal(size=(5, 1)) + 0.05 * random.normal(size=200) + 0.1 * random.normal(size=(5, 200))


def all_effects(random: np.random.Generator) -> np.ndarray:
    return 0.04 * random.normal(size=(5, 1)) + 0.3 * random.normal(size=200) + 0.35 * random.normal(size=(5, 200))


def item_effects(random: np.random.Generator) -> np.ndarray:
    return 0.3 * random.normal(size=200) + 0.35 * random.normal(size=(5, 200))


def right_or_wrong(random: np.random.Generator) -> np.ndarray:
    hardness = random.normal(size=200)

    def arm() -> np.ndarray:
        ease = hardness + 0.15 * random.normal(size=(5, 1)) + 0.3 * random.normal(size=200)
        return (random.random((5, 200)) < 1 / (1 + np.exp(-ease))).astype(float)

    return arm() - arm()


@pytest.mark.parametrize(
    "make", [seed_effects, all_effects, item_effects, right_or_wrong], ids=lambda make: make.__name__
)
def test_nominal_95_percent_hold_the_true_mean_about_as_often_with_five_seeds(
    make: Callable[[np.random.Generator], np.ndarray],
) -> None:
    random, times = np.random.default_rng(3), 400
    found = [bootstrap_items_and_seeds(make(random), samples=200) for _ in range(times)]
    held = sum(one.low <= 0 <= one.high for one in found) / times
    assert 0.92 <= held <= 0.98  # three standard errors of what was measured of 2,000


def test_without_the_stretch_five_seeds_hold_it_far_less_often() -> None:
    random, times = np.random.default_rng(3), 400
    bounds = [plain_percentile(seed_effects(random), 200, seed) for seed in range(times)]
    assert sum(low <= 0 <= high for low, high in bounds) / times < 0.88


@settings(max_examples=40, deadline=None)
@given(TABLES, st.integers(-9, 9))
def test_an_interval_moves_with_its_values_and_turns_with_their_sign(table: np.ndarray, shift: int) -> None:
    def interval(values: np.ndarray) -> Interval:
        return bootstrap_items_and_seeds(values, samples=100)

    found, moved, turned = interval(table), interval(table + shift), interval(-table)
    within = 1e-6 * (1 + found.high - found.low)
    assert found.mean == pytest.approx(table.mean())
    assert found.low <= found.mean + within
    assert found.mean <= found.high + within
    assert near(moved, Interval(found.mean + shift, found.low + shift, found.high + shift), within)
    assert near(turned, Interval(-found.mean, -found.high, -found.low), within)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-9, 9)), min_size=2, max_size=12))
def test_values_of_clusters_have_the_figure_as_their_mean(items: list[tuple[int, int]]) -> None:
    parts = [
        ItemScores([value for _, value in items], [str(c) for c, _ in items], 0.5),
        ItemScores([4.0, 8.0], ["0", "7"], 2.0),
    ]
    values, names = by_cluster(parts)
    assert values.mean() == pytest.approx(0.5 * np.mean([value for _, value in items]) + 2 * 6)
    assert set(names) == {*(str(c) for c, _ in items), "0", "7"}


def test_captions_are_drawn_with_their_picture() -> None:
    values = np.random.default_rng(0).normal(size=100)
    alone, _ = by_cluster([ItemScores(values.tolist(), [f"{n:03}" for n in range(100)])])
    copies, _ = by_cluster([ItemScores(values.repeat(5).tolist(), [f"{n:03}" for n in range(100) for _ in range(5)])])
    np.testing.assert_allclose(alone, values)
    np.testing.assert_allclose(copies, values)


def test_clusters_of_different_sizes_move_the_figure_as_resampling_them_does() -> None:
    random = np.random.default_rng(0)
    sizes, level = random.integers(1, 9, 150), random.normal(size=150)
    clusters = np.arange(150).repeat(sizes)
    values, _ = by_cluster([ItemScores(level.repeat(sizes).tolist(), [f"{number:03}" for number in clusters])])
    found = bootstrap_mean(values)
    theirs = bootstrap(lambda drawn: float(np.average(level[drawn], weights=sizes[drawn])), 150)
    assert near(found, theirs, 0.03)


def test_an_interval_of_one_value_or_of_none_is_refused() -> None:
    for values in ([], [1.0]):
        with pytest.raises(ElipError, match="needs two values or more"):
            mean_over_seeds(values)
    with pytest.raises(ElipError, match="not finite"):
        bootstrap_mean([1.0, math.nan])
    with pytest.raises(ElipError, match="needs two values or more"):
        bootstrap_items_and_seeds([[1.0], [2.0]])
    assert bootstrap_items_and_seeds([[2.0, 2.0]] * 3) == Interval(2.0, 2.0, 2.0)


def test_resampling_repeats() -> None:
    table = np.random.default_rng(0).normal(size=(3, 20))
    assert bootstrap_items_and_seeds(table) == bootstrap_items_and_seeds(table)
    assert bootstrap_items_and_seeds(table, seed=1) != bootstrap_items_and_seeds(table)
