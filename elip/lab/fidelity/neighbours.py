"""Nearest neighbours among features of pictures: how many of them two encoders share, and which class they vote for."""

import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS = 1024
"""Pictures whose similarities to all others are held at once."""


def nearest(features: Tensor, bank: Tensor, k: int) -> Tensor:
    """Return the k pictures whose features in a bank are most similar by cosine, the nearest first.

    A picture is no neighbour of its own.

    Args:
        features: [N, D], of all pictures.
        bank: [N, D], of the same pictures in the same order, by this encoder or another one.
        k: below N.

    Returns:
        [N, k], numbers of pictures.
    """
    features, bank = F.normalize(features.float(), dim=-1), F.normalize(bank.float(), dim=-1)
    found = []
    for first in range(0, len(features), _ROWS):
        similarity = features[first : first + _ROWS] @ bank.T
        rows = torch.arange(len(similarity), device=bank.device)
        similarity[rows, first + rows] = float("-inf")
        found.append(similarity.topk(k, dim=1).indices)
    return torch.cat(found)


def agreement(one: Tensor, other: Tensor) -> Tensor:
    """Return the share of neighbours that are in both of two lists: [N, k] each, to [N] in [0, 1]."""
    return (one.unsqueeze(2) == other.unsqueeze(1)).any(dim=2).float().mean(dim=1)


def voted(neighbours: Tensor, labels: Tensor) -> Tensor:
    """Return the class that most neighbours have; of several such, the one that has the nearest of them.

    Shape:
        neighbours: [N, k], the nearest first;  labels: [N], classes as numbers;  returns [N]
    """
    classes = labels[neighbours]
    votes = (classes.unsqueeze(2) == classes.unsqueeze(1)).sum(dim=2)
    first_of_most = votes.argmax(dim=1, keepdim=True)  # of equal ones the first, which is the nearest
    return classes.gather(1, first_of_most).squeeze(1)
