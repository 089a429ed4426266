"""EViT: keep the patches that CLS attends to, fuse the others.

Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations", ICLR 2022,
arXiv:2202.07800, section 3.
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


@REDUCERS.register("evit")
class EViT(TokenReducer):
    """Keep the patches with the largest attention from CLS; fuse the others into one token. Between attention and MLP.

    Kept tokens are in falling order of attention. The fused token is the sum of the others weighted by that attention,
    as it is (section 3.2); it comes last and is an ordinary patch token from then on.

    Args:
        encoder: the encoder to reduce; it needs a class token.
        begin: blocks to reduce in, counted from 0.
        keep_ratio: share of the patch tokens that arrive at each of them that is kept, rounded up, in (0, 1].
        fuse: append the fused token; otherwise the patches that are not kept are dropped.
        warmup: how the reduction sets in over training (`elip.reduction.Warmup`), as EViT is trained (section 3.3);
            None for in full from the start.
    """

    paper = "Liang et al., ICLR 2022, arXiv:2202.07800"
    schedule: KeepSchedule

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (3, 6, 9),
        keep_ratio: Ratios = 0.7,
        fuse: bool = True,
        warmup: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        require_class_token("evit", encoder)
        self.fuse = fuse
        self.schedule = KeepSchedule(
            "evit",
            encoder.depth,
            encoder.num_patches,
            begin=begin,
            keep_ratio=keep_ratio,
            base="current",
            rounding="ceil",
            warmup=warmup,
        )

    def needs(self, block: int) -> Needs:
        return Needs.CLS_ROW if block in self.schedule.begin else Needs.NOTHING

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        keep = self.schedule.num_keep(block, tokens.num_tokens, context.guide.progress)
        if keep == tokens.num_tokens or attention.cls_row is None:
            return tokens
        scores, order = attention.cls_row.mean(dim=1).sort(dim=1, descending=True)
        if not self.fuse:
            return tokens.keep(order[:, :keep])
        return tokens.keep_and_fuse(order[:, :keep], order[:, keep:], scores[:, keep:])
