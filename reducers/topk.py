"""Top-K: keep the patches that CLS attends to most.

Haurum et al., "Which Tokens to Use? Investigating Token Reduction in Vision Transformers", ICCV workshops 2023,
arXiv:2308.04657, section 3.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from elip.reduction import (
    AttentionFacts,
    EncoderInfo,
    KeepSchedule,
    Needs,
    Ratios,
    ReductionContext,
    TokenReducer,
    Tokens,
    require_class_token,
)
from elip.registry import REDUCERS


@REDUCERS.register("topk")
class TopK(TokenReducer):
    """Keep the patches with the largest attention from CLS, averaged over heads, between attention and MLP.

    Kept tokens are in falling order of attention.

    Args:
        encoder: the encoder to reduce; it needs a class token.
        begin: blocks to prune in, counted from 0.
        keep_ratio: patches left after each, as a share of the image's initial patches, in (0, 1].
        warmup: how the reduction sets in over training (`elip.reduction.Warmup`); None for in full from the start.
    """

    paper = "Haurum et al., ICCVW 2023, arXiv:2308.04657"
    schedule: KeepSchedule

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (3, 6, 9),
        keep_ratio: Ratios = 0.7,
        warmup: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        require_class_token("topk", encoder)
        self.schedule = KeepSchedule(
            "topk", encoder.depth, encoder.num_patches, begin=begin, keep_ratio=keep_ratio, warmup=warmup
        )

    def needs(self, block: int) -> Needs:
        return Needs.CLS_ROW if block in self.schedule.begin else Needs.NOTHING

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        keep = self.schedule.num_keep(block, tokens.num_tokens, context.guide.progress)
        if keep == tokens.num_tokens or attention.cls_row is None:
            return tokens
        return tokens.keep(attention.cls_row.mean(dim=1).topk(keep, dim=1).indices)
