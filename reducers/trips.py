"""TRIPS: the caption's [CLS] asks, in place of the image's, which patches matter.

Jiang et al., "TRIPS: Efficient Vision-and-Language Pre-training with Text-Relevant Image Patch Selection", EMNLP 2022.
No code by the authors was found, so that there are no numbers to hold this to.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elip.reduction import (
    REDUCERS,
    AttentionFacts,
    EncoderInfo,
    Ratios,
    ReductionContext,
    Stage,
    StageReducer,
    Tokens,
    require_class_token,
    require_text_width,
)


@REDUCERS.register("trips")
class Trips(StageReducer):
    """Keep the patches that the text's [CLS] attends to, in image order; fuse the others by that attention.

    From the paper (section 3.2): patch-selection layers inside the ViT, by default the 5th and the 10th block, that
    keep 70% each (section 4); the text encoder's [CLS] as the query, by the query projection that the block has for its
    own tokens, so that nothing is added to the model; a softmax over the patches, scaled by the width, the image's CLS
    left out; the k patches of largest attention kept and the others fused into one token by that attention; all of it
    trained end to end, so that gradients reach the text through the fused token.

    Ours, where the paper is silent or is read more closely to a ViT's own attention: the text goes through the block's
    first norm, as all that this projection sees; it meets the block's keys where the paper writes the image's features;
    heads attend on their own and are averaged; the text itself, and registers, are among the keys, which scales an
    image's scores alike in a head; selection falls between attention and MLP, as in EViT; k is rounded down, a fused
    token of an earlier block counts as a patch, and is last; weights of what is fused add up to 1.

    Args:
        of: what the ratios are shares of: initial, the image's patches, or current, the patch tokens that arrive at
            the block. None for current.
    """

    paper = "Jiang et al., EMNLP 2022, aclanthology.org/2022.emnlp-main.273"
    requires_text = True
    keeps_order = True
    base = "current"

    def __init__(
        self, encoder: EncoderInfo, *, begin: Sequence[int] = (4, 9), keep_ratio: Ratios = 0.7, **stages: Any
    ) -> None:
        require_class_token(encoder)
        super().__init__(encoder, begin=begin, keep_ratio=keep_ratio, **stages)
        require_text_width(encoder)

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if self.num_keep(block, tokens, context) < tokens.num_tokens:
            context.state["attention"] = text_attention(block, tokens.x, context)
        return tokens

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        return self.reduced(block, tokens, attention, context)

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        scores, order = stage.context.state.pop("attention").sort(dim=1, descending=True)
        kept, weight = order[:, :keep].sort(dim=1).values, scores[:, keep:]
        return tokens.keep_and_fuse(kept, order[:, keep:], weight / (weight.sum(dim=1, keepdim=True) + 1e-6))


def text_attention(block: int, patches: Tensor, context: ReductionContext) -> Tensor:
    """Return the attention of the text's [CLS], put in the place of CLS, to each patch in a block, averaged over heads.

    Shape:
        patches: [B, N, D];  returns [B, N]
    """
    text = context.text.cls.unsqueeze(1).to(patches.dtype)
    return context.blocks.cls_row(block, torch.cat([text, context.prefix[:, 1:], patches], dim=1)).mean(dim=1)
