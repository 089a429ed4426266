"""What every reducer inherits: parameters of another strength."""

from typing import Any

import pytest

from elip.errors import ElipError
from elip.reduction.encoder import EncoderInfo
from elip.reduction.reducer import NoReduction, TokenReducer


class ByRatio(TokenReducer):
    def __init__(self, encoder: EncoderInfo, *, begin: int = 3, keep_ratio: float | list[float] = 0.25) -> None:
        super().__init__()


class ByNumber(TokenReducer):
    def __init__(self, encoder: EncoderInfo, *, r: int | list[int] = 10) -> None:
        super().__init__()


class ByBoth(TokenReducer):
    def __init__(self, encoder: EncoderInfo, *, r: int = 8, keep_ratio: float | None = None) -> None:
        super().__init__()


class ByWhatever(TokenReducer):
    def __init__(self, encoder: EncoderInfo, **params: Any) -> None:
        super().__init__()


class ByNeed(TokenReducer):
    def __init__(self, encoder: EncoderInfo, keep_ratio: float) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("cls", "params", "strength", "expected"),
    [
        (ByRatio, {}, 0.0, {"keep_ratio": 1.0}),
        (ByRatio, {}, 0.5, {"keep_ratio": 0.5}),
        (ByRatio, {}, 2.0, {"keep_ratio": 0.0625}),
        (ByRatio, {"begin": 4}, 1.0, {"begin": 4, "keep_ratio": 0.25}),
        (ByRatio, {"keep_ratio": [0.81, 0.49]}, 0.5, {"keep_ratio": [0.9, 0.7]}),
        (ByNumber, {}, 0.0, {"r": 0}),
        (ByNumber, {}, 1.5, {"r": 15}),
        (ByNumber, {"r": [4, 2]}, 0.5, {"r": [2, 1]}),
        (ByBoth, {}, 0.5, {"r": 4}),
        (ByBoth, {"keep_ratio": 0.25}, 0.5, {"r": 4, "keep_ratio": 0.5}),
        (ByWhatever, {"keep_ratio": 0.25}, 0.5, {"keep_ratio": 0.5}),
        (ByNeed, {"keep_ratio": 0.25}, 0.5, {"keep_ratio": 0.5}),
        (NoReduction, {}, 3.0, {}),
    ],
)
def test_strength_scales_ratios_and_removals_given_or_by_default(
    cls: type[TokenReducer], params: dict[str, Any], strength: float, expected: dict[str, Any]
) -> None:
    before = dict(params)
    assert cls.at_strength(params, strength) == expected
    assert params == before


@pytest.mark.parametrize("cls", [TokenReducer, ByWhatever, ByNeed])
def test_a_reducer_without_either_is_told_what_to_do(cls: type[TokenReducer]) -> None:
    with pytest.raises(ElipError, match=f"{cls.__name__} has neither keep_ratio nor r .* let it override at_strength"):
        cls.at_strength({}, 0.5)
