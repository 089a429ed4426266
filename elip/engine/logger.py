"""What a run writes for people and programs to follow it: JSON-lines, TensorBoard, a progress bar or plain lines.

Only the first process writes. Training reads none of it back, so it never changes what a run computes.
"""

import json
import logging
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from elip.distributed import rank
from elip.engine.files import write_atomically, writing
from elip.engine.step import StepReport

LOG_NAME = "log.jsonl"

_MIB = 2**20
_logger = logging.getLogger(__name__)


class Sink(Protocol):
    """A place that log entries go to."""

    def train(self, entry: Mapping[str, Any]) -> None:
        """Take the figures of one training step."""
        ...

    def evaluation(
        self, step: int, split: str, metrics: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
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
        self._sinks: list[Sink] = [JsonLines(folder, start), TensorBoard(folder, start)] if rank() == 0 else []
        self._console = Console(start, total_steps)
        self._sinks.append(self._console)
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

    def evaluation(
        self, step: int, split: str, metrics: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        """Log the outcome of an evaluation after `step` steps."""
        for sink in self._sinks:
            sink.evaluation(step, split, metrics, pictures)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Return a context whose time does not count for the speed of training."""
        with self._clock.stopped():
            yield

    def close(self) -> None:
        """Close all files."""
        for sink in self._sinks:
            sink.close()


class JsonLines:
    """`log.jsonl`: one object a line, `event` train or eval, figures in full precision, null where not finite."""

    def __init__(self, folder: Path, start: int) -> None:
        self._path = folder / LOG_NAME
        _cut(self._path, start)
        with writing(self._path):
            self._file = self._path.open("a", encoding="utf-8", buffering=1)  # whole lines, so that a kill leaves them

    def train(self, entry: Mapping[str, Any]) -> None:
        self._write(_finite(entry))

    def evaluation(
        self, step: int, split: str, metrics: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        self._write({"event": "eval", "step": step, "split": split, "metrics": _finite(metrics)})

    def close(self) -> None:
        self._file.close()

    def _write(self, entry: Mapping[str, Any]) -> None:
        with writing(self._path):
            self._file.write(json.dumps(entry, allow_nan=False) + "\n")


class TensorBoard:
    """Event files under `tensorboard/`: the config as text, every figure, the pictures of evaluations."""

    def __init__(self, folder: Path, start: int) -> None:
        with writing(folder):
            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)
        config = (folder / "config.yaml").read_text(encoding="utf-8")
        self._writer.add_text("config", f"```yaml\n{config}```", start)

    def train(self, entry: Mapping[str, Any]) -> None:
        for name, value in entry.items():
            if name not in ("event", "step"):
                self._writer.add_scalar(f"train/{name}", value, entry["step"])

    def evaluation(
        self, step: int, split: str, metrics: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"{split}/{name}", value, step)
        for name, picture in pictures.items():
            self._writer.add_image(f"{split}/{name}", picture, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


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
        """Move the bar one step on."""
        self._bar.set_postfix_str(f"loss {loss:.4f}, lr {lr:.2e}, {speed:.1f} images/s", refresh=False)
        self._bar.update()

    def train(self, entry: Mapping[str, Any]) -> None:
        if not self._bar.disable:
            return
        step = entry["step"]
        left = timedelta(seconds=round(entry["seconds"] / (step - self._start) * (self._total_steps - step)))
        _logger.info(
            f"step {step}/{self._total_steps}, epoch {entry['epoch']}: loss {entry['loss']:.4f}, lr {entry['lr']:.2e}, "
            f"{entry['images_per_second']:.1f} images/s, {left} left"
        )

    def evaluation(
        self, step: int, split: str, metrics: Mapping[str, float], pictures: Mapping[str, np.ndarray]
    ) -> None:
        _logger.info(f"step {step}, {split}: " + ", ".join(f"{name} {value:.2f}" for name, value in metrics.items()))

    def close(self) -> None:
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


def _cut(path: Path, step: int) -> None:
    """Drop what `path` says of steps after `step`, and a last line that was not written to its end."""
    if not path.exists():
        return
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _is_complete(line, step)]
    text = "".join(f"{line}\n" for line in kept)
    write_atomically(path, lambda file: file.write(text.encode()))


def _is_complete(line: str, step: int) -> bool:
    try:
        return 0 < json.loads(line)["step"] <= step
    except json.JSONDecodeError:
        return False


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures with null for NaN and infinities, which JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}


def _peak_memory() -> dict[str, float]:
    """Return the most memory used so far, in MiB, under a name that says of what."""
    if torch.cuda.is_initialized():
        return {"memory_cuda_peak_mib": torch.cuda.max_memory_allocated() / _MIB}
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    return {"memory_process_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB}
