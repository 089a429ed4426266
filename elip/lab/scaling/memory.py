"""Memory that training takes, computed from shapes, and the batches that fit in it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from elip.benchmark.step import saved_in_pass
from elip.config.schema import RunConfig
from elip.efficiency.task_cost import step_cost
from elip.engine.runtime import Run
from elip.errors import ConfigError
from elip.execution import PRECISIONS
from elip.lab.scaling.law import fit
from elip.models.momentum import MomentumTwins
from elip.registry import TASKS
from elip.task import Task
from elip.task.preflight import dry_build, without_weights

GIB = 2**30
RESERVE = 0.1
"""Share of a card that is left to what is not computed here: the context of CUDA, workspaces of kernels, gradients of
activations, passes without gradient, and what lies between allocated blocks."""
_MOMENTS = 2
"""Tensors that AdamW keeps of a parameter, of its size."""
_BATCHES = (2, 4, 8)


@dataclass(frozen=True)
class Held:
    """Bytes that a training holds all the time, whatever its batch.

    Args:
        weights: parameters, those that are not trained included.
        gradients: of the trained ones.
        moments: of AdamW.
        momentum: parameters of momentum copies.
        queues: and all other buffers.
    """

    weights: int
    gradients: int
    moments: int
    momentum: int
    queues: int

    @classmethod
    def of(cls, task: Task) -> "Held":
        """Return what the training of a task holds; it may be on the meta device."""
        twins = [part for part in task.modules() if isinstance(part, MomentumTwins)]
        momentum = {id(p): p for part in twins for p in part.parameters()}
        own = [p for p in task.parameters() if id(p) not in momentum]
        trained = _bytes(p for _, p in task.parameters_to_optimise())
        return cls(_bytes(own), trained, _MOMENTS * trained, _bytes(momentum.values()), _bytes(task.buffers()))

    @property
    def total(self) -> int:
        """All of it."""
        return sum(asdict(self).values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def without_memory(config: RunConfig) -> Task:
    """Return a config's task on the meta device; with random weights if it cannot be built there.

    Raises:
        ElipError: it cannot be built at all.
    """
    return dry_build(config) or TASKS.build(config.task.name, without_weights(config))


@dataclass(frozen=True)
class Fit:
    """What memory a batch takes.

    Args:
        held: whatever the batch.
        fixed: saved for the backward pass whatever the batch, bytes.
        per_item: saved for each item of it, bytes.
        deviation: of the saved bytes from this law, as a share.
    """

    held: Held
    fixed: float
    per_item: float
    deviation: float

    @classmethod
    def of(cls, config: RunConfig) -> "Fit":
        """Return the law of a config's training, in its precision, from what batches of a few sizes keep.

        In half precision passes are run with values, because without them there is no autocast.
        """
        single = config.train.precision == "fp32"
        task = without_memory(config) if single else TASKS.build(config.task.name, without_weights(config))
        run = Run(torch.device("cpu"), Path(), PRECISIONS[config.train.precision])
        batches = _BATCHES[: None if single else 2]
        saved = [
            step_cost(task, size).saved_bytes if single else saved_in_pass(task, task.example_batch(size), run)
            for size in batches
        ]
        law = fit(batches, saved)
        return cls(Held.of(task), law.fixed, law.per_unit, law.deviation)

    def bytes(self, batch: int) -> float:
        """Return what a training with batches of this size takes."""
        return self.held.total + self.fixed + self.per_item * batch

    def largest_batch(self, card: int) -> int:
        """Return the largest batch on a card of so many bytes, `RESERVE` of it left free; 0 if there is none."""
        if self.per_item <= 0:
            raise ConfigError("nothing is saved for a backward pass: there is no largest batch.")
        return max(0, int(((1 - RESERVE) * card - self.held.total - self.fixed) // self.per_item))
