"""ToFu: early blocks prune, late ones merge at full length."""

from typing import Any

import pytest
import torch

from elip.errors import ElipError
from elip.reduction.encoder import EncoderInfo
from elip.reduction.reducer import AttentionFacts, ReductionContext
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS

INFO = EncoderInfo(depth=2, width=2, num_heads=1, grid=(1, 4), num_prefix_tokens=0, has_class_token=False)
KEYS = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [0.0, 1.0]]])
"""Patch 0 is most like patch 1."""
X = torch.tensor([[[3.0, 0.0], [0.0, 4.0], [5.0, 5.0], [6.0, 7.0]]])


def after_block(block: int, tokens: Tokens | None = None, **params: Any) -> Tokens:
    reducer = REDUCERS.build("tofu", INFO, r=1, **params)
    tokens = tokens or Tokens.start(X, (1, 4), track_source=True)
    return reducer.after_attention(block, tokens, AttentionFacts(keys=KEYS), ReductionContext(None, training=False))


def test_an_early_block_drops_the_patch_and_leaves_its_partner_as_it_is() -> None:
    tokens = after_block(0)
    assert tokens.source.tolist() == [[-1, 1, 0, 2]]
    assert torch.equal(tokens.x, X[:, [2, 1, 3]])


def test_a_late_block_merges_the_pair_to_its_direction_at_the_length_of_the_longer() -> None:
    tokens = after_block(1)
    assert tokens.source.tolist() == [[1, 1, 0, 2]]
    mean = (X[0, 0] + X[0, 1]) / 2
    torch.testing.assert_close(tokens.x[0, 1], mean / mean.norm() * 4)
    torch.testing.assert_close(tokens.x[0, [0, 2]], X[0, [2, 3]])
    assert tokens.sizes.tolist() == [[1, 2, 1]]


def test_by_the_partners_length_the_plain_mean_is_stretched_as_far_as_the_longest_exceeds_it() -> None:
    tokens = Tokens(torch.tensor([[[8.0, 0], [0, 4], [5, 5], [6, 7]]]), (1, 4), size=torch.tensor([[3.0, 1, 1, 1]]))
    longest, partner = (after_block(1, tokens, length=length) for length in ("longest", "partner"))
    assert partner.x.tolist() == [[[5, 5], [8, 4], [6, 7]]]  # the mean is (4, 2), 8 is twice 4
    assert partner.sizes.tolist() == longest.sizes.tolist() == [[1, 4, 1]]
    weighted = torch.tensor([6.0, 1.0])
    torch.testing.assert_close(longest.x[0, 1], weighted / weighted.norm() * 8)


def test_a_token_that_nothing_goes_into_stays_as_it_is_by_either_length() -> None:
    for length in ("longest", "partner"):
        torch.testing.assert_close(after_block(1, length=length).x[0, [0, 2]], X[0, [2, 3]])


@pytest.mark.parametrize("length", ["mean", 3])
def test_another_length_is_refused(length: object) -> None:
    with pytest.raises(ElipError, match=f"reducer 'tofu': length: expected longest or partner, got {length!r}"):
        REDUCERS.build("tofu", INFO, length=length)
