"""A training step that is timed: the engine's own, which changes no weight, and what it keeps."""

from collections.abc import Sequence

import pytest
import torch

from elip.benchmark.step import TrainingStep
from elip.config import load_config
from elip.efficiency.task_cost import BATCH_SIZE, task_cost
from tests.conftest import PROJECT
from tests.tasks.small import small_task, state_of

CPU = torch.device("cpu")


def step_of(tiny: Sequence[str], *further: str) -> TrainingStep:
    return TrainingStep(load_config(PROJECT / "configs/demo/pretrain.yaml", [*tiny, *further]), CPU)


def test_no_weight_changes_though_gradients_and_moments_are_there_and_queues_move(tiny: list[str]) -> None:
    step = step_of(tiny, "optim.weight_decay=0.1")
    before = state_of(step.task)
    step()
    changed = {name for name, value in state_of(step.task).items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("model.queues.") for name in changed)
    gradients = [p.grad for _, p in step.task.parameters_to_optimise()]
    assert any(gradient is not None and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_step_has_as_many_items_as_the_engine_would_give_it(tiny: list[str], accumulate: int) -> None:
    step = step_of(tiny, "train.batch_size=4", f"train.accumulate={accumulate}")
    seen: list[int] = []
    step.task.model.albef.visual_encoder.register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    step()
    assert sum(seen) == step.items == 4 * accumulate
    seen.clear()
    step.at_batch(6)()
    assert sum(seen) == 6 * accumulate


def test_what_a_step_keeps_is_what_the_cost_of_the_task_says(tiny: list[str]) -> None:
    size = f"train.batch_size={BATCH_SIZE}"
    expected = task_cost(small_task("pretrain", [*tiny, size])).saved_bytes * BATCH_SIZE
    assert step_of(tiny, size).saved_bytes() == expected


def test_half_precision_keeps_less_and_measuring_leaves_queues_alone(tiny: list[str]) -> None:
    full, half = step_of(tiny), step_of(tiny, "train.precision=bf16")
    before = state_of(half.task)
    assert 0.4 * full.saved_bytes() < half.saved_bytes() < 0.9 * full.saved_bytes()
    assert all(torch.equal(value, before[name]) for name, value in state_of(half.task).items())


def test_only_cuda_tells_its_peak(tiny: list[str]) -> None:
    assert step_of(tiny).peak_bytes() is None


def test_the_reduction_is_in_full_force(tiny: list[str]) -> None:
    step = step_of(tiny, "reducer.until=0.5")
    tokens: list[int] = []
    step.task.model.albef.visual_encoder.register_forward_hook(lambda *call: tokens.append(call[2].embeds.shape[1]))
    step()
    assert 1 < tokens[0] < 1 + (32 // 8) ** 2  # [CLS] and all patches
