"""Every task of the project passes the conformance suite, under several settings."""

from pathlib import Path

import pytest

from elip.config import load_config
from elip.registry import TASKS
from elip.testing import TASK_CHECKS, LocalEvaluator, TaskTrial
from tests.conftest import PROJECT
from tests.tasks.small import small_run

NAMES = [name for name in TASKS.names() if TASKS.get(name).__module__.startswith("tasks.")]
DISTILLED = [name for name in NAMES if "distill" in TASKS.get(name).Config.model_fields]
RUNS = {
    **{name: (name, ["task.distill=true"] if name in DISTILLED else []) for name in NAMES},
    "vqa in free words": ("vqa", ["task.inference=generate", "task.answer_list=null", "task.distill=false"]),
    "grounding by contrast": ("grounding", ["task.cam=itc", "task.distill=false"]),
}
"""Task and overrides, by what the run is called."""


@pytest.mark.parametrize("check", TASK_CHECKS)
@pytest.mark.parametrize("run", RUNS)
def test_a_task_has_every_property_of_one(digits: Path, tiny: list[str], run: str, check: str) -> None:
    name, overrides = RUNS[run]
    config = load_config(PROJECT / f"configs/demo/{name}.yaml", [*small_run(name, digits, tiny), *overrides])
    TASK_CHECKS[check](TaskTrial(TASKS.get(name), config))


@pytest.mark.parametrize("name", NAMES)
def test_the_headline_comes_with_the_scores_of_its_items(digits: Path, tiny: list[str], name: str) -> None:
    config = load_config(PROJECT / f"configs/demo/{name}.yaml", small_run(name, digits, tiny))
    trial = TaskTrial(TASKS.get(name), config)
    result = trial.evaluate(trial.task(), LocalEvaluator())
    total = sum(part.weight * sum(part.values) / len(part.values) for part in result.scores)
    assert total == pytest.approx(result.metrics[TASKS.get(name).headline], abs=1e-9)
    assert len({cluster for part in result.scores for cluster in part.clusters}) > 1
