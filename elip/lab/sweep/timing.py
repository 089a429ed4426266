"""How long a training step of an arm takes, beside one of the baseline."""

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from elip.atomic import write_text
from elip.benchmark.step import TrainingStep
from elip.config import config_from_dict, config_to_dict
from elip.config.schema import RunConfig
from elip.efficiency.resources import machine, time_in_turn
from elip.engine.runtime import device_of
from elip.lab.sweep.counting import fingerprint
from elip.registry import load_plugins

FILE = "times.json"
ROUNDS, WARMUP = 7, 2


class Times:
    """Times of training steps, kept in the folder of a sweep: once runs go on side by side, none can be taken.

    Args:
        folder: where they are kept; None keeps them nowhere.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / FILE if folder else None
        self._known: dict[str, dict[str, Any]] = {}
        if self._path is not None:
            with suppress(OSError, ValueError):  # what is damaged is timed again
                self._known = dict(json.loads(self._path.read_text(encoding="utf-8")))

    def find(self, config: RunConfig, baseline: RunConfig, machine: str | None = None) -> dict[str, Any] | None:
        """Return what `time_beside` gave on a machine, by default on the last one; None if it was not asked."""
        found = self._known.get(_pair(config, baseline), {})
        return found.get(next(reversed(found), "") if machine is None else machine)

    def keep(self, config: RunConfig, baseline: RunConfig, times: dict[str, Any]) -> None:
        """Keep what `time_beside` gave."""
        self._known.setdefault(_pair(config, baseline), {})[times["machine"]] = times
        if self._path is not None:
            write_text(self._path, json.dumps(self._known, indent=1) + "\n")


class TimingJob:
    """Times training steps where it is called, such as on the machine of a cluster that the runs will have."""

    def __call__(self, folder: str, configs: Sequence[Mapping[str, Any]], baseline: Mapping[str, Any]) -> str:
        """Time each config beside the baseline, and keep that in a folder."""
        for values in (baseline, *configs):
            load_plugins(values["plugins"])
        beside = config_from_dict(baseline, "baseline")
        for values in configs:
            config = config_from_dict(values, "arm")
            Times(Path(folder)).keep(config, beside, time_beside(config, beside))
        return "done"


def _pair(config: RunConfig, baseline: RunConfig) -> str:
    """Return what tells pairs of configs apart whose steps take different times: all but lengths of training."""
    lengths = {"max_steps": None, "epochs": 1}
    one, other = (c.model_copy(update={"train": c.train.model_copy(update=lengths)}) for c in (config, baseline))
    return f"{fingerprint(one)} beside {fingerprint(other)}"


def machine_of(config: RunConfig) -> str:
    """Return what to write beside the times of a config's steps."""
    return machine(device_of(config))


def time_beside(config: RunConfig, baseline: RunConfig, rounds: int = ROUNDS) -> dict[str, Any]:
    """Return how long a whole step of a config takes, its reduction in force, in turn with one of the baseline.

    Both see the same made-up batch of the config's size, and nothing of a model changes. On a GPU it happens in a
    process of its own, so that the memory is free for what comes next.

    Returns:
        `seconds` of a step, `ratio` to the baseline's, `range` of that ratio over the rounds, `machine`.
    """
    if device_of(config).type == "cuda":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(_timed, (config_to_dict(config), config_to_dict(baseline), rounds))
    return _time(config, baseline, rounds)


def _timed(config: dict[str, Any], baseline: dict[str, Any], rounds: int) -> dict[str, Any]:
    for values in (config, baseline):
        load_plugins(values["plugins"])
    return _time(config_from_dict(config, "arm"), config_from_dict(baseline, "baseline"), rounds)


def _time(config: RunConfig, baseline: RunConfig, rounds: int) -> dict[str, Any]:
    device = device_of(config)
    steps = [TrainingStep(one, device) for one in (baseline, config)]
    mine = time_in_turn(steps, device, rounds, WARMUP)[1]
    return {
        "seconds": mine.median_seconds,
        "ratio": mine.ratio,
        "range": [min(mine.ratios), max(mine.ratios)],
        "machine": machine(device),
    }
