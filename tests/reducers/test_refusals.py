"""Wrong use of the project's reducers is refused in words: parameters, schedules, encoders."""

from typing import Any

import pytest

from elip.errors import ElipError
from elip.reduction.encoder import EncoderInfo
from elip.registry import REDUCERS

INFO = EncoderInfo(depth=12, width=32, num_heads=2, grid=(4, 4))
BARE = EncoderInfo(depth=12, width=32, num_heads=2, grid=(4, 4), num_prefix_tokens=0, has_class_token=False)
RATIOS = (
    *("ats", "dpcknn", "dynamicvit", "evit", "guided", "kmedoids", "patchmerger", "pool", "random", "sinkhorn", "sit"),
    "topk",
)
CLS_BASED = ("ats", "elip", "evit", "guided", "topk", "trips")


@pytest.mark.parametrize("name", RATIOS)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"begin": [3, 6], "keep_ratio": [0.5]}, "begin has 2 blocks but keep_ratio has 1 values"),
        ({"begin": [3], "keep_ratio": [1.5]}, r"keep_ratio: each value must be in \(0, 1\], got 1.5"),
        ({"begin": [12], "keep_ratio": [0.5]}, "block 12 does not exist; this ViT has blocks 0 to 11"),
        ({"begin": [3], "keep_ratio": [0.0]}, r"keep_ratio: each value must be in \(0, 1\], got 0.0"),
        ({"keep_ration": 0.5}, "has no parameter 'keep_ration'. Did you mean 'keep_ratio'"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ElipError, match=message) as raised:
        REDUCERS.build(name, INFO, **params)
    assert f"{name!r}" in str(raised.value)


@pytest.mark.parametrize("name", sorted({*RATIOS} - {"evit"}))
def test_a_ratio_that_leaves_no_patch_is_refused(name: str) -> None:
    with pytest.raises(ElipError, match=f"reducer '{name}': keep_ratio: 0.01 of 16 patches leaves none"):
        REDUCERS.build(name, INFO, begin=[3], keep_ratio=[0.01])


@pytest.mark.parametrize("name", [*RATIOS, "elip", "pitome", "trips"])
def test_one_ratio_for_several_stages_is_refused_unless_it_is_clear_of_what(name: str) -> None:
    params: dict[str, Any] = {"begin": [3, 6], "keep_ratio": 0.7}
    if name == "elip":
        params["look_ahead"] = [1, 1]
    if name in ("evit", "pitome", "trips"):  # whose papers count the tokens that arrive
        REDUCERS.build(name, INFO, **params)
    else:
        with pytest.raises(ElipError, match=rf"reducer '{name}': keep_ratio: 0.7 .* Give \[0.7, 0.49\].* of: current"):
            REDUCERS.build(name, INFO, **params)
    for of in ("initial", "current"):
        REDUCERS.build(name, INFO, **params, of=of)


@pytest.mark.parametrize("name", ["tome", "tofu"])
@pytest.mark.parametrize(
    ("r", "message"),
    [
        (16, "removing 16 of 16 patches .* would leave none"),
        (-1, "cannot remove -1 tokens"),
        ([1, 2], "r has 2 values but this ViT has 12 blocks"),
        (0.5, "expected whole numbers, got 0.5"),
    ],
)
def test_an_r_that_makes_no_sense_is_refused(name: str, r: Any, message: str) -> None:
    with pytest.raises(ElipError, match=message):
        REDUCERS.build(name, INFO, r=r)


@pytest.mark.parametrize("name", CLS_BASED)
def test_a_vit_without_a_class_token_is_refused_by_what_scores_with_it(name: str) -> None:
    with pytest.raises(ElipError, match=f"reducer '{name}': it scores patches by the attention of the class token"):
        REDUCERS.build(name, BARE)


@pytest.mark.parametrize("name", ["elip", "guided", "trips"])
def test_a_text_of_another_width_is_refused_by_what_puts_it_into_the_image(name: str) -> None:
    info = EncoderInfo(depth=12, width=32, num_heads=2, grid=(4, 4), text_width=48)
    with pytest.raises(ElipError, match=r"widths must be equal: the\s+ViT's is 32, the text encoder's 48"):
        REDUCERS.build(name, info)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("dynamicvit", {"distance": "l1"}, "distance: expected mse or kl, got 'l1'"),
        ("sinkhorn", {"eps": 0}, "eps must be above 0 and iterations at least 1, got 0 and 3"),
        ("dynamicvit", {"ratio_weight": float("nan")}, "ratio_weight: expected a number of 0 or more, got nan"),
        ("dynamicvit", {"distill_weight": -1.0}, "distill_weight: expected a number of 0 or more, got -1.0"),
        ("sinkhorn", {"eps": float("nan")}, "eps must be above 0 and iterations at least 1, got nan and 3"),
        ("elip", {"text_weight": float("nan")}, r"text_weight: expected a share in \[0, 1\], got nan"),
        ("elip", {"text_weight": 1.5}, r"text_weight: expected a share in \[0, 1\], got 1.5"),
        ("guided", {"text_weight": 1.5}, r"text_weight: expected a share in \[0, 1\], got 1.5"),
        ("guided", {"temperature": -1.0}, "temperature: expected a number of 0 or more, got -1.0"),
        ("guided", {"temperature": float("nan")}, "temperature: expected a number of 0 or more, got nan"),
        ("guided", {"teacher_block": 12}, "teacher_block: this ViT has blocks 0 to 11, got 12"),
        ("random", {"seed": 2**64}, r"seed: expected a whole number from 0 to 2\^63 - 1, got 18446744073709551616"),
        ("kmedoids", {"iterations": -1}, "iterations must be 0 or more, got -1"),
        ("dpcknn", {"neighbors": 0}, "neighbors must be at least 1, got 0"),
        ("kmedoids", {"weights": "cls"}, "weights: expected attention or equal, got 'cls'"),
        ("kmedoids", {"begin": [0], "keep_ratio": [0.5]}, "no block comes before block 0"),
        ("kmedoids", {"first_medoid": [1, 2]}, r"expected a place below 16, or one for each of 3 stages, got \[1, 2\]"),
        ("kmedoids", {"first_medoid": 16}, "expected a place below 16"),
        ("tofu", {"merge_from": 13}, r"merge_from: this ViT has 12 blocks; give 0 .* to 12"),
    ],
)
def test_a_methods_own_parameter_out_of_range_is_refused(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ElipError, match=message) as raised:
        REDUCERS.build(name, INFO, **params)
    assert f"reducer {name!r}" in str(raised.value)
