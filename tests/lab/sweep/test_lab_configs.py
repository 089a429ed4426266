"""The configs of the lab say what they promise, without the data that they are for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from elip.config import load_config
from elip.efficiency.task_cost import train_step_macs
from elip.lab.sweep.file import Sweep
from elip.registry import REDUCERS, TASKS

LAB = Path(__file__).parents[3] / "configs" / "lab"
PLAIN, CLUTTERED = LAB / "digitscenes-plain.yaml", LAB / "digitscenes-cluttered.yaml"


def differences(one: object, other: object, place: str = "") -> Iterator[str]:
    """Yield the dotted keys in which two configs differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() | other.keys():
            yield from differences(one.get(key), other.get(key), f"{place}.{key}".lstrip("."))
    elif one != other:
        yield place


def test_plain_and_cluttered_scenes_differ_in_nothing_but_paths() -> None:
    plain, cluttered = (load_config(path).model_dump() for path in (PLAIN, CLUTTERED))
    data = {"data.image_root", "data.train", "data.val", "data.test"}
    assert set(differences(plain, cluttered)) == {*data, "model.text.tokenizer", "output_dir"}


def test_the_lab_asks_every_reducer_there_is() -> None:
    arms = Sweep(LAB / "digitscenes.yaml").file.arms
    assert {arm.reducer.name for arm in arms.values() if arm.reducer} == set(REDUCERS.names())
    assert list(arms)[:2] == ["none", "random"]


@pytest.mark.parametrize("arm", ["evit", "tome", "trips"])
def test_the_budget_is_within_reach_of_what_begins_after_the_attention_of_block_0(arm: str) -> None:
    file = Sweep(LAB / "digitscenes.yaml").file
    assert file.budget is not None
    strong = {"evit": {"keep_ratio": 0.1}, "tome": {"r": 72}, "trips": {"keep_ratio": 0.1}}[arm]
    reducer = file.arms[arm].reducer
    assert reducer is not None

    def cost(name: str, params: dict[str, object]) -> float:
        config = load_config(CLUTTERED)
        changed = config.reducer.model_copy(update={"name": name, **params})
        return train_step_macs(TASKS.build("pretrain", config.model_copy(update={"reducer": changed})))

    dense = cost("none", {})
    assert cost(arm, {**reducer.params, **strong}) < file.budget.shares[0] * dense < dense
