"""ATS: as many patches as the attention is spread over.

Fayyaz et al., "Adaptive Token Sampling for Efficient Vision Transformers", ECCV 2022, arXiv:2111.15667, section 3.
"""

import torch
from torch import Tensor

from elip.reduction import REDUCERS, AttentionFacts, Needs, ReductionContext, Stage, StageReducer, Tokens


@REDUCERS.register("ats")
class AdaptiveTokenSampling(StageReducer):
    """Sample patches by inverse transform of their scores at fixed quantiles; images keep different numbers.

    A patch scores its attention from CLS times the length of its value, summed over heads (section 3.1). Quantiles are
    fixed (section 3.2), so that training and evaluation are the same and nothing is drawn. Several may hit one patch,
    which is kept once; the more the attention is concentrated, the fewer patches stay. They stay in image order.
    Numbers are known on the host only after the scores: each stage waits for the device once. The encoder needs a class
    token.

    Args:
        keep_ratio: patches left at most after each block, as a share of what `of` says, in (0, 1].
        of: what the ratios are shares of: initial, the image's patches, or current, what the stage before leaves at
            most. None for initial, where one number for several blocks is refused as ambiguous.
    """

    paper = "Fayyaz et al., ECCV 2022, arXiv:2111.15667"
    keeps_order = True
    static_counts = False
    at_stage = Needs.CLS_ROW | Needs.VALUE_NORMS

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        # As planned, not of the tokens that arrive: their number is that of the image with the most in the batch.
        at_most = self.schedule.counts(context.guide.progress).get(block, tokens.num_patches)
        if at_most == tokens.num_patches:
            return tokens
        return self.reduce(tokens, at_most, Stage(block, self.schedule.begin.index(block), attention, context))

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        scores = (stage.cls_row.float() * stage.value_norms.float()).sum(dim=1)
        sampled = sample(scores.detach(), keep, tokens.mask)
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
