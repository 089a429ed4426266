"""Weights of losses: what is minimised, what is logged, and which names are refused."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.config.schema import TaskConfig
from elip.errors import ConfigError
from elip.task import Batch, Progress, StepOutput
from tests.engine.conftest import read_log, train
from tests.engine.stub import StubTask, stub_config


class Declared(StubTask):
    """The stub, which says what losses it has, without anything drawn."""

    losses = ("fit", "spread")

    def __init__(self, config: Any) -> None:
        super().__init__(config, dropout=0.0)


class Gradients(Declared):
    """The stub that keeps what the gradient of each loss on its own would be."""

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        output = super().training_step(batch, progress)
        weight = self.layers[0].weight
        self.parts = {
            name: torch.autograd.grad(loss, weight, retain_graph=True)[0] for name, loss in output.losses.items()
        }
        return output


def weighted(folder: Path, weights: dict[str, float], **train_keys: Any) -> Any:
    config = stub_config(folder, max_steps=1, **train_keys)
    return config.model_copy(update={"task": TaskConfig(name="stub", loss_weights=weights)})


def test_the_weighted_sum_is_minimised_and_each_loss_logged_as_it_is(tmp_path: Path) -> None:
    task, _ = train(weighted(tmp_path, {"spread": 0.5, "fit": 0}), kind=Gradients)
    torch.testing.assert_close(task.layers[0].weight.grad, 0.5 * task.parts["loss_spread"])
    logged = next(entry for entry in read_log(tmp_path) if entry["event"] == "train")
    plain = tmp_path / "plain"
    train(weighted(plain, {}), kind=Gradients)
    unweighted = next(entry for entry in read_log(plain) if entry["event"] == "train")
    assert [logged[name] for name in ("loss_fit", "loss_spread")] == [
        unweighted[name] for name in ("loss_fit", "loss_spread")
    ]
    assert logged["loss"] == pytest.approx(0.5 * logged["loss_spread"])
    assert unweighted["loss"] == pytest.approx(logged["loss_fit"] + logged["loss_spread"])


def test_a_loss_that_the_task_does_not_have_is_refused_before_the_first_step(tmp_path: Path) -> None:
    message = r"^task\.loss_weights\.loss_fit: stub has no such loss; its losses are fit, spread\.$"
    with pytest.raises(ConfigError, match=message):
        train(weighted(tmp_path, {"loss_fit": 2}), kind=Declared)
    assert not (tmp_path / "log.jsonl").exists()


def test_a_task_that_declares_no_losses_is_asked_in_its_first_step(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its losses are fit, spread"):
        train(weighted(tmp_path, {"speed": 2}))


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf, "much"])
def test_weights_are_finite_and_not_negative(weight: Any) -> None:
    with pytest.raises(ValueError, match=r"loss_weights\.itm"):
        TaskConfig(name="stub", loss_weights={"itm": weight})
