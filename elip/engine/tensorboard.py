"""What TensorBoard shows of a run: its config, all figures, the sheets of evaluations."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from elip.atomic import writing
from elip.engine.log_file import Entry
from elip.errors import ElipError

_MAX_NUMBER = 2.0**53
"""Up to here TensorBoard's numbers, which are floating, tell all integers apart."""

logger = logging.getLogger(__name__)


class TensorBoard:
    """Event files under `tensorboard/`: the config as text and as hyper-parameters, all figures, evaluations' sheets.

    A file begins with the first thing to write. One that someone removes during the run is made anew, with all figures;
    sheets are lost with it.

    Args:
        folder: of the run, with its `config.yaml`.
        start: steps done before.
        entries: gives all that was logged before, to make a file anew.
    """

    def __init__(self, folder: Path, start: int, entries: Callable[[], Sequence[Entry]]) -> None:
        self._folder, self._start, self._entries = folder / "tensorboard", start, entries
        self._config = (folder / "config.yaml").read_text(encoding="utf-8")
        self._writer: SummaryWriter | None = None
        self._file: Path | None = None
        self._stack = ExitStack()

    def train(self, entry: Mapping[str, Any]) -> None:
        with self._writing() as writer:
            _add_train(writer, entry)

    def evaluation(self, step: int, split: str, metrics: Mapping[str, float], sheets: Mapping[str, np.ndarray]) -> None:
        with self._writing() as writer:
            _add_scalars(writer, split, metrics, step)
            for name, sheet in sheets.items():
                writer.add_image(f"{split}/{name}", sheet, step, dataformats="HWC")
            writer.flush()

    def close(self) -> None:
        self._writer = None
        with writing(self._folder):
            self._stack.close()

    @contextmanager
    def _writing(self) -> Iterator[SummaryWriter]:
        with writing(self._folder):
            if self._file is not None and not self._file.exists():
                self._start_anew(self._file)
            self._writer = self._writer or self._open(purge_from=self._start + 1)
            yield self._writer

    def _start_anew(self, lost: Path) -> None:
        """Open a file in the place of one that is gone, with all entries of the log."""
        with suppress(ElipError):
            self.close()  # what it still held goes where nobody looks, or is in the log as well
        lost.unlink(missing_ok=True)
        self._writer = self._open(purge_from=1)
        for entry in self._entries():
            if entry.get("event") == "eval":
                _add_scalars(self._writer, entry["split"], entry["metrics"], entry["step"])
            else:
                _add_train(self._writer, entry)
        logger.warning(f"{lost} was removed during the run: there is a new one, without earlier sheets")

    def _open(self, purge_from: int) -> SummaryWriter:
        before = {*self._event_files()}
        self._stack.enter_context(_quiet_writer_thread())
        writer = SummaryWriter(str(self._folder), purge_step=purge_from)
        self._stack.callback(writer.close)
        (self._file,) = {*self._event_files()} - before
        writer.add_text("config", f"```yaml\n{self._config}```", self._start)
        # No list of parameters and metrics: TensorBoard would take the first run's for all, else it joins all runs'.
        _, settings, _ = hparams(hyperparameters(YAML(typ="safe").load(self._config) or {}), {})
        writer.file_writer.add_summary(settings)  # type: ignore[attr-defined]  # declared as None, but there by now
        return writer

    def _event_files(self) -> Iterator[Path]:
        return self._folder.glob("*tfevents*")


def hyperparameters(config: Mapping[str, Any], prefix: str = "") -> dict[str, float | str]:
    """Return a config's values by dotted key: numbers as they are, all else as text; nothing for null."""
    flat: dict[str, float | str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(hyperparameters(value, f"{prefix}{key}."))
        elif isinstance(value, str) or (_is_number(value) and abs(value) < _MAX_NUMBER):
            flat[f"{prefix}{key}"] = value
        elif value is not None:
            flat[f"{prefix}{key}"] = json.dumps(value)
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _add_train(writer: SummaryWriter, entry: Mapping[str, Any]) -> None:
    _add_scalars(writer, "train", {k: v for k, v in entry.items() if k not in ("event", "step")}, entry["step"])


def _add_scalars(writer: SummaryWriter, prefix: str, figures: Mapping[str, float | None], step: int) -> None:
    for name, value in figures.items():
        if value is not None:
            writer.add_scalar(f"{prefix}/{name}", value, step)


@contextmanager
def _quiet_writer_thread() -> Iterator[None]:
    """Return a context in which TensorBoard's thread prints no traceback of what it then raises where it is used."""
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith("tensorboard.")):
            before(failure)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
