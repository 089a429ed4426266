"""DynamicViT: small learned predictors decide which patches to keep.

Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification", NeurIPS 2021,
arXiv:2106.02034, section 3.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elip.errors import ElipError
from elip.reduction import (
    REDUCERS,
    AttentionFunction,
    Base,
    EncoderInfo,
    Ratios,
    ReductionContext,
    Stage,
    StageReducer,
    TeacherNeeds,
    Tokens,
)

EPS = 1e-6
"""Keeps masked attention defined and differentiable (section 3.3)."""


@REDUCERS.register("dynamicvit")
class DynamicViT(StageReducer):
    """Keep the patches that a predictor in front of some blocks gives the largest probability of being kept.

    In training nothing is removed: decisions are drawn by Gumbel-softmax, straight through, and dropped patches are
    masked out of all later attention, but for their own (section 3.3). What reads the image afterwards sees them as
    masked. Two losses are added: for the share of patches kept, and, where a teacher is given, for the distance of
    the patches that are kept to the teacher's (section 3.4). In evaluation, patches are dropped, and those kept are in
    falling order of probability.

    Args:
        ratio_weight: of the loss on the share of patches kept, summed over stages and divided by their number.
        distill_weight: of the loss on the distance to the teacher's patches.
        distance: mean squared difference, or Kullback-Leibler divergence over the channels.
    """

    paper = "Rao et al., NeurIPS 2021, arXiv:2106.02034"
    teacher_needs = TeacherNeeds(tokens=True)
    losses = ("ratio", "token")

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (3, 6, 9),
        keep_ratio: Ratios = (0.7, 0.49, 0.343),
        of: Base | None = None,
        ratio_weight: float = 2.0,
        distill_weight: float = 0.5,
        distance: Literal["mse", "kl"] = "mse",
    ) -> None:
        super().__init__(encoder, begin=begin, keep_ratio=keep_ratio, of=of)
        if distance not in ("mse", "kl"):
            raise ElipError(f"distance: expected mse or kl, got {distance!r}.")
        for weight, value in (("ratio_weight", ratio_weight), ("distill_weight", distill_weight)):
            if not 0 <= value < inf:
                raise ElipError(f"{weight}: expected a number of 0 or more, got {value}.")
        self.ratio_weight = ratio_weight
        self.distill_weight = distill_weight
        self.distance = distance
        self.score_predictor = nn.ModuleList(Predictor(encoder.width) for _ in self.schedule.begin)

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if not context.training or block not in self.schedule.begin:
            return super().before_block(block, tokens, context)
        before = _decision(tokens, context)
        decision = before * self.draw(self.score_predictor[self.schedule.begin.index(block)](tokens.x, before))
        context.state.setdefault("decisions", []).append(decision)
        return replace(tokens, mask=decision.detach() > 0.5)

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        scores = self.score_predictor[stage.index](tokens.x, tokens.x.new_ones(tokens.x.shape[:2]))[..., 0]
        return tokens.keep(scores.topk(keep, dim=1).indices)

    def attention(self, block: int, tokens: Tokens, context: ReductionContext) -> AttentionFunction | None:
        if not context.training:
            return None
        keep = F.pad(_decision(tokens, context), (context.prefix.shape[1], 0), value=1.0)
        return lambda q, k, v: masked_softmax((q * q.shape[-1] ** -0.5) @ k.mT, keep).to(v.dtype) @ v

    def auxiliary_losses(self, tokens: Tokens, context: ReductionContext) -> dict[str, Tensor]:
        decisions = context.state.get("decisions")
        if not decisions:
            return {}
        losses = {"loss_ratio": self.ratio_weight / len(decisions) * self.ratio_loss(decisions)}
        teacher = context.guide.teacher
        if teacher is not None and teacher.tokens is not None:
            losses["loss_token"] = self.distill_weight * self.token_loss(tokens.x, teacher.tokens, decisions[-1])
        return losses

    def draw(self, log_probabilities: Tensor) -> Tensor:
        """Return decisions, 1 to keep, by Gumbel-softmax with straight-through gradient: [B, N, 2] to [B, N]."""
        soft = (log_probabilities + self.noise(log_probabilities)).softmax(dim=-1)[..., 0]
        return (soft >= 0.5).to(soft.dtype) - soft.detach() + soft

    @staticmethod
    def noise(like: Tensor) -> Tensor:
        """Return Gumbel noise of that shape."""
        return -torch.empty_like(like).exponential_().log()

    def ratio_loss(self, decisions: Sequence[Tensor]) -> Tensor:
        """Return the squared error of each image's share of kept patches, averaged over images, summed over stages."""
        shares = torch.stack([decision.mean(dim=1) for decision in decisions])
        targets = shares.new_tensor(self.schedule.shares).unsqueeze(1)
        return (shares - targets).square().mean(dim=1).sum()

    def token_loss(self, tokens: Tensor, teacher: Tensor, decision: Tensor) -> Tensor:
        """Return the distance of kept patches to the teacher's, averaged over all kept ones. [B, P, D] both."""
        tokens, teacher, kept = tokens.float(), teacher.float(), (decision.detach() > 0.5).float()
        if self.distance == "mse":
            distance = (tokens - teacher).square().mean(dim=-1)
        else:
            distance = F.kl_div(tokens.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True).sum(
                dim=-1
            )
        return (distance * kept).sum() / kept.sum().clamp_min(1)


class Predictor(nn.Module):
    """Probability of each patch to be kept, from its own features and those of all kept patches (section 3.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
        )

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """Return log-probabilities of keeping and of dropping. x: [B, N, D]; keep: [B, N]; returns [B, N, 2]."""
        local, whole = self.in_conv(x).chunk(2, dim=-1)
        keep = keep.unsqueeze(-1).to(x.dtype)
        # nothing kept at all: an average of nothing, not of 0 / 0
        whole = (whole * keep).sum(dim=1, keepdim=True) / keep.sum(dim=1, keepdim=True).clamp_min(EPS)
        return self.out_conv(torch.cat([local, whole.expand_as(local)], dim=-1)).float().log_softmax(dim=-1)


def masked_softmax(logits: Tensor, keep: Tensor) -> Tensor:
    """Return attention among kept tokens; each token may attend to itself, too (section 3.3, eq. 10 and 11).

    Shape:
        logits: [B, heads, N, N];  keep: [B, N], 1 for tokens to attend to, else 0;  returns [B, heads, N, N], float32
    """
    num_tokens = logits.shape[-1]
    itself = torch.eye(num_tokens, device=logits.device, dtype=keep.dtype)
    allowed = keep.unsqueeze(1) + (1 - keep.unsqueeze(1)) * itself  # [B, N, N]
    logits = logits.float()
    weight = (logits - logits.amax(dim=-1, keepdim=True)).exp() * allowed.unsqueeze(1)
    return (weight + EPS / num_tokens) / (weight.sum(dim=-1, keepdim=True) + EPS)


def _decision(tokens: Tokens, context: ReductionContext) -> Tensor:
    """Return the decision in force, [B, N]; all are kept in front of the first stage."""
    decisions = context.state.get("decisions")
    return decisions[-1] if decisions else tokens.x.new_ones(tokens.x.shape[:2])
