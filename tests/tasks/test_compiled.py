"""A training step is one graph without a break, and compiled blocks train as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch

from elip.engine.optim import build_optimizer
from elip.engine.runtime import Run
from elip.engine.step import StepRunner
from elip.objectives.mlm import IGNORE
from elip.task import Batch, Progress, Task
from tests.tasks.small import small_task, without_reducer

REDUCERS = {
    "elip": "{name: elip, begin: [1], look_ahead: [1], keep_ratio: [0.5]}",
    "tome": "{name: tome, r: 3}",
}


LAYERS = (  # two fusion layers, of which one is the last
    "model.text.options={hidden_size: 32, num_hidden_layers: 3, num_attention_heads: 2, intermediate_size: 64}"
)


def losses_of_steps(task: Task[Any], steps: int) -> list[dict[str, float]]:
    task.train()
    runner = StepRunner(
        task, build_optimizer(task, task.config.optim), task.config.train, Run(torch.device("cpu"), Path("unused"))
    )
    torch.manual_seed(3)
    batches = [with_masked(task.example_batch(4), words) for words in range(1, steps + 1)]
    return [runner.step([batch], Progress(step, 6, 3), "").losses for step, batch in enumerate(batches)]


def with_masked(batch: Batch, words: int) -> Batch:
    """Return a batch with so many words of each text masked."""
    labels = torch.full_like(batch["ids"], IGNORE)
    labels[:, 1 : 1 + words] = batch["ids"][:, 1 : 1 + words]
    return {**batch, "mlm_labels": labels}


@pytest.mark.slow
@pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS)
def test_compiled_blocks_train_as_they_are(
    tiny: list[str], reducer: str, counting_compiler: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True, raising=False)
    overrides = [*without_reducer(tiny), LAYERS, f"reducer={reducer}", "task.alpha=0.4"]
    plain, compiled = (
        losses_of_steps(small_task("pretrain", [*overrides, f"train.compile={given}"]), 4)
        for given in ("false", "true")
    )
    for mine, right in zip(compiled, plain, strict=True):
        assert mine == pytest.approx(right, abs=1e-4)
    assert 4 <= len(counting_compiler) <= 20  # kinds of blocks, with and without gradient, not blocks times steps


@pytest.mark.slow
@pytest.mark.parametrize("name", ["elip"])
def test_a_training_step_is_one_graph(tiny: list[str], name: str, counting_compiler: list[int]) -> None:
    task = small_task("pretrain", [*without_reducer(tiny), f"reducer={REDUCERS[name]}"])
    batch, progress = task.prepare(task.example_batch(4)), Progress(2, 6, 3)

    def losses() -> dict[str, torch.Tensor]:
        return task.training_step(batch, progress).losses

    torch.manual_seed(4)
    right = losses()
    torch.manual_seed(4)
    traced = torch.compile(losses, fullgraph=True)()
    assert len(counting_compiler) == 1
    for key, loss in traced.items():
        torch.testing.assert_close(loss, right[key])
