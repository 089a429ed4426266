"""Keep patches drawn by lot: the baseline that every method must beat."""

from collections.abc import Sequence
from typing import Any

import torch

from elip.errors import ElipError
from elip.reduction import REDUCERS, EncoderInfo, Ratios, Stage, StageReducer, Tokens


@REDUCERS.register("random")
class RandomPruning(StageReducer):
    """Keep patches drawn by lot, in image order.

    In training each image draws anew in each pass; in evaluation the places are fixed and the same for all images, so
    that a result can be repeated.

    Args:
        seed: picks the places kept in evaluation.
    """

    keeps_order = True
    lots: torch.Tensor

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (2, 4, 10),
        keep_ratio: Ratios = (0.90, 0.65, 0.40),
        seed: int = 0,
        **stages: Any,
    ) -> None:
        super().__init__(encoder, begin=begin, keep_ratio=keep_ratio, **stages)
        if not 0 <= seed < 2**63:
            raise ElipError(f"seed: expected a whole number from 0 to 2^63 - 1, got {seed}.")
        lots = torch.rand(encoder.depth, encoder.num_patches, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("lots", lots, persistent=False)

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        batch, num_tokens = tokens.x.shape[:2]
        if stage.context.training:
            lots = torch.rand(batch, num_tokens, device=tokens.x.device)
        else:
            lots = self.lots[stage.block, :num_tokens].expand(batch, -1)
        return tokens.keep(lots.topk(keep, dim=1).indices.sort(dim=1).values)
