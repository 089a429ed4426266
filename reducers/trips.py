"""TRIPS: the caption's [CLS] asks, in place of the image's, which patches matter.

Jiang et al., "TRIPS: Efficient Vision-and-Language Pre-training with Text-Relevant Image Patch Selection", EMNLP 2022,
section 3.2.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from elip.errors import ElipError
from elip.reducer import AttentionFacts, EncoderInfo, ReductionContext, TokenReducer, require_class_token
from elip.registry import REDUCERS
from elip.schedule import KeepSchedule, Ratios
from elip.tokens import Tokens


@REDUCERS.register("trips")
class Trips(TokenReducer):
    """Keep the patches that the text's [CLS] attends to, in image order; fuse the others by that attention.

    In a patch-selection block the text's [CLS] goes through the block's own norm and query projection and meets the
    block's keys of the patches, so that nothing is added to the model. Between attention and MLP the most attended
    patches are kept and the others fused into one token, last, with weights that add up to 1.

    Args:
        encoder: the encoder to reduce; its width must be the text encoder's.
        begin: patch-selection blocks, counted from 0.
        keep_ratio: share of the patch tokens that arrive at each of them that is kept, in (0, 1].
        warmup: how the reduction sets in over training (`elip.schedule.Warmup`); None for in full from the start.
    """

    paper = "Jiang et al., EMNLP 2022, aclanthology.org/2022.emnlp-main.273"
    requires_text = True
    keeps_order = True
    schedule: KeepSchedule

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (4, 9),
        keep_ratio: Ratios = 0.7,
        warmup: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        require_class_token("trips", encoder)
        self.schedule = KeepSchedule(
            "trips",
            encoder.depth,
            encoder.num_patches,
            begin=begin,
            keep_ratio=keep_ratio,
            base="current",
            warmup=warmup,
        )
        if encoder.text_width not in (None, encoder.width):
            raise ElipError(
                f"reducer 'trips' queries the image's keys by the text's [CLS], so their widths must be equal: the "
                f"ViT's is {encoder.width}, the text encoder's {encoder.text_width}. Take encoders of one width."
            )

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if self.schedule.num_keep(block, tokens.num_tokens, context.progress) < tokens.num_tokens:
            context.state["attention"] = text_attention(block, tokens.x, context)
        return tokens

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        keep = self.schedule.num_keep(block, tokens.num_tokens, context.progress)
        if keep == tokens.num_tokens:
            return tokens
        scores, order = context.state.pop("attention").sort(dim=1, descending=True)
        kept, weight = order[:, :keep].sort(dim=1).values, scores[:, keep:]
        return tokens.keep_and_fuse(kept, order[:, keep:], weight / (weight.sum(dim=1, keepdim=True) + 1e-6))


def text_attention(block: int, patches: Tensor, context: ReductionContext) -> Tensor:
    """Return the attention of the text's [CLS], put in the place of CLS, to each patch in a block, averaged over heads.

    Shape:
        patches: [B, N, D];  returns [B, N]
    """
    assert context.text_cls is not None, "the encoder calls a reducer that requires a text only with one"
    text = context.text_cls.unsqueeze(1).to(patches.dtype)
    return context.blocks.cls_row(block, torch.cat([text, context.prefix[:, 1:], patches], dim=1)).mean(dim=1)
