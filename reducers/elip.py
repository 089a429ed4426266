"""ELIP: the caption decides which patches to keep.

Guo et al., "ELIP: Efficient Language-Image Pre-training with Fewer Vision Tokens", arXiv:2309.16738, section 3.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elip.errors import ElipError
from elip.reduction import (
    REDUCERS,
    EncoderInfo,
    Ratios,
    ReductionContext,
    Stage,
    StageReducer,
    Tokens,
    require_class_token,
    require_text_width,
)


@REDUCERS.register("elip")
class Elip(StageReducer):
    """Keep the patches that CLS, mixed with the caption's [CLS], attends to some blocks ahead; merge the others.

    At each stage a detached copy of the tokens, its CLS mixed with the text's, runs ahead through `look_ahead` blocks
    without gradient. The patches with the largest attention from that CLS in the last of them are kept, in image order;
    the others become one token, weighted by the same attention, appended at the end. Needs no parameters. The encoder
    needs a class token, and the text encoder's width.

    Args:
        look_ahead: blocks to run ahead at each stage, the stage's own block included.
        text_weight: share of the text in the guide's CLS, in [0, 1].
        full_look_ahead: run the last look-ahead block in full, as the published code does, although only the attention
            row of CLS is used. Same result at a higher price: for measuring that price.
    """

    paper = "Guo et al., 2023, arXiv:2309.16738"
    requires_text = True
    keeps_order = True

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (2, 4, 10),
        look_ahead: Sequence[int] = (2, 6, 2),
        keep_ratio: Ratios = (0.90, 0.65, 0.40),
        text_weight: float = 0.2,
        full_look_ahead: bool = False,
        **stages: Any,
    ) -> None:
        require_class_token(encoder)
        super().__init__(encoder, begin=begin, keep_ratio=keep_ratio, **stages)
        _check_look_ahead(encoder.depth, begin, look_ahead)
        require_text_width(encoder)
        if not 0 <= text_weight <= 1:
            raise ElipError(f"text_weight: expected a share in [0, 1], got {text_weight}.")
        self.text_weight = text_weight
        self.full_look_ahead = full_look_ahead
        self.look_ahead = dict(zip(begin, look_ahead, strict=True))

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        scores = self.scores(stage.block, self.look_ahead[stage.block], tokens.x, stage.context)
        order = scores.argsort(dim=1, descending=True)
        kept, rest = order[:, :keep].sort(dim=1).values, order[:, keep:]
        weight = scores.gather(1, rest)
        return tokens.keep_and_fuse(kept, rest, weight / (weight.sum(dim=1, keepdim=True) + 1e-6))

    @torch.no_grad()
    def scores(self, block: int, look_ahead: int, patches: Tensor, context: ReductionContext) -> Tensor:
        """Return the guide's attention to each patch, averaged over heads, without gradient.

        Shape:
            patches: [B, M, D];  returns [B, M]
        """
        cls = context.text.mixed_into(context.prefix[:, :1], self.text_weight)
        guide = torch.cat([cls.to(patches.dtype), context.prefix[:, 1:], patches], dim=1)
        last = block + look_ahead - 1
        for ahead in range(block, last):
            guide = context.blocks.run(ahead, guide)
        if self.full_look_ahead:
            _, row = context.blocks.run_with_cls_row(last, guide)
        else:
            row = context.blocks.cls_row(last, guide)
        return row.mean(dim=1)


def _check_look_ahead(depth: int, begin: Sequence[int], look_ahead: Sequence[int]) -> None:
    if len(look_ahead) != len(begin):
        raise ElipError(f"begin has {len(begin)} blocks but look_ahead has {len(look_ahead)} values.")
    for block, ahead in zip(begin, look_ahead, strict=True):
        if not 1 <= ahead <= depth - block:
            raise ElipError(
                f"look_ahead: from block {block} of {depth} there are 1 to {depth - block} blocks "
                f"to run ahead, got {ahead}."
            )
