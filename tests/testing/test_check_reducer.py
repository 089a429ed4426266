"""The conformance suite: it passes reducers that are right, and catches each that is wrong, in words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elip.errors import ElipError
from elip.reduction import (
    EncoderInfo,
    Ratios,
    ReductionContext,
    RemovalSchedule,
    Stage,
    StageReducer,
    TokenReducer,
    Tokens,
    take,
)
from elip.testing import REDUCER_CHECKS, ReducerTrial, check_reducer


class Longest(StageReducer):
    """Keeps the longest tokens, in image order: right in every way."""

    keeps_order = True

    def __init__(
        self, encoder: EncoderInfo, *, begin: Sequence[int] = (3, 6), keep_ratio: Ratios = (0.6, 0.36), **stages: Any
    ) -> None:
        super().__init__(encoder, begin=begin, keep_ratio=keep_ratio, **stages)

    def scores(self, tokens: Tokens, context: ReductionContext) -> Tensor:
        return tokens.x.norm(dim=-1)

    def places(self, tokens: Tokens, keep: int, context: ReductionContext) -> Tensor:
        return self.scores(tokens, context).topk(keep, dim=1).indices.sort(dim=1).values

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        return tokens.keep(self.places(tokens, keep, stage.context))


class LongestAndRest(Longest):
    """Keeps the longest tokens and fuses the others into one."""

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        order = self.scores(tokens, stage.context).argsort(dim=1, descending=True)
        kept, rest = order[:, :keep].sort(dim=1).values, order[:, keep:]
        return tokens.keep_and_fuse(kept, rest, torch.full(rest.shape, 1 / rest.shape[1]))


class Neighbours(TokenReducer):
    """Merges the first `r` pairs of neighbours."""

    def __init__(self, encoder: EncoderInfo, *, r: int = 5) -> None:
        super().__init__()
        self.schedule = RemovalSchedule(encoder, r=r)

    def after_attention(self, block: int, tokens: Tokens, attention: Any, context: ReductionContext) -> Tokens:
        pairs = self.schedule.num_remove(block, tokens.num_tokens, context.guide.progress)
        if not pairs:
            return tokens
        group = torch.arange(tokens.num_tokens)
        group = torch.where(group < 2 * pairs, group // 2, group - pairs).expand(len(tokens.x), -1)
        size = tokens.sizes.to(tokens.x.dtype).unsqueeze(-1)
        left = tokens.num_tokens - pairs
        index = group.unsqueeze(-1).expand_as(tokens.x)
        total = tokens.x.new_zeros(len(index), left, tokens.x.shape[2]).scatter_add(1, index, size * tokens.x)
        count = tokens.x.new_zeros(len(index), left, 1).scatter_add(1, group.unsqueeze(-1), size)
        return tokens.merge(total / count, group)


class Mixed(Longest):
    """Mixes all tokens into fewer, by weights that are learned."""

    soft = True
    keeps_order = False

    def __init__(self, encoder: EncoderInfo, *, keep_ratio: Ratios = (0.6, 0.36)) -> None:
        super().__init__(encoder, keep_ratio=keep_ratio)
        self.weights = nn.Linear(encoder.width, encoder.num_patches)

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        weights = self.weights(tokens.x)[..., :keep].softmax(dim=1)
        return tokens.mix(weights.mT @ tokens.x)


class Positive(TokenReducer):
    """Keeps patches whose first feature is above a threshold: other numbers in other images."""

    static_counts = False
    keeps_order = True

    def __init__(self, encoder: EncoderInfo, *, above: float = 0.0) -> None:
        super().__init__()
        self.above = above

    @classmethod
    def at_strength(cls, params: Mapping[str, Any], strength: float) -> dict[str, Any]:
        return {**params, "above": float("-inf") if strength == 0 else params.get("above", 0.0) - 1 / strength + 1}

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if block != 4:
            return tokens
        chosen = tokens.x[:, :, 0] > self.above
        most = max(1, int(chosen.sum(1).max()))
        if most == tokens.num_tokens:
            return tokens
        order = (~chosen).int().argsort(dim=1, stable=True)[:, :most]
        kept = tokens.keep(order)
        mask = chosen.gather(1, order) | (torch.arange(most) == 0)
        source = None if kept.source is None else kept.source.where(mask.gather(1, kept.source.clamp_min(0)), -1)
        return replace(kept, mask=mask, source=source)


class Halved(TokenReducer):
    """Keeps every other patch, always."""

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        half = torch.arange(0, tokens.num_tokens, 2).expand(len(tokens.x), -1)
        return tokens.keep(half) if block == 3 else tokens


@pytest.mark.parametrize("cls", [Longest, LongestAndRest, Neighbours, Mixed, Positive])
def test_right_reducers_of_every_kind_pass(cls: type[TokenReducer]) -> None:
    check_reducer(cls)


def test_parameters_get_to_the_constructor() -> None:
    check_reducer(Longest, begin=(0, 2, 5), keep_ratio={"shape": "linear", "first": 0.9, "last": 0.3})
    with pytest.raises(AssertionError, match=r"Longest\(begin=\(0, 99\)\) fails 15 of 15 checks"):
        check_reducer(Longest, begin=(0, 99))


class Shifting(Longest):
    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        return tokens.with_x(tokens.x + 0.01)


class NeverAll(Longest):
    def num_keep(self, block: int, tokens: Tokens, context: ReductionContext) -> int:
        return tokens.num_tokens - 1


class OtherAtOne(Longest):
    @classmethod
    def at_strength(cls, params: Mapping[str, Any], strength: float) -> dict[str, Any]:
        return {**params, "keep_ratio": [0.5**strength, 0.25**strength]}


class Backwards(Longest):
    @classmethod
    def at_strength(cls, params: Mapping[str, Any], strength: float) -> dict[str, Any]:
        return super().at_strength(params, 2 - strength)

    def __init__(self, encoder: EncoderInfo, keep_ratio: Ratios = (0.6, 0.36)) -> None:
        super().__init__(encoder, keep_ratio=keep_ratio)


class ToPrefix(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        stage.context.prefix += tokens.x.mean(dim=1, keepdim=True)
        return super().reduce(tokens, keep, stage)


class OtherPrefix(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        stage.context.prefix = stage.context.prefix[:, :1]
        return super().reduce(tokens, keep, stage)


class OneTooFew(Longest):
    def num_keep(self, block: int, tokens: Tokens, context: ReductionContext) -> int:
        keep = super().num_keep(block, tokens, context)
        return keep if keep == tokens.num_tokens else keep - 1


class OneTooMany(Longest):
    def num_keep(self, block: int, tokens: Tokens, context: ReductionContext) -> int:
        return min(tokens.num_tokens, super().num_keep(block, tokens, context) + 1)


class Growing(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        return tokens.with_x(torch.cat([tokens.x, tokens.x], dim=1))


class ColdStart(Longest):
    def num_keep(self, block: int, tokens: Tokens, context: ReductionContext) -> int:
        return self.schedule.num_keep(block, tokens.num_tokens)


class WarmupForgotten(Longest):
    def __init__(self, encoder: EncoderInfo, *, warmup: Mapping[str, Any] | None = None) -> None:
        super().__init__(encoder)


class SizesForgotten(LongestAndRest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        return replace(super().reduce(tokens, keep, stage), size=None)


class SoftSizesWrong(Mixed):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        mixed = super().reduce(tokens, keep, stage)
        return replace(mixed, size=mixed.sizes)


class SourceMoved(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        kept = super().reduce(tokens, keep, stage)
        return kept if kept.source is None else replace(kept, source=kept.source.roll(1, dims=1))


class SourceForgotten(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        return replace(super().reduce(tokens, keep, stage), source=None)


class SourceOutside(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        return tokens.with_x(take(tokens.x, self.places(tokens, keep, stage.context)))


class SaysFused(LongestAndRest):
    """Drops the others, but says that they live on in the last token."""

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        fused = super().reduce(tokens, keep, stage)
        return fused.with_x(torch.cat([fused.x[:, :-1], torch.zeros_like(fused.x[:, :1])], dim=1))


class SaysDropped(Longest):
    """Adds the mean of all tokens to those that it keeps, and does not say so."""

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        mean = tokens.x.mean(dim=1, keepdim=True)
        return (
            super().reduce(tokens, keep, stage).with_x(take(tokens.x, self.places(tokens, keep, stage.context)) + mean)
        )


class SpillsOver(LongestAndRest):
    """Fuses a kept token into the last one, too."""

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        fused = super().reduce(tokens, keep, stage)
        last = fused.x[:, -1:] + 0.1 * fused.x[:, :1]
        return fused.with_x(torch.cat([fused.x[:, :-1], last], dim=1))


class SoftWithSource(Mixed):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        mixed = super().reduce(tokens, keep, stage)
        return replace(mixed, source=None if tokens.source is None else tokens.source % keep)


class LongestFirst(Longest):
    def places(self, tokens: Tokens, keep: int, context: ReductionContext) -> Tensor:
        return self.scores(tokens, context).topk(keep, dim=1).indices


class For196(Longest):
    def num_keep(self, block: int, tokens: Tokens, context: ReductionContext) -> int:
        keep = super().num_keep(block, tokens, context)
        return min(keep, 117) if block == 3 else keep


class NoneFor577(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        kept = super().reduce(tokens, keep, stage)
        return kept.with_x(kept.x / (tokens.num_patches < 500))


class WantsClassToken(Longest):
    def __init__(self, encoder: EncoderInfo, **params: Any) -> None:
        super().__init__(encoder, **params)
        if not encoder.has_class_token:
            raise ElipError("not with this one.")


class CrashesWithoutClassToken(Longest):
    def __init__(self, encoder: EncoderInfo, **params: Any) -> None:
        super().__init__(encoder, **params)
        self.share = 1 / encoder.num_prefix_tokens


class NeedsClassTokenLater(Longest):
    def scores(self, tokens: Tokens, context: ReductionContext) -> Tensor:
        return (tokens.x * context.prefix[:, 0].unsqueeze(1)).sum(-1)


class ByLot(Longest):
    def scores(self, tokens: Tokens, context: ReductionContext) -> Tensor:
        return torch.rand(tokens.x.shape[:2])


class Counting(Longest):
    def __init__(self, encoder: EncoderInfo) -> None:
        super().__init__(encoder)
        self.register_buffer("passes", torch.zeros(()))

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        self.passes += 1
        return super().reduce(tokens, keep, stage)


class BesideTheMean(Longest):
    def scores(self, tokens: Tokens, context: ReductionContext) -> Tensor:
        return (tokens.x - tokens.x.mean(dim=0)).norm(dim=-1)


class Unused(Longest):
    def __init__(self, encoder: EncoderInfo) -> None:
        super().__init__(encoder)
        self.idle = nn.Linear(2, 2)


class Detached(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        return super().reduce(tokens.with_x(tokens.x.detach()), keep, stage)


class LossPerImage(Longest):
    def auxiliary_losses(self, tokens: Tokens, context: ReductionContext) -> dict[str, Tensor]:
        return {"size": tokens.x.mean(dim=(1, 2))}


class Overflowing(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        kept = super().reduce(tokens, keep, stage)
        return kept.with_x(kept.x * 1e6 / 1e6)


class Widening(LongestAndRest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        stage.context.state["seen"] = True
        return super().reduce(tokens.with_x(tokens.x.float()), keep, stage)

    def after_attention(self, block: int, tokens: Tokens, attention: Any, context: ReductionContext) -> Tokens:
        return tokens


class NanGradient(Longest):
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        kept = super().reduce(tokens, keep, stage)
        return kept.with_x(kept.x + 0 * (kept.x - kept.x).norm(dim=-1, keepdim=True).pow(0.5))


class AsksTheImage(Longest):
    def scores(self, tokens: Tokens, context: ReductionContext) -> Tensor:
        return tokens.x[..., 0] if tokens.x.mean().item() > 0 else tokens.x[..., 1]


BROKEN = [
    ("keep_all_is_identity", Shifting, "keeping all tokens, the result is .* off that without a reducer"),
    ("keep_all_is_identity", NeverAll, "at strength 0 .* 194 of 196 patch tokens are left"),
    ("keep_all_is_identity", Halved, "Halved has neither keep_ratio nor r to scale, .* let it override at_strength"),
    ("strength_scales", OtherAtOne, r"at_strength\(params, 1\) is another reduction than params"),
    ("strength_scales", Backwards, "there are .* tokens left, which should fall"),
    ("prefix_survives", ToPrefix, "block 3: the prefix tokens in context.prefix are to read only"),
    ("prefix_survives", OtherPrefix, "block 3: the prefix tokens in context.prefix are to read only"),
    ("counts_follow_schedule", OneTooFew, "block 3, 100% .*: 196 patch tokens arrived, 116 are left, but .* 117"),
    ("counts_follow_schedule", OneTooMany, "block 3, 100% .*: 196 patch tokens arrived, 118 are left, but .* 117"),
    ("counts_follow_schedule", Growing, "block 3: 196 tokens became 392"),
    ("counts_follow_schedule", ColdStart, "block 3, 0% of the training done: 196 .* 117 are left, but .* 196"),
    ("counts_follow_schedule", WarmupForgotten, "the parameter warmup does not reach the schedule"),
    ("sizes_count_patches", SizesForgotten, "image 0, token .*: size 1, but .* patches live in it by the source map"),
    ("sizes_count_patches", SoftSizesWrong, "sizes add up to .* of 196 patches"),
    ("source_is_right", SourceMoved, "patches .* are kept, but their place in a picture painted by source is not"),
    ("source_is_right", SourceForgotten, "the source map was asked for and is lost: .* or set soft = True"),
    ("source_is_right", SourceOutside, "source names token 195 of 70"),
    ("source_is_right", SaysFused, "patches .* live in a token by the source map that has nothing of them"),
    ("source_is_right", SaysDropped, "patches .* are kept, but their place"),
    ("source_is_right", SpillsOver, "patches .* are in tokens in which they do not live by the source map"),
    ("source_is_right", SoftWithSource, "is soft and has a source map; make new tokens with Tokens.mix"),
    ("order_is_kept", LongestFirst, "keeps_order is True, but kept patches are not in image order"),
    ("works_at_any_grid", For196, "block 3, 100% .*: 256 patch tokens arrived, 117 are left, but .* 153"),
    ("works_at_any_grid", NoneFor577, "577 tokens: NaN or infinity"),
    ("class_token_or_refusal", WantsClassToken, "refuses .* but does not say so: not with this one"),
    ("class_token_or_refusal", CrashesWithoutClassToken, "fails on a ViT without a class token with ZeroDivisionError"),
    ("class_token_or_refusal", NeedsClassTokenLater, "fails on a ViT without a class token with IndexError"),
    ("evaluation_is_deterministic", ByLot, "the same images in evaluation give results .* apart"),
    ("evaluation_is_deterministic", Counting, "a pass in evaluation changes passes; keep its state in context.state"),
    ("images_are_independent", BesideTheMean, "what image 0 gives depends on the images beside it"),
    ("gradients_reach_parameters", Unused, r"no gradient gets to idle.weight \(the reducer's\), idle.bias"),
    ("gradients_reach_parameters", Detached, "block 3: no gradient gets through the patch tokens"),
    ("gradients_reach_parameters", LossPerImage, "the loss 'size' is not one finite number"),
    ("half_precision_is_finite", Overflowing, "NaN or infinity in torch.float16"),
    ("half_precision_is_finite", NanGradient, "NaN or infinity in the gradient of .* under autocast to bfloat16"),
    ("compiles", AsksTheImage, "torch.compile: .*; keep Python choices to shapes .*, or set static_counts = False"),
    ("exports", AsksTheImage, "torch.export: .*; keep Python choices to shapes .*, or set static_counts = False"),
]


@pytest.mark.parametrize(("check", "cls", "words"), BROKEN, ids=[f"{check}-{cls.__name__}" for check, cls, _ in BROKEN])
def test_each_check_catches_reducers_that_lack_its_property(check: str, cls: type[TokenReducer], words: str) -> None:
    with pytest.raises((AssertionError, ElipError), match=f"(?s){words}"):
        REDUCER_CHECKS[check](ReducerTrial(cls))


def test_there_is_a_broken_reducer_for_every_check() -> None:
    assert {check for check, _, _ in BROKEN} == set(REDUCER_CHECKS)
    assert len(REDUCER_CHECKS) == 15


def test_a_reducer_that_says_its_counts_differ_need_not_be_one_graph() -> None:
    class Honest(AsksTheImage):
        static_counts = False

    for check in ("compiles", "exports"):
        REDUCER_CHECKS[check](ReducerTrial(Honest))


def test_the_report_has_a_line_for_each_property_that_is_missing() -> None:
    with pytest.raises(AssertionError, match=r"ByLot\(begin=\(2, 4\)\) fails") as caught:
        check_reducer(ByLot, begin=(2, 4))
    head, *lines = str(caught.value).splitlines()
    assert head.endswith(f"fails {len(lines)} of {len(REDUCER_CHECKS)} checks:")
    assert any(line.startswith("  evaluation_is_deterministic: the same images") for line in lines)
    assert not any(line.startswith("  keep_all_is_identity") for line in lines)


def test_checking_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for check in ("keep_all_is_identity", "gradients_reach_parameters", "evaluation_is_deterministic"):
        REDUCER_CHECKS[check](ReducerTrial(Longest))
    assert torch.equal(torch.rand(3), expected)
