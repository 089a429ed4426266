"""Momentum distillation: alpha, and the mixture of hard and soft targets."""

import math

import pytest
import torch

from elip.objectives.distillation import alpha_at, distilled_cross_entropy

LOGITS = torch.tensor([[0.0, math.log(3)]])
"""Probabilities 1/4 and 3/4."""


def test_alpha_rises_over_the_first_epoch_if_asked() -> None:
    assert [alpha_at(epochs, 0.4, warmup=True) for epochs in (0, 0.5, 1, 7)] == pytest.approx([0, 0.2, 0.4, 0.4])
    assert alpha_at(0, 0.4, warmup=False) == 0.4


def test_without_a_teacher_it_is_cross_entropy() -> None:
    loss = distilled_cross_entropy(LOGITS, torch.tensor([0]), None, 0.4)
    assert loss.item() == pytest.approx(math.log(4))


def test_with_a_teacher_it_is_the_weighted_mixture() -> None:
    teacher = torch.tensor([[math.log(4), 0.0]])  # 4/5 and 1/5
    loss = distilled_cross_entropy(LOGITS, torch.tensor([0]), teacher, 0.25)
    soft = 4 / 5 * math.log(4) + 1 / 5 * math.log(4 / 3)
    assert loss.item() == pytest.approx(0.75 * math.log(4) + 0.25 * soft)
