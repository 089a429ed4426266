"""Passes without values: they give what passes with values give, and where they cannot, those are run."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elip.config import load_config
from elip.efficiency import task_cost as task_cost_module
from elip.efficiency.passes import NoValuesError, to_device_of, without_values
from elip.efficiency.resources import saved_bytes
from elip.efficiency.task_cost import task_cost
from elip.registry import TASKS
from tests.conftest import PROJECT


def tried(model: nn.Module, run: Callable[[Tensor], Any], x: Tensor | None = None) -> tuple[Any, list[str]]:
    """Return what a pass gives, and the devices that it was tried on."""
    devices = []

    def measure() -> Any:
        inputs = to_device_of(model, torch.rand(2, 4) if x is None else x)
        devices.append(next(model.parameters()).device.type)
        return run(inputs)

    return without_values(model, measure), devices


def test_parameters_have_no_values_and_have_them_back_afterwards() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own = model[0].weight

    def run(x: Tensor) -> int:
        assert model[0].weight is model[2].weight
        assert model[1].running_mean.is_meta
        return saved_bytes(lambda: model(x).sum(), model)

    kept, devices = tried(model, run)
    assert devices == ["meta"]
    assert kept == saved_bytes(lambda: model(torch.rand(2, 4)).sum(), model)
    assert model[0].weight is own
    model[1].load_state_dict({name[2:]: tensor for name, tensor in before.items() if name.startswith("1.")})
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


LAYER = nn.Linear(4, 4)
LABELS = torch.tensor([0, -100])


def looks_at_the_result(x: Tensor) -> Tensor:
    return x[x[:, 0] > 0.5]


def writes_into_what_is_known(x: Tensor) -> Tensor:
    return torch.zeros(2, 4).copy_(x)


@pytest.mark.parametrize("run", [looks_at_the_result, writes_into_what_is_known])
def test_a_pass_that_needs_what_the_model_computes_is_run_with_values(run: Callable[[Tensor], Tensor]) -> None:
    found, devices = tried(LAYER, lambda x: run(LAYER(x)))
    assert devices == ["meta", "cpu"]
    assert not found.is_meta
    abstract = nn.Linear(4, 4, device="meta")
    with pytest.raises(NoValuesError):
        tried(abstract, lambda x: run(abstract(x)))


KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "masked rows": lambda x: x[LABELS != -100],
    "masked places": lambda x: x[torch.ones(x.shape, dtype=torch.bool).tril()],
    "a mask made on the device": lambda x: x[torch.eye(len(x), dtype=torch.bool, device=x.device).any(dim=1)],
    "a mask moved to the device": lambda x: x[(LABELS == 0).to(x.device)],
    "a decision": lambda x: x[:1] if bool((LABELS == 0).all()) else x,
    "a number": lambda x: x[: int(LABELS.max()) + 1],
    "rows of a mask that is the same everywhere": lambda x: x[torch.ones(2, dtype=torch.bool)[x[:, 0].long()]],
    "values written where it is known": lambda x: x.masked_fill(LABELS[:, None] == 0, 1.0) + LABELS[:, None],
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known_of_a_batch_decides_without_the_values_of_the_model(name: str) -> None:
    shape, devices = tried(LAYER, lambda x: KNOWN[name](LAYER(x)).shape)
    assert devices == ["meta"]
    assert shape == KNOWN[name](LAYER(torch.rand(2, 4))).shape


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("mask", [None, torch.ones(2, 1, 1, 5, dtype=torch.bool), torch.zeros(5, 5)])
def test_attention_keeps_what_it_keeps_on_the_cpu(mask: Tensor | None, dropout: float) -> None:
    layer = nn.Linear(8, 8)

    def kept(x: Tensor) -> int:
        def attend() -> Tensor:
            q = layer(x).unflatten(-1, (2, 4)).transpose(1, 2)
            return F.scaled_dot_product_attention(q, q, q, attn_mask=mask, dropout_p=dropout)

        return saved_bytes(attend, layer)

    image = torch.rand(2, 5, 8)
    found, devices = tried(layer, kept, image)
    assert devices == ["meta"]
    assert found == kept(image)


@pytest.mark.parametrize("name", ["pretrain", "retrieval", "vqa", "ve", "nlvr", "nlvr_pretrain"])
def test_all_figures_of_a_task_are_the_same_to_the_last_digit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(PROJECT / f"configs/demo/{name}.yaml", ["data.val=[]", "data.test=[]"])
    task = TASKS.build(name, config)
    with monkeypatch.context() as patch:
        patch.setattr(task_cost_module, "without_values", lambda model, run: run())
        with_values = task_cost(task)
    with torch.device("meta"):
        abstract = TASKS.build(name, config)
    assert task_cost(abstract) == task_cost(task) == with_values
