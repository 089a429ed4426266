"""Solving for the strength that meets a budget."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from elip.efficiency.plan import DIGITS, Plan, meet_budget
from elip.efficiency.vision_cost import vision_cost
from elip.errors import ElipError
from elip.models.vision import VisionEncoder
from elip.reduction.encoder import EncoderInfo
from elip.reduction.reducer import ReductionContext, TokenReducer
from elip.reduction.schedule import RemovalSchedule
from elip.reduction.tokens import Tokens
from tests.efficiency.models import make_encoder


class Dial(TokenReducer):
    """Keeps a share of the patches from block 1 on, and pays for a look ahead through block 2 if `dear`."""

    def __init__(self, encoder: EncoderInfo, *, keep: float = 0.5, dear: bool = False) -> None:
        super().__init__()
        self.num_keep, self.dear = int(keep * encoder.num_patches), dear
        if self.num_keep < 1:
            raise ElipError(f"keep: {keep} leaves none")

    @classmethod
    def at_strength(cls, params: Mapping[str, Any], strength: float) -> dict[str, Any]:
        return {**params, "keep": 1 - strength * (1 - params.get("keep", 0.5))}

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if block != 1 or self.num_keep == tokens.num_tokens:
            return tokens
        if self.dear:
            context.blocks.run(2, torch.cat([context.prefix, tokens.x], dim=1))
        return tokens.keep(torch.arange(self.num_keep).expand(len(tokens.x), -1))


class Cut(TokenReducer):
    """Drops the last `r` patches before each block, or as many as a list says."""

    def __init__(self, encoder: EncoderInfo, *, r: int | list[int] = 2) -> None:
        super().__init__()
        self.removals = RemovalSchedule(encoder, r=r)

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        left = max(1, tokens.num_tokens - self.removals.num_remove(block, tokens.num_tokens))
        return tokens.keep(torch.arange(left).expand(len(tokens.x), -1))


@pytest.fixture(scope="module")
def encoder() -> VisionEncoder:
    return make_encoder()


def cost(encoder: VisionEncoder, **params: Any) -> float:
    return vision_cost(encoder, Dial(encoder.info(), **params)).total


def solve(encoder: VisionEncoder, budget: float, **params: Any) -> Plan:
    def measure(found: Mapping[str, Any]) -> float:
        return cost(encoder, **found)

    return meet_budget("dial", Dial, params, budget, measure, encoder.depth)


@pytest.mark.parametrize("tokens", [15, 8, 1])
def test_the_weakest_reduction_within_the_budget_is_found(encoder: VisionEncoder, tokens: int) -> None:
    exactly = cost(encoder, keep=tokens / 16)
    for budget in (exactly, exactly + 1, cost(encoder, keep=(tokens + 1) / 16) - 1):
        plan = solve(encoder, budget)
        assert int(plan.params["keep"] * 16) == tokens
        assert plan.macs == exactly


def test_parameters_found_have_few_decimals_and_give_the_cost_that_is_told(encoder: VisionEncoder) -> None:
    plan = solve(encoder, cost(encoder, keep=5 / 16))
    assert plan.params["keep"] == round(plan.params["keep"], DIGITS)
    assert cost(encoder, **plan.params) == plan.macs


def test_other_parameters_stay_as_given(encoder: VisionEncoder) -> None:
    assert solve(encoder, cost(encoder, keep=0.5), keep=0.123456, dear=False).params["dear"] is False


def test_look_ahead_is_part_of_the_budget_though_it_makes_a_weak_reduction_dearer_than_none(
    encoder: VisionEncoder,
) -> None:
    budget = cost(encoder, keep=1.0) * 0.95
    assert cost(encoder, keep=15 / 16, dear=True) > cost(encoder, keep=1.0) > budget
    plan = solve(encoder, budget, dear=True)
    assert plan.macs <= budget
    one_more = int(plan.params["keep"] * 16) + 1
    assert cost(encoder, keep=one_more / 16, dear=True) > budget


@pytest.mark.parametrize("given", [{}, {"r": 1}, {"r": [1, 1, 1]}])
def test_whole_numbers_of_tokens_to_remove_are_split_over_the_blocks(
    encoder: VisionEncoder, given: dict[str, Any]
) -> None:
    def measure(found: Mapping[str, Any]) -> float:
        return vision_cost(encoder, Cut(encoder.info(), **found)).total

    for r in ([3, 3, 2], [3, 2, 2], [4, 4, 4]):
        budget = measure({"r": r})
        plan = meet_budget("cut", Cut, given, budget, measure, encoder.depth)
        assert plan.params["r"] in (r, r[0])
        assert plan.macs == budget
        assert meet_budget("cut", Cut, given, budget - 1, measure, encoder.depth).macs < budget


def test_a_budget_out_of_reach_is_an_error_that_tells_the_least(encoder: VisionEncoder) -> None:
    least = cost(encoder, keep=1 / 16)
    with pytest.raises(ElipError, match=rf"out of reach for reducer 'dial' .* least it costs is {least / 1e9:.4g}\."):
        solve(encoder, least - 1)


def test_a_budget_that_needs_no_reduction_is_an_error(encoder: VisionEncoder) -> None:
    dense = cost(encoder, keep=1.0)
    with pytest.raises(ElipError, match=rf"needs no reduction by 'dial': keeping all tokens costs {dense / 1e9:.4g}\."):
        solve(encoder, dense)


def test_parameters_that_are_wrong_as_given_are_told_as_such(encoder: VisionEncoder) -> None:
    with pytest.raises(ElipError, match=r"keep: -1\.0 leaves none"):
        solve(encoder, cost(encoder, keep=0.5), keep=-1.0)
