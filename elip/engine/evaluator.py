"""Evaluation spread over all ranks, for any task."""

from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from elip.config.schema import RunConfig
from elip.distributed import gather_objects, gather_rows, is_distributed, rank, world_size
from elip.engine.loader import Collate, read_batches, to_device, usable_workers
from elip.engine.runtime import Run
from elip.task import Batch, EvalResult, Task
from elip.undisturbed import undisturbed

Layout = tuple[torch.dtype, torch.Size] | None
"""Type and trailing shape of rows that come as a tensor; None for those that come as a list."""


class EvaluationStopped(Exception):  # noqa: N818  # nothing is wrong
    """A signal ended an evaluation between two batches, on all ranks; it can be made up for later."""


def evaluate(task: Task, split: str, config: RunConfig, run: Run) -> EvalResult:
    """Return the outcome of `task` on `split`, the same on every rank.

    Modules come out in the mode they were in, and the random state as it was.

    Raises:
        EvaluationStopped: `run.must_stop`.
    """
    evaluator = RankEvaluator(run, config.eval.batch_size, usable_workers(config.data.num_workers))
    # Evaluations change no buffer (`elip.testing.check_task` holds tasks to it), so that no queue is copied for them.
    with undisturbed(task, training=False, seed=config.train.seed, buffers=False), torch.no_grad():
        return task.evaluate(split, evaluator)


class RankEvaluator:
    """The `Evaluator` that the engine gives to `Task.evaluate`: each rank takes one stretch of the data set.

    Args:
        run: device and precision.
        batch_size: where a call names none.
        num_workers: loader processes per rank.
    """

    def __init__(self, run: Run, batch_size: int, num_workers: int) -> None:
        self._run = run
        self._batch_size = batch_size
        self._num_workers = num_workers

    def shard(self, length: int) -> range:
        """Return the indices, of `length`, that this rank sees in `map`."""
        return range(length * rank() // world_size(), length * (rank() + 1) // world_size())

    def map(
        self,
        dataset: Dataset,
        step: Callable[[Batch], dict[str, Any]],
        collate: Collate,
        batch_size: int | None = None,
        gather: bool = True,
    ) -> dict[str, Any]:
        """Return what `step` gave for every item, joined in the order of the data set. See `elip.task.Evaluator`."""
        length, batch_size = len(dataset), batch_size or self._batch_size  # type: ignore[arg-type]
        share = self.shard(length)
        parts: dict[str, list[Any]] = {}
        rounds = -(-length // (world_size() * batch_size))
        with torch.no_grad(), self._run.autocast():
            for batch in self._batches(dataset, collate, share, batch_size, rounds):
                for name, value in step(to_device(batch, self._run.device)).items():
                    parts.setdefault(name, []).append(value)
        joined = self._complete({name: _join(values) for name, values in parts.items()})
        for name, rows in joined.items():
            assert len(rows) == len(share), f"{name}: {len(rows)} rows for {len(share)} items"
        return {name: _gather(rows) for name, rows in joined.items()} if gather else joined

    def _batches(
        self, dataset: Dataset, collate: Collate, share: range, batch_size: int, rounds: int
    ) -> Iterator[Batch]:
        """Yield this rank's batches, at most one in each of the rounds before which all ranks ask whether to stop."""
        num_batches = -(-len(share) // batch_size)
        workers = max(0, min(self._num_workers, num_batches - 1))  # one batch is read sooner than a worker starts
        batches = read_batches(dataset, collate, workers, self._run.device, sampler=share, batch_size=batch_size)
        with closing(batches):
            for _ in range(rounds):
                if self._run.must_stop():
                    raise EvaluationStopped
                yield from islice(batches, 1)

    def _complete(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Return `rows` with empty ones for all names if this rank had no item while others had."""
        if not is_distributed():
            return rows
        layouts = next(filter(None, gather_objects({name: _layout(value) for name, value in rows.items()})), {})
        return rows or {name: self._no_rows(layout) for name, layout in layouts.items()}

    def _no_rows(self, layout: Layout) -> Any:
        if layout is None:
            return []
        dtype, trailing = layout
        return torch.empty(0, *trailing, dtype=dtype, device=self._run.device)


def _join(parts: list[Any]) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else list(chain.from_iterable(parts))


def _layout(rows: Any) -> Layout:
    return (rows.dtype, rows.shape[1:]) if isinstance(rows, Tensor) else None


def _gather(rows: Any) -> Any:
    if isinstance(rows, Tensor):
        return gather_rows(rows).cpu()
    return list(chain.from_iterable(gather_objects(rows)))
