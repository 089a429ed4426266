"""Spatial average pooling: the cheap baseline beside `random`."""

from collections.abc import Sequence
from math import floor, sqrt

import torch
from torch import Tensor

from elip.reduction import (
    REDUCERS,
    Base,
    EncoderInfo,
    KeepSchedule,
    Ratios,
    ReductionContext,
    TokenReducer,
    Tokens,
    merge_mean,
)


@REDUCERS.register("pool")
class Pool(TokenReducer):
    """Average neighbouring patches in front of some blocks, so that a coarser grid is left.

    Each window becomes one token. The coarser grid has the proportions of the finer one, as nearly as its number of
    tokens, which is at most the ratio's, allows; windows may differ by one row or column.

    Args:
        encoder: the encoder to reduce.
        begin: blocks to pool in front of, counted from 0.
        keep_ratio: tokens of each grid at most, as a share of what `of` says, in (0, 1].
        of: what the ratios are shares of: initial, the image's patches, or current, the places of the grid before. None
            for initial, where one number for several blocks is refused as ambiguous.
    """

    keeps_order = True

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (6,),
        keep_ratio: Ratios = 0.25,
        of: Base | None = None,
    ) -> None:
        super().__init__()
        stages = KeepSchedule(encoder, begin=begin, keep_ratio=keep_ratio, of=of)
        self.grids: dict[int, tuple[int, int]] = {}
        grid = encoder.grid
        for block in stages.begin:
            coarser = _coarser(grid, stages.num_keep(block, grid[0] * grid[1]))
            self.register_buffer(f"window{block}", _windows(grid, coarser), persistent=False)
            grid = self.grids[block] = coarser

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if block not in self.grids:
            return tokens
        rows, columns = self.grids[block]
        if rows * columns == tokens.num_tokens:
            return tokens
        window = self.get_buffer(f"window{block}").expand(len(tokens.x), -1)
        return merge_mean(tokens, window, rows * columns)


def _coarser(grid: tuple[int, int], at_most: int) -> tuple[int, int]:
    """Return rows and columns of a grid of the same proportions with not more than that many places."""
    rows, columns = grid
    if at_most >= rows * columns:
        return grid
    fewer = max(1, floor(rows * sqrt(at_most / (rows * columns)) + 1e-9))
    return fewer, max(1, min(columns, at_most // fewer))


def _windows(grid: tuple[int, int], coarser: tuple[int, int]) -> Tensor:
    """Return the place in the coarser grid of each place of a grid, row by row."""
    row, column = (torch.arange(fine) * coarse // fine for fine, coarse in zip(grid, coarser, strict=True))
    return (row.unsqueeze(1) * coarser[1] + column).flatten()
