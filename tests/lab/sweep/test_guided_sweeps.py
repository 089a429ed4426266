"""The sweeps about guided dropping ask what they say they ask."""

from pathlib import Path

import pytest

from elip.config import load_config
from elip.efficiency.task_cost import train_step_macs
from elip.lab.sweep.file import Sweep
from elip.registry import TASKS

LAB = Path(__file__).parents[3] / "configs" / "lab"
SWEEPS = {"guided_cluttered": "digitscenes-cluttered.yaml", "guided_plain": "digitscenes-plain.yaml"}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_reducer_is_there_with_and_without_tuning_and_all_see_whole_images_in_the_end(name: str) -> None:
    file = Sweep(LAB / f"{name}.yaml").file
    assert file.config == SWEEPS[name]
    assert len(file.seeds) == 5
    assert file.evaluate.reducer is not None
    assert file.evaluate.reducer.name == "none"  # type: ignore[union-attr]
    pairs = [arm for arm in file.arms if f"{arm}-tuned" in file.arms and not arm.startswith("none")]
    assert pairs == ["random", "elip", "guided", "guided-image"]
    for arm in pairs:
        plain, tuned = (file.arms[one].reducer for one in (arm, f"{arm}-tuned"))
        assert plain is not None
        assert tuned == plain.model_copy(update={"until": 0.8})


def test_all_but_elip_cost_the_same_within_two_percent_and_less_than_elip() -> None:
    arms = Sweep(LAB / "guided_cluttered.yaml").file.arms

    def cost(arm: str) -> float:
        config = load_config(LAB / SWEEPS["guided_cluttered"])
        return train_step_macs(TASKS.build("pretrain", config.model_copy(update={"reducer": arms[arm].reducer})))

    random, elip = cost("random"), cost("elip")
    for arm in ("guided", "guided-image", "random-tuned"):
        assert cost(arm) == pytest.approx(random, rel=0.02)
    assert 0.55 < random / cost("none") < elip / cost("none") < 0.8
