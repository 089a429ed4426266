"""What a task is to the rest of the toolkit: the contract between `tasks/` and the training engine.

A task owns its model, data sets, collation, objective and metric. It knows nothing of devices, ranks, optimisers or
files that a run writes; the engine (`elip.engine`) knows nothing of any particular task.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add, mul
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import numpy as np
from torch import Tensor, nn
from torch.utils.data import Dataset

from elip.config.schema import RunConfig, TaskConfig
from elip.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound=TaskConfig)
LossT = TypeVar("LossT", Tensor, float)

LOSS_PREFIX = "loss_"
"""What the name of a loss begins with in a step and in the log; settings leave it out."""
Batch = dict[str, Any]
"""Tensors (moved to the device by the engine), and lists of whatever else a step wants to carry."""


@dataclass(frozen=True)
class Progress:
    """How far training is when a step begins.

    Args:
        step: optimiser steps done, over all epochs.
        total_steps: optimiser steps the run will do.
        steps_per_epoch: optimiser steps of one epoch.
    """

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        """Share of the whole training done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.total_steps))

    @property
    def epochs(self) -> float:
        """Epochs done, with their fraction."""
        return self.step / max(1, self.steps_per_epoch)


@dataclass
class StepOutput:
    """What one training step gives back.

    Args:
        losses: scalars with gradient, named `loss_...`; the engine minimises `Task.total_loss` of them, logs each
            under its name as it is, and the total as `loss`.
        logs: named scalars without gradient to log beside them (temperature, alpha, queue fill, tokens per block, ...).
            All steps on all ranks give the same names: the engine logs the mean over ranks.
        after_backward: changes of state that must wait until the gradients are taken, such as filling a queue that
            the losses have read. Called once per forward pass, on every rank.
    """

    losses: dict[str, Tensor]
    logs: dict[str, Tensor | float] = field(default_factory=dict)
    after_backward: Callable[[], None] | None = None


@dataclass(frozen=True)
class ItemScores:
    """Scores of single items whose mean, times a weight, is a part of the headline metric.

    Args:
        values: one an item, in the unit of the metric.
        clusters: one an item: what it shares with items that are not independent of it, such as its picture.
        weight: of the mean of the values.
    """

    values: list[float]
    clusters: list[str]
    weight: float = 1.0


@dataclass
class EvalResult:
    """What an evaluation gives back.

    Args:
        metrics: named figures; recall and accuracy in percent.
        predictions: one JSON-serialisable object per item, in the order of the data set.
        sheets: drawn for people, by name, [H, W, 3] uint8.
        chance: what guessing would reach, for those metrics where that is known.
        files: further JSON contents by file name, such as what the server of a benchmark takes.
        scores: the parts that the headline is the sum of, item by item, so that it can have an interval. None where it
            is made in another way, or the truth is not known.
    """

    metrics: dict[str, float]
    predictions: list[dict[str, Any]] = field(default_factory=list)
    sheets: dict[str, np.ndarray] = field(default_factory=dict)
    chance: dict[str, float] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    scores: list[ItemScores] = field(default_factory=list)


class Evaluator(Protocol):
    """Runs a function over a data set, spread over all ranks; given to `Task.evaluate` by the engine."""

    def map(
        self,
        dataset: Dataset,
        step: Callable[[Batch], dict[str, Any]],
        collate: Callable[[list[Any]], Batch],
        batch_size: int | None = None,
        gather: bool = True,
    ) -> dict[str, Any]:
        """Return what `step` gave for every item, joined in the order of the data set.

        Each item is seen exactly once, whatever the number of ranks; data sets of equal length are split over the
        ranks alike. `step` runs without gradient, under the run's precision, on batches already on the device, and
        returns tensors [b, ...] (equal trailing shape in every batch) or lists of b objects. With `gather` every rank
        gets all items (tensors on the CPU); without, each rank keeps its own share, on the device.
        """
        ...

    def shard(self, length: int) -> range:
        """Return the indices, of `length`, that this rank sees in `map`."""
        ...


class Task(nn.Module, Generic[ConfigT]):
    """A model with its data, objective and metric.

    Subclasses register with `elip.registry.TASKS` and are built from the whole run config. They say what their section
    of it is twice: `class Mine(Task[MineConfig])` for the type checker, `Config = MineConfig` for the reader of YAML.
    `elip.testing.check_task` holds a class to all that is said here.

    Args:
        config: of the run.

    Raises:
        ConfigError: its section `task:` is none of this task's.

    Attributes:
        settings: the section `task:`.
    """

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    """The section `task:` of the config."""
    losses: ClassVar[Sequence[str]] = ()
    """Names, without `loss_`, of the losses that a step gives, those of its reducer apart."""
    headline: ClassVar[str]
    """The metric, higher is better, that picks the best checkpoint."""
    leaves_parameters_out: bool = False
    """Whether some steps reach only a part of the trained parameters. Several processes then look for the others in
    each step (DDP's `find_unused_parameters`), which costs a little; without it, they cannot train such a task."""

    compiles_parts: bool = False
    """Whether the task itself sees to `train.compile`, part by part; else the engine compiles its step as a whole."""
    expected_leftovers: ClassVar[Sequence[str]] = ()
    """Names, or beginnings of names, of what checkpoints of other tasks hold that this task may have no place for.
    To start from such a checkpoint they are passed over; anything else without a place is an error."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        if not isinstance(config.task, self.Config):
            raise ConfigError(
                f"task: {type(self).__name__} takes a {self.Config.__name__}, got a {type(config.task).__name__}."
            )
        self.config = config
        self.settings = cast(ConfigT, config.task)

    @classmethod
    def check_run(cls, config: RunConfig, parts: Sequence[str]) -> None:
        """Raise an error for what would stop a run once its model is built; by default nothing.

        Called before that, and takes no longer than a second or two: what it looks for are missing files, and numbers
        that do not fit each other and that no constructor sees.

        Args:
            config: of the run.
            parts: of its data that it reads: train, val, test.
        """

    @classmethod
    def adapt_checkpoint(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of a checkpoint, of any task, in the form that this task's model has them.

        What is in that form already stays as it is.

        Args:
            state: by the names that they would have in this task.
        """
        return dict(state)

    def train_dataset(self) -> Dataset:
        """Return the training set: `len`, and items by `elip.data.datasets.SampleKey` (epoch, index)."""
        raise NotImplementedError

    def collate(self, samples: list[Any]) -> Batch:
        """Return training samples joined to a batch. A key `skipped` lists the broken items passed over, as text."""
        raise NotImplementedError

    def inspect_training_data(self, dataset: Dataset) -> None:
        """Tell by log or warning what is odd about the training set as a whole; by default nothing.

        Called on one process, before the first step.

        Args:
            dataset: what `train_dataset` gave.
        """

    def data_files(self) -> Sequence[str]:
        """Return the files that an evaluation reads beside those that `data:` lists; by default none.

        A checkpoint keeps what was in them, and a run that goes on with others says so.
        """
        return ()

    def vocabulary(self) -> str | None:
        """Return what tells the vocabulary that texts are read by, None if there is none.

        A checkpoint keeps it: under another vocabulary the weights of words are those of other words.
        """
        return None

    def on_step_start(self) -> None:
        """Update state that follows the parameters (momentum copies). Called once per optimiser step, before its
        forward passes; never in evaluation."""

    def prepare(self, batch: Batch) -> Batch:
        """Return a batch with what is to be known of it before it is on the device; by default as it is.

        Called on the CPU right before `training_step`, with the random numbers of that step. What follows from values
        of the batch, such as how many words are masked, belongs here: a step that asked the device would wait for it.
        """
        return batch

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the named losses of one batch. It never asks the device for a value, which would make it wait."""
        raise NotImplementedError

    def loss_names(self) -> Sequence[str]:
        """Return the names, without `loss_`, of all losses that a step may give."""
        return self.losses

    def check_loss_weights(self) -> None:
        """Raise an error for a weight of a loss that no step gives; without `losses`, the first step does."""
        if self.losses:
            self._refuse_unknown_weights(self.loss_names())

    def total_loss(self, losses: Mapping[str, LossT]) -> LossT:
        """Return what training minimises: the sum of the losses, each times its weight in `task.loss_weights`.

        Args:
            losses: of a step, all of them, as in `StepOutput`.

        Raises:
            ConfigError: there is a weight for a loss that is not among them.
        """
        names = [name.removeprefix(LOSS_PREFIX) for name in losses]
        self._refuse_unknown_weights(names)
        weights = [self.settings.loss_weights.get(name, 1.0) for name in names]
        return reduce(add, map(mul, losses.values(), weights))

    def _refuse_unknown_weights(self, known: Sequence[str]) -> None:
        for name in self.settings.loss_weights:
            if name not in known:
                raise ConfigError(
                    f"task.loss_weights.{name}: {self.config.task.name} has no such loss; its losses are "
                    f"{', '.join(known)}."
                )

    def forward(self, batch: Batch) -> Tensor:
        """Return what one inference gives for each item, the way the task is used once trained; for cost accounting."""
        raise NotImplementedError

    def example_batch(self, batch_size: int) -> Batch:
        """Return a made-up batch of full size, without any file, that `training_step` and `forward` take."""
        raise NotImplementedError

    def eval_splits(self) -> Sequence[str]:
        """Return the splits this task can evaluate: those of val, test, ... that the config gives files for.

        The first of them is evaluated during training and picks the best checkpoint.
        """
        raise NotImplementedError

    def check_evaluation(self, split: str) -> None:
        """Raise an error for what would stop an evaluation of this split, such as a missing file; by default nothing.

        Called before training, which would else be lost up to its first evaluation.
        """

    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        """Return metrics, predictions and sheets on one split.

        Called on all ranks, in eval mode, without gradient (`torch.enable_grad` gives it back); changes no parameter,
        buffer or mode, and draws no random numbers.
        """
        raise NotImplementedError

    def parameters_to_optimise(self) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the named parameters that training changes."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)
