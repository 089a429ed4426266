"""Pooling: windows, grids that do not divide, and the way back to the image."""

import pytest
import torch

from elip.reduction.encoder import EncoderInfo
from elip.reduction.reducer import ReductionContext
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS


def pooled(grid: tuple[int, int], **params: object) -> Tokens:
    info = EncoderInfo(depth=4, width=1, num_heads=1, grid=grid, num_prefix_tokens=0, has_class_token=False)
    reducer = REDUCERS.build("pool", info, **params)
    places = torch.arange(float(grid[0] * grid[1])).view(1, -1, 1)
    tokens = Tokens.start(places, grid, track_source=True)
    for block in range(info.depth):
        tokens = reducer.before_block(block, tokens, ReductionContext(None, training=False))
    return tokens


def test_a_quarter_of_the_patches_are_means_of_two_by_two() -> None:
    tokens = pooled((4, 4), begin=[1], keep_ratio=0.25)
    assert tokens.x.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert tokens.sizes.tolist() == [[4, 4, 4, 4]]
    assert tokens.restore()[0, :, :, 0].tolist() == [[2.5, 2.5, 4.5, 4.5]] * 2 + [[10.5, 10.5, 12.5, 12.5]] * 2


def test_stages_follow_each_other() -> None:
    tokens = pooled((4, 4), begin=[1, 2], keep_ratio=[0.25, 0.0625])
    assert tokens.x.flatten().tolist() == [7.5]
    assert tokens.sizes.tolist() == [[16]]


@pytest.mark.parametrize(("grid", "ratio", "most"), [((5, 7), 0.5, 17), ((14, 14), 0.5, 98), ((3, 9), 0.3, 8)])
def test_a_grid_that_does_not_divide_is_filled_as_far_as_the_ratio_allows(
    grid: tuple[int, int], ratio: float, most: int
) -> None:
    tokens = pooled(grid, begin=[0], keep_ratio=ratio)
    assert 0.7 * most <= tokens.num_tokens <= most
    assert tokens.sizes.sum() == grid[0] * grid[1]
    assert tokens.source.unique().tolist() == [*range(tokens.num_tokens)]
