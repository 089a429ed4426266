"""Timing in turn: what is compared runs side by side, and ratios are of one round."""

import pytest
import torch

from elip.efficiency import resources
from elip.efficiency.resources import machine, time_in_turn


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
