"""Moves of patch tokens: what is kept, fused, merged, and how it finds its way back to the image."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elip.reduction.tokens import Tokens, take


def numbered(batch: int = 1, grid: tuple[int, int] = (2, 3)) -> Tokens:
    """Tokens whose only value is their place."""
    places = torch.arange(grid[0] * grid[1], dtype=torch.float32)
    return Tokens.start(places.expand(batch, -1).unsqueeze(-1).clone(), grid, track_source=True)


def test_take_picks_each_images_own_places() -> None:
    x = torch.arange(12.0).view(2, 3, 2)
    assert take(x, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


def test_keep_takes_places_in_the_order_given_and_forgets_the_rest() -> None:
    kept = numbered().keep(torch.tensor([[4, 1]]))
    assert kept.x.flatten().tolist() == [4, 1]
    assert kept.source.tolist() == [[-1, 1, -1, -1, 0, -1]]


def test_keep_and_fuse_appends_the_weighted_sum_and_its_patches_live_there() -> None:
    fused = numbered().keep_and_fuse(
        torch.tensor([[0, 5]]), torch.tensor([[1, 2, 3, 4]]), torch.tensor([[0.5, 0.0, 0.5, 0.25]])
    )
    assert fused.x.flatten().tolist() == [0, 5, 0.5 * 1 + 0.5 * 3 + 0.25 * 4]
    assert fused.sizes.tolist() == [[1, 1, 4]]
    assert fused.source.tolist() == [[0, 2, 2, 2, 2, 1]]


def test_a_fused_token_can_be_dropped_with_all_its_patches() -> None:
    fused = numbered().keep_and_fuse(torch.tensor([[0, 5]]), torch.tensor([[1, 2, 3, 4]]), torch.ones(1, 4))
    left = fused.keep(torch.tensor([[1]]))
    assert left.source.tolist() == [[-1, -1, -1, -1, -1, 0]]


def test_merge_adds_sizes_and_moves_patches_to_their_group() -> None:
    merged = numbered().merge(torch.zeros(1, 3, 1), torch.tensor([[0, 0, 1, 2, 2, 2]]))
    assert merged.sizes.tolist() == [[2, 1, 3]]
    again = merged.merge(torch.zeros(1, 2, 1), torch.tensor([[1, 0, 1]]))
    assert again.sizes.tolist() == [[1, 5]]
    assert again.source.tolist() == [[1, 1, 0, 1, 1, 1]]


def test_restore_paints_each_patch_with_its_token_and_dropped_ones_with_the_fill() -> None:
    kept = numbered().keep(torch.tensor([[4, 1]]))
    painted = kept.restore(torch.tensor([[[7.0], [8.0]]]), fill=-1)
    assert painted.squeeze(-1).tolist() == [[[-1, 8, -1], [-1, 7, -1]]]


def test_restore_paints_every_patch_of_a_group_with_the_groups_value() -> None:
    merged = numbered().merge(torch.tensor([[[0.5], [2.0], [4.0]]]), torch.tensor([[0, 0, 1, 2, 2, 2]]))
    assert merged.restore().squeeze(-1).tolist() == [[[0.5, 0.5, 2], [4, 4, 4]]]


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_restore_takes_values_of_any_shape_on_any_grid(shape: tuple[int, ...]) -> None:
    kept = numbered(batch=2, grid=(3, 5)).keep(torch.tensor([[14, 0], [7, 3]]))
    values = torch.arange(1.0, 2 * 2 * torch.Size(shape).numel() + 1).view(2, 2, *shape)
    painted = kept.restore(values)
    assert painted.shape == (2, 3, 5, *shape)
    assert torch.equal(painted[0, 2, 4], values[0, 0])
    assert torch.equal(painted[0, 0, 0], values[0, 1])
    assert torch.equal(painted[1, 1, 2], values[1, 0])
    assert torch.equal(painted[1, 0, 3], values[1, 1])
    assert painted.sum() == values.sum()


def test_restore_lets_gradients_through_to_the_tokens_that_are_left() -> None:
    tokens = numbered()
    x = tokens.x.requires_grad_()
    tokens.with_x(x).keep(torch.tensor([[4, 1]])).restore().sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 0, 0, 1, 0]


def test_kept_marks_patches_with_a_token_to_themselves() -> None:
    fused = numbered().keep_and_fuse(torch.tensor([[0, 5]]), torch.tensor([[1, 2, 3, 4]]), torch.ones(1, 4))
    assert fused.kept().tolist() == [[[True, False, False], [False, False, True]]]


def test_restore_without_a_source_map_says_how_to_get_one() -> None:
    tokens = Tokens.start(torch.zeros(1, 4, 2), (2, 2))
    with pytest.raises(ValueError, match=r"Watch\(source=True\)"):
        tokens.restore()


def test_soft_mixing_gives_up_the_source_map() -> None:
    with pytest.raises(ValueError, match="mixes tokens softly"):
        numbered().mix(torch.zeros(1, 2, 1)).restore()


@st.composite
def journeys(draw: st.DrawFn) -> Tokens:
    """Tokens after a few random moves."""
    tokens = numbered(batch=2, grid=(3, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    for move in draw(st.lists(st.sampled_from(["keep", "fuse", "merge"]), max_size=4)):
        count = tokens.num_tokens
        if count < 3:
            break
        order = torch.stack([torch.randperm(count, generator=generator) for _ in range(2)])
        left = draw(st.integers(1, count - 1))
        if move == "keep":
            tokens = tokens.keep(order[:, :left])
        elif move == "fuse":
            tokens = tokens.keep_and_fuse(order[:, :left], order[:, left:], torch.ones(2, count - left))
        else:
            group = torch.cat([order[:, :left].argsort(1), torch.zeros(2, count - left, dtype=torch.long)], dim=1)
            sums = tokens.x.new_zeros(2, left, 1).scatter_add(
                1, group.unsqueeze(-1), tokens.x * tokens.sizes[..., None]
            )
            size = tokens.x.new_zeros(2, left).scatter_add(1, group, tokens.sizes)
            tokens = tokens.merge(sums / size.unsqueeze(-1), group)
    return tokens


@given(journeys())
def test_sizes_count_the_patches_that_live_in_each_token(tokens: Tokens) -> None:
    alive = tokens.source >= 0
    counted = torch.zeros(2, tokens.num_tokens).scatter_add(1, tokens.source.clamp_min(0), alive.float())
    torch.testing.assert_close(counted, tokens.sizes)


@given(journeys())
def test_restored_place_of_a_patch_kept_alone_is_its_own(tokens: Tokens) -> None:
    own: Tensor = torch.arange(12.0).view(1, 3, 4).expand(2, -1, -1)
    alone, restored = tokens.kept(), tokens.restore().squeeze(-1)
    torch.testing.assert_close(restored[alone], own[alone])


@given(journeys(), st.floats(-5, 5))
def test_each_patch_is_restored_from_the_token_it_lives_in_or_filled(tokens: Tokens, fill: float) -> None:
    restored = tokens.restore(fill=fill).flatten(1)
    for image in range(2):
        for patch, token in enumerate(tokens.source[image].tolist()):
            expected = tokens.x[image, token, 0] if token >= 0 else torch.tensor(fill)
            torch.testing.assert_close(restored[image, patch], expected, check_dtype=False)
