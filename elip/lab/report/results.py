"""What a sweep came to: its runs as their folders tell, and each arm's figures with intervals and differences."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from elip.engine.log_file import read_log
from elip.engine.results import SCORES
from elip.errors import DataError, ElipError
from elip.lab.report.outcomes import Outcome, RunFolder
from elip.lab.statistics import (
    Interval,
    Verdict,
    bootstrap_items_and_seeds,
    by_cluster,
    mean_over_seeds,
    verdict,
)
from elip.lab.sweep.records import COSTS, SWEEP
from elip.task import ItemScores

DONE, FAILED = "done", "failed"
Over = Literal["items and seeds", "items", "seeds"]
Curve = list[tuple[int, float]]
"""Steps with values."""


@dataclass(frozen=True)
class RunResult:
    """One run on one split.

    Args:
        arm: name of its arm.
        label: the arm's reducer with parameters.
        seed: of the run.
        stage: of the sweep.
        split: that was evaluated.
        folder: of the run.
        status: `done`, `failed`, `waiting` or `running`.
        error: why it failed, or why it cannot be read.
        seconds: that it took.
        outcome: what it came to; None unless it is done.
        scores: [clusters] values whose mean is the headline; None where the evaluation left none.
        clusters: [clusters] what they belong to.
        files: that the run was made from, with digests.
    """

    arm: str
    label: str
    seed: int
    stage: str
    split: str
    folder: Path
    status: str
    error: str | None
    seconds: float | None
    outcome: Outcome | None = None
    scores: np.ndarray | None = None
    clusters: np.ndarray | None = None
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Args:
        name: of the arm at its budget.
        label: its reducer with parameters.
        budget: as a share of the baseline's cost; None without one.
        section: of the sweep's file, the same for all budgets of one reducer.
        costs: what `costs.json` says of it.
    """

    name: str
    label: str
    budget: float | None
    section: str
    costs: Mapping[str, Any] = field(default_factory=dict)

    def cost(self, key: str) -> float | None:
        """Return a figure of what it costs; None if it is not known."""
        value = self.costs.get(key)
        return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True)
class Estimate:
    """A figure with what its interval is over.

    Args:
        value: the figure; without an interval, both bounds are NaN.
        over: what was resampled; None without an interval.
        seeds: that are in it.
    """

    value: Interval
    over: Over | None
    seeds: list[int]

    @property
    def verdict(self) -> Verdict | None:
        """What a difference comes to; None where a single seed, or no interval, cannot tell."""
        return verdict(self.value) if self.over is not None and len(self.seeds) > 1 else None


class SweepResults:
    """The results of a sweep. A run that failed, or whose files are damaged, is one that has failed; others count.

    Args:
        out: folder of the sweep.

    Raises:
        DataError: `sweep.json` or `costs.json` is missing or damaged.
    """

    def __init__(self, out: Path) -> None:
        record = _object(out / SWEEP)
        costs = _object(out / COSTS).get("arms", {}) if (out / COSTS).exists() else {}
        try:
            self.name: str = record["name"]
            self.baseline: str = record["baseline"]
            self.yardstick: str | None = record.get("yardstick")
            self.stages: list[str] = record["stages"]
            self.seeds: list[int] = record["seeds"]
            self.arms = [_arm(row, costs.get(row["name"], {})) for row in record["arms"]]
            labels = {arm.name: arm.label for arm in self.arms}
            self.runs = [_run(out, row, labels[row["arm"]]) for row in record["runs"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{out / SWEEP} is damaged ({error!r}). Run the sweep again, which writes it.") from error
        self._estimates: dict[tuple[str | None, ...], Estimate | None] = {}

    @property
    def tables(self) -> list[tuple[str, str]]:
        """All stages with the splits that they were to be evaluated on."""
        return list(
            dict.fromkeys((stage, run.split) for stage in self.stages for run in self.runs if run.stage == stage)
        )

    @property
    def failed(self) -> list[RunResult]:
        """Runs that failed or cannot be read."""
        return [run for run in self.runs if run.status == FAILED]

    @property
    def missing(self) -> list[RunResult]:
        """Runs that are not done yet."""
        return [run for run in self.runs if run.status not in (DONE, FAILED)]

    @property
    def changed_files(self) -> list[str]:
        """Files that were not the same for all runs that were made from them and are done."""
        digests: dict[str, set[str]] = {}
        for run in self.runs:
            if run.status == DONE:
                for file, found in run.files.items():
                    digests.setdefault(file, set()).add(found)
        return sorted(file for file, found in digests.items() if len(found) > 1)

    def done(self, arm: Arm, stage: str, split: str) -> dict[int, RunResult]:
        """Return by seed the runs of an arm that are done."""
        return self._by_place.get((arm.name, stage, split), {})

    def comparable(self, arm: Arm) -> Arm | None:
        """Return the yardstick at an arm's budget, without one for an arm without; None if there is none."""
        if arm.name == self.baseline or self.yardstick in (arm.section, self.baseline):
            return None
        return next((one for one in self.arms if one.section == self.yardstick and one.budget == arm.budget), None)

    def training_share(self, arm: Arm) -> float | None:
        """Return what all of an arm's training costs, as a share of the baseline's: steps, times their mean cost."""
        mine, base = arm.cost("steps"), self.baseline_arm and self.baseline_arm.cost("steps")
        ratio = arm.cost("train_ratio")
        return None if ratio is None or not mine or not base else ratio * mine / base

    def inference_share(self, arm: Arm, stage: str, split: str) -> float | None:
        """Return what an inference of an arm costs as it was evaluated, as a share of the baseline's.

        It is as counted, unless evaluations kept all tokens, as they do under a reducer that lacks its text there.
        """
        counted, base = arm.cost("inference_ratio"), self.baseline_arm
        both = [] if base is None else [self.done(one, stage, split).values() for one in (arm, base)]
        if counted is not None and both and all(map(_kept_all, both)):
            return 1.0
        return counted

    @property
    def baseline_arm(self) -> Arm | None:
        """What all others are compared with."""
        return next((arm for arm in self.arms if arm.name == self.baseline), None)

    def mean(self, arm: Arm, stage: str, split: str) -> Estimate | None:
        """Return the headline of an arm, the mean over its seeds; None if no run is done."""
        return self._estimated(arm, None, stage, split)

    def difference(self, arm: Arm, other: Arm | None, stage: str, split: str) -> Estimate | None:
        """Return the headline of an arm minus that of another one, over the seeds that both have."""
        if other is None or other.name == arm.name:
            return None
        return self._estimated(arm, other, stage, split)

    def _estimated(self, arm: Arm, other: Arm | None, stage: str, split: str) -> Estimate | None:
        """Return a mean or a difference: tables and pictures ask for the same, and resampling takes a while."""
        key = (arm.name, None if other is None else other.name, stage, split)
        if key not in self._estimates:
            theirs = None if other is None else self.done(other, stage, split)
            self._estimates[key] = _estimate(self.done(arm, stage, split), theirs)
        return self._estimates[key]

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str], dict[int, RunResult]]:
        found: dict[tuple[str, str, str], dict[int, RunResult]] = {}
        for run in self.runs:
            if run.status == DONE:
                found.setdefault((run.arm, run.stage, run.split), {})[run.seed] = run
        return found


def curve(run: RunResult) -> tuple[str, Curve]:
    """Return what a run reached as it trained: the headline by step, or its loss where it was evaluated only once.

    Returns:
        name of the figure, and its values
    """
    entries = read_log(run.folder)
    metric = run.outcome.metric if run.outcome else ""
    evaluations = [one for one in entries if one.get("event") == "eval" and metric in one.get("metrics", {})]
    steps = {one["step"] for one in evaluations}
    if len(steps) > 1:
        split = evaluations[0]["split"]
        return f"{metric}, {split}", [
            (one["step"], one["metrics"][metric]) for one in evaluations if one["split"] == split
        ]
    losses = [one for one in entries if one.get("event") == "train" and isinstance(one.get("loss"), float)]
    return "training loss", [(one["step"], one["loss"]) for one in losses]


def _estimate(mine: Mapping[int, RunResult], theirs: Mapping[int, RunResult] | None) -> Estimate | None:
    """Return a mean over seeds, or that of the differences where there are two."""
    seeds = sorted(mine.keys() if theirs is None else mine.keys() & theirs.keys())
    if not seeds:
        return None
    pairs = [(mine[seed], None if theirs is None else theirs[seed]) for seed in seeds]
    values = np.array([_value(one) - (0.0 if other is None else _value(other)) for one, other in pairs])
    table = _table([run for pair in pairs for run in pair if run is not None])
    if table is not None:
        scores = table if theirs is None else table[::2] - table[1::2]
        over: Over = "items and seeds" if len(seeds) > 1 else "items"
        return Estimate(replace(bootstrap_items_and_seeds(scores), mean=float(values.mean())), over, seeds)
    if len(seeds) > 1:
        return Estimate(mean_over_seeds(values), "seeds", seeds)
    return Estimate(Interval(float(values.mean()), float("nan"), float("nan")), None, seeds)


def _kept_all(runs: Collection[RunResult]) -> bool:
    """Return whether it is known of runs that their evaluations kept all tokens."""
    costs = [(run.outcome.eval_gmacs, run.outcome.eval_gmacs_dense) for run in runs if run.outcome is not None]
    return bool(costs) and all(cost is not None and cost == dense for cost, dense in costs)


def _table(runs: Sequence[RunResult]) -> np.ndarray | None:
    """Return [runs, clusters]; None unless all runs have scores of the same things."""
    scores = [run.scores for run in runs if run.scores is not None]
    first = runs[0].clusters
    if first is None or len(scores) < len(runs) or len(first) < 2:
        return None
    alike = all(run.clusters is not None and np.array_equal(run.clusters, first) for run in runs)
    return np.stack(scores) if alike else None


def _value(run: RunResult) -> float:
    assert run.outcome is not None, "only runs that are done have a value"
    return run.outcome.value


def _arm(row: Mapping[str, Any], costs: Mapping[str, Any]) -> Arm:
    return Arm(row["name"], row["label"], row["budget"], row.get("section", row["name"]), costs)


def _run(out: Path, row: Mapping[str, Any], label: str) -> RunResult:
    run = RunResult(
        row["arm"],
        label,
        row["seed"],
        row["stage"],
        row["split"],
        out / row["folder"],
        row["status"],
        row.get("error"),
        row.get("seconds"),
        files=row.get("files") or {},
    )
    if run.status != DONE:
        return run
    try:
        outcome = RunFolder(run.folder).outcome(run.split)
        scores, clusters = _scores(run.folder / "eval" / run.split / SCORES, outcome)
    except ElipError as error:
        return replace(run, status=FAILED, error=str(error))
    return replace(run, outcome=outcome, scores=scores, clusters=clusters)


def _scores(path: Path, outcome: Outcome) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return scores and clusters of an evaluation; None twice where it left none."""
    if not path.exists():
        return None, None
    try:
        parts = [ItemScores(**part) for part in json.loads(path.read_text(encoding="utf-8"))]
        scores, clusters = by_cluster(parts)
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise DataError(f"{path} is damaged ({error}). Make it again with tools/evaluate.py.") from error
    if not np.isclose(scores.mean(), outcome.value, rtol=1e-6, atol=1e-6):
        raise DataError(
            f"{path}: the scores come to {scores.mean():g}, and {outcome.metric} is {outcome.value:g}. "
            "Make them again with tools/evaluate.py."
        )
    return scores, clusters


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Run tools/sweep.py first.") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}). Run the sweep again, which writes it.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged (it holds no object). Run the sweep again, which writes it.")
    return content
