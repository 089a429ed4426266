"""`log.jsonl`, the log of a run for programs: one JSON object a line, each with the `step` that it is of."""

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from elip.atomic import write_atomically, writing
from elip.errors import ElipError

LOG_NAME = "log.jsonl"

Entry = dict[str, Any]

logger = logging.getLogger(__name__)


def read_log(folder: Path) -> list[Entry]:
    """Return the entries of a run's log, in order; lines that are none are passed over, and a missing log is empty.

    Raises:
        ElipError: it cannot be read.
    """
    return [entry for entry in map(_parse, _lines(folder / LOG_NAME)) if entry is not None]


def cut(folder: Path, step: int) -> None:
    """Drop from a run's log what it says of steps after `step`, and lines that are no entries.

    Such lines come from a loss of power, a full disk or an editor. They are told, but for a last one without an end,
    which any kill may leave.

    Raises:
        ElipError: the log cannot be read or written.
    """
    path = folder / LOG_NAME
    lines = _lines(path)
    entries = [_parse(line) for line in lines]
    odd = [number for number, (line, entry) in enumerate(zip(lines, entries, strict=True), 1) if line and not entry]
    if odd and odd[-1] == len(lines):  # after the last line's end there is nothing
        del odd[-1]
    if odd:
        logger.warning(f"{path}: lines that are no entries are dropped: {len(odd)}, the first of them line {odd[0]}")
    kept = [line for line, entry in zip(lines, entries, strict=True) if entry is not None and entry["step"] <= step]
    if kept != lines[:-1] or lines[-1]:
        write_atomically(path, lambda file: file.write(b"".join(line + b"\n" for line in kept)))


class LogFile:
    """Appends to a run's log; the file is made with the first entry.

    Nothing is held back, so a kill leaves whole lines and closing cannot fail for want of space. A file that someone
    removes during the run is put back with all it held.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG_NAME
        self._descriptor: int | None = None

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry.

        Raises:
            ElipError: the file system does not take it.
        """
        self.make_good()
        with writing(self._path):
            if self._descriptor is None:
                self._descriptor = self._open()
            _write(self._descriptor, json.dumps(entry, allow_nan=False).encode() + b"\n")

    def make_good(self) -> None:
        """Put the file back if it was removed; go on in the new one if it was replaced.

        Raises:
            ElipError: the file system does not take it.
        """
        if self._descriptor is None:
            return
        with writing(self._path):
            try:
                same = os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
            except FileNotFoundError:
                self._put_back(self._descriptor)
                return
            if not same:
                logger.warning(f"{self._path} was replaced during the run: further entries go to the new file")
                os.close(self._descriptor)
                self._descriptor = self._open()

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with writing(self._path):
                os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)

    def _put_back(self, old: int) -> None:
        """Write what a file held that has no name any more to a new one in its place."""
        held = os.pread(old, os.fstat(old).st_size, 0)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = self._open()
        _write(self._descriptor, held)
        os.close(old)
        logger.warning(f"{self._path} was removed during the run: it is there again, with all its entries")


class JsonLines:
    """`log.jsonl`: one object a line, `event` train or eval, figures in full precision, null where not finite."""

    def __init__(self, folder: Path, start: int) -> None:
        cut(folder, start)
        self._folder, self._file = folder, LogFile(folder)

    def train(self, entry: Mapping[str, Any]) -> None:
        self._file.append(_finite(entry))

    def evaluation(self, step: int, split: str, metrics: Mapping[str, float], sheets: Mapping[str, np.ndarray]) -> None:
        self._file.append({"event": "eval", "step": step, "split": split, "metrics": _finite(metrics)})

    def entries(self) -> list[Entry]:
        """Return what is in the file."""
        self._file.make_good()
        return read_log(self._folder)

    def close(self) -> None:
        self._file.close()


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _lines(path: Path) -> list[bytes]:
    """Return the lines of a file without their ends, then what comes after the last end; one empty one for no file."""
    if not path.exists():
        return [b""]
    if not path.is_file():
        raise ElipError(f"{path} is not a file. Move it out of the way, or choose another folder with output_dir=...")
    try:
        return path.read_bytes().split(b"\n")
    except OSError as error:
        raise ElipError(
            f"cannot read {path}: {error.strerror}. Make it readable, or move it out of the way."
        ) from error


def _parse(line: bytes) -> Entry | None:
    """Return the entry that a line holds, or None if it holds none."""
    try:
        entry = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and _is_entry(entry) else None


def _is_entry(entry: Entry) -> bool:
    """Return whether an object is what a run writes of a training step, or of an evaluation."""
    step = entry.get("step")
    if type(step) is not int or step <= 0:
        return False
    if entry.get("event") == "eval":
        metrics = entry.get("metrics")
        return isinstance(entry.get("split"), str) and isinstance(metrics, dict) and _are_figures(metrics)
    return entry.get("event") == "train" and _are_figures({k: v for k, v in entry.items() if k != "event"})


def _are_figures(values: Mapping[str, Any]) -> bool:
    return all(value is None or (isinstance(value, int | float) and value is not True) for value in values.values())


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures with null for NaN and infinities, which JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
