"""GMACs in the log of a run: those of each step's images, beside the same run without reduction."""

import logging
from typing import Any

import pytest
import torch

from elip.efficiency import run_cost
from elip.efficiency.run_cost import IMAGES, EvaluationCost, RunningCost, describe_cost
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
            "gmacs/train_mean": full.train_step / 1e9,
            "gmacs/train_mean_ratio": full.train_step / dense.train_step,
        }
    )


def test_a_warm_up_is_followed_step_by_step() -> None:
    task = make_task({**RANDOM, "warmup": {"end": 1.0, "shape": "linear"}}).train()
    cost = RunningCost(task)
    for done, tokens in ((0, (17, 17, 17)), (4, (17, 15, 13)), (8, (17, 13, 9))):
        step(task, done)
        assert cost.figures()["gmacs/vision"] == pytest.approx(vision(*tokens) / 1e9)


def test_the_end_of_a_reduction_is_followed_and_shows_in_the_mean() -> None:
    task = make_task({**RANDOM, "until": 0.75}).train()
    cost = RunningCost(task)
    reduced, dense = task_cost(make_task(RANDOM)).train_step, task_cost(make_task()).train_step
    for done, tokens in ((0, (17, 13, 9)), (5, (17, 13, 9)), (6, (17, 17, 17))):
        step(task, done)
        figures = cost.figures()
        assert figures["gmacs/vision"] == pytest.approx(vision(*tokens) / 1e9)
        assert figures["gmacs/train_step"] == pytest.approx(reduced / 1e9)
        assert figures["gmacs/train_mean"] == pytest.approx((0.75 * reduced + 0.25 * dense) / 1e9)


def test_what_was_counted_once_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task(RANDOM).train()
    cost = RunningCost(task)
    step(task)
    first = cost.figures()
    monkeypatch.setattr(run_cost, "count_macs", lambda *args: pytest.fail("counted again"))
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


DENSE = vision(17, 17, 17) / 1e9


def search(task: Task, images: int = 3) -> None:
    """Encode images alone, as retrieval does, then draw a few of them under a text."""
    batch = task.example_batch(images)
    task.eval()
    with torch.no_grad():
        task.model.albef.encode_image(batch["image"])
        task(batch)
    task.train()


def answer(task: Task) -> None:
    """Encode images under their texts."""
    with torch.no_grad():
        task.eval()(task.example_batch(3))
    task.train()


@pytest.mark.parametrize(
    ("reducer", "evaluation", "reducer_in_force", "gmacs"),
    [
        ("none", None, "none", DENSE),
        (RANDOM, None, "random begin=[1, 2] keep_ratio=[0.75, 0.5]", vision(17, 13, 9) / 1e9),
        (RANDOM, {"name": "none"}, "none", DENSE),
        ("none", {"name": "random", "begin": [1], "keep_ratio": [0.5]}, None, vision(17, 9, 9) / 1e9),
        ({**RANDOM, "until": 0.8}, {"name": "random", "begin": [1], "keep_ratio": [0.5]}, None, vision(17, 9, 9) / 1e9),
        ({"name": "none", "until": 0.8}, None, "none", DENSE),
    ],
)
def test_the_reducer_of_the_evaluation_counts(
    reducer: Any, evaluation: Any, reducer_in_force: str | None, gmacs: float
) -> None:
    task = make_task(reducer, eval={"reducer": evaluation})
    cost = EvaluationCost(task)
    search(task)
    figures = cost.figures()
    assert figures["reducer"] == (reducer_in_force or "random begin=[1] keep_ratio=[0.5]")
    assert figures["note"] is None
    assert figures["vision_gmacs"] == pytest.approx(gmacs)
    assert figures["vision_gmacs_dense"] == pytest.approx(DENSE)


def test_a_reducer_that_needs_a_text_costs_all_tokens_where_images_are_encoded_alone() -> None:
    task = make_task(ELIP)
    cost = EvaluationCost(task)
    search(task)
    alone = cost.figures()
    answer(task)
    with_text = cost.figures()
    assert (alone["reducer"], alone["vision_gmacs"]) == ("none", pytest.approx(DENSE))
    assert alone["note"] == "elip needs a text, and images are encoded without one: all tokens are kept"
    assert with_text["reducer"].startswith("elip begin=[1, 2]")
    assert with_text["note"] is None
    assert with_text["vision_gmacs"] != pytest.approx(DENSE)
    assert with_text["vision_gmacs_dense"] == pytest.approx(DENSE)


def test_an_evaluation_has_no_teacher_and_says_so() -> None:
    task = make_task({"name": "guided"})
    cost = EvaluationCost(task)
    answer(task)
    figures = cost.figures()
    assert (figures["reducer"], figures["vision_gmacs"]) == ("none", pytest.approx(DENSE))
    assert figures["note"] == "guided needs what the momentum encoder saw, which no evaluation has: all tokens are kept"


def test_an_evaluation_after_tuning_keeps_all_tokens_and_says_why() -> None:
    task = make_task({**ELIP, "until": 0.8})
    cost = EvaluationCost(task)
    answer(task)
    figures = cost.figures()
    assert (figures["reducer"], figures["vision_gmacs"]) == ("none", pytest.approx(DENSE))
    assert figures["note"] == "tuned on whole images from 0.8 of the training: all tokens are kept"


def test_training_steps_and_their_counting_are_no_evaluation() -> None:
    task = make_task(RANDOM).train()
    running, cost = RunningCost(task), EvaluationCost(task)
    step(task)
    running.figures()
    assert cost.figures() == {}
    search(task)
    assert cost.figures()["reducer"].startswith("random")
    assert cost.figures() == {}  # counting the last one left nothing behind


def test_images_that_keep_different_numbers_count_with_their_mean() -> None:
    task = make_task()
    task.config = task.config.model_copy(update={"reducer": task.config.reducer.model_copy(update={"name": "bright"})})
    task.model.albef.reducer = KeepBright()
    cost = EvaluationCost(task)
    with torch.no_grad():
        images = task.eval().example_batch(IMAGES + 1)["image"]
        task.model.albef.encode_image(images)
        left = [task.model.albef.encode_image(image.unsqueeze(0)).blocks[-1].mlp for image in images[:IMAGES]]
    expected = sum(vision(17, n, n) for n in left) / IMAGES / 1e9
    assert cost.figures()["vision_gmacs"] == pytest.approx(expected)


def test_what_cannot_be_counted_costs_the_evaluation_its_figure_only(caplog: pytest.LogCaptureFixture) -> None:
    task = make_task()
    task.model.albef.reducer = Uncountable()
    cost = EvaluationCost(task)
    search(task)
    with caplog.at_level(logging.WARNING):
        figures = cost.figures()
    assert (figures["vision_gmacs"], figures["vision_gmacs_dense"]) == (None, None)
    assert "counting failed" in caplog.text
    assert describe_cost(figures) == "reducer in this evaluation: none; its cost could not be counted"


def test_costs_are_told_in_words() -> None:
    figures = {"reducer": "none", "note": "it needs a text", "vision_gmacs": 12.0, "vision_gmacs_dense": 16.0}
    assert describe_cost(figures) == (
        "reducer in this evaluation: none (it needs a text); image encoder: 12 GMACs an image, 0.75 of all tokens kept"
    )
