"""Tensors of a file and of a module: what does not fit is listed."""

from pathlib import Path

import pytest
import torch
from torch import nn

from elip.errors import CheckpointError
from elip.weights.fitting import load_all


def test_weights_of_another_architecture_are_listed(tmp_path: Path) -> None:
    model = nn.ModuleList([nn.Linear(2, 2) for _ in range(4)])
    weights = {f"{i}.weight": torch.zeros(2, 2) for i in range(3)} | {
        "0.weight": torch.zeros(3, 2),
        "extra": torch.zeros(1),
    }
    with pytest.raises(CheckpointError) as failure:
        load_all(model, weights, tmp_path / "x.pt")
    message = str(failure.value)
    assert "1 of another shape or type (0.weight [3, 2], not [2, 2])" in message
    assert "5 missing (0.bias, 1.bias, 2.bias, 3.weight, ...)" in message
    assert "1 too many (extra)" in message


def test_weights_that_are_not_finite_are_refused_by_name_and_nothing_is_loaded() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    spoilt = {"weight": torch.zeros(2, 2), "bias": torch.tensor([0.0, torch.nan])}
    with pytest.raises(CheckpointError, match=r"x\.pt: weights are NaN or infinite in bias\."):
        load_all(model, spoilt, Path("x.pt"))
    assert torch.equal(model.weight, before)


def test_whole_numbers_do_not_pass_for_weights() -> None:
    with pytest.raises(CheckpointError, match=r"1 of another shape or type \(bias \[2\] int32, not \[2\]\)"):
        load_all(nn.Linear(2, 2), {"weight": torch.zeros(2, 2), "bias": torch.ones(2, dtype=torch.int32)}, Path("x.pt"))
