"""Pairs of images for text assignment: labels, what may be drawn, how often."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tasks.nlvr_pretrain.objective import LEFT, NEITHER, RIGHT, Pairs, draw_pairs


def test_labels_of_hand_made_pairs() -> None:
    pairs = Pairs(left=torch.tensor([0, 2, 1, 3]), right=torch.tensor([1, 1, 3, 0]))
    assert pairs.labels().tolist() == [LEFT, RIGHT, NEITHER, LEFT]


@given(st.integers(3, 9), st.integers(0, 1000))
def test_a_pair_is_never_twice_the_same_image(batch: int, seed: int) -> None:
    torch.manual_seed(seed)
    pairs = draw_pairs(20 * torch.randn(batch, batch))
    assert (pairs.left != pairs.right).all()
    assert (torch.stack(pairs) < batch).all()


def test_each_choice_is_right_for_a_third_of_the_texts() -> None:
    torch.manual_seed(0)
    labels = draw_pairs(torch.zeros(3000, 3000)).labels()
    assert (labels.bincount(minlength=3) / 3000 - 1 / 3).abs().max() < 0.04


def test_images_that_are_alike_are_drawn_together() -> None:
    torch.manual_seed(0)
    similarity = torch.zeros(6, 6)
    similarity[:, 4] = similarity[:, 5] = 12.0
    others = [draw_pairs(similarity) for _ in range(50)]
    for pairs in others:
        label = pairs.labels()
        other = torch.where(label == LEFT, pairs.right, pairs.left)
        assert (other[:4] >= 4).all()


def test_similarities_that_leave_all_others_without_probability_can_be_drawn_from() -> None:
    torch.manual_seed(0)
    pairs = draw_pairs(1e4 * torch.eye(4))
    assert (pairs.left != pairs.right).all()


def test_similarities_that_are_not_finite_can_be_drawn_from() -> None:
    torch.manual_seed(0)
    for value in (float("nan"), float("inf"), -float("inf")):
        pairs = draw_pairs(torch.full((4, 4), value))
        assert (pairs.left != pairs.right).all()
        assert (torch.stack(pairs) < 4).all()
