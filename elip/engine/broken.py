"""The count of broken training samples that were passed over, and its limit."""

import math
from itertools import chain

from elip.distributed import gather_objects
from elip.engine.step import StepReport
from elip.errors import DataError

_LISTED = 5


class BrokenSamples:
    """Broken samples of all ranks since the run began.

    They stop the run when they are more than `max_ratio` of the samples in all epochs begun so far. (Of those seen so
    far would be too strict: the first few batches may have more than their share.)

    Args:
        max_ratio: `data.max_broken_ratio`.
        num_samples: size of the training set.
        steps_per_epoch: of the run.
    """

    def __init__(self, max_ratio: float, num_samples: int, steps_per_epoch: int) -> None:
        self.count = 0
        self._max_ratio = max_ratio
        self._num_samples = num_samples
        self._steps_per_epoch = steps_per_epoch
        self._first: list[str] = []

    def add(self, step: int, report: StepReport) -> None:
        """Count those of step number `step`.

        Raises:
            DataError: on every rank, if they are too many; names the first few since this process started.
        """
        self.count += report.skipped
        self._first = (self._first + report.skipped_here)[:_LISTED]
        epochs = math.ceil(step / self._steps_per_epoch)
        if self.count <= self._max_ratio * self._num_samples * epochs:
            return
        first = list(chain.from_iterable(gather_objects(self._first)))[:_LISTED]
        raise DataError(
            f"data.train: {self.count} broken samples up to step {step}, more than data.max_broken_ratio="
            f"{self._max_ratio} allows of {self._num_samples} an epoch. The first: {'; '.join(first)}. "
            "Mend or remove them, or raise data.max_broken_ratio."
        )
