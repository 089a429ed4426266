"""One step of fine-tuning retrieval against the published code's numbers: two of its texts share an image."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elip.task import StepOutput, Task
from elip.weights.names import from_albef

from .model import golden_task, queue_size
from .steps import OUTPUT, assert_gradients, run_step


@pytest.fixture(scope="module")
def golden(golden_albef: Path) -> dict[str, Tensor]:
    return load_file(golden_albef / "retrieval.safetensors")


@pytest.fixture(scope="module")
def batch(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "image": golden["image"],
        "ids": golden["input_ids"],
        "mask": golden["attention_mask"],
        "image_id": golden["image_id"],
        "negative_image": golden["negative_image_for_text"],
        "negative_text": golden["negative_text_for_image"],
    }


@pytest.fixture(scope="module")
def stepped(golden_albef: Path, golden: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[Task, StepOutput]:
    settings = {"name": "retrieval", "alpha": golden["alpha"].item(), "queue_size": queue_size(golden_albef)}
    task = golden_task(golden_albef, settings, {"name": "none"}, "retrieval_weights.safetensors")
    return task, run_step(task, batch)


def test_the_batch_holds_an_image_twice_and_the_queue_holds_it_too(
    golden_albef: Path, golden: dict[str, Tensor]
) -> None:
    ids = golden["image_id"].tolist()
    assert len(set(ids)) < len(ids)
    assert set(ids) & set(load_file(golden_albef / "retrieval_weights.safetensors")["idx_queue"].flatten().tolist())


@pytest.mark.parametrize("name", ["loss_itc", "loss_itm"])
def test_losses(stepped: tuple[Task, StepOutput], golden: dict[str, Tensor], name: str) -> None:
    torch.testing.assert_close(stepped[1].losses[name], golden[name], **OUTPUT)


def test_gradients(stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]) -> None:
    assert_gradients(stepped[0], golden)


def test_queues_of_features_and_image_ids_after_the_step(
    stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]
) -> None:
    expected = {key.removeprefix("after."): value for key, value in golden.items() if key.startswith("after.")}
    state = stepped[0].state_dict()
    assert set(expected) == {"image_queue", "idx_queue"}
    for name, want in from_albef(expected).items():
        torch.testing.assert_close(state[f"model.{name}"], want, **OUTPUT)
