"""ToMe: merge the most similar patches, a few in each block.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv:2210.09461, section 3.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from elip.reduction import (
    AttentionFacts,
    EncoderInfo,
    Needs,
    ReductionContext,
    Removals,
    RemovalSchedule,
    TokenReducer,
    Tokens,
    bipartite_matching,
    clamped,
    merge_mean,
)
from elip.registry import REDUCERS


@REDUCERS.register("tome")
class ToMe(TokenReducer):
    """Merge the r most similar pairs of patches in each block, between attention and MLP, to their mean.

    Similarity is the cosine of keys averaged over heads; means are weighted by the number of patches in each token. A
    ViT without a class token is merged, too.

    Args:
        encoder: the encoder to reduce.
        r: tokens to remove in each block: one number, one a block, or `{mean, slope}` (appendix D); in no block more
            than half of them go.
        proportional: add the logarithm of each token's size to its attention logits (section 3, eq. 1).
        warmup: how the reduction sets in over training (`elip.reduction.Warmup`); None for in full from the start.
    """

    paper = "Bolya et al., ICLR 2023, arXiv:2210.09461"
    schedule: RemovalSchedule

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        r: Removals = 13,
        proportional: bool = True,
        warmup: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.num_prefix = encoder.num_prefix_tokens
        self.proportional = proportional
        self.schedule = RemovalSchedule("tome", encoder.depth, encoder.num_patches, r=r, warmup=warmup)

    def needs(self, block: int) -> Needs:
        return Needs.KEYS if self.schedule.per_block[block] else Needs.NOTHING

    def key_bias(self, block: int, tokens: Tokens, context: ReductionContext) -> Tensor | None:
        return tokens.size.log() if self.proportional and tokens.size is not None else None

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        r = clamped(self.schedule.num_remove(block, context.guide.progress), tokens.num_tokens)
        if r == 0 or attention.keys is None:
            return tokens
        group = bipartite_matching(attention.keys.detach(), r, self.num_prefix).group
        return merge_mean(tokens, group, tokens.num_tokens - r)
