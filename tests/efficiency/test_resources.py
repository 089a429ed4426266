"""Bytes kept for the backward pass; and timing in turn: what is compared runs side by side, ratios are of one round."""

import weakref

import pytest
import torch
from torch import Tensor, nn

from elip.efficiency import resources
from elip.efficiency.resources import machine, peak_cuda_bytes, saved_bytes, time_in_turn


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
    assert peak_cuda_bytes(lambda: layer(torch.rand(1, 1)), layer) is None


def test_every_round_runs_all_in_an_order_that_turns_and_warm_up_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, calls = [0.0], []
    monkeypatch.setattr(resources.time, "perf_counter", lambda: now[0])

    def taking(name: str, seconds: float) -> None:
        calls.append(name)
        now[0] += seconds * (10 if len(calls) <= 4 else 1)  # what is not warm is slow

    found = time_in_turn([lambda: taking("a", 2.0), lambda: taking("b", 1.0)], torch.device("cpu"), rounds=3, warmup=2)
    assert "".join(calls) == "abba" + "abba" + "ab"
    assert found[0].seconds == [2.0] * 3
    assert found[1].seconds == [1.0] * 3
    assert found[1].ratios == [0.5] * 3
    assert found[1].ratio == found[1].median_seconds / found[0].median_seconds == 0.5


def test_the_machine_is_told_beside_absolute_times() -> None:
    assert torch.__version__ in machine(torch.device("cpu"))


def test_nothing_of_a_pass_is_held_once_its_bytes_are_counted() -> None:
    model = nn.Linear(4, 4)
    results: list[weakref.ref[Tensor]] = []

    def forward() -> Tensor:
        result = model(torch.ones(2, 4)).sigmoid()  # which is saved by what made it
        results.append(weakref.ref(result))
        return result.sum()

    assert saved_bytes(forward, model) == 4 * (2 * 4 + 2 * 4)
    assert results[0]() is None
