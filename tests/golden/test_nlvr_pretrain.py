"""Text assignment against the published code's numbers."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from elip.task import Task
from tasks.nlvr_pretrain.objective import Pairs

from .model import golden_task
from .steps import END_OF_FIRST_EPOCH, OUTPUT


@pytest.fixture(scope="module")
def golden(golden_albef: Path) -> dict[str, Tensor]:
    return load_file(golden_albef / "nlvr_pretrain.safetensors")


@pytest.fixture(scope="module")
def task(golden_albef: Path) -> Task:
    return golden_task(golden_albef, {"name": "nlvr_pretrain"}, {"name": "none"}, "nlvr_pretrain_weights.safetensors")


@pytest.fixture(scope="module")
def batch(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "image": golden["image"],
        "ids": golden["input_ids"],
        "mask": golden["attention_mask"],
        "second_image": golden["second_image"],
    }


@torch.no_grad()
def test_logits_of_pairs(task: Task, batch: dict[str, Tensor], golden: dict[str, Tensor]) -> None:
    torch.testing.assert_close(task(batch), golden["ta_logits"], **OUTPUT)


@torch.no_grad()
def test_logits_of_images_that_several_texts_of_a_batch_meet(
    task: Task, batch: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    pairs = Pairs(torch.arange(len(batch["image"])), batch["second_image"])
    classified, _ = task.model.assign(batch["image"], batch["ids"], batch["mask"], pairs)
    torch.testing.assert_close(classified.logits, golden["ta_logits"], **OUTPUT)


@torch.no_grad()
def test_loss_of_texts_that_belong_to_the_left_image(
    task: Task, batch: dict[str, Tensor], golden: dict[str, Tensor]
) -> None:
    loss = task.training_step(batch, END_OF_FIRST_EPOCH).losses["loss_ta"]
    left = torch.zeros(len(batch["image"]), dtype=torch.long)
    torch.testing.assert_close(loss, F.cross_entropy(golden["ta_logits"], left), **OUTPUT)
