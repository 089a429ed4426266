"""A whole training step of a config, as the engine takes it: how long it takes, and what it keeps."""

import time
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path

import torch

from elip.config.schema import RunConfig
from elip.efficiency.resources import saved_bytes
from elip.efficiency.task_cost import full_force
from elip.engine.loader import to_device
from elip.engine.optim import build_optimizer
from elip.engine.runtime import Run
from elip.engine.step import StepRunner
from elip.execution import PRECISIONS
from elip.registry import TASKS
from elip.rng import seed_everything
from elip.task import Batch, Task
from elip.task.preflight import without_weights
from elip.undisturbed import undisturbed

_MOST_TRIES = 20
"""Steps within which fp16 has found a loss scale that does not overflow: the first is 2^16, and each halves it."""


def saved_in_pass(task: Task, batch: Batch, run: Run) -> int:
    """Return the bytes that a forward pass of a training step keeps for its backward pass, in the run's precision.

    Args:
        task: on the run's device; it is left as it was.
        batch: as `Task.example_batch` gives it.
        run: device and precision.
    """
    placed, progress = to_device(task.prepare(dict(batch)), run.device), full_force(task)
    with undisturbed(task, training=True), run.autocast():
        return saved_bytes(lambda: task.total_loss(task.training_step(placed, progress).losses), task)


class TrainingStep:
    """What a training repeats, on made-up items of full size: a call takes one step.

    Forward and backward passes, clipping, optimiser and momentum update are the engine's own, the reduction is in full
    force, weights are random. The learning rate is 0, so that no weight changes and all steps cost the same. Pictures
    are on the device already; what else is in a batch gets there as in training, after `Task.prepare` has looked at it.

    Args:
        config: of a run.
        device: to train on.

    Raises:
        ElipError: the task cannot be built.

    Attributes:
        task: on the device, in training mode.
        items: of a step.
        first_seconds: that the first step took; with `train.compile` most of it is compilation.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self._allocated = allocated_bytes(device)
        seed_everything(config.train.seed)
        self.task: Task = TASKS.build(config.task.name, without_weights(config)).to(device).train()
        optimizer = build_optimizer(self.task, config.optim)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        self._run = Run(device, Path(), PRECISIONS[config.train.precision])
        self._runner = StepRunner(self.task, optimizer, config.train, self._run)
        self._progress = full_force(self.task)
        self._train = config.train
        self._batches = self._made_up(config.train.batch_size)
        self.items = config.train.batch_size * config.train.accumulate
        start = time.perf_counter()
        self._settle()
        self.first_seconds = time.perf_counter() - start

    def __call__(self) -> None:
        self._take(self._batches)

    def at_batch(self, size: int) -> Callable[[], object]:
        """Return a function that takes a step of the same model with so many items in each batch."""
        batches = self._made_up(size)
        return lambda: self._take(batches)

    def saved_bytes(self) -> int:
        """Return the bytes that one forward pass of a step keeps for its backward pass, in the run's precision."""
        return saved_in_pass(self.task, self._batches[0], self._run)

    def peak_bytes(self) -> int | None:
        """Return the most memory that a step and all that it needs take on a CUDA device; None elsewhere.

        Weights, gradients, momentum copies, queues and the optimiser's moments are in it; what was allocated before
        this was made is not.
        """
        return peak_bytes(self, self._run.device, self._allocated)

    def _settle(self) -> None:
        """Step until an update is taken, which fp16's scaler may at first pass over."""
        for _ in range(_MOST_TRIES):
            if isfinite(self._take(self._batches)):
                return

    def _take(self, batches: Sequence[Batch]) -> float:
        """Take a step and return the norm of its gradient."""
        return self._runner.step([dict(batch) for batch in batches], self._progress, "").grad_norm

    def _made_up(self, size: int) -> list[Batch]:
        batches = [self.task.example_batch(size) for _ in range(self._train.accumulate)]
        return [{name: self._placed(value) for name, value in batch.items()} for batch in batches]

    def _placed(self, value: object) -> object:
        is_picture = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(self._run.device) if is_picture else value  # type: ignore[attr-defined]


def allocated_bytes(device: torch.device) -> int:
    """Return what is allocated on a CUDA device; 0 elsewhere."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_bytes(function: Callable[[], object], device: torch.device, allocated: int) -> int | None:
    """Return the most memory on a CUDA device in a call, less what was allocated before; None elsewhere."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - allocated
