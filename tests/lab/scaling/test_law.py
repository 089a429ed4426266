"""Laws fitted to numbers made by hand."""

import pytest

from elip.lab.scaling.law import fit


def test_a_line_is_found_exactly() -> None:
    law = fit([1, 2, 5, 16], [10, 12, 18, 40])
    assert (law.fixed, law.per_unit) == (pytest.approx(8), pytest.approx(2))
    assert law.deviation == pytest.approx(0, abs=1e-12)
    assert law.at(100) == pytest.approx(208)


def test_a_small_fixed_part_is_not_lost_beside_large_numbers() -> None:
    law = fit([10**6, 2 * 10**6, 4 * 10**6], [3 + 1000 * x for x in (10**6, 2 * 10**6, 4 * 10**6)])
    assert law.fixed == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_an_exponent_is_found_exactly(power: float) -> None:
    x = [2, 3, 7, 11]
    assert fit(x, [5 * value**power for value in x]).exponent == pytest.approx(power)


def test_what_is_no_line_is_told_by_how_much_it_is_off() -> None:
    # the line of least squares through (0, 0 -> 1), (1, 2), (2, 1): level at 4/3
    law = fit([0, 1, 2], [1, 2, 1])
    assert (law.fixed, law.per_unit) == (pytest.approx(4 / 3), pytest.approx(0))
    assert law.deviation == pytest.approx(1 / 3)
    assert law.exponent is None  # 0 has no logarithm


def test_one_point_has_no_law() -> None:
    with pytest.raises(ValueError, match="two different points"):
        fit([3, 3], [1, 2])
