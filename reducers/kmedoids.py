"""K-Medoids: keep the patches in the middle of clusters.

Marin et al., "Token Pooling in Vision Transformers", 2021, arXiv:2110.03860, section 4.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from elip.errors import ElipError
from elip.reduction import (
    REDUCERS,
    AttentionFacts,
    EncoderInfo,
    KeepSchedule,
    Needs,
    ReductionContext,
    Stage,
    StageReducer,
    Tokens,
    distances,
)


@REDUCERS.register("kmedoids")
class KMedoids(StageReducer):
    """Keep the medoids of clusters of patches in front of some blocks; the others are dropped.

    As in the reference numbers' code, a new medoid is the member with the least weighted distance to all patches, not
    only to those of its cluster. With weights by attention, the block in front of each stage gives up fused attention.

    Args:
        begin: blocks to reduce in front of, counted from 0; from 1 if weights come from attention.
        iterations: of assignment and choice of new medoids.
        weights: attention paid to each patch in the block before, summed over heads and queries, which also picks the
            first medoids; or equal, where the first medoids are patches far from each other.
        first_medoid: with equal weights, the place of each stage's very first medoid: one number, or one a stage.
    """

    paper = "Marin et al., 2021, arXiv:2110.03860"

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        iterations: int = 3,
        weights: Literal["attention", "equal"] = "attention",
        first_medoid: int | Sequence[int] = 0,
        **stages: Any,
    ) -> None:
        super().__init__(encoder, **stages)
        if weights not in ("attention", "equal"):
            raise ElipError(f"weights: expected attention or equal, got {weights!r}.")
        if weights == "attention" and 0 in self.schedule.begin:
            raise ElipError(
                "begin: no block comes before block 0 whose attention could weigh the patches; "
                "begin at block 1 or later, or set weights=equal."
            )
        if iterations < 0:
            raise ElipError(f"iterations must be 0 or more, got {iterations}.")
        self.iterations = iterations
        self.by_attention = weights == "attention"
        self.reducing = self.schedule.reducing
        self.first_medoid = _first_medoids(first_medoid, self.schedule)

    def needs(self, block: int) -> Needs:
        return Needs.MATRIX if self.by_attention and block + 1 in self.reducing else Needs.NOTHING

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        if attention.matrix is not None:
            received = attention.matrix.detach().float().sum(dim=(1, 2))
            context.state["weight"] = received[:, context.prefix.shape[1] :]
        return tokens

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        distance = distances(tokens.x.detach())
        if self.by_attention:
            weight = stage.context.state["weight"]
            start = weight.topk(keep, dim=1).indices
        else:
            weight = distance.new_ones(tokens.x.shape[:2])
            start = far_apart(distance, keep, self.first_medoid[stage.index])
        medoids, _ = cluster(distance, weight, start, self.iterations)
        return tokens.keep(medoids)


def far_apart(distance: Tensor, count: int, first: int) -> Tensor:
    """Return places whose largest distance to those before them is the largest. [B, N, N] to [B, count]."""
    batch, num_tokens, _ = distance.shape
    chosen = torch.full((batch, 1), min(first, num_tokens - 1), device=distance.device)
    far = torch.zeros_like(distance[:, 0])
    for _ in range(count - 1):
        far = torch.maximum(far, distance.gather(1, chosen[:, -1:, None].expand(-1, -1, num_tokens)).squeeze(1))
        far = far.scatter(1, chosen, -1.0)
        chosen = torch.cat([chosen, far.argmax(dim=1, keepdim=True)], dim=1)
    return chosen


def cluster(distance: Tensor, weight: Tensor, medoids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return medoids and each patch's cluster after some iterations.

    Shape (K clusters):
        distance: [B, N, N];  weight: [B, N];  medoids: [B, K], the first ones;  returns [B, K] and [B, N]
    """
    cost = (weight * distance.sum(dim=-1)).unsqueeze(1)  # [B, 1, N]
    clusters = torch.arange(medoids.shape[1], device=medoids.device)
    assignment = _assign(distance, medoids, clusters)
    for _ in range(iterations):
        members = assignment.unsqueeze(1) == clusters.view(1, -1, 1)  # [B, K, N]
        medoids = cost.where(members, float("inf")).argmin(dim=-1)
        assignment = _assign(distance, medoids, clusters)
    return medoids, assignment


def _assign(distance: Tensor, medoids: Tensor, clusters: Tensor) -> Tensor:
    """Return the nearest medoid of each patch; a medoid is its own, so that no cluster is empty."""
    nearest = distance.gather(1, medoids.unsqueeze(-1).expand(-1, -1, distance.shape[-1])).argmin(dim=1)
    return nearest.scatter(1, medoids, clusters.expand_as(medoids))


def _first_medoids(first_medoid: int | Sequence[int], schedule: KeepSchedule) -> list[int]:
    """Return the first medoid of each stage."""
    stages = len(schedule.begin)
    first = [first_medoid] * stages if isinstance(first_medoid, int) else list(first_medoid)
    if len(first) != stages or not all(0 <= place < schedule.num_patches for place in first):
        raise ElipError(
            f"first_medoid: expected a place below {schedule.num_patches}, or one for each of "
            f"{stages} stages, got {first_medoid}."
        )
    return first
