"""What runs came to, as their folders tell: figures, by which weights they were taken, and what an image cost then."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from elip.config.schema import ReducerConfig
from elip.config.sources import Draft, read_files
from elip.efficiency.report import label
from elip.engine.log_file import LOG_NAME
from elip.engine.results import ABOUT, CHANCE, IN_TRAINING, METRICS
from elip.errors import ConfigError, DataError, ElipError
from elip.registry import TASKS

NOT_RECORDED = "not recorded"
"""Of evaluations that left no `about.json`."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Args:
        run: name of its folder.
        task: its task.
        split: that was evaluated.
        metric: the task's headline, or the one asked for.
        value: of the metric.
        chance: what guessing would reach; None if not known.
        checkpoint: whose weights were evaluated, or `IN_TRAINING`; None if not recorded.
        step: of these weights; None if not known.
        eval_reducer: in force in the evaluation, with its parameters; None if not recorded.
        eval_gmacs: of the image encoder for one image in the evaluation; None if not recorded.
        eval_gmacs_dense: of the same with all tokens kept.
        train_reducer: of training, with its parameters.
        train_gmacs: of the image encoder for one image, forward, in the last step that was logged; None if not logged.
        train_step_gmacs: of one image in a whole training step, forward and backward; None if not logged.
        images_per_second: in training, the median of what was logged; None if not logged.
        remarks: what else is to be known of these figures.
    """

    run: str
    task: str
    split: str
    metric: str
    value: float
    chance: float | None
    checkpoint: str | None
    step: int | None
    eval_reducer: str | None
    eval_gmacs: float | None
    eval_gmacs_dense: float | None
    train_reducer: str
    train_gmacs: float | None
    train_step_gmacs: float | None
    images_per_second: float | None
    remarks: list[str] = field(default_factory=list)

    @property
    def weights(self) -> str:
        """Which weights the figure was taken by, in words."""
        if self.checkpoint is None:
            return NOT_RECORDED
        name = "in training" if self.checkpoint == IN_TRAINING else self.checkpoint
        return name if self.step is None else f"{name}, step {self.step}"


class RunFolder:
    """The folder of a run. Of its files only what is asked for is read; no plug-in that its config names is imported.

    Args:
        folder: output_dir of a run.

    Raises:
        ConfigError: it is no folder of a run, or nothing was evaluated.
    """

    def __init__(self, folder: Path) -> None:
        config = folder / "config.yaml"
        if not config.is_file():
            raise ConfigError(f"{folder} is no run: it has no config.yaml. Name the output_dir of a run.")
        self.folder = folder
        values = Draft(read_files(config)).values
        task = values.get("task")
        if not isinstance(task, dict) or not isinstance(task.get("name"), str):
            raise ConfigError(f"{config}: task.name: it names no task.")
        self.task: str = task["name"]
        try:
            self._reducer = label(ReducerConfig.model_validate(values.get("reducer", {})))
        except ValidationError as error:
            raise ConfigError(f"{config}: reducer: expected a name with parameters.") from error
        self.evaluated = sorted(path.parent.name for path in folder.glob(f"eval/*/{METRICS}"))
        if not self.evaluated:
            raise ConfigError(f"{folder}: nothing was evaluated; run tools/evaluate.py {folder}.")

    def outcome(self, split: str | None, metric: str | None = None, name: str | None = None) -> Outcome:
        """Return what the run came to.

        Args:
            split: None for test where there is one, else the first that was evaluated.
            metric: None for the task's headline.
            name: what to call the run; None for the name of its folder.

        Raises:
            ConfigError: that split or metric is not there.
            DataError: a file is damaged.
        """
        if split not in (None, *self.evaluated):
            there = ", ".join(self.evaluated)
            raise ConfigError(f"{self.folder}: {split} was not evaluated, but {there}; run tools/evaluate.py.")
        split = split or ("test" if "test" in self.evaluated else self.evaluated[0])
        folder = self.folder / "eval" / split
        metrics, about, chance = (_read_object(folder / file) for file in (METRICS, ABOUT, CHANCE))
        metric = metric or self._headline(about, metrics)
        if metric not in metrics:
            raise ConfigError(f"{self.folder}: {split} has no metric {metric!r}; it has {', '.join(metrics)}.")
        value = _number(metrics, metric, folder / METRICS)
        if value is None:
            raise DataError(f"{folder / METRICS}: {metric} is no number. Run tools/evaluate.py {self.folder} again.")
        log = _Log(self.folder / LOG_NAME)
        gmacs, dense = (_number(about, key, folder / ABOUT) for key in ("vision_gmacs", "vision_gmacs_dense"))
        step = _number(about, "step", folder / ABOUT)
        return Outcome(
            run=name or self.folder.resolve().name,
            task=self.task,
            split=split,
            metric=metric,
            value=value,
            chance=_number(chance, metric, folder / CHANCE),
            checkpoint=_text(about, "checkpoint", folder / ABOUT),
            step=None if step is None else int(step),
            eval_reducer=_text(about, "reducer", folder / ABOUT),
            eval_gmacs=gmacs,
            eval_gmacs_dense=dense,
            train_reducer=self._reducer,
            train_gmacs=log.last("gmacs/vision"),
            train_step_gmacs=log.last("gmacs/train_step"),
            images_per_second=log.median("images_per_second"),
            remarks=[*_remarks(about, folder / ABOUT), *log.remarks],
        )

    def _headline(self, about: dict[str, Any], metrics: dict[str, Any]) -> str:
        headline = about.get("headline")
        if isinstance(headline, str):
            return headline
        try:
            return TASKS.get(self.task).headline
        except ElipError as error:
            raise ConfigError(
                f"{self.folder}: which metric counts for task {self.task!r} is not known here; name one with --metric: "
                f"{', '.join(metrics)}."
            ) from error


def common_split(runs: Iterable[RunFolder]) -> str | None:
    """Return a split that all runs were evaluated on, test before others; None if there is none."""
    common = set.intersection(*(set(run.evaluated) for run in runs))
    return "test" if "test" in common else min(common, default=None)


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return what to call the runs: by the names of their folders, or in full where two have the same."""
    names = [folder.resolve().name for folder in folders]
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


class _Log:
    """What a run logged of its training steps; lines that are no entries are passed over and counted."""

    def __init__(self, path: Path) -> None:
        self._entries: list[dict[str, Any]] = []
        odd = 0
        for line in _lines(path):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            if not isinstance(entry, dict) or "event" not in entry:
                odd += 1
            elif entry["event"] == "train":
                self._entries.append(entry)
        self.remarks = [f"{path}: {odd} lines are no entries of a log and were passed over"] if odd else []

    def last(self, key: str) -> float | None:
        """Return the last number logged under a key."""
        return next(reversed(self._numbers(key)), None)

    def median(self, key: str) -> float | None:
        """Return the median (of an even number, the higher of the middle two) of what was logged under a key."""
        found = sorted(self._numbers(key))
        return found[len(found) // 2] if found else None

    def _numbers(self, key: str) -> list[float]:
        return [entry[key] for entry in self._entries if _is_number(entry.get(key))]


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error


def _read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; an empty one if there is no such file."""
    try:
        if not path.exists():
            return {}
        if not path.is_file():
            raise ValueError("it is no file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}). Make it again with tools/evaluate.py.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (it holds no object). Make it again with tools/evaluate.py.")
    return content


def _number(content: dict[str, Any], key: str, path: Path) -> float | None:
    value = content.get(key)
    if value is not None and not _is_number(value):
        raise DataError(f"{path}: {key} is {value!r}, not a number. Make it again with tools/evaluate.py.")
    return value


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _text(content: dict[str, Any], key: str, path: Path) -> str | None:
    value = content.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{path}: {key} is {value!r}, not text. Make it again with tools/evaluate.py.")
    return value


def _remarks(about: dict[str, Any], path: Path) -> list[str]:
    if not about:
        return ["the weights and the cost of an evaluation are not recorded; evaluate again with tools/evaluate.py"]
    note, overrides = _text(about, "note", path), about.get("overrides")
    changed = [f"evaluated with {' '.join(map(str, overrides))}"] if isinstance(overrides, list) and overrides else []
    return [*([note] if note else []), *changed]
