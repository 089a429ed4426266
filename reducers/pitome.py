"""PiToMe: merge among patches of high energy, those in large homogeneous regions; protect the others.

Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging", NeurIPS 2024, arXiv:2405.16148.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from elip.merging import Matching, clamped, merge_mean
from elip.reducer import AttentionFacts, EncoderInfo, Needs, ReductionContext, TokenReducer
from elip.registry import REDUCERS
from elip.schedule import KeepSchedule, Ratios
from elip.tokens import Tokens


@REDUCERS.register("pitome")
class PiToMe(TokenReducer):
    """Merge pairs among the 2k patches of largest energy in each block; k = what the keep ratio takes away.

    The energy of a patch is how many others are like it, and how much (section 3.2, eq. 4). Ranked by it, the first 2k
    are split into every other one; each of one half is merged into the most similar of the other half (section 3.3,
    algorithm 1). Between attention and MLP, on keys averaged over heads; means are weighted by size.

    Args:
        encoder: the encoder to reduce.
        begin: blocks to merge in, counted from 0; None for all.
        keep_ratio: share of the patch tokens that arrive at each of them that is left, in (0, 1]; at least half is.
        margin: similarity from which patches count as alike at the first block; it falls to 0 over the depth (m of
            section 3.2).
        alpha: weight of patches that are not alike.
        proportional: add the logarithm of each token's size to its attention logits.
        warmup: how the reduction sets in over training (`elip.schedule.Warmup`); None for in full from the start.
    """

    paper = "Tran et al., NeurIPS 2024, arXiv:2405.16148"
    schedule: KeepSchedule

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] | None = None,
        keep_ratio: Ratios = 0.925,
        margin: float = 0.9,
        alpha: float = 1.0,
        proportional: bool = True,
        warmup: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.margins = [margin * (1 - block / encoder.depth) for block in range(encoder.depth)]
        self.alpha = alpha
        self.proportional = proportional
        self.schedule = KeepSchedule(
            "pitome",
            encoder.depth,
            encoder.num_patches,
            begin=range(encoder.depth) if begin is None else begin,
            keep_ratio=keep_ratio,
            base="current",
            warmup=warmup,
        )

    def needs(self, block: int) -> Needs:
        return Needs.KEYS if block in self.schedule.begin else Needs.NOTHING

    def key_bias(self, block: int, tokens: Tokens, context: ReductionContext) -> Tensor | None:
        return tokens.size.log() if self.proportional and tokens.size is not None else None

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        remove = tokens.num_tokens - self.schedule.num_keep(block, tokens.num_tokens, context.progress)
        remove = clamped(remove, tokens.num_tokens)
        if remove == 0 or attention.keys is None:
            return tokens
        matching = energy_matching(attention.keys.detach(), remove, self.margins[block], self.alpha)
        return merge_mean(tokens, matching.group, tokens.num_tokens - remove)


def energy_matching(metric: Tensor, remove: int, margin: float, alpha: float = 1.0) -> Matching:
    """Pair the tokens of largest energy (section 3.3, algorithm 1).

    Args:
        metric: [B, N, d], what similarity is measured on, by its cosine.
        remove: k, pairs to take; not more than half the tokens.
        margin: m.
        alpha: weight of tokens that are not alike.
    """
    unit = F.normalize(metric, dim=-1)
    similarity = unit @ unit.mT
    alike = torch.where(similarity >= margin, similarity, alpha * ((similarity - margin).exp() - 1))
    ranking = alike.mean(dim=-1).argsort(dim=1, descending=True)
    candidates, protected = ranking[:, : 2 * remove], ranking[:, 2 * remove :].sort(dim=1).values
    source, others = candidates[:, ::2], candidates[:, 1::2]
    rows = similarity.gather(1, source.unsqueeze(-1).expand(-1, -1, similarity.shape[-1]))
    partner = rows.gather(2, others.unsqueeze(1).expand(-1, remove, -1)).argmax(dim=-1)
    return Matching(source, others.gather(1, partner), torch.cat([protected, others], dim=1))
