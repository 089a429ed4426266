"""Merging: hand-worked matchings, and what holds for all. Reference numbers are in tests/golden."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elip.reduction.merging import bipartite_matching, distances, merge_mean
from elip.reduction.tokens import Tokens

ANGLES = torch.tensor([0.0, 0.1, 1.5, 1.45, 3.0, 4.0])
"""Directions of six tokens: 0 and 1, then 2 and 3, are alike."""


def directions(angles: Tensor) -> Tensor:
    return torch.stack([angles.cos(), angles.sin()], dim=-1).unsqueeze(0)


def test_the_closest_pairs_of_even_and_odd_places_are_taken() -> None:
    matching = bipartite_matching(directions(ANGLES), r=2)
    assert sorted(zip(matching.source[0].tolist(), matching.target[0].tolist(), strict=True)) == [(0, 1), (2, 3)]
    assert matching.order.tolist() == [[4, 1, 3, 5]]
    assert matching.group.tolist() == [[1, 1, 2, 2, 0, 3]]


def test_a_prefix_token_shifts_the_places() -> None:
    matching = bipartite_matching(directions(ANGLES), r=2, num_prefix=1)
    assert sorted(zip(matching.source[0].tolist(), matching.target[0].tolist(), strict=True)) == [(1, 0), (3, 2)]


def test_means_are_weighted_by_size() -> None:
    tokens = Tokens(torch.tensor([[[0.0], [4.0], [8.0]]]), (1, 3), size=torch.tensor([[3.0, 1.0, 2.0]]))
    merged = merge_mean(tokens, torch.tensor([[0, 0, 1]]), 2)
    assert merged.x.flatten().tolist() == [1.0, 8.0]
    assert merged.sizes.tolist() == [[4.0, 2.0]]


def test_large_groups_of_large_values_stay_finite_in_half_precision() -> None:
    tokens = Tokens(torch.full((1, 600, 1), 500.0, dtype=torch.float16), (20, 30))
    merged = merge_mean(tokens, torch.zeros(1, 600, dtype=torch.long), 1)
    assert merged.x.item() == pytest.approx(500, rel=0.01)
    assert merged.sizes.item() == 600


@given(num_tokens=st.integers(2, 20), r=st.integers(0, 30), num_prefix=st.integers(0, 3), seed=st.integers(0, 2**16))
def test_groups_are_disjoint_and_complete_and_not_more_than_half_go(
    num_tokens: int, r: int, num_prefix: int, seed: int
) -> None:
    metric = torch.randn(2, num_tokens, 4, generator=torch.Generator().manual_seed(seed))
    matching = bipartite_matching(metric, r, num_prefix)
    left = num_tokens - min(r, num_tokens // 2)
    assert matching.order.shape[1] == left >= num_tokens / 2
    for image in range(2):
        gone, stay = matching.source[image].tolist(), matching.order[image].tolist()
        assert sorted(gone + stay) == [*range(num_tokens)]
        assert {*matching.target[image].tolist()} <= {*stay}
        assert {*matching.group[image].tolist()} == {*range(left)}


def test_distances_are_euclidean_and_nothing_is_away_from_itself() -> None:
    x = torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(0)) + 100
    torch.testing.assert_close(distances(x), torch.cdist(x.double(), x.double()).float(), rtol=1e-4, atol=1e-3)
    assert distances(x).diagonal(dim1=1, dim2=2).abs().max() == 0
    assert distances(x.bfloat16()).dtype == torch.float32
