"""Checkpoints: everything a run needs to go on at the next step, in one file that says what it is.

A file is a dict of tensors and plain values, so it loads with `weights_only`: keys `config` (the resolved config),
`model`, `optimizer`, `scaler`, `step`, `epoch`, `steps_per_epoch`, `total_steps`, `next_lr` (rate of
the next step), `data` (see `elip.engine.continuity`), `rng` (one entry per process), `skipped`, `evaluated` and `best`.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from elip.atomic import write_atomically, writing
from elip.distributed import share
from elip.errors import CheckpointError, ElipError
from elip.weights.run_folder import BEST, in_order, latest, load, require, step_of


def saved_step(path: Path) -> int | None:
    """Return the step that a checkpoint holds, None if it cannot be read."""
    try:
        return load(path)["step"]
    except CheckpointError:
        return None


def save(path: Path, contents: Mapping[str, Any]) -> None:
    """Write a checkpoint; what was at `path` stays until the new file is complete."""
    try:
        write_atomically(path, lambda file: torch.save(dict(contents), file))
    except ElipError as error:
        raise CheckpointError(f"{error} Earlier checkpoints are untouched.") from error


def keep_last(folder: Path, count: int) -> None:
    """Delete the numbered checkpoints in `folder` but for the last `count`."""
    for path in in_order(folder)[:-count]:
        with writing(path):
            path.unlink(missing_ok=True)


def set_aside_later(folder: Path, step: int) -> list[Path]:
    """Rename checkpoints beyond `step`, so that a run which goes on from there does not take them for its own.

    So is a best one that is damaged: the run can do without.

    Returns their new names.
    """
    later = [path for path in in_order(folder) if (step_of(path) or 0) > step]
    best = folder / BEST
    if best.is_file() and (saved_step(best) or math.inf) > step:
        later.append(best)
    return [path.rename(path.with_name(f"{path.name}.abandoned")) for path in later]


def starting_point(folder: Path, resume: bool | Path) -> Path | None:
    """Return the checkpoint that a run in `folder` goes on from, on every process; None for one that starts anew.

    Args:
        folder: output folder of the run.
        resume: go on from the last checkpoint in there, or from the given one (a folder: its last).

    Raises:
        ElipError: there is no such checkpoint, or a run that starts anew finds another one's there.
    """
    given = resume if isinstance(resume, Path) else None
    if given is not None and not os.path.isdir(given):
        require(given)
        return given
    last = share(latest(given or folder))
    if resume is False and last is not None:
        raise ElipError(
            f"{folder} holds a run already (its last checkpoint is {last.name}). Go on with it by --resume, or choose "
            "another folder with output_dir=..."
        )
    if resume is not False and last is None:
        raise CheckpointError(f"there is no checkpoint in {given or folder} to go on from. Start without --resume.")
    return last


def changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return in words which keys of two configs differ: "optim.lr was 0.1, is 0.2"."""
    words = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            words += changes(old, new, f"{prefix}{key}.")
        elif old != new:
            words.append(f"{prefix}{key} was {old}, is {new}")
    return words
