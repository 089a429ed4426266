"""Keep patches drawn by lot: the baseline that every method must beat."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from elip.reducer import EncoderInfo, ReductionContext, TokenReducer
from elip.registry import REDUCERS
from elip.schedule import KeepSchedule, Ratios
from elip.tokens import Tokens


@REDUCERS.register("random")
class RandomPruning(TokenReducer):
    """Keep patches drawn by lot, in image order.

    In training each image draws anew in each pass; in evaluation the places are fixed and the same for all images, so
    that a result can be repeated.

    Args:
        encoder: the encoder to reduce.
        begin: blocks to prune in front of, counted from 0.
        keep_ratio: patches left after each, as a share of the image's initial patches, in (0, 1].
        warmup: how the reduction sets in over training (`elip.schedule.Warmup`); None for in full from the start.
        seed: picks the places kept in evaluation.
    """

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
        self.schedule = KeepSchedule(
            "random", encoder.depth, encoder.num_patches, begin=begin, keep_ratio=keep_ratio, warmup=warmup
        )
        self.seed = seed

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        keep = self.schedule.num_keep(block, tokens.num_tokens, context.progress)
        if keep == tokens.num_tokens:
            return tokens
        batch, device = len(tokens.x), tokens.x.device
        if context.training:
            lot = torch.rand(batch, tokens.num_tokens, device=device)
        else:
            generator = torch.Generator().manual_seed(self.seed + block)
            lot = torch.rand(1, tokens.num_tokens, generator=generator).to(device).expand(batch, -1)
        return tokens.keep(lot.topk(keep, dim=1).indices.sort(dim=1).values)
