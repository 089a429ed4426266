"""ATS: as many patches as the attention is spread over.

Fayyaz et al., "Adaptive Token Sampling for Efficient Vision Transformers", ECCV 2022, arXiv:2111.15667, section 3.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

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


@REDUCERS.register("ats")
class AdaptiveTokenSampling(TokenReducer):
    """Sample patches by inverse transform of their scores at fixed quantiles; images keep different numbers.

    A patch scores its attention from CLS times the length of its value, summed over heads (section 3.1). Quantiles are
    fixed (section 3.2), so that training and evaluation are the same and nothing is drawn. Several may hit one patch,
    which is kept once; the more the attention is concentrated, the fewer patches stay. They stay in image order.
    Numbers are known on the host only after the scores: each stage waits for the device once.

    Args:
        encoder: the encoder to reduce; it needs a class token.
        begin: blocks to sample in, counted from 0.
        keep_ratio: patches left at most after each, as a share of the image's initial patches, in (0, 1].
        warmup: how the reduction sets in over training (`elip.reduction.Warmup`); None for in full from the start.
    """

    paper = "Fayyaz et al., ECCV 2022, arXiv:2111.15667"
    keeps_order = True
    static_counts = False
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
        require_class_token("ats", encoder)
        self.schedule = KeepSchedule(
            "ats", encoder.depth, encoder.num_patches, begin=begin, keep_ratio=keep_ratio, warmup=warmup
        )

    def needs(self, block: int) -> Needs:
        return Needs.CLS_ROW | Needs.VALUE_NORMS if block in self.schedule.begin else Needs.NOTHING

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        at_most = self.schedule.num_keep(block, tokens.num_patches, context.guide.progress)
        if at_most == tokens.num_patches or attention.cls_row is None or attention.value_norms is None:
            return tokens
        scores = (attention.cls_row.float() * attention.value_norms.float()).sum(dim=1)
        sampled = sample(scores.detach(), at_most, tokens.mask)
        counts = sampled.sum(dim=1)
        first = sampled.int().argsort(dim=1, descending=True, stable=True)[:, : int(counts.max())]
        return tokens.keep(first, torch.arange(first.shape[1], device=first.device) < counts.unsqueeze(1))


def sample(scores: Tensor, points: int, mask: Tensor | None = None) -> Tensor:
    """Return which tokens are nearest to one of the quantiles in the running sum of scores (section 3.2).

    Args:
        scores: [B, N], not negative.
        points: K - 1 of the quantiles 1/2K, 3/2K, ..., (2K - 1)/2K; the last one is left out, as in the reference.
        mask: [B, N] bool, False for places that hold no token.

    Returns:
        [B, N] bool
    """
    running = (scores / (scores.sum(dim=1, keepdim=True) + 1e-6)).cumsum(dim=1)
    if mask is not None:
        running = running.masked_fill(~mask, float("inf"))
    quantiles = (2 * torch.arange(points, device=scores.device, dtype=scores.dtype) + 1) / (2 * (points + 1))
    nearest = (quantiles.view(1, -1, 1) - running.unsqueeze(1)).abs().argmin(dim=-1)
    return torch.zeros_like(scores).scatter(1, nearest, 1.0) > 0
