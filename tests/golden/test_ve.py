"""One training step of visual entailment against the published code's numbers."""

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
    return load_file(golden_albef / "ve.safetensors")


@pytest.fixture(scope="module")
def batch(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    image, ids, mask, label = (golden[key] for key in ("image", "input_ids", "attention_mask", "label"))
    return {"image": image, "ids": ids, "mask": mask, "label": label}


@pytest.fixture(scope="module")
def stepped(golden_albef: Path, golden: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[Task, StepOutput]:
    settings = {"name": "ve", "alpha": golden["alpha"].item()}
    task = golden_task(golden_albef, settings, {"name": "none"}, "ve_weights.safetensors")
    return task, run_step(task, batch)


def test_loss_with_distillation(stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]) -> None:
    torch.testing.assert_close(stepped[1].losses["loss_cls"], golden["loss"], **OUTPUT)


def test_gradients(stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]) -> None:
    assert_gradients(stepped[0], golden)


@torch.no_grad()
def test_logits_in_the_published_order_of_labels(
    stepped: tuple[Task, StepOutput], golden: dict[str, Tensor], batch: dict[str, Tensor]
) -> None:
    torch.testing.assert_close(stepped[0](batch), golden["logits_after_step"], **OUTPUT)
    assert [stepped[0].labels.index(name) for name in ("entailment", "neutral", "contradiction")] == [2, 1, 0]
