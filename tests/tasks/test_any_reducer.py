"""Every task trains and infers under every reducer of the project, with the parameters that it has by default."""

from pathlib import Path

import pytest
import torch

from elip.registry import REDUCERS
from elip.task.alignment import PairFinetuningTask
from tests.tasks.small import FILES, PROGRESS, small_run, small_task, without_reducer

NAMES = [name for name in REDUCERS.names() if REDUCERS.get(name).__module__.startswith("reducers.")]
SIZES = [  # what the defaults are made for: 12 blocks and 196 patches
    "model.vision.image_size=112",
    "model.vision.options={patch_size: 8, embed_dim: 32, depth: 12, num_heads: 2}",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task_name", FILES)
def test_a_task_trains_and_infers_under_a_reducer(digits: Path, tiny: list[str], task_name: str, name: str) -> None:
    overrides = [*without_reducer(small_run(task_name, digits, tiny)), *SIZES, f"reducer={{name: {name}}}"]
    task = small_task(task_name, overrides)
    batch = task.example_batch(4)
    output = task.training_step(batch, PROGRESS)
    sum(output.losses.values()).backward()
    assert all(loss.isfinite() for loss in output.losses.values())
    assert all(p.grad.isfinite().all() for _, p in task.parameters_to_optimise() if p.grad is not None)
    tokens = [float(value) for key, value in output.logs.items() if key.startswith("tokens/")]
    no_text_yet = REDUCERS.get(name).requires_text and isinstance(task, PairFinetuningTask)
    assert (min(tokens) < 197) == (name != "none" and not no_text_yet)
    with torch.no_grad():
        assert task.eval()(batch).isfinite().all()
