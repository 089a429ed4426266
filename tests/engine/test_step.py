"""What ends a step because numbers are no longer finite (losses: in `test_trainer`), and what it draws."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elip.config.schema import RunConfig
from elip.engine.step import TrainingError
from elip.task import Batch, EvalResult, Evaluator, Progress, StepOutput
from elip.weights import run_folder
from tests.engine.conftest import read_log, train
from tests.engine.stub import StubTask, stub_config


class Spoilt(StubTask):
    """The stub with a weight, which no loss sees, that is set to infinity in the fourth step."""

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        if progress.step == 3:
            with torch.no_grad():
                self.unused.weight.fill_(math.inf)
        return super().training_step(batch, progress)

    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        assert self.unused.weight.isfinite().all(), "spoilt weights are evaluated"
        return super().evaluate(split, evaluator)


class Fragile(StubTask):
    """The stub with a step that fails on what is no number."""

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        if progress.step == 2:
            torch.multinomial(self.unused.weight.detach().abs(), 1)
            raise RuntimeError("a mistake in a plug-in")
        return super().training_step(batch, progress)


def overflow(task: StubTask) -> None:
    task.layers[2].weight.register_hook(lambda gradient: gradient * math.inf)


@pytest.mark.parametrize("every", ["eval_every", "save_every"])
def test_weights_out_of_range_are_neither_evaluated_nor_saved(tmp_path: Path, every: str) -> None:
    with pytest.raises(TrainingError) as caught:
        train(stub_config(tmp_path, save_every=2) if every == "save_every" else stub_config(tmp_path), kind=Spoilt)
    step = 4 if every == "save_every" else 5
    good = f"The last good checkpoint is {tmp_path}/checkpoint-00000002.pt."
    assert str(caught.value) == (
        f"step {step}: the update went out of range. 1 of 6 trained weights are not finite, the first unused.weight. "
        f"It is neither evaluated nor saved. {good if every == 'save_every' else 'There is no checkpoint yet.'} "
        "Lower optim.lr or set train.clip_grad_norm."
    )
    assert [path.name for path in run_folder.in_order(tmp_path)] == ["checkpoint-00000002.pt"] * (step == 4)
    assert not (tmp_path / "best.pt").exists()


def test_fp16_passes_over_a_large_gradient_until_the_loss_scale_is_of_no_use(tmp_path: Path) -> None:
    config = stub_config(tmp_path, precision="fp16", epochs=20, clip_grad_norm=2.0)
    message = (
        r"^step 31: the gradient norm is (inf|nan) \(the losses are finite\)\. .*-00000030\.pt\. "
        r"Lower optim\.lr, set train\.clip_grad_norm below 2 or try train\.precision=fp32\.$"
    )
    with pytest.raises(TrainingError, match=message):
        train(config, prepare=overflow)
    assert len([entry for entry in read_log(tmp_path) if entry["event"] == "train"]) == 30


def test_fp16_does_not_pass_over_a_gradient_of_weights_that_are_not_finite(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^step 4: the gradient norm is .* the first unused\.weight"):
        train(stub_config(tmp_path, precision="fp16"), kind=Spoilt, prepare=overflow)


def test_a_step_that_fails_is_blamed_on_weights_that_are_not_finite(tmp_path: Path) -> None:
    def spoil(task: StubTask) -> None:
        with torch.no_grad():
            task.unused.weight.fill_(math.nan)

    message = r"^step 3: the forward or backward pass failed \(RuntimeError\)\. 1 of 6 .* the first unused\.weight\."
    with pytest.raises(TrainingError, match=message):
        train(stub_config(tmp_path / "spoilt"), kind=Fragile, prepare=spoil)
    with pytest.raises(RuntimeError, match="a mistake in a plug-in"):
        train(stub_config(tmp_path / "whole"), kind=Fragile)


class Draws(StubTask):
    """The stub, which notes what it draws from each generator in each forward pass, and with what it began."""

    def __init__(self, config: RunConfig, **settings: Any) -> None:
        super().__init__(config, **settings)
        self.drawn: list[tuple[float, ...]] = []

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        self.drawn.append((torch.rand(()).item(), float(np.random.rand()), random.random()))
        return super().training_step(batch, progress)


def test_each_forward_pass_of_each_process_draws_other_random_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[tuple[float, ...]] = []
    for rank, seed in ((0, 0), (1, 0), (0, 1)):
        monkeypatch.setattr("elip.engine.step.rank", lambda rank=rank: rank)
        stub, _ = train(stub_config(tmp_path / f"{rank}-{seed}", accumulate=2, epochs=1, seed=seed), kind=Draws)
        passes += stub.drawn
    assert len(passes) > 3 * 2
    for drawn in zip(*passes, strict=True):
        assert len(set(drawn)) == len(passes)
