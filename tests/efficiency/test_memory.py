"""Bytes kept for the backward pass."""

import torch
from torch import Tensor, nn

from elip.efficiency.memory import peak_cuda_bytes, saved_bytes


def test_what_the_backward_pass_needs_counts_to_the_byte() -> None:
    layer = nn.Linear(4, 8)
    x = torch.rand(3, 4)
    # the weight's gradient needs x, that of the exponential its result; weight and bias are there anyway
    assert saved_bytes(lambda: layer(x).exp().sum(), layer) == 4 * (3 * 4 + 3 * 8)


def test_memory_that_tensors_share_counts_once() -> None:
    layer = nn.Linear(4, 8)

    def forward() -> Tensor:
        y = layer(torch.rand(3, 4)).exp()  # kept
        return (y[:, :4] * y[:, 4:]).sum() + (y.T**2).sum()  # views of what is kept

    assert saved_bytes(forward, layer) == 4 * (3 * 4 + 3 * 8)


def test_parameters_and_buffers_do_not_count() -> None:
    norm = nn.BatchNorm1d(4).eval()
    x = torch.rand(3, 4)
    assert saved_bytes(lambda: norm(x).sum(), norm) - saved_bytes(lambda: (x * norm.weight).sum(), norm) == 0


def test_nothing_is_kept_without_gradient() -> None:
    layer = nn.Linear(4, 8).requires_grad_(False)
    assert saved_bytes(lambda: layer(torch.rand(3, 4)).exp().sum(), layer) == 0


def test_there_is_no_cuda_peak_on_the_cpu() -> None:
    layer = nn.Linear(1, 1)
    assert peak_cuda_bytes(lambda: layer(torch.rand(1, 1)), layer, torch.device("cpu")) is None
