"""From a sweep's file to the runs that it asks for: arms with their parameters solved for, in chains of stages."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

from elip.config import load_config
from elip.config.schema import ReducerConfig, RunConfig
from elip.config.sources import COMMAND_LINE, read_overrides
from elip.efficiency.costed import BASELINE, TaskModel
from elip.efficiency.plan import Params, meet_budget
from elip.efficiency.report import label
from elip.efficiency.vision_cost import vision_cost
from elip.errors import ConfigError, ElipError
from elip.lab.sweep.counting import Counts
from elip.lab.sweep.file import ArmSection, FollowUpSection, Quantity, Sweep
from elip.mistakes import Place
from elip.registry import REDUCERS
from elip.task.preflight import check_run, without_weights

_HALF = 0.5
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """What is trained with every seed.

    Args:
        name: of its folder; with the share, where there are several.
        section: name of its section in the file.
        config: of its first stage, the reducer's parameters found; seed and folder are not set yet.
        budget: share that it is to meet, None for none.
        steps: optimiser steps of the first stage.
    """

    name: str
    section: str
    config: RunConfig
    budget: float | None
    steps: int

    @property
    def label(self) -> str:
        """The reducer with its parameters."""
        return label(self.config.reducer)


class Planner:
    """Finds out what a sweep trains.

    Args:
        sweep: its file.
        counts: counts what it costs.
    """

    def __init__(self, sweep: Sweep, counts: Counts) -> None:
        self._sweep, self._file, self._counts = sweep, sweep.file, counts
        self._config = sweep.config_path(("config",), self._file.config)

    def arms(self) -> list[Arm]:
        """Return all arms, in the file's order; those that need it are checked as a run is before it starts.

        Raises:
            ElipError: an arm's config is wrong or cannot be trained, or no strength of its reducer meets the budget.
        """
        found: list[Arm] = []
        for name, section in self._file.arms.items():
            if section.equal_cost_to is None:
                found += self._variants(name, section)
        for name, section in self._file.arms.items():
            if section.equal_cost_to is not None:
                targets = [arm for arm in found if arm.section == section.equal_cost_to]
                found += [self._shortened(name, section, target, len(targets) > 1) for target in targets]
        order = list(self._file.arms)
        return sorted(found, key=lambda arm: order.index(arm.section))  # stable: shares stay in order

    def stages(self, arm: Arm) -> dict[str, RunConfig]:
        """Return the config of each stage of an arm, by name, in order."""
        place: Place
        stages = {self._file.stage: arm.config}
        for number, follow_up in enumerate(self._file.then):
            place = ("then", number)
            path = self._sweep.config_path((*place, "config"), follow_up.config)
            stages[follow_up.name] = self._loaded(path, place, [*follow_up.overrides, *_reducer_of(follow_up, arm)])
        return stages

    def splits(self, stage: str) -> Sequence[str]:
        """Return the splits to evaluate after a stage."""
        own = next((one.splits for one in self._file.then if one.name == stage), None)
        return own or self._file.evaluate.splits

    def check(self, arms: Sequence[Arm]) -> None:
        """Raise an error for what would stop a run, or an evaluation after it."""
        checked: list[RunConfig] = []
        for arm in arms:
            for stage, config in self.stages(arm).items():
                if config in checked:
                    continue
                checked.append(config)
                place: Place = ("arms", arm.section) if stage == self._file.stage else ("then",)
                try:
                    check_run(config)
                except ElipError as error:
                    raise self._sweep.wrong(place, f"{stage}: {error}") from error
                for split in self.splits(stage):
                    if not getattr(config.data, split, None):
                        raise self._sweep.wrong(
                            place, f"{stage}: split {split!r} is to be evaluated, but its config has no data.{split}."
                        )

    def _variants(self, name: str, section: ArmSection) -> list[Arm]:
        place = ("arms", name)
        config = self._arm_config(name, section)
        shares = self._shares(section, config, place)
        arms = []
        for share in shares:
            planned = config if share is None else self._within(config, share, place)
            full_name = name if len(shares) == 1 else f"{name}@{share:g}"
            arms.append(Arm(full_name, name, planned, share, self._counts.steps(planned)))
        return arms

    def _arm_config(self, name: str, section: ArmSection) -> RunConfig:
        evaluation = self._file.evaluate.reducer
        words = list(self._file.overrides)
        if section.reducer is not None:
            words.append(_override("reducer", section.reducer))
        words += section.overrides
        if evaluation is not None:
            words.append("eval.reducer=null" if isinstance(evaluation, str) else _override("eval.reducer", evaluation))
        return self._loaded(self._config, ("arms", name), words)

    def _shares(self, section: ArmSection, config: RunConfig, place: Place) -> list[float | None]:
        """Return the shares that an arm is trained with, None for its reducer as given."""
        if "budget" in section.model_fields_set:
            if section.budget is not None and config.reducer.name == BASELINE:
                raise self._sweep.wrong((*place, "budget"), f"the reducer {BASELINE!r} keeps all tokens at any budget.")
            return [section.budget]
        sets_strength = _strength_keys(config.reducer) & _given(section)
        if self._file.budget is None or config.reducer.name == BASELINE or sets_strength:
            return [None]
        return [*self._file.budget.shares]

    def _within(self, config: RunConfig, share: float, place: Place) -> RunConfig:
        """Return the config with the weakest reduction that costs no more than a share of none."""
        quantity: Quantity = self._file.budget.of if self._file.budget else "train_step"
        dense = self._cost(_with_reducer(self._dense(), ReducerConfig()), quantity)

        def solve() -> dict[str, Any]:
            reducer = config.reducer

            def cost(params: Params) -> float:
                given = {"name": reducer.name, "strict": reducer.strict, "until": reducer.until}
                return self._cost(_with_reducer(config, ReducerConfig(**{**given, **params})), quantity)

            start = _with_a_ratio_for_each_stage(reducer)
            kind, depth = REDUCERS.get(reducer.name), self._depth(config)
            return meet_budget(reducer.name, kind, start, share * dense, cost, depth).params

        try:
            found = self._counts.plan(config, f"{quantity} {share:g} of {dense:g}", solve)
        except ElipError as error:
            raise self._sweep.wrong(place, f"budget {share:g} of {quantity}: {error}") from error
        return _with_reducer(config, found)

    def _shortened(self, name: str, section: ArmSection, target: Arm, several: bool) -> Arm:
        """Return an arm whose whole training costs no more than the target's."""
        place: Place = ("arms", name)
        config = self._arm_config(name, section)
        if section.budget is not None:
            config = self._within(config, section.budget, place)
        available = self._counts.training(target.config) * images_of_step(target.config) * target.steps
        whole = self._counts.steps(config)
        steps = floor(available / (self._counts.training(config) * images_of_step(config)))
        if steps > whole:
            raise self._sweep.wrong(
                (*place, "equal_cost_to"),
                f"{target.name!r} costs more than all {whole} steps of this arm, so that it cannot be shortened to "
                "that cost. Shorten the dearer one of the two.",
            )
        if steps < 1:
            raise self._sweep.wrong((*place, "equal_cost_to"), f"a single step costs more than all of {target.name!r}.")
        if config.optim.schedule == "epoch":
            logger.warning(
                f"arm {name!r} ends after {steps} of {whole} steps with a learning rate that has not come down, as "
                "optim.schedule is `epoch`; optim.schedule=step follows the steps that are taken"
            )
        config = config.model_copy(update={"train": config.train.model_copy(update={"max_steps": steps})})
        share = target.name.removeprefix(target.section) if several else ""
        return Arm(f"{name}{share}", name, config, section.budget, steps)

    def _cost(self, config: RunConfig, quantity: Quantity) -> float:
        if quantity == "training":
            return self._counts.training(config)
        if quantity == "train_step":
            return self._counts.train_step(config)
        model = TaskModel(without_weights(config), str(self._config))
        return float(model.measure(config.reducer, lambda encoder, reducer: vision_cost(encoder, reducer).total))

    def _depth(self, config: RunConfig) -> int:
        model = TaskModel(without_weights(config), str(self._config))
        return model.measure(ReducerConfig(), lambda encoder, _: encoder.depth)

    def _dense(self) -> RunConfig:
        return self._loaded(self._config, ("config",), self._file.overrides)

    def _loaded(self, path: Path, place: Place, overrides: Sequence[str]) -> RunConfig:
        try:
            return load_config(path, overrides)
        except ConfigError as error:
            raise self._sweep.wrong(place, str(error).removeprefix(f"{COMMAND_LINE}: ")) from error


def at(config: RunConfig, folder: Path, seed: int) -> RunConfig:
    """Return the config of one run: with its seed and its folder."""
    train = config.train.model_copy(update={"seed": seed})
    return config.model_copy(update={"train": train, "output_dir": str(folder)})


def _with_reducer(config: RunConfig, reducer: ReducerConfig) -> RunConfig:
    return config.model_copy(update={"reducer": reducer})


def _override(key: str, reducer: ReducerConfig) -> str:
    """Return the override that sets what was given of a reducer."""
    given: Mapping[str, Any] = reducer.model_dump(mode="json", exclude_unset=True)
    return f"{key}={json.dumps(given)}"


def _reducer_of(follow_up: FollowUpSection, arm: Arm) -> list[str]:
    reducer = follow_up.reducer
    if reducer is None:
        return []
    return [_override("reducer", arm.config.reducer if isinstance(reducer, str) else reducer)]


def _given(section: ArmSection) -> set[str]:
    """Return the parameters of the reducer that an arm itself gives."""
    given = set(section.reducer.params) if section.reducer else set()
    said = read_overrides(section.overrides).values.get("reducer")
    return given | (set(said) if isinstance(said, dict) else set())


def _strength_keys(reducer: ReducerConfig) -> set[str]:
    """Return the parameters that a reducer's strength lies in; none if it has no strength that can be set."""
    try:
        weak, given = (REDUCERS.get(reducer.name).at_strength(reducer.params, s) for s in (_HALF, 1.0))
    except ElipError:
        return set()
    return {key for key in given if weak.get(key) != given[key]}


def _with_a_ratio_for_each_stage(reducer: ReducerConfig) -> dict[str, Any]:
    """Return the parameters, to start from, with keep ratios where blocks are given that the default ones do not fit.

    They fall evenly to a half.
    """
    params, takes = reducer.params, REDUCERS.parameters(reducer.name)
    begin = params.get("begin")
    if not isinstance(begin, list) or "keep_ratio" in params or "keep_ratio" not in takes:
        return params
    default = takes["keep_ratio"].default
    if not isinstance(default, Sequence) or len(default) == len(begin):
        return params
    return {**params, "keep_ratio": [1 - (1 - _HALF) * (stage + 1) / len(begin) for stage in range(len(begin))]}


def images_of_step(config: RunConfig) -> int:
    """Return the images of an optimiser step of one process."""
    return config.train.batch_size * config.train.accumulate
