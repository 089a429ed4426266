"""Random pruning: by lot in training, repeatable in evaluation."""

import pytest
import torch

from elip.errors import ElipError
from elip.reduction.encoder import EncoderInfo
from elip.reduction.reducer import ReductionContext
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS

INFO = EncoderInfo(depth=4, width=8, num_heads=2, grid=(4, 4))


def prune(training: bool) -> Tokens:
    reducer = REDUCERS.build("random", INFO, begin=[1], keep_ratio=[0.5])
    tokens = Tokens.start(torch.randn(6, 16, 8), (4, 4), track_source=True)
    context = ReductionContext(blocks=None, training=training)
    assert reducer.before_block(0, tokens, context) is tokens
    return reducer.before_block(1, tokens, context)


def kept_places(tokens: Tokens) -> list[tuple[bool, ...]]:
    return [tuple(picture.flatten().tolist()) for picture in tokens.kept()]


def test_training_draws_for_each_image_anew() -> None:
    torch.manual_seed(0)
    assert len(set(kept_places(prune(training=True)))) > 1


def test_evaluation_keeps_the_same_places_every_time_for_all_images() -> None:
    first = kept_places(prune(training=False))
    torch.rand(3)
    assert len(set(first)) == 1
    assert kept_places(prune(training=False)) == first


@pytest.mark.parametrize("training", [True, False])
def test_the_number_kept_is_the_schedules_and_order_stays(training: bool) -> None:
    tokens = prune(training)
    assert tokens.num_tokens == 8
    places = tokens.source[tokens.source >= 0].view(6, 8)
    assert (places.diff(dim=1) == 1).all()


def test_a_ratio_outside_of_zero_to_one_is_refused() -> None:
    with pytest.raises(ElipError, match=r"reducer 'random': keep_ratio: each value must be in \(0, 1\], got -1"):
        REDUCERS.build("random", INFO, begin=[1], keep_ratio=[-1])
