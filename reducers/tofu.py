"""ToFu: prune similar patches in early blocks, merge them with their length kept in late ones.

Kim et al., "Token Fusion: Bridging the Gap between Token Pruning and Token Merging", WACV 2024, arXiv:2312.01026.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from elip.errors import ElipError
from elip.merging import Matching, bipartite_matching, clamped, merge_mean
from elip.reducer import AttentionFacts, EncoderInfo, Needs, ReductionContext, TokenReducer
from elip.registry import REDUCERS
from elip.schedule import Removals, RemovalSchedule
from elip.tokens import Tokens


@REDUCERS.register("tofu")
class ToFu(TokenReducer):
    """Remove the r most similar patches in each block: dropped in early blocks, merged with their partners later.

    Pairs are those of ToMe. Where a block is far from linear, what it makes of a mean of tokens is not the mean of what
    it makes of them, so that one of the pair alone is better (section 3.2). A mean is shorter than its parts; MLERP
    gives it the length of the longest of them (section 3.3).

    Args:
        encoder: the encoder to reduce.
        r: tokens to remove in each block: one number, one a block, or `{mean, slope}`; in no block more than half go.
        merge_from: first block that merges; the blocks before it prune. None for half the depth.
        proportional: add the logarithm of each token's size to its attention logits.
        warmup: how the reduction sets in over training (`elip.schedule.Warmup`); None for in full from the start.
    """

    paper = "Kim et al., WACV 2024, arXiv:2312.01026"
    schedule: RemovalSchedule

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        r: Removals = 13,
        merge_from: int | None = None,
        proportional: bool = True,
        warmup: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.merge_from = encoder.depth // 2 if merge_from is None else merge_from
        if not 0 <= self.merge_from <= encoder.depth:
            raise ElipError(
                f"reducer 'tofu': merge_from: this ViT has {encoder.depth} blocks; give 0 (merge in all of them) to "
                f"{encoder.depth} (prune in all), got {merge_from}."
            )
        self.num_prefix = encoder.num_prefix_tokens
        self.proportional = proportional
        self.schedule = RemovalSchedule("tofu", encoder.depth, encoder.num_patches, r=r, warmup=warmup)

    def needs(self, block: int) -> Needs:
        return Needs.KEYS if self.schedule.per_block[block] else Needs.NOTHING

    def key_bias(self, block: int, tokens: Tokens, context: ReductionContext) -> Tensor | None:
        return tokens.size.log() if self.proportional and tokens.size is not None else None

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        r = clamped(self.schedule.num_remove(block, context.progress), tokens.num_tokens)
        if r == 0 or attention.keys is None:
            return tokens
        matching = bipartite_matching(attention.keys.detach(), r, self.num_prefix)
        return tokens.keep(matching.order) if block < self.merge_from else _mlerp(tokens, matching)


def _mlerp(tokens: Tokens, matching: Matching) -> Tokens:
    """Return means of the pairs, each as long as the longest of its parts (section 3.3, MLERP)."""
    group, left = matching.group, matching.order.shape[1]
    merged = merge_mean(tokens, group, left)
    length = tokens.x.float().norm(dim=-1)
    longest = length.new_zeros(len(group), left).scatter_reduce(1, group, length, "amax")
    scale = longest / merged.x.float().norm(dim=-1).clamp_min(1e-6)
    return merged.with_x(merged.x * scale.to(merged.x.dtype).unsqueeze(-1))
