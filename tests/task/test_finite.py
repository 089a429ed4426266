"""Numbers that are none give no figures."""

from pathlib import Path

import pytest
import torch

from elip.errors import ElipError
from elip.task.finite import check_finite
from elip.testing import LocalEvaluator
from tests.tasks.small import FILES, small_run, small_task


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_items_with_a_value_that_is_no_number_are_counted(bad: float) -> None:
    values = torch.zeros(5, 2, 3)
    check_finite(values, "scores")
    values[1, 0, 2] = values[1, 1, 0] = values[4, 0, 0] = bad
    with pytest.raises(ElipError, match=r"the model's scores are not finite numbers for 2 of 5 items"):
        check_finite(values, "scores")


def test_one_value_an_item_is_checked_too() -> None:
    with pytest.raises(ElipError, match="1 of 2 items"):
        check_finite(torch.tensor([0.0, float("nan")]), "scores")


@pytest.mark.parametrize("name", FILES)
def test_a_model_with_broken_weights_gets_no_figures_in_any_task(name: str, digits: Path, tiny: list[str]) -> None:
    task = small_task(name, small_run(name, digits, tiny)).eval()
    with torch.no_grad():
        task.get_parameter("model.albef.visual_encoder.pos_embed").fill_(float("nan"))
        with pytest.raises(ElipError, match=r"are not finite numbers for .* and give no figures"):
            task.evaluate("val", LocalEvaluator())
