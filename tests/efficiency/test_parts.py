"""Which part of a model the cost of a pass belongs to."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from elip.efficiency.count import count_macs
from elip.efficiency.parts import PassCost, by_part
from elip.errors import ElipError
from elip.models.momentum import MomentumTwins
from elip.reduction.walk import LookAhead


class Adapter(nn.Linear):
    """A layer from elsewhere."""

    cost_part: ClassVar[str] = "adapter"


class Tower(nn.Module):
    """An encoder with a place to look ahead."""

    cost_part: ClassVar[str] = "vision"

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.adapter, self.look_ahead = nn.Linear(2, 3, bias=False), Adapter(2, 5, bias=False), LookAhead()

    def forward(self, x: Tensor) -> Tensor:
        self.look_ahead(self.layer, x)
        self.adapter(x)
        return self.layer(x)


class Model(nn.Module):
    """A tower, its momentum copy, and a layer that no part is named for."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = Tower()
        self.momentum = MomentumTwins({"tower": self.tower}, 0.9)
        self.nameless = nn.ModuleDict({"layer": nn.Linear(2, 7, bias=False)})


def cost(model: Model, *modules: nn.Module) -> PassCost:
    x = torch.rand(1, 2)
    return by_part(count_macs(model, lambda: [module(x) for module in modules]), images=1)


def test_the_innermost_module_that_names_a_part_counts() -> None:
    model = Model()
    found = cost(model, model.tower)
    assert (found.vision, found.look_ahead, found.others) == (6, 6, {"adapter": 10})
    assert found.total == 22
    assert cost(model, model.tower.layer).vision == 6  # called from outside, it is still the tower's


def test_whatever_runs_for_a_momentum_copy_is_momentum() -> None:
    model = Model()
    assert cost(model, model.momentum["tower"]) == PassCost(momentum=22)


def test_arithmetic_of_no_part_is_an_error_that_names_the_module() -> None:
    model = Model()
    with pytest.raises(ElipError, match=r"1\.4e-08 GMACs .* those in nameless\.layer\. Let .*cost_part"):
        cost(model, model.tower, model.nameless["layer"])
    with pytest.raises(ElipError, match="those in the model, outside of all modules"):
        by_part(count_macs(model, lambda: torch.rand(2, 2) @ torch.rand(2, 2)), images=1)
