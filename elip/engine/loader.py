"""The batches of training and evaluation: which samples, in which order, read by whom.

The order of training is a pure function of seed and epoch, so any step of any epoch can be the first one: nothing is
read to get there.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from itertools import count, islice, repeat
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from elip.config.schema import RunConfig
from elip.data.datasets import SampleKey
from elip.distributed import rank, world_size
from elip.errors import DataError, ElipError
from elip.task import Batch

Collate = Callable[[list[Any]], Batch]

_GRACE_SECONDS = 60
logger = logging.getLogger(__name__)


@runtime_checkable
class TrainStream(Protocol):
    """A training set that is read in sequence: an `IterableDataset` that splits itself over ranks and loader workers.

    The loader takes whole batches from its workers in turn, from worker 0 on after each `start`.
    """

    def __len__(self) -> int:
        """Return the samples that each rank can draw in an epoch."""
        ...

    def start(self, epoch: int, consumed: int = 0) -> None:
        """Let the next iteration begin in `epoch`, after the `consumed` samples that this rank has used of it."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """Yield this rank's and worker's samples from there on."""
        ...


class EpochOrder(Sampler[list[SampleKey]]):
    """This rank's batches of a span of training, step after step over the epochs.

    An epoch is a permutation of the samples, cut into steps of accumulate x ranks x batch size; what is left over at
    its end is dropped. Within a step, each forward pass takes one batch for each rank in turn.

    Args:
        num_samples: size of the training set.
        batch_size: samples per rank and forward pass.
        accumulate: forward passes per step.
        seed: of the permutations, the same on all ranks.
        start: first step, counted over all epochs.
        stop: step before which to end.
    """

    def __init__(
        self, num_samples: int, batch_size: int, accumulate: int, seed: int, start: int = 0, stop: int = sys.maxsize
    ) -> None:
        self._num_samples = num_samples
        self._batch_size = batch_size
        self._accumulate = accumulate
        self._seed = seed
        self._span = range(start, stop)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        per_pass = self._batch_size * world_size()
        per_step = per_pass * self._accumulate
        steps_per_epoch = self._num_samples // per_step
        current = -1
        for step in self._span:
            epoch, step_in_epoch = divmod(step, steps_per_epoch)
            if epoch != current:
                order, current = self._permutation(epoch), epoch
            first = step_in_epoch * per_step + rank() * self._batch_size
            for begin in range(first, first + per_step, per_pass):
                yield [SampleKey(epoch, int(index)) for index in order[begin : begin + self._batch_size]]

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self._seed, epoch)).permutation(self._num_samples)


class TrainLoader:
    """Training batches from any step on.

    Args:
        dataset: `Task.train_dataset()`, or a `TrainStream`.
        collate: joins samples to a batch; runs in the workers.
        config: its `train` and `data` sections.
        device: batches are pinned for it.

    Attributes:
        num_workers: loader processes; may be changed before the first batch.
        num_samples: in an epoch, of all ranks.
    """

    def __init__(self, dataset: Dataset, collate: Collate, config: RunConfig, device: torch.device) -> None:
        self._dataset = dataset
        self._collate = collate
        self._train = config.train
        self.num_workers = usable_workers(config.data.num_workers)
        if self.num_workers < config.data.num_workers:
            logger.info(
                f"data.num_workers={config.data.num_workers} is more than the CPUs that each process may use here; "
                f"{self.num_workers} loader processes are started for each"
            )
        self._device = device
        self.num_samples = len(dataset)  # type: ignore[arg-type]  # both kinds have a length
        if isinstance(dataset, TrainStream):
            self.num_samples *= world_size()
        self.samples_per_step = self._train.batch_size * self._train.accumulate * world_size()
        self.steps_per_epoch = self.num_samples // self.samples_per_step
        if self.steps_per_epoch == 0:
            raise DataError(
                f"data.train: {self.num_samples} samples are fewer than the {self.samples_per_step} of one step "
                f"(train.batch_size {self._train.batch_size} x train.accumulate {self._train.accumulate} x "
                f"{world_size()} processes). Lower train.batch_size, or give more data."
            )

    @property
    def is_stream(self) -> bool:
        """Whether the data set is a `TrainStream`, whose order depends on batch size and number of workers."""
        return isinstance(self._dataset, TrainStream)

    def batches(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """Yield this rank's batches of steps `start` to `stop` - 1, `accumulate` of them a step."""
        if isinstance(self._dataset, TrainStream):
            yield from self._stream(start, stop)
            return
        train = self._train
        order = EpochOrder(self.num_samples, train.batch_size, train.accumulate, train.seed, start, stop)
        yield from self._read(batch_sampler=order)

    def _stream(self, start: int, stop: int) -> Iterator[Batch]:
        assert isinstance(self._dataset, TrainStream)
        while start < stop:
            epoch, done = divmod(start, self.steps_per_epoch)
            steps = min(stop - start, self.steps_per_epoch - done)
            wanted = steps * self._train.accumulate
            self._dataset.start(epoch, done * self._train.accumulate * self._train.batch_size)
            number = 0
            for batch in islice(self._read(batch_size=self._train.batch_size, drop_last=True), wanted):
                yield batch
                number += 1
            if number < wanted:
                raise DataError(
                    f"data.train: process {rank()} got {number} batches for the rest of epoch {epoch}, of {wanted} "
                    "that the length of its stream promises."
                )
            start += steps

    def _read(self, **sampling: Any) -> Iterator[Batch]:
        return read_batches(self._dataset, self._collate, self.num_workers, self._device, **sampling)


def samples_in_turn(dataset: Dataset, seed: int) -> Iterator[Any]:
    """Yield samples of a training set one by one and without end, in an order of training, loaded by this process.

    For who wants to know what a sample takes: nothing runs beside it, and no batch is made of them.

    Args:
        dataset: `Task.train_dataset()`, or a `TrainStream`.
        seed: of the order; streams have their own.

    Raises:
        ElipError: from the data set.
    """
    if isinstance(dataset, TrainStream):
        for epoch in count():
            dataset.start(epoch)
            yield from dataset  # type: ignore[misc]  # the protocol has `__iter__`
    for (key,) in EpochOrder(len(dataset), 1, 1, seed):  # type: ignore[arg-type]  # it has a length
        yield dataset[key]


def usable_workers(most: int) -> int:
    """Return how many loader processes to start: at most `most`, and no more than this process has CPUs for.

    The CPUs that the machine lends to this process are shared by the processes that torchrun started on it.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(most, max(1, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def read_batches(
    dataset: Dataset, collate: Collate, num_workers: int, device: torch.device, **sampling: Any
) -> Generator[Batch, None, None]:
    """Yield the batches of a `DataLoader` whose workers report an `ElipError` in its own words.

    The loader draws nothing from the global random state, and its workers are gone when the iteration is closed.

    Args:
        sampling: what `DataLoader` takes to choose samples: `batch_sampler`, or `sampler` and `batch_size`, ...
    """
    guarded = _GuardedStream(dataset) if isinstance(dataset, IterableDataset) else _GuardedDataset(dataset)
    loader = DataLoader(
        guarded,
        collate_fn=_GuardedCollate(collate),
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_outlive_signals,
        generator=torch.Generator(),
        # forked workers share the data set and the task behind `collate` with this process instead of copying them
        multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
        **sampling,
    )
    iterator = iter(loader)
    try:
        for batch in iterator:
            if isinstance(batch, ElipError):
                raise batch
            yield batch
    finally:
        if num_workers:
            iterator._shutdown_workers()  # type: ignore[attr-defined]  # else they live on while a traceback does


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return the batch with its tensors on `device`."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


class _GuardedDataset(Dataset):
    """A data set that hands over an `ElipError` instead of raising it: `DataLoader` would wrap it in a traceback."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._dataset[key]
        except ElipError as error:
            return error


class _GuardedStream(IterableDataset):
    """The same for a stream, which ends in errors without number so that one fills a batch and is not dropped."""

    def __init__(self, stream: IterableDataset) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._stream
        except ElipError as error:
            yield from repeat(error)


class _GuardedCollate:
    """Collation that passes on the first error among the samples, or its own, in place of a batch."""

    def __init__(self, collate: Collate) -> None:
        self._collate = collate

    def __call__(self, samples: list[Any]) -> Batch | ElipError:
        for sample in samples:
            if isinstance(sample, ElipError):
                return sample
        try:
            return self._collate(samples)
        except ElipError as error:
            return error


def _outlive_signals(_worker: int) -> None:
    """Keep this worker alive when the whole job is told to stop, until the trainer has finished its step and saved.

    A terminal sends its Ctrl-C to all processes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
