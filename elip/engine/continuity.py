"""What a run keeps of its data and its schedule, so that no resumed run goes on with others unsaid."""

import logging
import math
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from elip.config.schema import RunConfig
from elip.distributed import world_size
from elip.engine.loader import TrainLoader
from elip.errors import CheckpointError

logger = logging.getLogger(__name__)


def data_record(
    dataset: Dataset, loader: TrainLoader, config: RunConfig, split: str | None, others: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what the order of the training data depends on, and fingerprints of the files, as plain values.

    Args:
        dataset: may have a method `fingerprint` that returns a dict for each of its files, in order: `file`, `count`
            of its items and `sha256` of them, and perhaps more keys that end so.
        loader: of it.
        split: what is evaluated during training.
        others: files that an evaluation reads beside those of the split.
    """
    evaluated = [Path(name) for name in ([*getattr(config.data, split, ()), *others] if split else [])]
    return {
        "processes": world_size(),
        "steps_per_epoch": loader.steps_per_epoch,
        "samples": loader.num_samples,
        "samples_per_step": loader.samples_per_step,
        "batch_size": config.train.batch_size if loader.is_stream else None,
        "num_workers": loader.num_workers,
        "seed": config.train.seed,
        "train": dataset.fingerprint() if hasattr(dataset, "fingerprint") else [],
        "eval": [{"file": str(file), "sha256": _hash(file)} for file in evaluated if file.is_file()],
    }


def check_data(contents: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Compare the data of a checkpoint with this run's, and warn of content that changed.

    Args:
        contents: of the checkpoint; those of earlier versions tell less, and only that is compared.
        now: this run's `data_record`.
        path: of the checkpoint, for messages.

    Raises:
        CheckpointError: the order of the data would not go on, for files, their sizes or settings differ.
    """
    before = {"processes": len(contents["rng"]), "steps_per_epoch": contents["steps_per_epoch"], **_kept(contents)}
    _refuse_other("processes", before, now, path)
    _check_files(before.get("train", []), now["train"], path)
    for key in ("steps_per_epoch", "samples", "samples_per_step", "batch_size", "seed"):
        _refuse_other(key, before, now, path)
    evaluated = {file["file"]: file["sha256"] for file in before.get("eval", [])}
    for file in now["eval"]:
        if evaluated.get(file["file"], file["sha256"]) != file["sha256"]:
            logger.warning(
                f"{file['file']} has changed since {path} was written: scores from here on do not compare with the "
                "earlier ones, and the best checkpoint is chosen among both"
            )


def check_vocabulary(contents: Mapping[str, Any], now: str | None, path: Path) -> None:
    """Refuse to go on under another vocabulary than a checkpoint's.

    Args:
        contents: of the checkpoint; those of earlier versions do not tell.
        now: what tells this run's, see `Task.vocabulary`.
        path: of the checkpoint, for messages.

    Raises:
        CheckpointError: it is another one.
    """
    if contents.get("vocabulary", now) != now:
        raise CheckpointError(
            f"model.text.tokenizer: the vocabulary is not the one that {path} was trained with, so its ids mean other "
            "words (or texts are parted into words by other rules). Put that one back, or start a new run with --init."
        )


def workers_of(contents: Mapping[str, Any]) -> int:
    """Return the number of loader workers that the run of a checkpoint had for each process."""
    return _kept(contents).get("num_workers", contents["config"]["data"]["num_workers"])


def tell_schedule(contents: Mapping[str, Any], step: int, total_steps: int, rate: float, path: Path) -> None:
    """Warn if the learning rate, or the length of training that other schedules follow, is not what it would have been.

    Args:
        contents: of the checkpoint, with `total_steps` and `next_lr` unless it is of an earlier version.
        step: done so far.
        total_steps: of this run.
        rate: learning rate of this run's next step.
        path: of the checkpoint.
    """
    before = contents.get("next_lr", rate)
    if not math.isclose(before, rate, rel_tol=1e-9):
        logger.warning(
            f"the learning rate jumps: step {step + 1} would have had {before:.3g} in the run of {path}, and has "
            f"{rate:.3g} now, because its curve spans other epochs or steps, or optim.* changed. To go on with the old "
            "curve, keep those settings"
        )
    length = contents.get("total_steps", total_steps)
    if length != total_steps:
        logger.warning(
            f"training was to take {length} steps, and takes {total_steps} now: all that follows its progress, such as "
            "keep schedules, jumps too"
        )


def _kept(contents: Mapping[str, Any]) -> dict[str, Any]:
    return contents.get("data", {})


def _refuse_other(key: str, before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    if before.get(key, now[key]) == now[key]:
        return
    if key == "seed":
        was, is_now = f"train.seed={before[key]}", f"train.seed={now[key]}"
    else:
        was, is_now = f"{before[key]} {key.replace('_', ' ')}", str(now[key])
    raise CheckpointError(
        f"{path} comes from a run with {was}, this one has {is_now}, so the order of the data would not go on. Use the "
        "same number of processes, training set, train.batch_size, train.accumulate and train.seed, or start a new run "
        "from its weights with --init."
    )


def _check_files(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Refuse other files or counts, and warn of other content; nothing is known of a data set without fingerprint."""
    if not before or not now:
        return
    way_out = "Put back the data it was trained on, or start a new run from its weights with --init."
    if len(before) != len(now):
        raise CheckpointError(
            f"data.train: {path} comes from a run on {len(before)} files, now there are {len(now)}, so the order of "
            f"the data would not go on. {way_out}"
        )
    for old, new in zip(before, now, strict=True):
        if old["count"] != new["count"]:
            raise CheckpointError(
                f"data.train: {new['file']} has {new['count']} items, but {_earlier(old, new)} had {old['count']} when "
                f"{path} was written, so the order of the data would not go on. {way_out}"
            )
        if any(old.get(key, value) != value for key, value in new.items() if key.endswith("sha256")):
            logger.warning(
                f"data.train: {new['file']} holds other items than {_earlier(old, new)} did when {path} was written "
                f"(as many, {new['count']}); training goes on with what it holds now"
            )


def _earlier(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return "it" if old["file"] == new["file"] else f"{old['file']} in its place"


def _hash(file: Path) -> str:
    return sha256(file.read_bytes()).hexdigest()
