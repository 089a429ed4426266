"""Evaluators of one process: alone, and as several ranks that take turns. No engine and no second process is needed."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from elip.task.contract import Batch, Evaluator

T = TypeVar("T")
PATIENCE = 300.0
"""Seconds that a rank waits for the others, before it is said that they do not come."""


class LocalEvaluator:
    """The `Evaluator` of a process of its own, or of one of several ranks that meet.

    Args:
        batch_size: items that go through a step together, whatever a call asks for: two, so that joining is a part of
            what is tested.
        meeting: of the ranks; None for one that is alone.
        rank: of this one.
    """

    def __init__(self, batch_size: int = 2, meeting: "Meeting | None" = None, rank: int = 0) -> None:
        self._batch_size = batch_size
        self._meeting = meeting
        self._rank = rank

    def shard(self, length: int) -> range:
        """Return the indices, of `length`, that this rank sees in `map`."""
        size = 1 if self._meeting is None else self._meeting.size
        return range(length * self._rank // size, length * (self._rank + 1) // size)

    @torch.no_grad()
    def map(
        self,
        dataset: Dataset,
        step: Callable[[Batch], dict[str, Any]],
        collate: Callable[[list[Any]], Batch],
        batch_size: int | None = None,
        gather: bool = True,
    ) -> dict[str, Any]:
        """Return what `step` gave for every item, joined in the order of the data set. See `elip.task.Evaluator`."""
        share = self.shard(len(dataset))  # type: ignore[arg-type]
        starts = range(share.start, share.stop, self._batch_size)
        groups = [range(start, min(start + self._batch_size, share.stop)) for start in starts]
        rows = _joined([step(collate([dataset[index] for index in group])) for group in groups])
        return rows if self._meeting is None or not gather else _joined(self._meeting.exchange(self._rank, rows))


class Meeting:
    """Where ranks of one process wait for each other; between two meetings one of them runs at a time.

    Args:
        size: number of ranks.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.turn = threading.Lock()
        self.barrier = threading.Barrier(size)
        self._brought: list[dict[str, Any]] = [{}] * size

    def exchange(self, rank: int, rows: dict[str, Any]) -> list[dict[str, Any]]:
        """Return what all ranks bring, in their order.

        Raises:
            threading.BrokenBarrierError: another rank has failed, or asks for fewer meetings.
        """
        self._brought[rank] = rows
        self.turn.release()
        try:
            self.barrier.wait(PATIENCE)
            brought = list(self._brought)
            self.barrier.wait(PATIENCE)  # nobody brings the next rows before all have these
        finally:
            self.turn.acquire()
        return brought


def on_ranks(size: int, function: Callable[[Evaluator], T]) -> list[T]:
    """Return what a function of an evaluator gives on each of several ranks, items one by one.

    Raises:
        Exception: what the function raises on the first rank that fails.
    """
    meeting = Meeting(size)
    failures: list[Exception] = []

    def run(rank: int) -> Any:
        with meeting.turn, torch.no_grad():
            try:
                return function(LocalEvaluator(1, meeting, rank))
            except Exception as error:
                failures.append(error)
                return None
            finally:
                if failures:
                    meeting.barrier.abort()

    with ThreadPoolExecutor(size) as pool:
        results = list(pool.map(run, range(size)))
    if failures:
        raise failures[0]
    return results


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    names = next((list(part) for part in parts if part), [])
    return {name: _join([part[name] for part in parts if part]) for name in names}


def _join(rows: list[Any]) -> Any:
    return torch.cat(rows) if isinstance(rows[0], Tensor) else list(chain.from_iterable(rows))
