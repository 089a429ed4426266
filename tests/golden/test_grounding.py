"""Grad-CAM maps against the published code's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elip.models.grad_cam import contrast_map, matching_map

from .model import golden_task, queue_size
from .steps import OUTPUT


@pytest.mark.parametrize(("name", "function"), [("itm", matching_map), ("itc", contrast_map)])
def test_maps(golden_albef: Path, name: str, function: Callable[..., Tensor]) -> None:
    golden = load_file(golden_albef / "grounding.safetensors")
    (key,) = (key for key in golden if key.startswith(f"gradcam_{name}_block"))
    place = int(key.rpartition("block")[2])
    task = golden_task(
        golden_albef, {"name": "retrieval", "queue_size": queue_size(golden_albef)}, {"name": "none"}, WEIGHTS
    )
    with torch.no_grad():  # as in an evaluation
        found = function(task.model, golden["image"], golden["input_ids"], golden["attention_mask"], place)
    assert golden[key].abs().max() > 0
    torch.testing.assert_close(found, golden[key], **OUTPUT)
    assert all(parameter.grad is None for parameter in task.parameters())


WEIGHTS = "retrieval_weights.safetensors"
