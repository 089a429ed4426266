"""GMACs in the log of a run: those of each step's images, beside the same run without reduction."""

import logging
from typing import Any

import pytest
import torch

from elip.efficiency import replay
from elip.efficiency.replay import IMAGES
from elip.efficiency.run_cost import RunningCost
from elip.efficiency.task_cost import task_cost
from elip.reduction.reducer import NoReduction, ReductionContext
from elip.reduction.tokens import Tokens
from elip.task import Progress, Task
from tests.efficiency.models import KeepBright
from tests.efficiency.test_task_cost import ELIP, make_task, vision

RANDOM: dict[str, Any] = {"name": "random", "begin": [1, 2], "keep_ratio": [0.75, 0.5]}


def step(task: Task, done: int = 8, batch_size: int = 5) -> None:
    """Take the forward pass of a training step when so many of 8 are done."""
    task.training_step(task.example_batch(batch_size), Progress(done, 8, 8))


def test_figures_are_those_of_a_full_count() -> None:
    task = make_task(ELIP).train()
    full, dense = task_cost(task), task_cost(make_task())
    cost = RunningCost(task)
    assert cost.figures() == {}
    step(task)
    assert cost.figures() == pytest.approx(
        {
            "gmacs/vision": full.inference.vision_total / 1e9,
            "gmacs/vision_ratio": full.inference.vision_total / dense.inference.vision,
            "gmacs/train_step": full.train_step / 1e9,
            "gmacs/train_step_ratio": full.train_step / dense.train_step,
        }
    )


def test_a_warm_up_is_followed_step_by_step() -> None:
    task = make_task({**RANDOM, "warmup": {"end": 1.0, "shape": "linear"}}).train()
    cost = RunningCost(task)
    for done, tokens in ((0, (17, 17, 17)), (4, (17, 15, 13)), (8, (17, 13, 9))):
        step(task, done)
        assert cost.figures()["gmacs/vision"] == pytest.approx(vision(*tokens) / 1e9)


def test_what_was_counted_once_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(RANDOM).train()
    cost = RunningCost(task)
    step(task)
    first = cost.figures()
    monkeypatch.setattr(replay, "count_macs", lambda *args: pytest.fail("counted again"))
    step(task)
    assert cost.figures() == first


def test_images_that_keep_different_numbers_are_those_of_the_step() -> None:
    task = make_task().train()
    task.model.albef.reducer = KeepBright()
    batch = task.example_batch(IMAGES + 2)
    with torch.no_grad():
        images = batch["image"][:IMAGES]
        left = [task.model.albef.encode_image(image.unsqueeze(0)).blocks[-1].mlp for image in images]
    cost = RunningCost(task)
    task.training_step(batch, Progress(1, 8, 8))
    expected = sum(vision(17, n, n) for n in left) / IMAGES
    assert cost.figures()["gmacs/vision"] == pytest.approx(expected / 1e9)


def test_passes_of_evaluation_and_of_momentum_copies_do_not_show() -> None:
    task = make_task(RANDOM).train()
    cost = RunningCost(task)
    step(task)
    before = cost.figures()
    with torch.no_grad():
        task.eval()(task.example_batch(2))
    assert cost.figures() == before
    assert before["gmacs/vision_ratio"] < 1  # the last encoder to run in a step is not the online one


def test_training_goes_on_as_if_nothing_had_been_counted() -> None:
    def losses(counted: bool) -> list[float]:
        task = make_task(RANDOM)
        torch.manual_seed(3)
        task.train()
        cost = RunningCost(task) if counted else None
        found = []
        for done in range(3):
            output = task.training_step(task.example_batch(4), Progress(done, 8, 8))
            found += [loss.item() for loss in output.losses.values()]
            if cost is not None:
                cost.figures()
        return found

    torch.manual_seed(0)
    plain = losses(counted=False)
    torch.manual_seed(0)
    assert losses(counted=True) == plain


class Uncountable(NoReduction):
    """Inverts a matrix, of which no handler knows the cost."""

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        torch.linalg.inv(torch.eye(2))
        return tokens


def test_a_reducer_that_cannot_be_counted_costs_the_run_its_figures_only(caplog: pytest.LogCaptureFixture) -> None:
    task = make_task().train()
    task.model.albef.reducer = Uncountable()
    with caplog.at_level(logging.WARNING):
        cost = RunningCost(task)
        step(task)
        assert cost.figures() == {}
        assert cost.figures() == {}
    (message,) = caplog.messages
    assert message.startswith("GMACs are not logged, because counting failed: ElipError: operator aten::linalg_inv")
