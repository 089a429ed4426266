"""A task of a few numbers, with all that makes a step hard to repeat: dropout, a queue, a momentum copy."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from elip.config.schema import DataConfig, EvalConfig, OptimConfig, RunConfig, TaskConfig, TrainConfig
from elip.data.datasets import SampleKey
from elip.distributed import gather_rows
from elip.errors import DataError
from elip.registry import TASKS
from elip.task import Batch, EvalResult, Evaluator, Progress, StepOutput, Task

WIDTH = 3


class Points(Dataset):
    """Random points that depend on epoch and index alone, labelled by a fixed rule."""

    def __init__(self, length: int, broken: Sequence[int] = ()) -> None:
        self._length = length
        self._broken = broken

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        x = torch.from_numpy(np.random.default_rng((key.epoch, key.index)).standard_normal(WIDTH)).float()
        skipped = [f"item {key.index} is broken"] if key.index in self._broken else []
        return {"x": x, "y": x.sum(), "index": key.index, "skipped": skipped}


class EvalPoints(Points):
    """Points by plain index."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(SampleKey(0, index))


class Stream(IterableDataset):
    """Numbers in sequence, each worker its share of the batches."""

    def __init__(self, length: int, batch_size: int, fails_at: int | None = None) -> None:
        self._length, self._batch_size, self._fails_at = length, batch_size, fails_at
        self._epoch, self._done = 0, 0

    def __len__(self) -> int:
        return 20

    def start(self, epoch: int, consumed: int = 0) -> None:
        self._epoch, self._done = epoch, consumed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        for place in range(self._done, self._length):
            if (place - self._done) // self._batch_size % workers == worker:
                if place == self._fails_at:
                    raise DataError(f"sample {place} is broken")
                yield Points(20)[SampleKey(self._epoch, place)]


def collate(samples: list[dict[str, Any]]) -> Batch:
    return {
        "x": torch.stack([sample["x"] for sample in samples]),
        "y": torch.stack([sample["y"] for sample in samples]),
        "index": torch.tensor([sample["index"] for sample in samples]),
        "skipped": [message for sample in samples for message in sample["skipped"]],
    }


@TASKS.register("stub")
class StubTask(Task):
    """Two layers that learn to add.

    Args:
        length: points in the training set.
        width: of the middle layer.
        broken: indices of points that count as broken.
        queue: fill the queue with outputs.
        spoil: steps done before `loss_spread` is replaced, and by what.
        accuracies: what evaluations report, one after the other, instead of the truth; the last one stays.

    Attributes:
        before_step: called with the number of steps done before each training step; tests do harm here.
    """

    headline = "accuracy"
    leaves_parameters_out = True

    def __init__(
        self,
        config: RunConfig,
        length: int = 20,
        width: int = 4,
        dropout: float = 0.5,
        broken: Sequence[int] = (),
        queue: bool = True,
        spoil: tuple[int, float] | None = None,
        accuracies: Sequence[float] = (),
    ) -> None:
        super().__init__(config)
        self.layers = nn.Sequential(nn.Linear(WIDTH, width), nn.Dropout(dropout), nn.Linear(width, 1))
        self.unused = nn.Linear(1, 1)
        self.momentum = nn.Linear(WIDTH, width).requires_grad_(False)
        self.register_buffer("queue", torch.randn(8, 1))
        self.length, self.broken, self.fills_queue = length, broken, queue
        self.spoil, self.accuracies = spoil, list(accuracies)
        self.before_step: Callable[[int], None] = lambda step: None

    def train_dataset(self) -> Dataset:
        return Points(self.length, self.broken)

    def collate(self, samples: list[Any]) -> Batch:
        return collate(samples)

    def on_step_start(self) -> None:
        for copy, online in zip(self.momentum.parameters(), self.layers[0].parameters(), strict=True):
            copy.lerp_(online, 0.1)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        self.before_step(progress.step)
        out = self.layers(batch["x"]).squeeze(1)
        spread = (out - self.queue.mean()).square().mean()
        if self.spoil is not None and progress.step == self.spoil[0]:
            spread = spread * self.spoil[1]

        def fill_queue() -> None:
            self.queue = torch.cat([gather_rows(out.detach().unsqueeze(1)), self.queue])[:8]

        return StepOutput(
            {"loss_fit": functional.mse_loss(out, batch["y"]), "loss_spread": 0.01 * spread},
            {"queue_mean": self.queue.mean(), "progress": progress.fraction},
            fill_queue if self.fills_queue else None,
        )

    def eval_splits(self) -> Sequence[str]:
        return ["val"]

    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        torch.rand(1)  # an evaluation may draw random numbers
        rows = evaluator.map(EvalPoints(7), self._eval_step, collate)
        accuracy = 100 * (rows["error"] < 1).float().mean().item()
        if self.accuracies:
            accuracy = self.accuracies[0]
            self.accuracies = self.accuracies[1:] or self.accuracies
        return EvalResult(
            {"accuracy": accuracy, "error": rows["error"].mean().item()},
            [{"index": index, "error": error} for index, error in enumerate(rows["error"].tolist())],
            {"sheet": np.full((4, 4, 3), 200, np.uint8)},
        )

    def _eval_step(self, batch: Batch) -> dict[str, Tensor]:
        return {"error": (self.layers(batch["x"]).squeeze(1) - batch["y"]).abs()}


class SignalledInEvaluation(StubTask):
    """The stub, which gets a signal in the first batch of the evaluation after a step."""

    signal_at = 0
    number = signal.SIGTERM
    batches = 0

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        self.done = progress.step + 1
        return super().training_step(batch, progress)

    def _eval_step(self, batch: Batch) -> dict[str, Tensor]:
        if self.done == self.signal_at:
            self.batches += 1
            send_self(self.number)
        return super()._eval_step(batch)


def stub_config(
    folder: Path,
    data: dict[str, Any] | None = None,
    optim: dict[str, Any] | None = None,
    **train: Any,
) -> RunConfig:
    """Return a config for two epochs of 5 steps over the stub's 20 points; keyword arguments go to `train`."""
    return RunConfig(
        task=TaskConfig(name="stub"),
        data=DataConfig(**{"num_workers": 0, **(data or {})}),
        optim=OptimConfig(**{"lr": 0.1, "warmup_steps": 2, "warmup_interval": 1, **(optim or {})}),
        train=TrainConfig(**{"batch_size": 4, "epochs": 2, "log_every": 1, "device": "cpu", **train}),
        eval=EvalConfig(batch_size=3),
        output_dir=str(folder),
    )


def harm_at(step: int, harm: Callable[[], None]) -> Callable[[int], None]:
    """Return a `before_step` that does harm once `step` steps are done."""

    def before_step(done: int) -> None:
        if done == step:
            harm()

    return before_step


def send_self(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
