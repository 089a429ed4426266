"""Whatever value a key of a config is given, the run can start or one line says why not."""

import copy
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from elip.config import RunConfig, TaskConfig, config_from_dict, config_to_dict, load_config
from elip.config.describe import models
from elip.errors import ElipError
from elip.registry import REDUCERS, TASKS
from elip.task.preflight import check_run, dry_build
from tests.conftest import PROJECT
from tests.tasks.small import small_run

NUMBERS = (0, -1, 10**12, 1e30, math.nan, math.inf)
OTHERS = ("", "abc", "/", "/dev/null", "x" * 300, "a\0b", None, True, [], {}, ["a"], [1])


def places(task: str) -> Iterator[tuple[str, ...]]:
    """Yield the place of every key."""
    for place, model in models(RunConfig):
        own = TASKS.get(task).Config if model is TaskConfig else model
        yield from ((*place, name) for name in own.model_fields)
    yield from (("model", section, "options", "nonsense") for section in ("vision", "text"))


def with_value(values: dict[str, Any], place: tuple[str, ...], value: object) -> dict[str, Any]:
    """Return a copy of nested values with another one at a place."""
    changed = inside = copy.deepcopy(values)
    for part in place[:-1]:
        inside[part] = inside = inside[part] if isinstance(inside[part], dict) else {}
    inside[place[-1]] = value
    return changed


def outcome(values: dict[str, Any]) -> str:
    """Return what is said against a run with these values; "" if it can start."""
    try:
        config = config_from_dict(values, source="test")
        check_run(config)
    except ElipError as error:
        return str(error)
    assert dry_build(config) is not None, "building fails, and not by a mistake that is told"
    return ""


def check_all(values: dict[str, Any], keys: Iterable[tuple[str, ...]]) -> None:
    """Fail at the first key and value of which something else than one line comes."""
    for place in keys:
        for value in (*NUMBERS, *OTHERS):
            try:
                said = outcome(with_value(values, place, value))
            except Exception as error:
                raise AssertionError(f"{'.'.join(place)}={value!r}: {error!r}") from error
            assert "\n" not in said, (place, value)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elip.weights.hub.unreachable", lambda: "it is not asked in tests")


def startable(task: str, digits: Path, tiny: list[str]) -> dict[str, Any]:
    """Return the values of a small run, which can start."""
    values = config_to_dict(load_config(PROJECT / f"configs/demo/{task}.yaml", small_run(task, digits, tiny)))
    assert outcome(values) == ""
    return values


@pytest.mark.slow
def test_any_value_of_any_key_passes_or_is_told_in_one_line(digits: Path, tiny: list[str]) -> None:
    check_all(startable("retrieval", digits, tiny), places("retrieval"))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["pretrain", "vqa", "grounding", "nlvr_pretrain"])
def test_any_value_of_a_tasks_own_key_passes_or_is_told_in_one_line(task: str, digits: Path, tiny: list[str]) -> None:
    check_all(startable(task, digits, tiny), (place for place in places(task) if place[0] == "task"))


@pytest.mark.slow
def test_any_value_of_any_parameter_of_a_reducer_passes_or_is_told_in_one_line(digits: Path, tiny: list[str]) -> None:
    values = startable("ve", digits, tiny)
    for name in REDUCERS.names():
        shallow = {"begin": [1, 2]} if "begin" in REDUCERS.parameters(name) else {}
        shallow |= {"look_ahead": [1, 1]} if "look_ahead" in REDUCERS.parameters(name) else {}
        shallow |= {"keep_ratio": [0.75, 0.5]} if "keep_ratio" in REDUCERS.parameters(name) else {}
        check_all(
            {**values, "reducer": {"name": name, **shallow}}, (("reducer", key) for key in REDUCERS.parameters(name))
        )
