"""One training step of NLVR2 against the published code's numbers."""

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
    return load_file(golden_albef / "nlvr.safetensors")


@pytest.fixture(scope="module")
def batch(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    ids, mask, label = (golden[key] for key in ("input_ids", "attention_mask", "label"))
    left, right = golden["images"].chunk(2)
    return {"image": torch.stack([left, right], dim=1), "ids": ids, "mask": mask, "label": label}


@pytest.fixture(scope="module")
def stepped(golden_albef: Path, golden: dict[str, Tensor], batch: dict[str, Tensor]) -> tuple[Task, StepOutput]:
    settings = {"name": "nlvr", "alpha": golden["alpha"].item()}
    task = golden_task(golden_albef, settings, {"name": "none"}, "nlvr_weights.safetensors")
    return task, run_step(task, batch)


def test_loss_with_distillation(stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]) -> None:
    torch.testing.assert_close(stepped[1].losses["loss_cls"], golden["loss"], **OUTPUT)


def test_gradients_also_of_the_projections_that_layers_share(
    stepped: tuple[Task, StepOutput], golden: dict[str, Tensor]
) -> None:
    assert any(name.startswith("grad.") and "crossattention.self.key" in name for name in golden)
    assert_gradients(stepped[0], golden)


@torch.no_grad()
def test_logits_which_tell_left_from_right(
    stepped: tuple[Task, StepOutput], golden: dict[str, Tensor], batch: dict[str, Tensor]
) -> None:
    torch.testing.assert_close(stepped[0](batch), golden["logits"], **OUTPUT)
    swapped = stepped[0]({**batch, "image": batch["image"].flip(1)})
    assert (swapped - golden["logits"]).abs().max() > 1e-2
