"""PiToMe: patches with many others like them are merged, what stands alone is protected."""

from math import cos, exp, radians, sin
from typing import Any

import pytest
import torch
from torch import Tensor

from elip.errors import ElipError
from elip.reduction.encoder import EncoderInfo
from elip.reduction.reducer import AttentionFacts, Needs, ReductionContext
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS
from reducers.pitome import energy, energy_matching

INFO = EncoderInfo(depth=5, width=2, num_heads=1, grid=(1, 5))


def pointing(*degrees: float) -> Tensor:
    """Return one image's keys in these directions, of different lengths: [1, N, 2]."""
    return torch.tensor([[[(i + 1) * cos(radians(d)), (i + 1) * sin(radians(d))] for i, d in enumerate(degrees)]])


KEYS = pointing(90, 2, 180, 0, 5)
"""In falling order of energy: 5, 2, 0, 90 and 180 degrees, which are at places 4, 1, 3, 0 and 2."""


def test_energy_is_the_mean_over_all_of_what_similarity_has_above_the_margin() -> None:
    similarity = torch.tensor([[[1.0, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, 0], [-1, -1, 0, 1]]])
    unlike, opposite = exp(-0.5) - 1, exp(-1.5) - 1
    crowd, aside, against = 0.5 + 0.5 + unlike + opposite, 0.5 + 3 * unlike, 0.5 + unlike + 2 * opposite
    expected = torch.tensor([[crowd, crowd, aside, against]]) / 4
    torch.testing.assert_close(energy(similarity, margin=0.5), expected)


@pytest.mark.parametrize(
    ("form", "r", "pairs", "order"),
    [
        ("pitome", 1, {4: 1}, [3, 0, 2, 1]),  # 5 goes into 2; then the others by energy, and 2
        ("pitome", 2, {4: 1, 3: 1}, [2, 1, 0]),  # of 5, 2, 0, 90 every other one goes, both into 2
        ("bsm", 1, {3: 1}, [4, 2, 1, 0]),  # of 5, 0, 180 it is 0 that is nearest to one of 2, 90
        ("bsm", 2, {3: 1, 4: 1}, [2, 1, 0]),
        ("text", 2, {1: 3, 4: 3}, [2, 3, 0]),  # 5 and 2 go into one of 0 and 90
    ],
)
def test_pairs_of_each_form(form: str, r: int, pairs: dict[int, int], order: list[int]) -> None:
    matching = energy_matching(KEYS, r, margin=0.0, form=form)
    assert dict(zip(matching.source[0].tolist(), matching.target[0].tolist(), strict=True)) == pairs
    assert matching.order[0].tolist() == order


def test_pairs_are_taken_from_the_crowd_and_loners_stay() -> None:
    matching = energy_matching(pointing(90, 0, 1, 180, 2, 3), r=2, margin=0.9)
    assert {*matching.source[0].tolist(), *matching.target[0].tolist()} <= {1, 2, 4, 5}
    assert matching.order[0, :2].tolist() == [0, 3]


def after_block(block: int, x: Tensor, keys: Tensor = KEYS, **params: Any) -> Tokens:
    reducer = REDUCERS.build("pitome", INFO, **params)
    tokens = Tokens.start(x, (1, x.shape[1]), track_source=True)
    return reducer.after_attention(block, tokens, AttentionFacts(keys=keys), ReductionContext(None, training=False))


def test_the_pair_becomes_its_mean_and_what_is_left_is_rounded_up() -> None:
    x = torch.tensor([[[1.0, 0], [3, 2], [0, 1], [7, 7], [5, 6]]])
    tokens = after_block(4, x, keep_ratio=0.7, margin=[0.0] * 5)  # 3.5 of 5 tokens: one goes
    assert tokens.x.tolist() == [[[7, 7], [1, 0], [0, 1], [4, 4]]]
    assert tokens.sizes.tolist() == [[1, 1, 1, 2]]
    assert tokens.source.tolist() == [[1, 3, 2, 0, 3]]


def test_the_first_half_of_the_blocks_rounded_up_weighs_similarity_too() -> None:
    x = torch.eye(5).unsqueeze(0)
    for block, merged in [(0, {1, 3}), (2, {1, 3}), (3, {1, 4}), (4, {1, 4})]:
        source = after_block(block, x, keep_ratio=0.8, margin=[0.0] * 5).source[0].tolist()
        assert {place for place in range(5) if source.count(source[place]) == 2} == merged


def test_the_margin_falls_in_a_line_to_0_over_the_depth() -> None:
    reducer = REDUCERS.build("pitome", INFO)
    assert reducer.margins == pytest.approx({0: 0.75, 1: 0.6, 2: 0.45, 3: 0.3, 4: 0.15})
    some = REDUCERS.build("pitome", INFO, begin=[1, 3], margin=0.5)
    assert some.margins == pytest.approx({1: 0.4, 3: 0.2})


def test_lists_are_one_a_block_to_merge_in() -> None:
    reducer = REDUCERS.build(
        "pitome", INFO, begin=[1, 3], keep_ratio=[0.5, 0.6], form=["text", "bsm"], margin=[0.2, 0.1]
    )
    assert (reducer.forms, reducer.margins) == ({1: "text", 3: "bsm"}, {1: 0.2, 3: 0.1})
    assert [reducer.needs(block) for block in range(5)] == [
        Needs.KEYS if b in (1, 3) else Needs.NOTHING for b in range(5)
    ]


@pytest.mark.parametrize("proportional", [True, False])
def test_sizes_weigh_in_attention_unless_told_otherwise(proportional: bool) -> None:
    reducer = REDUCERS.build("pitome", INFO, **({} if proportional else {"proportional": False}))
    context = ReductionContext(None, training=False)
    tokens = Tokens(torch.zeros(1, 2, 2), (1, 5), size=torch.tensor([[1.0, 4.0]]))
    bias = reducer.key_bias(1, tokens, context)
    if proportional:
        torch.testing.assert_close(bias, tokens.size.log())
    else:
        assert bias is None


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"keep_ratio": 0.4}, r"keep_ratio: tokens merge in pairs, .* give 0.5 to 1, got 0.4"),
        ({"form": "bms"}, "form: expected released, one of pitome, bsm, text, .* got 'bms'. Did you mean 'bsm'"),
        ({"form": 3}, "form: expected released, .* got 3"),
        ({"form": ["bsm", "pitome"]}, "form has 2 values but there are 5 blocks to merge in"),
        ({"begin": [2], "margin": [0.5, 0.4]}, "margin has 2 values but there are 1 blocks to merge in"),
        ({"margin": 1.0}, r"margin: expected a similarity in \[-1, 1\), .* got 1.0"),
        ({"margin": "wide"}, r"margin: expected a similarity in \[-1, 1\)"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ElipError, match=f"reducer 'pitome': {message}"):
        REDUCERS.build("pitome", INFO, **params)
