"""The files that an evaluation leaves: figures, one line per item, sheets."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from elip.atomic import write_atomically, write_text, writing
from elip.errors import ElipError
from elip.task import EvalResult

METRICS, CHANCE, PREDICTIONS, ABOUT = "metrics.json", "chance.json", "predictions.jsonl", "about.json"
SCORES = "scores.json"
"""The parts of the headline metric, item by item: a list of `elip.task.ItemScores`."""
IN_TRAINING = "weights in training"
"""Stands for the name of a checkpoint where a run was evaluated as it trained."""


def write_result(
    result: EvalResult, folder: Path, about: Mapping[str, Any] | None = None, *, sheets: bool = False
) -> None:
    """Write `metrics.json`, and what else the result holds, into `folder`, making it if need be.

    What an earlier evaluation left there goes first, so that nothing of it stands beside these figures. Another process
    that writes there at this moment is waited for.

    Args:
        result: of an evaluation.
        folder: for its files.
        about: how the figures came about, for `about.json`: `checkpoint` (a file's name, or `IN_TRAINING`), `step`,
            `headline`, `reducer` in the evaluation, `vision_gmacs` and `vision_gmacs_dense`, ...
        sheets: whether to write its sheets there, too.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        _write_files(result, folder, about)
        if sheets:
            write_sheets(result.sheets, folder)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Return a context in which no other process writes a result into a folder, where the file system has locks."""
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_files(result: EvalResult, folder: Path, about: Mapping[str, Any] | None) -> None:
    with writing(folder):
        for name in (ABOUT, CHANCE, PREDICTIONS, SCORES):
            (folder / name).unlink(missing_ok=True)
    write_text(folder / METRICS, json.dumps(result.metrics, indent=2) + "\n")
    if about is not None:
        write_text(folder / ABOUT, json.dumps(dict(about), indent=2) + "\n")
    if result.chance:
        write_text(folder / CHANCE, json.dumps(result.chance, indent=2) + "\n")
    if result.scores:
        write_text(folder / SCORES, json.dumps([asdict(part) for part in result.scores], ensure_ascii=False) + "\n")
    for name, content in result.files.items():
        write_text(folder / name, json.dumps(content, ensure_ascii=False) + "\n")
    if result.predictions:
        lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in result.predictions)
        write_text(folder / PREDICTIONS, lines)


def write_sheets(sheets: Mapping[str, np.ndarray], folder: Path, prefix: str = "") -> None:
    """Write each sheet as `folder`/`prefix`NAME.png, making the folder if need be.

    Shape:
        sheets: [H, W, 3] uint8 each
    """
    for name, sheet in sheets.items():
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_sheet(sheet, folder / f"{prefix}{name.replace('/', '-')}.png")


def write_sheet(sheet: np.ndarray, path: Path) -> None:
    """Write one sheet, of the kind that the name ends in.

    Shape:
        sheet: [H, W, 3] uint8
    """
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ElipError(f"cannot write {path}: no pictures are called {path.suffix!r}. Let the name end in .png.")
    write_atomically(path, lambda file: Image.fromarray(sheet).save(file, kind))
