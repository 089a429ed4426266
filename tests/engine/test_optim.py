"""Parameter groups and the two schedules; the recorded schedule of ALBEF is among the golden tests."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from elip.config.schema import OptimConfig
from elip.engine.optim import LearningRate, build_optimizer, load_optimizer_state, optimizer_state
from elip.errors import CheckpointError
from tests.engine.stub import StubTask, stub_config


def rates(config: OptimConfig, epochs: int, steps_per_epoch: int, total_steps: int) -> list[float]:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=config.lr)
    rate = LearningRate(optimizer, config, epochs, steps_per_epoch, total_steps)
    return [rate.apply(step) for step in range(total_steps)]


def test_biases_and_vectors_do_not_decay(tmp_path: Path) -> None:
    task = StubTask(stub_config(tmp_path))
    optimizer = build_optimizer(task, OptimConfig(weight_decay=0.3))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: decay.get(id(p)) for name, p in task.named_parameters()}
    assert {name: value for name, value in names.items() if value == 0.3} == dict.fromkeys(
        ("layers.0.weight", "layers.2.weight", "unused.weight"), 0.3
    )
    assert names["layers.0.bias"] == 0
    assert names["momentum.weight"] is None


def test_per_step_schedule_is_linear_then_a_cosine() -> None:
    config = OptimConfig(schedule="step", lr=1.0, min_lr=0.2, warmup_lr=0.1, warmup_steps=3)
    expected = [0.1, 0.4, 0.7] + [0.2 + 0.4 * (1 + math.cos(math.pi * t / 7)) for t in range(7)]
    assert rates(config, epochs=1, steps_per_epoch=50, total_steps=10) == pytest.approx(expected)


def test_a_warmup_longer_than_the_run_just_rises() -> None:
    config = OptimConfig(schedule="step", lr=1.0, warmup_lr=0.0, warmup_steps=100)
    assert rates(config, epochs=1, steps_per_epoch=4, total_steps=4) == pytest.approx([0, 0.25, 0.5, 0.75])


@pytest.mark.parametrize("schedule", ["epoch", "step"])
@pytest.mark.parametrize("warmup_steps", [0, 2])
def test_a_run_of_one_epoch_or_step_is_nothing_to_warn_of(
    schedule: str, warmup_steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = OptimConfig(schedule=schedule, lr=1.0, warmup_lr=0.5, warmup_steps=warmup_steps, warmup_interval=1)
    assert rates(config, epochs=1, steps_per_epoch=4, total_steps=warmup_steps + 1)[-1] >= 0.75
    assert not caplog.records


@pytest.mark.parametrize("schedule", ["epoch", "step"])
def test_no_warmup_starts_at_the_peak(schedule: str) -> None:
    config = OptimConfig(schedule=schedule, lr=1.0, warmup_steps=0)
    assert rates(config, epochs=2, steps_per_epoch=3, total_steps=6)[0] == 1.0


def test_a_warmup_shorter_than_one_interval_is_one_jump() -> None:
    config = OptimConfig(lr=1.0, warmup_lr=0.5, warmup_steps=1, warmup_interval=3)
    assert rates(config, epochs=2, steps_per_epoch=6, total_steps=6) == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]


def test_moments_come_back_while_rates_and_decays_stay_the_configs(tmp_path: Path) -> None:
    def trained(config: OptimConfig) -> torch.optim.Optimizer:
        task = StubTask(stub_config(tmp_path))
        optimizer = build_optimizer(task, config)
        task.layers(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        return optimizer

    first, second = trained(OptimConfig()), trained(OptimConfig(weight_decay=0.5))
    load_optimizer_state(second, optimizer_state(first), tmp_path)
    moments = optimizer_state(second)
    assert sum(map(bool, moments.values())) == 4  # two layers, each with weights and biases; the third has no gradient
    for place, expected in optimizer_state(first).items():
        assert moments[place].keys() == expected.keys()
        assert all(torch.equal(moments[place][name], tensor) for name, tensor in expected.items())
    assert {group["weight_decay"] for group in second.param_groups} == {0.0, 0.5}


def test_moments_of_other_parameters_are_refused(tmp_path: Path) -> None:
    optimizer = build_optimizer(StubTask(stub_config(tmp_path)), OptimConfig())
    with pytest.raises(CheckpointError, match=r"x.pt comes from a run that trained other parameters"):
        load_optimizer_state(optimizer, {0: {"exp_avg": torch.zeros(77)}}, Path("x.pt"))


@pytest.mark.parametrize(
    "lose", [lambda state: {}, lambda state: {0: state[0]}, lambda state: {**state, 1: {"step": 1}}]
)
def test_moments_that_are_lost_are_refused(lose: Callable[[dict], dict], tmp_path: Path) -> None:
    optimizer = build_optimizer(StubTask(stub_config(tmp_path)), OptimConfig())
    load_optimizer_state(optimizer, optimizer_state(optimizer), Path("x.pt"))  # nothing has been updated yet
    with pytest.raises(
        CheckpointError, match=r"x\.pt lacks the optimiser's moments of \d of 6 trained parameters.*--init"
    ):
        load_optimizer_state(optimizer, lose(optimizer_state(optimizer)), Path("x.pt"))
