"""What the checks of tasks share: a task under test, its batches, and its evaluation."""

from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from elip.config.schema import RunConfig
from elip.data.datasets import SampleKey
from elip.task.contract import Batch, EvalResult, Evaluator, Progress, StepOutput, Task
from elip.undisturbed import undisturbed

BATCH_SIZE = 4
HALF_WAY = Progress(step=3, total_steps=6, steps_per_epoch=3)
"""What ramps up over the first epoch has its full strength."""
SEED = 7


class TaskTrial:
    """A task class with the config of a small run, under test.

    Args:
        cls: the task; it need not be registered.
        config: of a run of it that takes seconds, with files to train on and to evaluate on.
    """

    def __init__(self, cls: type[Task[Any]], config: RunConfig) -> None:
        self.cls = cls
        self.config = config

    def task(self, seed: int = 0, config: RunConfig | None = None) -> Task[Any]:
        """Return a new task in training mode, the same one for the same seed."""
        with undisturbed(seed=seed):
            return self.cls(config or self.config).train()

    def without_data(self) -> RunConfig:
        """Return the config of a run that names no files of data, and no tokenizer that is there."""
        data = self.config.data.model_copy(update={"train": [], "val": [], "test": [], "image_root": "no-such-folder"})
        text = self.config.model.text.model_copy(update={"tokenizer": "./no-such-vocab.txt"})
        model = self.config.model.model_copy(update={"text": text})
        return self.config.model_copy(update={"data": data, "model": model})

    def made_up_batch(self, task: Task[Any]) -> Batch:
        """Return the task's `example_batch`, the same one each time."""
        with undisturbed(seed=SEED):
            return task.example_batch(BATCH_SIZE)

    def real_batch(self, task: Task[Any]) -> Batch:
        """Return the first samples of the training set."""
        dataset: Any = task.train_dataset()
        with undisturbed(seed=SEED):
            if isinstance(dataset, IterableDataset):
                samples = list(islice(iter(dataset), BATCH_SIZE))
            else:
                samples = [dataset[SampleKey(0, index)] for index in range(min(BATCH_SIZE, len(dataset)))]
            batch = task.collate(samples)
        batch.pop("skipped", None)
        return batch

    def step(self, task: Task[Any], batch: Batch) -> StepOutput:
        """Return what a training step half way through a run gives, with the same random numbers each time."""
        with undisturbed(seed=SEED):
            return task.training_step(batch, HALF_WAY)

    @torch.no_grad()
    def evaluate(self, task: Task[Any], evaluator: Evaluator) -> EvalResult:
        """Return an evaluation of the split that picks the best checkpoint; the task is in evaluation mode after."""
        splits = list(task.eval_splits())
        assert splits, "this run has nothing to evaluate: give a config that names files for it, such as data.val"
        return task.eval().evaluate(splits[0], evaluator)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of parameters and buffers, those that no checkpoint keeps included."""
    return {name: tensor.clone() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


def changed(before: dict[str, Tensor], module: nn.Module) -> list[str]:
    """Return the names of what is not bit for bit as it was, or is new, or gone."""
    after = state_of(module)
    same = {name for name in before.keys() & after.keys() if torch.equal(before[name], after[name])}
    return sorted((before.keys() | after.keys()) - same)
