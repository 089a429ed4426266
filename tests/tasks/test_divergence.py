"""A model whose numbers are no longer finite ends every task alike: with a `TrainingError`, at that very step."""

import math
from pathlib import Path

import pytest
import torch

from elip.config import load_config
from elip.engine.runtime import start_run
from elip.engine.step import TrainingError
from elip.engine.trainer import Trainer
from elip.errors import ElipError
from elip.registry import TASKS
from elip.task import Batch, Progress, StepOutput, Task
from elip.testing import LocalEvaluator
from tests.conftest import PROJECT
from tests.tasks.small import small_run, small_task

NAMES = [name for name in TASKS.names() if TASKS.get(name).__module__.startswith("tasks.")]
PLACES = {  # early, so that all of the model sees it; and late, so that draws come before
    "early": "model.albef.visual_encoder.patch_embed.proj.weight",
    "late": "model.albef.text_encoder.encoder.layer.1.output.LayerNorm.bias",
}
STEPS_BEFORE = 1


def diverging(name: str, digits: Path, tiny: list[str], place: str, value: float) -> Trainer:
    """Return the training of a small task, one of whose weights gets a value after the first step."""
    overrides = [*small_run(name, digits, tiny), "train.save_every=1", "train.eval_every=1000", "train.device=cpu"]
    config = load_config(PROJECT / f"configs/demo/{name}.yaml", overrides)
    task: Task = TASKS.build(config.task.name, config)
    train = task.training_step

    def spoil_and_train(batch: Batch, progress: Progress) -> StepOutput:
        if progress.step == STEPS_BEFORE:
            with torch.no_grad():
                task.get_parameter(place).fill_(value)
        return train(batch, progress)

    task.training_step = spoil_and_train
    with start_run(config) as run:
        return Trainer(task, config, run)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_diverges_ends_in_one_kind_of_error(
    digits: Path, tiny: list[str], tmp_path: Path, name: str, place: str, value: float
) -> None:
    trainer = diverging(name, digits, tiny, PLACES[place], value)
    with pytest.raises(TrainingError) as caught:
        trainer.fit()
    message = str(caught.value)
    assert message.startswith("step 2: loss_")
    assert " is nan" in message
    assert f"1 of {len(list(trainer._task.parameters_to_optimise()))} trained weights" in message
    assert f"the first {PLACES[place]}." in message
    assert f"The last good checkpoint is {tmp_path}/run/checkpoint-00000001.pt." in message
    assert message.endswith("Lower optim.lr or set train.clip_grad_norm below 1.")


@pytest.mark.parametrize("name", ["pretrain", "retrieval", "grounding"])
def test_a_temperature_that_is_not_finite_is_told_not_put_back_in_bounds(
    digits: Path, tiny: list[str], name: str
) -> None:
    trainer = diverging(name, digits, tiny, "model.temp", 0.07)
    with torch.no_grad():
        trainer._task.model.temp.fill_(math.inf)
    with pytest.raises(TrainingError, match=r"^step 1: loss_itc is nan"):
        trainer.fit()


def test_similarities_that_only_the_draw_sees_are_told_in_text_assignment(digits: Path, tiny: list[str]) -> None:
    trainer = diverging("nlvr_pretrain", digits, tiny, "model.albef.vision_proj.weight", math.nan)
    with pytest.raises(TrainingError, match=r"^step 2: loss_ta is nan"):
        trainer.fit()


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_has_diverged_is_not_ranked(digits: Path, tiny: list[str], name: str) -> None:
    task = small_task(name, small_run(name, digits, tiny)).eval()
    with torch.no_grad():
        task.get_parameter(PLACES["early"]).fill_(math.nan)
        with pytest.raises(ElipError, match=r"not finite numbers for \d+ of \d+ items and give no figures"):
            task.evaluate("val", LocalEvaluator())
