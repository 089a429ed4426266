"""One training step of question answering, and the ranking of candidates, against the published code's numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elip.task import StepOutput, Task

from .model import golden_task
from .steps import OUTPUT, assert_gradients, run_step


@pytest.fixture(scope="module")
def golden(golden_albef: Path) -> dict[str, Tensor]:
    return load_file(golden_albef / "vqa.safetensors")


@pytest.fixture(scope="module")
def batch(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    count = golden["answers_per_question"]
    return {
        "image": golden["image"],
        "ids": golden["question_ids"],
        "mask": golden["question_mask"],
        "answer_ids": golden["answer_ids"],
        "answer_mask": golden["answer_mask"],
        "answer_weight": golden["answer_weights"],
        "answer_question": torch.arange(len(count)).repeat_interleave(count),
        "candidate_ids": golden["rank.candidate_ids"],
        "candidate_mask": golden["rank.candidate_mask"],
    }


def make_task(folder: Path, golden: dict[str, Tensor]) -> Task:
    k = golden["rank.topk_ids"].shape[1]
    settings = {"name": "vqa", "alpha": golden["alpha"].item(), "k_test": k}
    return golden_task(folder, settings, {"name": "none"}, "vqa_weights.safetensors")


@pytest.fixture(scope="module")
def stepped(golden_albef: Path, golden: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[Task, StepOutput]:
    task = make_task(golden_albef, golden)
    return task, run_step(task, batch)


def test_loss_of_weighted_answers_with_distillation(
    stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]
) -> None:
    torch.testing.assert_close(stepped[1].losses["loss_vqa"], golden["loss"], **OUTPUT)


def test_gradients(stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]) -> None:
    # One recorded gradient, of norm 5e-6 beside a loss of 15, is lost in the rounding of single precision: against
    # double precision, in which we give the others to 1e-5, the record itself is 4% off and ours 6%.
    assert_gradients(stepped[0], golden, floor=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("after_a_step", [True, False])
def test_ranking_of_candidate_answers(
    golden_albef: Path,
    stepped: tuple[Task, StepOutput],
    golden: dict[str, Tensor],
    batch: dict[str, Tensor],
    after_a_step: bool,
) -> None:
    task = stepped[0] if after_a_step else make_task(golden_albef, golden)
    index, score = task._rank(task._question(batch), batch)
    assert torch.equal(index, golden["rank.topk_ids"])
    torch.testing.assert_close(score, golden["rank.topk_probs"], **OUTPUT)
