"""Keep patches drawn by lot: the baseline that every method must beat."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from elip.errors import ElipError
from elip.reduction import EncoderInfo, KeepSchedule, Ratios, ReductionContext, TokenReducer, Tokens
from elip.registry import REDUCERS


@REDUCERS.register("random")
class RandomPruning(TokenReducer):
    """Keep patches drawn by lot, in image order.

    In training each image draws anew in each pass; in evaluation the places are fixed and the same for all images, so
    that a result can be repeated.

    Args:
        encoder: the encoder to reduce.
        begin: blocks to prune in front of, counted from 0.
        keep_ratio: patches left after each, as a share of the image's initial patches, in (0, 1].
        warmup: how the reduction sets in over training (`elip.reduction.Warmup`); None for in full from the start.
        seed: picks the places kept in evaluation.
    """

    keeps_order = True
    schedule: KeepSchedule
    lots: torch.Tensor

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (2, 4, 10),
        keep_ratio: Ratios = (0.90, 0.65, 0.40),
        warmup: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= seed < 2**63:
            raise ElipError(f"reducer 'random': seed: expected a whole number from 0 to 2^63 - 1, got {seed}.")
        self.schedule = KeepSchedule(
            "random", encoder.depth, encoder.num_patches, begin=begin, keep_ratio=keep_ratio, warmup=warmup
        )
        lots = torch.rand(encoder.depth, encoder.num_patches, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("lots", lots, persistent=False)

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        keep = self.schedule.num_keep(block, tokens.num_tokens, context.guide.progress)
        if keep == tokens.num_tokens:
            return tokens
        batch, num_tokens = tokens.x.shape[:2]
        if context.training:
            lots = torch.rand(batch, num_tokens, device=tokens.x.device)
        else:
            lots = self.lots[block, :num_tokens].expand(batch, -1)
        return tokens.keep(lots.topk(keep, dim=1).indices.sort(dim=1).values)
