"""The contrastive loss, worked by hand."""

import math

import torch

from elip.objectives.distillation import alpha_at
from elip.objectives.itc import Similarities, itc_loss, one_hot_targets, same_image_targets, similarities, soft_targets


def test_similarities_divide_by_the_temperature_and_put_the_batch_before_the_queue() -> None:
    image, text = torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    queue = torch.tensor([[1.0], [0.0]])
    sim = similarities(image, text, (image, queue), (text, queue), torch.tensor(0.5))
    assert sim.i2t.tolist() == [[0, 2, 2], [2, 0, 0]]
    assert sim.t2i.tolist() == [[0, 2, 0], [2, 0, 2]]


def test_uniform_similarities_cost_the_logarithm_of_the_choices() -> None:
    flat = torch.zeros(2, 5)
    loss = itc_loss(Similarities(flat, flat), one_hot_targets(flat), one_hot_targets(flat))
    torch.testing.assert_close(loss, torch.tensor(math.log(5)))


def test_one_hot_targets_pair_each_row_with_its_own_column() -> None:
    assert one_hot_targets(torch.zeros(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_targets_spread_evenly_over_all_entries_of_the_same_image() -> None:
    targets = same_image_targets(torch.tensor([3, 9, 3]), torch.tensor([[9, -100, 3, 3]]))
    assert targets.tolist() == [
        [0.25, 0, 0.25, 0, 0, 0.25, 0.25],
        [0, 0.5, 0, 0.5, 0, 0, 0],
        [0.25, 0, 0.25, 0, 0, 0.25, 0.25],
    ]


def test_soft_targets_mix_and_still_sum_to_one() -> None:
    hard = one_hot_targets(torch.zeros(2, 4))
    mixed = soft_targets(hard, torch.zeros(2, 4), alpha=0.4)
    torch.testing.assert_close(mixed[0], torch.tensor([0.7, 0.1, 0.1, 0.1]))
    torch.testing.assert_close(soft_targets(hard, torch.randn(2, 4), alpha=0.0), hard)


def test_alpha_rises_over_the_first_epoch_where_asked_to() -> None:
    assert [alpha_at(epochs, 0.4, warmup=True) for epochs in (0, 0.5, 1, 3)] == [0, 0.2, 0.4, 0.4]
    assert alpha_at(0, 0.4, warmup=False) == 0.4
