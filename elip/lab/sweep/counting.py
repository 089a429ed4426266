"""What a config costs, counted once and kept in the sweep's folder, so that a plan comes out the same each time."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from elip.atomic import write_text
from elip.config import config_to_dict
from elip.config.schema import EvalConfig, ReducerConfig, RunConfig
from elip.efficiency.passes import NoValuesError
from elip.efficiency.task_cost import mean_train_step_macs, task_cost, train_step_macs
from elip.engine.loader import TrainLoader
from elip.lab.sweep.origins import digest, plugin_files, reducer_files
from elip.registry import TASKS
from elip.task import Task
from elip.task.preflight import dry_build, without_weights

FILE = "counts.json"

T = TypeVar("T")


class Counts:
    """Costs of configs, each counted when it is first asked for, and again when code of the reducer has changed.

    Args:
        folder: where they are kept; None keeps them nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / FILE if folder else None
        self._known: dict[str, Any] = {}
        if self._path is not None:
            with suppress(OSError, ValueError):  # what is damaged is counted again
                known = json.loads(self._path.read_text(encoding="utf-8"))
                self._known = known if isinstance(known, dict) else {}

    def save(self) -> None:
        """Write what is known, where it is kept."""
        if self._path is not None:
            write_text(self._path, json.dumps(self._known, indent=1) + "\n")

    def train_step(self, config: RunConfig) -> float:
        """Return the MACs of an image in a training step, forward and backward, with the reduction in force."""
        return self._once("train_step", _trained(config), lambda: _count(config, train_step_macs))

    def training(self, config: RunConfig) -> float:
        """Return the mean of that over the whole training."""
        return self._once("training", _trained(config), lambda: _count(config, mean_train_step_macs))

    def whole(self, config: RunConfig) -> dict[str, float]:
        """Return what an image costs in inference and in training.

        Returns:
            `inference`, `train_step` and `training` in MACs; `saved_bytes`, kept for the backward pass.
        """

        def count() -> dict[str, float]:
            cost = _count(config, task_cost)
            return {
                "inference": cost.inference.total,
                "train_step": cost.train_step,
                "training": cost.train_mean,
                "saved_bytes": cost.saved_bytes,
            }

        return self._once("whole", config, count)

    def steps(self, config: RunConfig) -> int:
        """Return the optimiser steps of a training, whose annotation files are read for that."""
        dense = _trained(config).model_copy(update={"reducer": ReducerConfig()})
        per_epoch = self._once("steps_per_epoch", dense, lambda: _count(dense, _steps_per_epoch))
        steps = config.train.epochs * per_epoch
        return min(steps, config.train.max_steps or steps)

    def plan(self, config: RunConfig, what: str, solve: Callable[[], dict[str, Any]]) -> ReducerConfig:
        """Return the config's reducer with the parameters that `solve` gives, which are kept.

        Args:
            what: tells what the parameters are to meet.
        """
        params = self._once(f"plan {what}", _trained(config), solve)
        own = config.reducer
        return ReducerConfig(**{**own.model_dump(mode="json"), **params})

    def _once(self, what: str, config: RunConfig, count: Callable[[], T]) -> T:
        key = f"{what} {fingerprint(config)} {digest(reducer_files(config.reducer.name))}"
        if key not in self._known:
            self._known[key] = count()
        return self._known[key]


def fingerprint(config: RunConfig) -> str:
    """Return what tells configs apart that cost differently: all but seed and folder, and the code of plug-ins."""
    values = config_to_dict(config)
    if config.plugins:
        values["code"] = digest(plugin_files(config.plugins))
    values["output_dir"] = ""
    values["train"]["seed"] = 0
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _trained(config: RunConfig) -> RunConfig:
    """Return the config with nothing said of evaluations and lengths, on which no cost of training depends."""
    lengths = {"epochs": 1, "max_steps": None}
    return config.model_copy(update={"eval": EvalConfig(), "train": config.train.model_copy(update=lengths)})


def _count(config: RunConfig, count: Callable[[Task], T]) -> T:
    """Return what `count` gives for the task, built without memory if that will do."""
    if task := dry_build(config):
        with suppress(NoValuesError):
            return count(task)
    return count(TASKS.build(config.task.name, without_weights(config)))


def _steps_per_epoch(task: Task) -> int:
    return TrainLoader(task.train_dataset(), task.collate, task.config, torch.device("cpu")).steps_per_epoch
