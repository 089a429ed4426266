"""Which tokens to merge into which, and their means: what the merging reducers share."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from elip.reduction.encoder import EncoderInfo
from elip.reduction.reducer import AttentionFacts, Needs, ReductionContext, TokenReducer
from elip.reduction.schedule import Removals, RemovalSchedule
from elip.reduction.tokens import Tokens, take


class Matching(NamedTuple):
    """A plan to merge some tokens into others.

    Shape (r tokens merged, N of them before):
        source: [B, r], places of the tokens to merge
        target: [B, r], places of the tokens that they are merged into; several may go into one
        order: [B, N - r], places of all other tokens, in the order in which they go on
    """

    source: Tensor
    target: Tensor
    order: Tensor

    @property
    def group(self) -> Tensor:
        """[B, N], the new token that each old one is part of, as `Tokens.merge` takes it."""
        batch, left = self.order.shape
        new = torch.arange(left, device=self.order.device).expand(batch, -1)
        place = self.order.new_zeros(batch, left + self.source.shape[1]).scatter(1, self.order, new)
        return place.scatter(1, self.source, place.gather(1, self.target))


class PairMerging(TokenReducer):
    """Pair r of the patches in each block with others that are like them, between attention and MLP.

    Likeness is the cosine of keys averaged over heads (`bipartite_matching`). A subclass gives `merge`, which is called
    only where tokens are to go. Its own parameters stand in its constructor, which passes on the others.

    Args:
        encoder: the encoder to reduce.
        r: tokens to remove in each block: one number, one a block, or `{mean, slope}` (Bolya et al., appendix D); in no
            block more than half of them go.
        proportional: add the logarithm of each token's size to its attention logits.
        warmup: how the reduction sets in over training (`elip.reduction.Warmup`); None for in full from the start.
    """

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
        self.schedule = RemovalSchedule(encoder, r=r, warmup=warmup)

    @abstractmethod
    def merge(self, block: int, tokens: Tokens, matching: Matching) -> Tokens:
        """Return the tokens that go on from a block: as many as there are places in `matching.order`."""

    def needs(self, block: int) -> Needs:
        return Needs.KEYS if self.schedule.per_block[block] else Needs.NOTHING

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        r = self.schedule.num_remove(block, tokens.num_tokens, context.guide.progress)
        if r == 0:
            return tokens
        assert attention.keys is not None
        return self.merge(block, tokens, bipartite_matching(attention.keys.detach(), r, self.num_prefix))


def bipartite_matching(metric: Tensor, r: int, num_prefix: int = 0) -> Matching:
    """Pair tokens at even places with their most similar one at odd places, and take the best pairs.

    Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, section 3.

    Args:
        metric: [B, N, d], what similarity is measured on, by its cosine.
        r: pairs to take; half of the tokens at most are.
        num_prefix: tokens in front of these that are never merged; places count from the first of them. Where there
            are some, unmerged tokens stay in order of place, else they come in falling order of similarity.
    """
    r = min(r, metric.shape[1] // 2)
    places = torch.arange(metric.shape[1], device=metric.device).expand(len(metric), -1)
    even, odd = places[:, num_prefix % 2 :: 2], places[:, 1 - num_prefix % 2 :: 2]
    unit = F.normalize(metric, dim=-1)
    matching = best_pairs(take(unit, even) @ take(unit, odd).mT, even, odd, r)
    if not num_prefix:
        return matching
    unmerged, others = matching.order.split([even.shape[1] - r, odd.shape[1]], dim=1)
    return matching._replace(order=torch.cat([unmerged.sort(dim=1).values, others], dim=1))


def best_pairs(similarity: Tensor, source: Tensor, target: Tensor, r: int) -> Matching:
    """Pair tokens of one half with their most similar one of the other half, and take the r best pairs.

    Unmerged tokens of the first half go on in falling order of that similarity, then those of the other.

    Shape:
        similarity: [B, S, T];  source: [B, S], places of the first half;  target: [B, T], places of the other
    """
    best, partner = similarity.max(dim=-1)
    ranking = best.argsort(dim=1, descending=True)
    merged, unmerged = ranking[:, :r], ranking[:, r:]
    order = torch.cat([take(source, unmerged), target], dim=1)
    return Matching(take(source, merged), take(target, take(partner, merged)), order)


def merge_mean(
    tokens: Tokens, group: Tensor, num_groups: int, weight: Tensor | None = None, eps: float = 0.0
) -> Tokens:
    """Return each group's mean.

    Args:
        tokens: N of them.
        group: [B, N], the new token that each is part of, in [0, num_groups).
        num_groups: M.
        weight: [B, N], of each token in its group's mean; their sizes by default.
        eps: added to each group's total weight.
    """
    weight = tokens.sizes if weight is None else weight
    total = weight.new_zeros(len(group), num_groups).scatter_add(1, group, weight)
    share = weight / (take(total, group) + eps)  # of at most 1, so that sums stay in the range of half precision
    return tokens.merge(sum_by_group(tokens.x * share.to(tokens.x.dtype).unsqueeze(-1), group, num_groups), group)


def sum_by_group(x: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Return the sum of each group. x: [B, N, D]; group: [B, N]; returns [B, M, D]."""
    total = x.new_zeros(len(x), num_groups, x.shape[-1])
    return total.scatter_add(1, group.unsqueeze(-1).expand_as(x), x)


def distances(x: Tensor) -> Tensor:
    """Return Euclidean distances between tokens, in float32 or better, by one product of matrices.

    Shape:
        x: [B, N, D];  returns [B, N, N]
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    x = x - x.mean(dim=1, keepdim=True)  # the shorter the vectors, the less is lost in the difference below
    with torch.autocast(x.device.type, enabled=False):
        square = x.square().sum(dim=-1)
        squares = square.unsqueeze(1) + square.unsqueeze(2) - 2 * (x @ x.mT)
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return squares.masked_fill(itself, 0.0).clamp_min(0.0).sqrt()
