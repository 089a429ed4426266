"""ToFu: prune similar patches in early blocks, merge them with their length kept in late ones.

Kim et al., "Token Fusion: Bridging the Gap between Token Pruning and Token Merging", WACV 2024, arXiv:2312.01026. No
code by the authors was found. There is a reading of the paper by others, in the public implementation of PiToMe, whose
numbers `length="partner"` is held to.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from elip.errors import ElipError
from elip.reduction import REDUCERS, EncoderInfo, Matching, PairMerging, Tokens, merge_mean, take


@REDUCERS.register("tofu")
class ToFu(PairMerging):
    """Remove the r most similar patches in each block: dropped in early blocks, merged with their partners later.

    Pairs are those of ToMe. Where a block is far from linear, what it makes of a mean of tokens is not the mean of what
    it makes of them, so that one of the pair alone is better (section 3.2). A mean is shorter than its parts; MLERP
    gives it the length of the longest of them (section 3.3).

    PiToMe's authors read it otherwise: the plain mean, whatever the sizes of the parts, times the longest length over
    the length that the partner had alone, so that it is as long as the longest only where partner and mean are equally
    long; sizes never weigh in attention; and block depth // 2 still prunes. All three together:
    `{length: partner, proportional: false, merge_from: depth // 2 + 1}`. Their number of tokens to remove, a share of
    all tokens, CLS included, rounded down, is a list `r`.

    Args:
        merge_from: first block that merges; the blocks before it prune. None for half the depth.
        length: of a merged token: longest, that of its longest part (the paper's MLERP); or partner, as above.
    """

    paper = "Kim et al., WACV 2024, arXiv:2312.01026"

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        merge_from: int | None = None,
        length: Literal["longest", "partner"] = "longest",
        **removals: Any,
    ) -> None:
        if merge_from is not None and not 0 <= merge_from <= encoder.depth:
            raise ElipError(
                f"merge_from: this ViT has {encoder.depth} blocks; give 0 (merge in all of them) to "
                f"{encoder.depth} (prune in all), got {merge_from}."
            )
        if length not in ("longest", "partner"):
            raise ElipError(f"length: expected longest or partner, got {length!r}.")
        super().__init__(encoder, **removals)
        self.merge_from = encoder.depth // 2 if merge_from is None else merge_from
        self.length = length

    def merge(self, block: int, tokens: Tokens, matching: Matching) -> Tokens:
        if block < self.merge_from:
            return tokens.keep(matching.order)
        return _mlerp(tokens, matching) if self.length == "longest" else _rescaled_by_partner(tokens, matching)


def _mlerp(tokens: Tokens, matching: Matching) -> Tokens:
    """Return means of the pairs, each as long as the longest of its parts (section 3.3, MLERP)."""
    merged = merge_mean(tokens, matching.group, matching.order.shape[1])
    return _stretched(merged, _longest(tokens, matching) / _lengths(merged.x))


def _rescaled_by_partner(tokens: Tokens, matching: Matching) -> Tokens:
    """Return plain means of the pairs, times the longest part's length over the partner's before it was merged."""
    group, left = matching.group, matching.order.shape[1]
    merged = merge_mean(tokens, group, left, weight=torch.ones_like(tokens.sizes))
    return _stretched(merged, _longest(tokens, matching) / _lengths(take(tokens.x, matching.order)))


def _longest(tokens: Tokens, matching: Matching) -> Tensor:
    """Return the length of the longest part of each new token, [B, N - r]."""
    longest = torch.zeros_like(matching.order, dtype=torch.float32)
    return longest.scatter_reduce(1, matching.group, _lengths(tokens.x), "amax")


def _lengths(x: Tensor) -> Tensor:
    return x.float().norm(dim=-1).clamp_min(1e-6)


def _stretched(tokens: Tokens, factor: Tensor) -> Tokens:
    return tokens.with_x(tokens.x * factor.to(tokens.x.dtype).unsqueeze(-1))
