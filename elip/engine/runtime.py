"""Where a run happens: device, processes, precision, random state, output folder, signals.

All that the toolkit knows of devices and of torchrun's environment is in this file.
"""

import logging
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch.amp import GradScaler

from elip.config.schema import RunConfig
from elip.distributed import rank
from elip.engine.files import writing
from elip.engine.rng import seed_everything
from elip.errors import ConfigError

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class Run:
    """The place of a run, as `start_run` gives it.

    Args:
        device: of this process.
        output_dir: folder of the run, which exists and takes files.
        precision: arithmetic of forward passes.
        stop_signal: name of the signal that asked this process to stop, if one did.
    """

    device: torch.device
    output_dir: Path
    precision: torch.dtype = torch.float32
    stop_signal: str | None = field(default=None, init=False)

    def autocast(self) -> torch.autocast:
        """Return a context under which forward passes use the run's precision."""
        return torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision is not torch.float32)

    def grad_scaler(self) -> GradScaler:
        """Return the scaler that keeps fp16 gradients from vanishing; it does nothing in other precisions."""
        return GradScaler(self.device.type, enabled=self.precision is torch.float16)


@contextmanager
def start_run(config: RunConfig) -> Iterator[Run]:
    """Return a context with everything ready to train or evaluate, alone or as one process of torchrun.

    SIGTERM and SIGUSR1 do not end the process while it lasts: they set `Run.stop_signal`.

    Raises:
        ConfigError: `train.device` names a device that is not here.
        ElipError: `output_dir` cannot be made or written to.
    """
    device = _choose_device(config.train.device)
    output_dir = _prepare_folder(Path(config.output_dir))
    run = Run(device, output_dir, _PRECISIONS[config.train.precision])
    with _process_group(device), _signals(run):
        _set_up_messages()
        seed_everything(config.train.seed + rank())
        yield run


def _choose_device(name: str) -> torch.device:
    cuda = torch.cuda.is_available()
    if name == "auto":
        name = "cuda" if cuda else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"train.device: {name!r} is no device. Use auto, cpu, cuda or cuda:NUMBER.") from error
    if device.type != "cuda":
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


def _prepare_folder(folder: Path) -> Path:
    """Make the folder and try whether it takes a file, in the one process that will write there."""
    if int(os.environ.get("RANK", "0")) == 0:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(b"\0" * 4096)
    return folder


@contextmanager
def _process_group(device: torch.device) -> Iterator[None]:
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if alone or dist.is_initialized():  # a group that is there is used, and left to who made it
        yield
        return
    # gloo beside nccl: small facts about Python objects are exchanged without a detour over the device
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def _signals(run: Run) -> Iterator[None]:
    def ask_to_stop(number: int, _frame: FrameType | None) -> None:
        run.stop_signal = signal.Signals(number).name

    before = {number: signal.signal(number, ask_to_stop) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_up_messages() -> None:
    """Send messages of the first process to stderr, and of the others only errors; leaves a set-up logging alone."""
    logging.basicConfig(level=logging.INFO if rank() == 0 else logging.ERROR, format="%(asctime)s %(message)s")
