"""Checkpoints: everything a run needs to go on at the next step, in one file that says what it is.

A file is a dict of tensors and plain values, so it loads with `weights_only`: keys `config` (the resolved config),
`model`, `optimizer`, `scaler`, `step`, `epoch`, `steps_per_epoch`, `total_steps`, `next_lr` (rate of
the next step), `data` (see `elip.engine.continuity`), `vocabulary` (see `Task.vocabulary`), `rng` (one entry per
process), `skipped`, `evaluated` and `best`.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch

from elip.atomic import write_atomically, writing
from elip.distributed import share
from elip.errors import CheckpointError, ElipError
from elip.weights.run_folder import BEST, in_order, latest, load, odd, require, step_of


def load_whole(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, on the CPU, with all that a run needs to go on.

    Raises:
        CheckpointError: there is no such file, it is damaged, or entries are missing or not as runs write them.
    """
    contents = load(path)
    if "optimizer" not in contents:
        raise CheckpointError(f"{path} holds weights only, nothing to go on with. Start from them with --init.")
    for key, (is_right, expected) in _ENTRIES.items():
        if key not in contents:
            if key in _SINCE_LATER:
                continue
            raise CheckpointError(f"{path} lacks the entry {key!r}, without which no run can go on. Use another one.")
        if not is_right(contents[key]):
            raise odd(path, key, contents[key], expected)
    if contents["step"] > contents.get("total_steps", contents["step"]):
        raise odd(path, "step", contents["step"], f"one of the {contents['total_steps']} steps of its run")
    return contents


@contextmanager
def restoring(path: Path, what: str) -> Iterator[None]:
    """Return a context in which what a library does not take from a checkpoint is told in words."""
    try:
        yield
    except (TypeError, ValueError, LookupError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its {what} cannot be put back ({error}). Use another checkpoint.") from error


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_config(value: Any) -> bool:
    data = value.get("data")
    return _has_names(value) and isinstance(data, Mapping) and _is_count(data.get("num_workers"))


def _has_names(value: Any) -> bool:
    """Return whether all keys of a mapping, and of those in it, are texts."""
    return all(isinstance(k, str) and (not isinstance(v, Mapping) or _has_names(v)) for k, v in value.items())


def _is_evaluation(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, Mapping) or not _is_count(value.get("step")) or not isinstance(value.get("split"), str):
        return False
    metrics = value.get("metrics")
    return isinstance(metrics, Mapping) and all(isinstance(metric, int | float) for metric in metrics.values())


def _is_data_record(value: Any) -> bool:
    if not isinstance(value, Mapping) or not _is_count(value.get("num_workers", 0)):
        return False
    needed = {"train": {"file", "count", "sha256"}, "eval": {"file", "sha256"}}
    return all(
        isinstance(files := value.get(key, []), list)
        and all(isinstance(file, Mapping) and names <= file.keys() for file in files)
        for key, names in needed.items()
    )


def _are_rng_states(value: Any) -> bool:
    needed = {"python", "numpy", "torch", "cuda"}
    return isinstance(value, list) and bool(value) and all(isinstance(s, Mapping) and needed <= s.keys() for s in value)


_ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "config": (_is_config, "the config of the run"),
    "optimizer": (lambda value: isinstance(value, Mapping), "the optimiser's moments"),
    "scaler": (lambda value: isinstance(value, Mapping), "the state of the loss scale"),
    "steps_per_epoch": (lambda value: _is_count(value) and value > 0, "a number of steps"),
    "total_steps": (_is_count, "a number of steps"),
    "next_lr": (lambda value: isinstance(value, int | float), "a learning rate"),
    "data": (_is_data_record, "a record of the data"),
    "rng": (_are_rng_states, "the random state of each process"),
    "skipped": (_is_count, "a number of samples"),
    "evaluated": (_is_evaluation, "an evaluation, or none"),
    "best": (_is_evaluation, "an evaluation, or none"),
}
"""What a run needs to go on, how to tell that it is right, and what that is in words."""
_SINCE_LATER = ("total_steps", "next_lr", "data")
"""What checkpoints of earlier versions do not have."""


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


def set_aside(folder: Path, step: int) -> tuple[list[Path], list[Path]]:
    """Rename checkpoints beyond `step`, so that a run which goes on from there does not take them for its own.

    So is a best one that is damaged: the run can do without. What was renamed before stays as it is.

    Returns:
        the new names of later checkpoints, and of damaged ones.
    """
    best = folder / BEST
    held = saved_step(best) if best.is_file() else step
    later = [path for path in in_order(folder) if (step_of(path) or 0) > step]
    later += [best] if held is not None and held > step else []
    return [_renamed(path, "abandoned") for path in later], [_renamed(best, "damaged")] if held is None else []


def _renamed(path: Path, ending: str) -> Path:
    """Rename a file to one with another ending, numbered where that is taken, and return its new name."""
    endings = chain([ending], (f"{ending}-{number}" for number in count(2)))
    names = (path.with_name(f"{path.name}.{one}") for one in endings)
    return path.rename(next(name for name in names if not os.path.lexists(name)))


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
