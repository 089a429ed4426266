"""What is evaluated or measured leaves no trace in random numbers, modes and buffers."""

import pytest
import torch
from torch import nn

from elip.rng import seed_everything
from elip.undisturbed import undisturbed
from tests.test_rng import draws


class Counting(nn.Module):
    """Counts its passes, in a buffer, and draws numbers in each."""

    passes: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(1))
        self.dropout = nn.Dropout(0.5)

    def forward(self) -> torch.Tensor:
        self.passes += 1
        return self.dropout(torch.rand(8))


def test_random_numbers_drawn_apart_leave_the_others_alone_and_are_the_same_each_time() -> None:
    seed_everything(7)
    expected = draws()
    seed_everything(7)
    with undisturbed(seed=3):
        apart = draws()
    assert draws() == expected
    with undisturbed(seed=3):
        assert draws() == apart


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_buffers_come_back_part_by_part(training: bool) -> None:
    model = Counting().train()
    model.dropout.eval()
    passes = model.passes
    with undisturbed(model, training=training):
        assert model.training == model.dropout.training == training
        model()
        assert model.passes == 1
    assert (model.training, model.dropout.training) == (True, False)
    assert model.passes is passes
    assert model.passes == 0


def test_a_failure_inside_leaves_no_trace_either() -> None:
    model = Counting().eval()
    seed_everything(7)
    expected = draws()
    seed_everything(7)
    with pytest.raises(TypeError), undisturbed(model, training=True):
        model(model(), "one input too many")
    assert draws() == expected
    assert not model.training
    assert model.passes == 0


def test_passes_under_the_same_seed_are_the_same() -> None:
    model = Counting()
    given = []
    for _ in range(2):
        with undisturbed(model, training=True):
            given.append(model())
    assert torch.equal(*given)
