"""The pre-training task: what a step and an evaluation do, and what they leave alone. Numbers are in tests/golden."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elip.config import load_config
from elip.data.datasets import SampleKey
from elip.errors import ConfigError, DataError, ElipError
from elip.reduction.guide import TeacherNeeds
from elip.reduction.reducer import EncoderInfo, ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS, TASKS
from elip.task import Batch, Progress, Task
from tests.conftest import PROJECT
from tests.evaluators import OneProcess

PROGRESS = Progress(step=3, total_steps=6, steps_per_epoch=3)


def make_task(tiny: list[str], *overrides: str) -> Task:
    torch.manual_seed(0)
    config = load_config(PROJECT / "configs/demo/pretrain.yaml", [*tiny, *overrides])
    return TASKS.build(config.task.name, config)


def make_batch(task: Task, size: int = 8) -> Batch:
    dataset = task.train_dataset()
    return task.collate([dataset[SampleKey(0, index)] for index in range(size)])


def buffers_and_parameters(task: Task) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in task.state_dict().items()}


def test_a_step_gives_the_three_losses_and_what_tensorboard_shows(tiny: list[str]) -> None:
    task = make_task(tiny, "task.alpha=0.4")
    output = task.training_step(make_batch(task), PROGRESS)
    assert list(output.losses) == ["loss_itc", "loss_itm", "loss_mlm"]
    assert output.logs["alpha"] == pytest.approx(0.4)
    assert output.logs["temp"].item() == pytest.approx(0.07)
    assert [output.logs[f"tokens/block{i:02d}"] for i in range(3)] == [17, 1 + 12 + 1, 1 + 8 + 1]


def test_a_forward_pass_alone_moves_no_momentum_copy_and_no_queue(tiny: list[str]) -> None:
    task = make_task(tiny)
    before = buffers_and_parameters(task)
    output = task.training_step(make_batch(task), PROGRESS)
    after = task.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    output.after_backward()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"model.queues.{name}" for name in ("image", "text", "pointer", "filled")}
    assert task.state_dict()["model.queues.pointer"].item() == 8


def test_the_temperature_falls_no_lower_than_asked_for(tiny: list[str]) -> None:
    task = make_task(tiny, "task.min_temp=0.05")
    with torch.no_grad():
        task.model.temp.fill_(0.01)
    task.on_step_start()
    assert task.model.temp.item() == pytest.approx(0.05)
    with pytest.raises(ConfigError, match=r"temp \(0.07\) is below min_temp \(0.1\)"):
        make_task(tiny, "task.min_temp=0.1")


def test_a_step_start_keeps_the_temperature_in_bounds_and_lets_the_copies_follow(tiny: list[str]) -> None:
    task = make_task(tiny, "task.momentum=0.5")
    with torch.no_grad():
        task.model.temp.fill_(3.0)
        task.model.itm_head.weight.add_(1)
        task.model.albef.vision_proj.weight.add_(1)
    copy = task.model.slow.vision_proj.weight.clone()
    task.on_step_start()
    assert task.model.temp.item() == pytest.approx(0.5)
    torch.testing.assert_close(task.model.slow.vision_proj.weight, copy + 0.5)


def test_gradients_reach_every_online_parameter_and_no_copy(tiny: list[str]) -> None:
    task = make_task(tiny)
    sum(task.training_step(make_batch(task), PROGRESS).losses.values()).backward()
    without = [name for name, p in task.parameters_to_optimise() if p.grad is None]
    assert without == []
    assert all(p.grad is None for p in task.model.momentum.parameters())


def test_the_momentum_image_is_whole_unless_asked_otherwise(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, int] = {}
    for setting in ("false", "true"):
        task = make_task(tiny, f"task.reduce_momentum={setting}")
        project = task.model.slow.text_encoder.project

        def spy(embeds: Tensor, *args: Any, setting: str = setting, project: Any = project) -> Any:
            seen[setting] = embeds.shape[1]
            return project(embeds, *args)

        monkeypatch.setattr(task.model.slow.text_encoder, "project", spy)
        task.training_step(make_batch(task), PROGRESS)
    assert seen == {"false": 17, "true": 10}


def test_evaluation_gives_recall_predictions_and_a_sheet_and_changes_nothing(tiny: list[str]) -> None:
    task = make_task(tiny).eval()
    before = buffers_and_parameters(task)
    with torch.no_grad():
        result = task.evaluate("val", OneProcess())
    assert set(result.metrics) == {
        *(f"{side}_r{at}" for side in ("txt", "img") for at in (1, 5, 10)),
        *("txt_r_mean", "img_r_mean", "r_mean"),
    }
    assert len(result.predictions) == 6
    assert all(prediction["rank"] >= 0 for prediction in result.predictions)
    assert result.sheets["kept_patches"].dtype.name == "uint8"
    assert all(torch.equal(before[name], tensor) for name, tensor in task.state_dict().items())


def test_without_reduction_there_is_no_sheet_of_kept_patches(tiny: list[str]) -> None:
    tiny = [override for override in tiny if not override.startswith("reducer.")]
    task = make_task(tiny, "reducer.name=none").eval()
    with torch.no_grad():
        assert {*task.evaluate("val", OneProcess()).sheets} == {"examples"}


def test_an_evaluation_may_use_another_reducer(tiny: list[str]) -> None:
    task = make_task(tiny, "eval.reducer={name: random, begin: [1], keep_ratio: [0.25]}")
    batch = make_batch(task)
    assert task.model.albef.encode_image(batch["image"]).tokens.num_tokens == 16  # elip has no text here
    assert task.eval().model.albef.encode_image(batch["image"]).tokens.num_tokens == 4


def test_more_candidates_than_there_are_is_an_error_that_says_how_many(tiny: list[str]) -> None:
    task = make_task(tiny, "task.k_test=7").eval()
    with pytest.raises(DataError, match=r"task\.k_test: there are 6 images and 30 texts.*at most 6"):
        task.evaluate("val", OneProcess())


def test_a_batch_of_one_is_refused_because_it_has_no_negatives(tiny: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size.*at least 2.*hard negatives.*got 1"):
        make_task(tiny, "train.batch_size=1")


def test_a_tokenizer_with_more_words_than_the_encoder_is_refused(tiny: list[str]) -> None:
    task = make_task(tiny, "model.text.options.vocab_size=100")
    with pytest.raises(ConfigError, match=r"model\.text\.tokenizer.*text encoder only 100"):
        make_batch(task)


def test_text_and_vit_of_different_widths_are_refused_under_elip(tiny: list[str]) -> None:
    with pytest.raises(ElipError, match="widths must be equal: the ViT's is 48, the text encoder's 32"):
        make_task(tiny, "model.vision.options.embed_dim=48")


class Student(TokenReducer):
    """Wants to learn from the momentum tower, and adds a loss."""

    teacher_needs = TeacherNeeds(cls_rows=(2,), tokens=True)

    def __init__(self, encoder: EncoderInfo) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def auxiliary_losses(self, tokens: Tokens, context: ReductionContext) -> dict[str, Tensor]:
        teacher = context.guide.teacher
        assert {*teacher.cls_rows} == {2}
        assert teacher.cls_rows[2].shape == (len(tokens.x), 2, tokens.num_tokens)
        assert context.guide.progress == pytest.approx(0.5)
        return {"loss_student": self.scale * (tokens.x - teacher.tokens).square().mean()}


def test_a_reducer_can_learn_from_the_momentum_tower_and_add_its_own_loss(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REDUCERS._classes, "student", Student)
    task = make_task([override for override in tiny if not override.startswith("reducer.")], "reducer.name=student")
    output = task.training_step(make_batch(task), PROGRESS)
    sum(output.losses.values()).backward()
    assert output.losses["loss_student"].item() >= 0
    assert task.model.albef.reducer.scale.grad is not None


def test_a_made_up_batch_trains_and_infers_without_any_file(tiny: list[str], tmp_path: Path) -> None:
    task = make_task([*tiny, f"data.train=[{tmp_path}/none.json]", f"model.text.tokenizer={tmp_path}/none"])
    batch = task.example_batch(4)
    assert task(batch).shape == (4, 2)
    assert all(loss.isfinite() for loss in task.training_step(batch, PROGRESS).losses.values())
