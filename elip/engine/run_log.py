"""What a run writes for people and programs to follow it: JSON-lines, TensorBoard, a progress bar or plain lines.

Only the first process writes. Training reads none of it back, so it never changes what a run computes.
"""

import logging
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from elip.distributed import rank
from elip.engine.log_file import JsonLines
from elip.engine.step import StepReport
from elip.engine.tensorboard import TensorBoard
from elip.errors import ElipError

_MIB = 2**20

logger = logging.getLogger(__name__)


class Sink(Protocol):
    """A place that log entries go to."""

    def train(self, entry: Mapping[str, Any]) -> None:
        """Take the figures of one training step."""
        ...

    def evaluation(self, step: int, split: str, metrics: Mapping[str, float], sheets: Mapping[str, np.ndarray]) -> None:
        """Take the outcome of one evaluation."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


class RunLog:
    """The log of one training run, from `start` on; entries of later steps, left by a killed run, are cut away.

    Args:
        folder: the run's; must hold `config.yaml` already.
        start: steps done before.
        total_steps: steps of the whole run.
        steps_per_epoch: to tell the epoch.
        samples_per_step: over all ranks, to tell the speed.
        every: steps between two entries; the first and the last step always have one.
        figures: gives more to log, by name; called for each entry.
    """

    def __init__(
        self,
        folder: Path,
        start: int,
        total_steps: int,
        steps_per_epoch: int,
        samples_per_step: int,
        every: int,
        figures: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        self._start, self._total_steps, self._steps_per_epoch = start, total_steps, steps_per_epoch
        self._samples_per_step, self._every = samples_per_step, every
        self._figures = figures
        self._console = Console(start, total_steps)
        self._sinks: list[Sink] = [*(_files(folder, start) if rank() == 0 else []), self._console]
        self._clock = _Clock()
        self._logged = start

    def train(self, step: int, lr: float, report: StepReport, skipped: int) -> None:
        """Show step number `step` (1 for the first), and log it if it is due.

        Args:
            skipped: broken samples passed over since the run began.
        """
        speed = (step - self._logged) * self._samples_per_step / self._clock.since_lap()
        self._console.tick(report.loss, lr, speed)
        if step % self._every and step not in (1, self._total_steps):
            return
        self._logged = step
        self._clock.lap()
        with self.pause():
            figures = self._figures()
        entry = {
            "event": "train",
            "step": step,
            "epoch": (step - 1) // self._steps_per_epoch,
            "lr": lr,
            "loss": report.loss,
            **report.losses,
            **report.logs,
            **figures,
            "grad_norm": report.grad_norm,
            "skipped": skipped,
            "images_per_second": speed,
            "seconds": self._clock.total(),
            **_peak_memory(),
        }
        for sink in self._sinks:
            sink.train(entry)

    def evaluation(self, step: int, split: str, metrics: Mapping[str, float], sheets: Mapping[str, np.ndarray]) -> None:
        """Log the outcome of an evaluation after `step` steps."""
        for sink in self._sinks:
            sink.evaluation(step, split, metrics, sheets)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Return a context whose time does not count for the speed of training."""
        with self._clock.stopped():
            yield

    def close(self) -> None:
        """Write what is still held back, and close all files; where some fail, the others are closed, too.

        Raises:
            ElipError: the first that failed.
        """
        failures = list(filter(None, map(_failure_to_close, self._sinks)))
        for further in failures[1:]:
            logger.warning("%s", further)
        if failures:
            raise failures[0]

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        """Close; where an error ends the run, that is the one to be told, and a failure to close a line of the log."""
        try:
            self.close()
        except ElipError as failure:
            if error is None:
                raise
            if str(failure) != str(error):
                logger.warning("%s", failure)


class Console:
    """A progress bar on a terminal, a plain line for each entry elsewhere."""

    def __init__(self, start: int, total_steps: int) -> None:
        self._bar = tqdm(
            initial=start,
            total=total_steps,
            unit="step",
            dynamic_ncols=True,
            disable=rank() > 0 or not sys.stderr.isatty(),
        )
        self._start, self._total_steps = start, total_steps
        self._stack = ExitStack()
        if not self._bar.disable:
            self._stack.enter_context(logging_redirect_tqdm())

    def tick(self, loss: float, lr: float, speed: float) -> None:
        """Move the bar one step on; where the terminal is gone, training goes on without."""
        try:
            self._bar.set_postfix_str(f"loss {loss:.4f}, lr {lr:.2e}, {speed:.1f} images/s", refresh=False)
            self._bar.update()
        except OSError:
            self._bar.disable = True

    def train(self, entry: Mapping[str, Any]) -> None:
        if not self._bar.disable:
            return
        step = entry["step"]
        left = timedelta(seconds=round(entry["seconds"] / (step - self._start) * (self._total_steps - step)))
        logger.info(
            f"step {step}/{self._total_steps}, epoch {entry['epoch']}: loss {entry['loss']:.4f}, lr {entry['lr']:.2e}, "
            f"{entry['images_per_second']:.1f} images/s, {left} left"
        )

    def evaluation(self, step: int, split: str, metrics: Mapping[str, float], sheets: Mapping[str, np.ndarray]) -> None:
        logger.info(f"step {step}, {split}: " + ", ".join(f"{name} {value:.2f}" for name, value in metrics.items()))

    def close(self) -> None:
        with suppress(OSError):  # of a terminal that is gone
            self._bar.close()
        self._stack.close()


class _Clock:
    """Seconds of training, without pauses: in all, and since the last lap."""

    def __init__(self) -> None:
        self._begin = self._lap = time.perf_counter()

    def total(self) -> float:
        return time.perf_counter() - self._begin

    def since_lap(self) -> float:
        return max(time.perf_counter() - self._lap, 1e-9)

    def lap(self) -> None:
        self._lap = time.perf_counter()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        before = time.perf_counter()
        yield
        pause = time.perf_counter() - before
        self._begin += pause
        self._lap += pause


def _files(folder: Path, start: int) -> list[Sink]:
    json_lines = JsonLines(folder, start)
    return [TensorBoard(folder, start, json_lines.entries), json_lines]  # so that the entries are all earlier ones


def _failure_to_close(sink: Sink) -> ElipError | None:
    try:
        sink.close()
    except ElipError as failure:
        return failure
    return None


def _peak_memory() -> dict[str, float]:
    """Return the most memory used so far, in MiB, under a name that says of what."""
    if torch.cuda.is_initialized():
        return {"memory_cuda_peak_mib": torch.cuda.max_memory_allocated() / _MIB}
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return {"memory_process_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB}
