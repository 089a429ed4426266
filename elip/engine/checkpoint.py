"""Checkpoints: everything a run needs to go on at the next step, in one file that says what it is.

A file is a dict of tensors and plain values, so it loads with `weights_only`: keys `config` (the resolved config),
`model`, `optimizer`, `scaler`, `step`, `epoch`, `steps_per_epoch`, `total_steps`, `next_lr` (rate of
the next step), `data` (see `elip.engine.continuity`), `rng` (one entry per process), `skipped`, `evaluated` and `best`.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elip.atomic import write_atomically, writing
from elip.distributed import share
from elip.errors import CheckpointError, ElipError
from elip.weights.reading import DamagedError, read_pickled

BEST = "best.pt"

_NAME = re.compile(r"checkpoint-(\d{8,})\.pt")
_LISTED = 4


def path_at(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies."""
    return folder / f"checkpoint-{step:08d}.pt"


def step_of(path: Path) -> int | None:
    """Return the step in the name of a checkpoint, None for other files (the best one among them)."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def saved_step(path: Path) -> int | None:
    """Return the step that a checkpoint holds, None if it cannot be read."""
    try:
        return load(path)["step"]
    except CheckpointError:
        return None


def in_order(folder: Path) -> list[Path]:
    """Return the numbered checkpoints in `folder`, by step."""
    steps = {path: step_of(path) for path in folder.glob("checkpoint-*.pt")}
    return sorted((path for path, step in steps.items() if step is not None), key=lambda path: steps[path] or 0)


def latest(folder: Path) -> Path | None:
    """Return the checkpoint of the highest step in `folder`, if there is one."""
    return next(reversed(in_order(folder)), None)


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


def find(path: Path) -> Path:
    """Return the file itself, or the best (else the last) checkpoint in a folder."""
    if not os.path.isdir(path):  # unlike Path.is_dir, for any name
        return path
    best, last = path / BEST, latest(path)
    if best.exists():
        return best
    if last is None:
        raise CheckpointError(f"there is no checkpoint in {path}. Name the output_dir of a run, or a checkpoint file.")
    return last


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
        _require(given)
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


def load(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, on the CPU.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is not one of ours.
    """
    contents = read(path)
    if not {"config", "model", "step"} <= contents.keys():
        raise CheckpointError(
            f"{path} is not a checkpoint of this toolkit. To start from the weights of another one, use --init."
        )
    return contents


def read(path: Path) -> dict[str, Any]:
    """Return what a pickled file holds, on the CPU; a dict, made of tensors and plain values only.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds something else.
    """
    _require(path)
    try:
        return read_pickled(path)
    except DamagedError as error:
        raise DamagedError(f"{error}{_way_out(path)}") from error


def _require(path: Path) -> None:
    """Raise an error that lists the checkpoints of the folder unless there is something at `path`."""
    if not os.path.lexists(path):
        there = ", ".join(p.name for p in in_order(path.parent)) if os.path.isdir(path.parent) else ""
        raise CheckpointError(f"there is no checkpoint {path}." + (f" In that folder are: {there}." if there else ""))


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


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put the weights that were read from `path` into the model.

    Raises:
        CheckpointError: names or shapes differ from the model's.
    """
    own = model.state_dict()
    differing = [
        f"{key} {list(weights[key].shape)}, not {list(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    complaints = [
        _count(differing, "of another shape"),
        _count([key for key in own if key not in weights], "missing"),
        _count([key for key in weights if key not in own], "too many"),
    ]
    if any(complaints):
        raise CheckpointError(
            f"{path} holds another architecture than this config builds: {'; '.join(filter(None, complaints))}. "
            "Use the config that the checkpoint was trained with, or --init to take what fits."
        )
    model.load_state_dict(weights)


def _count(names: Iterable[str], what: str) -> str:
    names = list(names)
    if not names:
        return ""
    more = ", ..." if len(names) > _LISTED else ""
    return f"{len(names)} {what} ({', '.join(names[:_LISTED])}{more})"


def _way_out(path: Path) -> str:
    """Return advice on which other checkpoint to use instead of the damaged `path`."""
    step = step_of(path)
    earlier = [p for p in in_order(path.parent) if step is None or (step_of(p) or 0) < step]
    if earlier:
        return f" Use the one before: {earlier[-1]}"
    return " No earlier one lies beside it: copy it again from where it came from, or start anew."
