"""Guided dropping: the momentum encoder, which sees the whole image first, chooses the patches that training sees.

What is put together is published: dropping patches before the first block (FLIP, Li et al., CVPR 2023, section 3), a
momentum encoder beside the one that is trained (ALBEF, Li et al., NeurIPS 2021, section 3.3), and a caption's share in
the query that scores patches, whose rest becomes one token (ELIP, Guo et al., arXiv:2309.16738, section 3).
"""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from elip.errors import ElipError
from elip.reduction import (
    REDUCERS,
    EncoderInfo,
    Ratios,
    ReductionContext,
    Stage,
    StageReducer,
    TeacherNeeds,
    Tokens,
    require_class_token,
    require_text_width,
)

TINY = torch.finfo(torch.float32).tiny


@REDUCERS.register("guided")
class Guided(StageReducer):
    """Keep the patches that the momentum encoder attends to, from block 0 on; fuse the others by that attention.

    The momentum encoder has seen the whole image when the online one begins, so that nothing is run ahead: its
    attention in one block, from CLS mixed with the caption's [CLS] and averaged over heads, scores the patches. That
    costs one row and, for the mixed CLS, which stands in the place of CLS as in ELIP, the block's keys once more. Kept
    patches are in image order, the token of the others is last. In training only: where there is no momentum encoder,
    as in evaluation, all tokens are kept, so that training should end on whole images (`until: 0.8`). Needs no
    parameters. The encoder needs a class token, and the text encoder's width if the text has a share.

    Args:
        begin: blocks to reduce in front of, counted from 0.
        teacher_block: block of the momentum encoder whose attention counts; None for its last one. In large pre-trained
            ViTs that one may rest on patches without content (Darcet et al., ICLR 2024); take one of the middle there.
        text_weight: share of the caption in the query, in [0, 1]; 0 leaves the choice to the image alone, and needs no
            text. The caption is the momentum encoder's own, as its text-only layers leave it.
        fuse: keep the others as one token, weighted by their attention; else they are dropped.
        temperature: 0 keeps the patches of largest attention. Above, patches are drawn by lot in training, in
            proportion to attention ** (1 / temperature): 1 follows the attention, and the higher, the more all are
            alike.
    """

    paper = "after Li et al., CVPR 2023, arXiv:2212.00794, and Guo et al., 2023, arXiv:2309.16738"
    requires_teacher = True
    keeps_order = True

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (0,),
        keep_ratio: Ratios = 0.4,
        teacher_block: int | None = None,
        text_weight: float = 0.2,
        fuse: bool = True,
        temperature: float = 0.0,
        **stages: Any,
    ) -> None:
        require_class_token(encoder)
        super().__init__(encoder, begin=begin, keep_ratio=keep_ratio, **stages)
        last = encoder.depth - 1
        self.teacher_block = last if teacher_block is None else teacher_block
        if not 0 <= self.teacher_block <= last:
            raise ElipError(f"teacher_block: this ViT has blocks 0 to {last}, got {teacher_block}.")
        if not 0 <= text_weight <= 1:
            raise ElipError(f"text_weight: expected a share in [0, 1], got {text_weight}.")
        if not 0 <= temperature < inf:
            raise ElipError(f"temperature: expected a number of 0 or more, got {temperature}.")
        if text_weight:
            require_text_width(encoder)
            self.teacher_needs = TeacherNeeds(mixed_rows={self.teacher_block: text_weight})
        else:
            self.teacher_needs = TeacherNeeds(cls_rows=(self.teacher_block,))
        self.fuse = fuse
        self.temperature = temperature

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        scores = self.scores(stage.context)
        order = self.merits(scores, stage.context.training).argsort(dim=1, descending=True)
        kept, rest = order[:, :keep].sort(dim=1).values, order[:, keep:]
        weight = scores.gather(1, rest)
        left = scores.gather(1, kept)
        if self.fuse:  # a later stage sees the token of the others as a patch of their mean attention
            left = torch.cat([left, weight.mean(dim=1, keepdim=True)], dim=1)
        stage.context.state["scores"] = left
        if not self.fuse:
            return tokens.keep(kept)
        return tokens.keep_and_fuse(kept, rest, weight / (weight.sum(dim=1, keepdim=True) + 1e-6))

    def scores(self, context: ReductionContext) -> Tensor:
        """Return the attention to each token that is left, averaged over heads, without gradient: [B, N], float32."""
        if "scores" not in context.state:
            teacher = context.guide.teacher
            assert teacher is not None, "requires_teacher"
            rows = teacher.mixed_rows or teacher.cls_rows
            context.state["scores"] = rows[self.teacher_block].detach().float().mean(dim=1)
        return context.state["scores"]

    def merits(self, scores: Tensor, training: bool) -> Tensor:
        """Return what tokens are ranked by: their scores, or lots that these weigh. [B, N]"""
        if not (training and self.temperature):
            return scores
        # The first k by logarithm plus Gumbel noise are k draws, none twice, in proportion (Kool et al., ICML 2019).
        noise = -torch.empty_like(scores).exponential_().clamp_min(TINY).log()
        return scores.clamp_min(TINY).log() / self.temperature + noise
