"""Nearest neighbours, what two lists of them share, and the class that they vote for."""

import pytest
import torch
from torch import Tensor

from elip.lab.fidelity import neighbours
from elip.lab.fidelity.neighbours import agreement, nearest, voted


def at_angles(*degrees: float) -> Tensor:
    """Return points of different lengths, whose cosine is told by their angles."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1) * torch.arange(1, len(degrees) + 1).unsqueeze(1)


def test_neighbours_are_the_most_similar_by_cosine_without_the_picture_itself() -> None:
    found = nearest(at_angles(0, 10, 25, 90), at_angles(0, 10, 25, 90), 2)
    assert found.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_neighbours_in_another_bank_leave_out_the_same_picture_there() -> None:
    """Picture 0 lies at 90 degrees now, where the bank has picture 3; its own place in the bank does not count."""
    found = nearest(at_angles(90, 10, 25, 1), at_angles(0, 10, 25, 90), 2)
    assert found.tolist() == [[3, 2], [0, 2], [1, 0], [0, 1]]


def test_many_pictures_are_compared_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    features = torch.randn(23, 5, generator=torch.Generator().manual_seed(0))
    at_once = nearest(features, features.flip(1), 4)
    monkeypatch.setattr(neighbours, "_ROWS", 7)
    assert torch.equal(nearest(features, features.flip(1), 4), at_once)
    assert not (at_once == torch.arange(23).unsqueeze(1)).any()


def test_agreement_is_the_share_of_neighbours_in_both_lists_whatever_their_order() -> None:
    one, other = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[4, 9, 1, 0], [8, 7, 6, 5]])
    assert agreement(one, other).tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([0, 1, 1, 2, 1], 1),  # most votes
        ([2, 1, 1, 0, 0], 1),  # two classes of two votes: the nearer of them
        ([2, 0, 1, 1, 0], 0),
        ([2, 1, 0], 2),  # one vote each: the nearest of all
    ],
)
def test_neighbours_vote_and_of_equal_votes_the_nearer_class_wins(classes: list[int], expected: int) -> None:
    labels = torch.tensor([9, *classes])  # of picture 0, which is asked for, and of its neighbours 1, 2, ...
    assert voted(torch.arange(1, len(labels)).unsqueeze(0), labels).tolist() == [expected]
