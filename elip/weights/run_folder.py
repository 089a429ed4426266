"""The checkpoints in the folder of a run: their names, which is the best and which the last, and what is in one."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from elip.errors import CheckpointError, shorten
from elip.weights.reading import DamagedError, read_pickled, refuse_url

BEST = "best.pt"

_NAME = re.compile(r"checkpoint-(\d{8,})\.pt")


def path_at(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` lies."""
    return folder / f"checkpoint-{step:08d}.pt"


def step_of(path: Path) -> int | None:
    """Return the step in the name of a checkpoint, None for other files (the best one among them)."""
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else None


def in_order(folder: Path) -> list[Path]:
    """Return the numbered checkpoints in `folder`, by step."""
    steps = {path: step_of(path) for path in folder.glob("checkpoint-*.pt")}
    return sorted((path for path, step in steps.items() if step is not None), key=lambda path: steps[path] or 0)


def latest(folder: Path) -> Path | None:
    """Return the checkpoint of the highest step in `folder`, if there is one."""
    return next(reversed(in_order(folder)), None)


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


def require(path: Path) -> None:
    """Raise an error that lists the checkpoints of the folder unless there is something at `path`."""
    refuse_url(path)
    if not os.path.lexists(path):
        there = ", ".join(p.name for p in in_order(path.parent)) if os.path.isdir(path.parent) else ""
        raise CheckpointError(f"there is no checkpoint {path}." + (f" In that folder are: {there}." if there else ""))


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
    step, model = contents["step"], contents["model"]
    if type(step) is not int or step < 0:
        raise odd(path, "step", step, "the number of steps done")
    if not isinstance(contents["config"], Mapping):
        raise odd(path, "config", contents["config"], "the config of the run")
    if not isinstance(model, Mapping) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in model.items()
    ):
        raise odd(path, "model", model, "tensors by name")
    return contents


def read(path: Path) -> dict[str, Any]:
    """Return what a pickled file holds, on the CPU; a dict, made of tensors and plain values only.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds something else.
    """
    require(path)
    try:
        return read_pickled(path)
    except DamagedError as error:
        raise DamagedError(f"{error}{_way_out(path)}") from error


def odd(path: Path, key: str, value: Any, expected: str) -> DamagedError:
    """Return the error for an entry of a checkpoint that is not as runs write it."""
    return DamagedError(
        f"{path} is no whole checkpoint: its entry {key!r} should be {expected}, but is {shorten(value)}."
        f"{_way_out(path)}"
    )


def _way_out(path: Path) -> str:
    """Return advice on which other checkpoint to use instead of the damaged `path`."""
    step = step_of(path)
    earlier = [p for p in in_order(path.parent) if step is None or (step_of(p) or 0) < step]
    if earlier:
        return f" Use the one before: {earlier[-1]}"
    return " No earlier one lies beside it: copy it again from where it came from, or start anew."
