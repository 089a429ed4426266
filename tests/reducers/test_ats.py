"""ATS: quantiles in the running sum of scores."""

import torch

from reducers.ats import sample


def test_each_quantile_takes_the_nearest_running_sum_once() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 1.0], [0.0, 97.0, 1.0, 2.0]])
    running = scores.cumsum(1) / scores.sum(1, keepdim=True)
    for image in range(2):
        chosen = {int((running[image] - point).abs().argmin()) for point in (1 / 8, 3 / 8, 5 / 8)}
        assert sample(scores, 3)[image].nonzero().flatten().tolist() == sorted(chosen)


def test_places_that_hold_no_token_are_never_taken() -> None:
    scores = torch.tensor([[1.0, 3.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False, False]])
    assert sample(scores, 4, mask).tolist() == [[True, True, False, False]]


def test_attention_on_one_patch_keeps_few() -> None:
    flat, peaked = torch.ones(1, 64), torch.ones(1, 64).index_fill(1, torch.tensor([20]), 500.0)
    assert sample(peaked, 32).sum() < sample(flat, 32).sum() == 32
