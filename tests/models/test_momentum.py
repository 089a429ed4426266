"""Momentum copies follow, queues wrap around, and neither moves by itself."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from elip.execution import Precision
from elip.models.momentum import FeatureQueues, MomentumTwins


@pytest.fixture
def online() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"a": nn.Linear(3, 2), "b": nn.LayerNorm(2)}


def test_copies_start_equal_and_take_no_gradient(online: dict[str, nn.Module]) -> None:
    twins = MomentumTwins(online, decay=0.9)
    assert torch.equal(twins["a"].weight, online["a"].weight)
    assert twins["a"].weight is not online["a"].weight
    assert not any(p.requires_grad for p in twins.parameters())


def test_following_is_an_exponential_moving_average(online: dict[str, nn.Module]) -> None:
    twins = MomentumTwins(online, decay=0.9)
    before = twins["a"].weight.clone()
    nn.init.ones_(online["a"].weight)
    twins.follow(online)
    torch.testing.assert_close(twins["a"].weight, 0.9 * before + 0.1 * torch.ones(2, 3))


@pytest.mark.parametrize(
    ("precision", "around", "result"),
    [
        (None, torch.float32, torch.float32),
        (None, torch.bfloat16, torch.bfloat16),
        ("bf16", torch.float32, torch.bfloat16),
        ("fp32", torch.bfloat16, torch.float32),
    ],
)
def test_copies_teach_in_their_own_precision_if_they_have_one(
    online: dict[str, nn.Module], precision: Precision | None, around: torch.dtype, result: torch.dtype
) -> None:
    twins = MomentumTwins(online, decay=0.9, precision=precision)
    x = torch.randn(4, 3, requires_grad=True)
    with torch.autocast("cpu", around, enabled=around is not torch.float32):
        with twins.teaching():
            taught = twins["a"](x)
        learnt = online["a"](x)
    assert (taught.dtype, learnt.dtype) == (result, around)
    assert (taught.requires_grad, learnt.requires_grad) == (False, True)


def test_queues_start_as_unit_vectors() -> None:
    queues = FeatureQueues(embed_dim=4, length=7)
    torch.testing.assert_close(queues.image.norm(dim=0), torch.ones(7))
    assert queues.fill_ratio() == 0


@given(st.integers(1, 12), st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_queues_hold_the_latest_features_whatever_the_batch_sizes(length: int, batches: list[int]) -> None:
    queues = FeatureQueues(embed_dim=1, length=length)
    pushed: list[float] = []
    for batch in batches:
        fresh = torch.arange(len(pushed), len(pushed) + batch, dtype=torch.float32)[:, None] + 100
        queues.push(fresh, -fresh)
        pushed += fresh.flatten().tolist()
    held = queues.image.flatten()
    latest = set(pushed[-length:])
    assert latest <= set(held.tolist())
    assert torch.equal(queues.text.flatten()[held >= 100], -held[held >= 100])
    assert queues.fill_ratio().item() == pytest.approx(min(1, len(pushed) / length))


def test_the_oldest_feature_is_the_next_to_go() -> None:
    queues = FeatureQueues(embed_dim=1, length=3)
    for value in range(5):
        queues.push(torch.full((1, 1), float(value)), torch.zeros(1, 1))
    assert queues.image.flatten().tolist() == [3, 4, 2]
    assert queues.pointer.item() == 2


def test_image_numbers_stand_in_the_places_of_their_features() -> None:
    queues = FeatureQueues(embed_dim=1, length=3, with_ids=True)
    assert queues.ids.tolist() == [[-100, -100, -100]]
    for value in range(5):
        queues.push(torch.full((1, 1), float(value)), torch.zeros(1, 1), torch.tensor([10 + value]))
    assert queues.ids.tolist() == [[13, 14, 12]]
    assert "ids" not in FeatureQueues(embed_dim=1, length=3).state_dict()
