"""Memory of a training, and the batches that fit."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from elip.benchmark.step import TrainingStep
from elip.config import load_config
from elip.config.schema import RunConfig
from elip.efficiency.task_cost import task_cost
from elip.lab.scaling.memory import RESERVE, Fit, Held, without_memory
from tests.conftest import PROJECT
from tests.tasks.small import small_task


def config_of(tiny: Sequence[str], *further: str) -> RunConfig:
    return load_config(PROJECT / "configs/demo/pretrain.yaml", [*tiny, *further])


def test_what_is_held_is_what_a_task_in_training_has(tiny: list[str]) -> None:
    step = TrainingStep(config_of(tiny), next(small_task("pretrain", tiny).parameters()).device)
    held, cost = Held.of(step.task), task_cost(step.task)
    assert held == Held.of(without_memory(config_of(tiny)))
    assert held.gradients == 4 * cost.parameters
    assert held.momentum == 4 * cost.momentum_parameters
    assert held.moments == 2 * held.gradients
    state = sum(tensor.numel() * tensor.element_size() for tensor in step.task.state_dict().values())
    assert held.weights + held.momentum + held.queues >= state
    gradients = sum(p.grad.numel() * 4 for p in step.task.parameters() if p.grad is not None)
    assert gradients <= held.gradients
    assert held.total == held.weights + held.gradients + held.moments + held.momentum + held.queues


def test_a_larger_queue_is_held(tiny: list[str]) -> None:
    small, large = (Held.of(without_memory(config_of(tiny, f"task.queue_size={size}"))) for size in (40, 1040))
    assert large.queues - small.queues == 2 * 1000 * 64 * 4  # of images and of texts, 64 wide
    assert replace(large, queues=small.queues) == small


def test_saved_bytes_follow_the_batch_and_half_precision_saves_less(tiny: list[str]) -> None:
    single, half = Fit.of(config_of(tiny)), Fit.of(config_of(tiny, "train.precision=bf16"))
    task = small_task("pretrain", tiny)
    assert single.fixed + 2 * single.per_item == pytest.approx(2 * task_cost(task).saved_bytes, rel=1e-3)
    assert single.deviation < 0.01
    assert half.per_item < 0.9 * single.per_item
    assert half.fixed > single.fixed  # weights in half precision
    recomputed = Fit.of(config_of(tiny, "train.recompute=full"))
    assert recomputed.per_item < half.per_item


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    found = Fit(Held(100, 100, 200, 50, 50), fixed=30.0, per_item=7.0, deviation=0.0)
    for card in (1000, 1234):
        batch = found.largest_batch(card)
        assert found.bytes(batch) <= (1 - RESERVE) * card < found.bytes(batch + 1)
    assert found.largest_batch(500) == 0
