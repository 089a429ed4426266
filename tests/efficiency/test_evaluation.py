"""What an evaluation has cost: with the reducer that was in force in it."""

import logging
from typing import Any

import pytest
import torch

from elip.efficiency.evaluation import EvaluationCost, describe_cost
from elip.efficiency.run_cost import RunningCost
from elip.task import Task
from tests.efficiency.models import KeepBright
from tests.efficiency.test_run_cost import IMAGES, RANDOM, Uncountable, step
from tests.efficiency.test_task_cost import ELIP, make_task, vision

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
