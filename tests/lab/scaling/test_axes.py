"""What a training step costs along the sizes of a config."""

from collections.abc import Sequence
from typing import Any

import pytest

from elip.config import load_config
from elip.config.schema import RunConfig
from elip.efficiency.task_cost import task_cost
from elip.lab.scaling.axes import Growth, axes_of, go_along
from elip.lab.scaling.memory import Held, without_memory
from elip.lab.scaling.page import laws
from tests.conftest import PROJECT
from tests.tasks.small import small_task, without_reducer

VALUES: dict[str, Sequence[float]] = {
    "batch": [1, 2, 4],
    "image": [32, 48],
    "tokens": [0.0, 0.5, 1.0],
    "text": [10, 20],
    "queue": [40, 80],
}


def config_of(tiny: Sequence[str], *further: str) -> RunConfig:
    return load_config(PROJECT / "configs/demo/pretrain.yaml", [*tiny, *further])


def growths(config: RunConfig, **values: Any) -> dict[str, Growth]:
    return {axis.name: go_along(axis, config) for axis in axes_of(config, {**VALUES, **values})}


def test_along_each_size_all_others_stay(tiny: list[str]) -> None:
    config = config_of(tiny, "train.batch_size=2")
    found = growths(config)
    assert list(found) == ["batch", "image size", "tokens kept", "text length", "queue"]
    cost = task_cost(small_task("pretrain", [*tiny, "train.batch_size=2"]))
    for name, index in (("batch", 0), ("image size", 0), ("tokens kept", 2), ("queue", 0)):  # where it is the config's
        point = found[name].points[index]
        assert point.saved_bytes == 2 * cost.saved_bytes
        assert point.macs == pytest.approx(2 * cost.train_step)
        assert point.held_bytes == Held.of(without_memory(config)).total
    for growth in found.values():
        assert [point.x for point in growth.points] == sorted(
            {point.x for point in growth.points}, reverse=growth.axis.set_as == "strength"
        )


def test_what_costs_are_set_against(tiny: list[str]) -> None:
    found = growths(config_of(tiny, "train.batch_size=2"))
    assert [point.x for point in found["batch"].points] == [2, 4]
    assert [point.x for point in found["image size"].points] == [16, 36]
    assert [point.x for point in found["text length"].points] == [10, 20]
    tokens = found["tokens kept"].points
    assert tokens[0].x == 1 + 16  # all of them
    assert [point.x for point in tokens] == [point.tokens for point in tokens]


def test_a_value_that_the_task_refuses_is_told(tiny: list[str]) -> None:
    (refused,) = growths(config_of(tiny))["batch"].refused
    assert refused.startswith("batch 1: train.batch_size: pretrain needs at least 2 pairs")


def test_without_a_reducer_no_tokens_are_varied(tiny: list[str]) -> None:
    config = load_config(PROJECT / "configs/demo/pretrain.yaml", [*without_reducer(tiny), "reducer.name=none"])
    assert "tokens kept" not in growths(config)


def test_laws_hold_at_the_points_and_leave_out_what_has_no_reducer(tiny: list[str]) -> None:
    config = config_of(tiny, "train.batch_size=2")
    found = growths(config, tokens=[0.0, 0.5, 1.0], queue=[40])
    assert laws(found["queue"]) == {}
    saved = laws(found["batch"])["saved MB"]
    for point in found["batch"].points:
        assert saved.at(point.x) == pytest.approx(point.saved_bytes / 1e6)
    whole, *reduced = found["tokens kept"].points
    macs = laws(found["tokens kept"])["GMACs"]
    assert [macs.at(point.x) for point in reduced] == pytest.approx([point.macs / 1e9 for point in reduced])
    assert macs.at(whole.x) != pytest.approx(whole.macs / 1e9, rel=1e-3)  # it has no look-ahead
