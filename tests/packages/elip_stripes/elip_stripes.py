"""Keep patches at even distances: a reducer in a package of its own, found by its entry point."""

from collections.abc import Sequence

import torch

from elip.reduction import EncoderInfo, KeepSchedule, Ratios, ReductionContext, TokenReducer, Tokens
from elip.registry import REDUCERS


@REDUCERS.register("stripes")
class Stripes(TokenReducer):
    """Keep patches at even distances, the same in every image.

    Args:
        encoder: the encoder to reduce.
        begin: blocks to prune in front of, counted from 0.
        keep_ratio: patches left after each, as a share of the image's initial patches, in (0, 1].
    """

    paper = "none: an example"
    keeps_order = True

    def __init__(self, encoder: EncoderInfo, *, begin: Sequence[int] = (3, 6, 9), keep_ratio: Ratios = 0.7) -> None:
        super().__init__()
        self.schedule = KeepSchedule("stripes", encoder.depth, encoder.num_patches, begin=begin, keep_ratio=keep_ratio)

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        keep = self.schedule.num_keep(block, tokens.num_tokens, context.guide.progress)
        if keep == tokens.num_tokens:
            return tokens
        places = torch.arange(keep, device=tokens.x.device) * tokens.num_tokens // keep
        return tokens.keep(places.expand(len(tokens.x), -1))
