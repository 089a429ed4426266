"""The pre-training task: what a step and an evaluation do, and what they leave alone. Numbers are in tests/golden."""

from typing import Any

import pytest
import torch
from torch import Tensor

from elip.errors import ConfigError, DataError, ElipError
from elip.task import Progress
from elip.testing import LocalEvaluator
from tests.tasks.small import PROGRESS, small_task, state_of, training_batch, without_reducer


def test_a_step_gives_the_three_losses_and_what_tensorboard_shows(tiny: list[str]) -> None:
    task = small_task("pretrain", [*tiny, "task.alpha=0.4"])
    output = task.training_step(training_batch(task), PROGRESS)
    assert list(output.losses) == ["loss_itc", "loss_itm", "loss_mlm"]
    assert output.logs["alpha"] == pytest.approx(0.4)
    assert output.logs["temp"].item() == pytest.approx(0.07)
    assert [output.logs[f"tokens/block{i:02d}"] for i in range(3)] == [17, 1 + 12 + 1, 1 + 8 + 1]


def test_once_the_gradients_are_taken_the_features_of_a_batch_go_to_the_queues(tiny: list[str]) -> None:
    task = small_task("pretrain", tiny)
    before = state_of(task)
    task.training_step(training_batch(task), PROGRESS).after_backward()
    after = task.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"model.queues.{name}" for name in ("image", "text", "pointer", "filled")}
    assert task.state_dict()["model.queues.pointer"].item() == 8


def test_the_temperature_falls_no_lower_than_asked_for(tiny: list[str]) -> None:
    task = small_task("pretrain", [*tiny, "task.min_temp=0.05"])
    with torch.no_grad():
        task.model.temp.fill_(0.01)
    task.on_step_start()
    assert task.model.temp.item() == pytest.approx(0.05)
    with pytest.raises(ConfigError, match=r"temp \(0.07\) is below min_temp \(0.1\)"):
        small_task("pretrain", [*tiny, "task.min_temp=0.1"])


def test_a_step_start_keeps_the_temperature_in_bounds_and_lets_the_copies_follow(tiny: list[str]) -> None:
    task = small_task("pretrain", [*tiny, "task.momentum=0.5"])
    with torch.no_grad():
        task.model.temp.fill_(3.0)
        task.model.itm_head.weight.add_(1)
        task.model.albef.vision_proj.weight.add_(1)
    copy = task.model.teacher.vision_proj.weight.clone()
    task.on_step_start()
    assert task.model.temp.item() == pytest.approx(0.5)
    torch.testing.assert_close(task.model.teacher.vision_proj.weight, copy + 0.5)


def test_the_momentum_image_is_whole_unless_asked_otherwise(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}
    for setting in ("false", "true"):
        task = small_task("pretrain", [*tiny, f"task.reduce_momentum={setting}", "task.alpha=0.4"])
        project = task.model.teacher.text_encoder.project

        def spy(embeds: Tensor, *args: Any, setting: str = setting, project: Any = project) -> Any:
            seen[setting] = embeds.shape[1]
            return project(embeds, *args)

        monkeypatch.setattr(task.model.teacher.text_encoder, "project", spy)
        task.training_step(training_batch(task), PROGRESS)
    assert seen == {"false": 17, "true": 10}


@pytest.mark.parametrize("schedule", ["until: 0.5", "warmup: {start: 0.2, end: 0.5, shape: step}"])
def test_a_reduced_momentum_image_follows_the_progress_of_the_training(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    reducer = f"reducer={{name: random, begin: [0], keep_ratio: 0.5, {schedule}}}"
    task = small_task("pretrain", [*without_reducer(tiny), reducer, "task.reduce_momentum=true", "task.alpha=0.4"])
    project, seen = task.model.teacher.text_encoder.project, []

    def spy(embeds: Tensor, *args: Any) -> Any:
        seen.append(embeds.shape[1])
        return project(embeds, *args)

    monkeypatch.setattr(task.model.teacher.text_encoder, "project", spy)
    for step in (0, 5):
        task.training_step(training_batch(task), Progress(step, total_steps=6, steps_per_epoch=3))
    assert seen == ([9, 17] if schedule.startswith("until") else [17, 9])


def test_evaluation_gives_recall_predictions_and_sheets(tiny: list[str]) -> None:
    task = small_task("pretrain", tiny).eval()
    with torch.no_grad():
        result = task.evaluate("val", LocalEvaluator())
    assert set(result.metrics) == {
        *(f"{side}_r{at}" for side in ("txt", "img") for at in (1, 5, 10)),
        *("txt_r_mean", "img_r_mean", "r_mean"),
    }
    assert len(result.predictions) == 6
    assert all(prediction["rank"] >= 0 for prediction in result.predictions)
    assert {*result.sheets} == {"examples", "kept_patches"}


def test_without_reduction_there_is_no_sheet_of_kept_patches(tiny: list[str]) -> None:
    tiny = [override for override in tiny if not override.startswith("reducer.")]
    task = small_task("pretrain", [*tiny, "reducer.name=none"]).eval()
    with torch.no_grad():
        assert {*task.evaluate("val", LocalEvaluator()).sheets} == {"examples"}


def test_more_candidates_than_there_are_is_an_error_that_says_how_many(tiny: list[str]) -> None:
    task = small_task("pretrain", [*tiny, "task.k_test=7"]).eval()
    with pytest.raises(DataError, match=r"task\.k_test: there are 6 images and 30 texts.*at most 6"):
        task.evaluate("val", LocalEvaluator())


def test_a_batch_of_one_is_refused_because_it_has_no_negatives(tiny: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size.*at least 2.*hard negatives.*got 1"):
        small_task("pretrain", [*tiny, "train.batch_size=1"])


def test_a_tokenizer_with_more_words_than_the_encoder_is_refused(tiny: list[str]) -> None:
    task = small_task("pretrain", [*tiny, "model.text.options.vocab_size=100"])
    with pytest.raises(ConfigError, match=r"model\.text\.tokenizer.*text encoder only 100"):
        training_batch(task)


def test_text_and_vit_of_different_widths_are_refused_under_elip(tiny: list[str]) -> None:
    with pytest.raises(ElipError, match="widths must be equal: the ViT's is 48, the text encoder's 32"):
        small_task("pretrain", [*tiny, "model.vision.options.embed_dim=48"])
