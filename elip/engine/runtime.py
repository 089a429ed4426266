"""Where a run happens: device, processes, precision, random state, output folder, signals.

All that the toolkit knows of devices and of torchrun's environment is in this file.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch.amp import GradScaler

from elip.atomic import remove_stale_parts, writing
from elip.config.schema import RunConfig
from elip.distributed import gather_objects, on_first_rank, rank
from elip.engine.run_lock import RunLock
from elip.errors import ConfigError, Interrupted
from elip.execution import PRECISIONS
from elip.rng import seed_everything

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_PLACES = ("*", "eval/*/*", "sheets/*")
"""Where in its folder a run writes files."""
_STOPPING = "Ctrl-C: finishing this step, then saving; once more stops at once"

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """The place of a run, as `start_run` gives it.

    Args:
        device: of this process.
        output_dir: folder of the run, which exists and takes files.
        precision: arithmetic of forward passes.
        stop_signal: name of the signal that asked this process to stop when it could, if one did.
    """

    device: torch.device
    output_dir: Path
    precision: torch.dtype = torch.float32
    stop_signal: str | None = field(default=None, init=False)
    _saves_first: bool = field(default=False, init=False)
    _lock: RunLock | None = field(default=None, init=False)

    def autocast(self) -> torch.autocast:
        """Return a context under which forward passes use the run's precision."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not torch.float32)

    def grad_scaler(self) -> GradScaler:
        """Return the scaler that keeps fp16 gradients from vanishing; it does nothing in other precisions."""
        return GradScaler(self.device.type, enabled=self.precision is torch.float16)

    @contextmanager
    def saving_first(self) -> Iterator[None]:
        """Return a context in which a signal sets `stop_signal`, for there is a state to save; elsewhere it ends all.

        A second Ctrl-C, or one after another signal, ends the process at once even here.
        """
        self._saves_first = True
        try:
            yield
        finally:
            self._saves_first = False

    def must_stop(self) -> bool:
        """Return whether any process was asked to stop while it has a state to save; all of them must ask together."""
        return self._saves_first and any(gather_objects(self.stop_signal is not None))

    def keep_folder(self) -> None:
        """Make the output folder again if it was removed during the run; for the first process, before it writes.

        Raises:
            ElipError: it cannot be made, or another run is in it now.
        """
        if self.output_dir.is_dir() and (self._lock is None or self._lock.is_in_place):
            return
        logger.warning(
            f"{self.output_dir} was removed or emptied during the run; what was in it is gone, and it is made again"
        )
        with writing(self.output_dir):
            self.output_dir.mkdir(parents=True, exist_ok=True)
        if self._lock is not None:
            self._lock.forget()
            self._lock.acquire()

    def answer(self, number: int) -> None:
        """Do what a signal asks for: note it, or end the process at once.

        Raises:
            Interrupted: there is nothing to save, or Ctrl-C was pressed again.
        """
        again = self.stop_signal is not None
        if (again and number == signal.SIGINT) or not (again or self._saves_first):
            raise Interrupted(number)
        if number == signal.SIGINT and rank() == 0:  # not by print: the signal may have come amid one
            os.write(2, f"{os.linesep if sys.stderr.isatty() else ''}{_STOPPING}{os.linesep}".encode())
        self.stop_signal = signal.Signals(number).name


@contextmanager
def start_run(config: RunConfig, exclusive: bool = False) -> Iterator[Run]:
    """Return a context with everything ready to train or evaluate, alone or as one process of torchrun.

    While it lasts, SIGINT, SIGTERM and SIGUSR1 end the process by an `Interrupted`, or let it save first: see
    `Run.saving_first`.

    Args:
        exclusive: let no other exclusive run into `output_dir` as long as this one lasts.

    Raises:
        ConfigError: `train.device` names a device that is not here.
        ElipError: on every process, if `output_dir` cannot be made or written to, or another run is in it.
    """
    device = _choose_device(config)
    run = Run(device, Path(config.output_dir), PRECISIONS[config.train.precision])
    with _process_group(device), _signals(run):
        _set_up_messages()
        on_first_rank(lambda: _prepare_folder(run.output_dir))
        with _locked(run) if exclusive else nullcontext():
            seed_everything(config.train.seed + rank())
            yield run


def device_of(config: RunConfig) -> torch.device:
    """Return the device that a run of a config takes on this machine; whether it is there, `start_run` finds out."""
    name = config.train.device
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def _choose_device(config: RunConfig) -> torch.device:
    cuda, name = torch.cuda.is_available(), config.train.device
    try:
        device = device_of(config)
    except RuntimeError as error:
        raise ConfigError(f"train.device: {name!r} is no device. Use auto, cpu, cuda or cuda:NUMBER.") from error
    if device.type != "cuda":
        _try_out(device, name)
        return device
    if not cuda:
        raise ConfigError(f"train.device: {name!r} asks for CUDA, but torch sees no CUDA device. Use auto or cpu.")
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"train.device: there is no CUDA device {index}, only {torch.cuda.device_count()} of them. "
            "Start at most as many processes on a machine as it has devices (torchrun --nproc-per-node)."
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _try_out(device: torch.device, name: str) -> None:
    """Raise an error for a device that torch knows by name only, on this machine or at all."""
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError, ImportError, AttributeError) as error:
        raise ConfigError(f"train.device: nothing can be computed on {name!r} here. Use auto, cpu or cuda.") from error


def _prepare_folder(folder: Path) -> None:
    """Make the folder and try whether it takes a file."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Keep other runs out of the output folder, and clear it of files that a killed one left unfinished."""
    lock = run._lock = RunLock(run.output_dir)
    on_first_rank(lock.acquire)
    try:
        on_first_rank(lambda: remove_stale_parts(run.output_dir, _PLACES))
        yield
    finally:
        lock.release()


@contextmanager
def _process_group(device: torch.device) -> Iterator[None]:
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or dist.is_initialized():  # a group that is there is used, and left to who made it
        yield
        return
    # gloo beside nccl: small facts about Python objects are exchanged without a detour over the device
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        if not interrupted:  # else the others may be anywhere, and leaving in good order could wait for them
            dist.destroy_process_group()


@contextmanager
def _signals(run: Run) -> Iterator[None]:
    process = os.getpid()

    def answer(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == process:  # a process forked from this one is not asked
            run.answer(number)

    before = {number: signal.signal(number, answer) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_up_messages() -> None:
    """Send messages of the first process to stderr, and of the others only errors; leaves a set-up logging alone."""
    logging.basicConfig(level=logging.INFO if rank() == 0 else logging.ERROR, format="%(asctime)s %(message)s")
