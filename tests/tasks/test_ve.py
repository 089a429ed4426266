"""Visual entailment: what a step and an evaluation do, and what broken data is told. Numbers are in tests/golden."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from elip.errors import DataError
from elip.models.albef import Albef
from elip.task import Task
from elip.testing import LocalEvaluator
from tests.tasks.small import (
    PROGRESS,
    learn,
    small_run,
    small_task,
    state_of,
    training_batch,
    write_items,
)


@pytest.fixture
def run(digits: Path, tiny: list[str]) -> list[str]:
    return small_run("ve", digits, tiny)


def evaluate(task: Task, split: str = "val") -> Any:
    with torch.no_grad():
        return task.eval().evaluate(split, LocalEvaluator())


def test_a_step_gives_a_loss_and_what_tensorboard_shows(run: list[str]) -> None:
    output = small_task("ve", [*run, "task.distill=true"]).training_step(
        training_batch(small_task("ve", run)), PROGRESS
    )
    assert list(output.losses) == ["loss_cls"]
    assert output.logs["alpha"] == pytest.approx(0.4)
    assert 0 <= output.logs["batch_accuracy"].item() <= 100
    assert [output.logs[f"tokens/block{i:02d}"] for i in range(3)] == [17, 1 + 12 + 1, 1 + 8 + 1]


@pytest.mark.parametrize("distill", ["true", "false"])
def test_it_learns_the_labels_of_a_batch(run: list[str], distill: str) -> None:
    task = small_task("ve", [*run, f"task.distill={distill}", "task.momentum=0.9"])
    outputs = learn(task, training_batch(task), steps=60)
    assert outputs[0].logs["batch_accuracy"].item() < 100
    assert outputs[-1].logs["batch_accuracy"].item() == 100
    assert outputs[-1].losses["loss_cls"].item() < 0.3 * outputs[0].losses["loss_cls"].item()


def test_the_momentum_copies_follow_at_the_start_of_a_step(run: list[str]) -> None:
    task = small_task("ve", [*run, "task.momentum=0.5"])
    before = state_of(task)
    with torch.no_grad():
        task.model.cls_head[0].weight.add_(1)
    task.on_step_start()
    moved = task.state_dict()["model.momentum.cls_head.0.weight"]
    torch.testing.assert_close(moved, before["model.momentum.cls_head.0.weight"] + 0.5)


def test_without_distillation_the_momentum_copies_are_not_asked(
    run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = small_task("ve", run)
    monkeypatch.setattr(task.model.momentum["albef"], "forward", None)
    monkeypatch.setattr(task.model, "teach", None)
    assert task.training_step(training_batch(task), PROGRESS).losses["loss_cls"].isfinite()


def test_the_momentum_copies_see_the_whole_image(run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = small_task("ve", [*run, "task.distill=true"]), []
    project = task.model.momentum["albef"].text_encoder.project
    monkeypatch.setattr(
        task.model.momentum["albef"].text_encoder,
        "project",
        lambda embeds, *rest: seen.append(embeds.shape[1]) or project(embeds, *rest),
    )
    task.training_step(training_batch(task), PROGRESS)
    assert seen == [17]


def test_the_sentence_guides_the_reduction_of_its_image(run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    task, guides = small_task("ve", run), []
    encode = Albef.encode_image
    monkeypatch.setattr(
        Albef,
        "encode_image",
        lambda self, image, guide, *rest, **kw: guides.append(guide.text) or encode(self, image, guide, *rest, **kw),
    )
    batch = training_batch(task)
    task(batch)
    expected = task.model.albef.text_encoder.encode(batch["ids"], batch["mask"])[:, 0]
    torch.testing.assert_close(guides[0].cls, expected)


def test_evaluation_gives_accuracy_predictions_and_a_sheet(run: list[str]) -> None:
    result = evaluate(small_task("ve", run))
    assert len(result.predictions) == 3 * 6
    right = [one["prediction"] == one["truth"] for one in result.predictions]
    assert result.metrics == {"accuracy": pytest.approx(100 * sum(right) / 18)}
    assert result.chance == {"accuracy": pytest.approx(100 / 3)}
    assert result.predictions[0]["image"].endswith(".jpg")
    assert sum(result.predictions[0]["scores"].values()) == pytest.approx(1)
    assert {*result.sheets} == {"examples"}


def test_val_is_evaluated_first_and_test_too(run: list[str]) -> None:
    task = small_task("ve", run)
    assert list(task.eval_splits()) == ["val", "test"]
    assert len(evaluate(task, "test").predictions) == 3 * 5


GOOD = {"image": "one", "sentence": "there is a red seven.", "label": "neutral"}


def broken_item(tmp_path: Path, run: list[str], item: dict[str, Any]) -> Task:
    Image.new("RGB", (32, 32)).save(tmp_path / "one.jpg")
    path = write_items(tmp_path / "items.json", [GOOD, item])
    return small_task("ve", [*run, f"data.image_root={tmp_path}", f"data.train=[{path}]", f"data.val=[{path}]"])


BROKEN = {
    "unknown label": (
        {**GOOD, "label": "entailed"},
        r"item 1: field 'label' must be 'entailment' or 'neutral' or "
        r"'contradiction', got 'entailed'\. Did you mean 'entailment'\?",
    ),
    "missing label": ({"image": "one", "sentence": "a"}, r"item 1: field 'label' is missing"),
    "misspelt sentence": (
        {"image": "one", "sentense": "a", "label": "neutral"},
        r"item 1: field 'sentence' is missing\. Did you mean 'sentense'\?",
    ),
    "sentence without words": (
        {**GOOD, "sentence": " ?!"},
        r"item 1: field 'sentence' is empty after cleaning: ' \?!'",
    ),
    "image no text": ({**GOOD, "image": 17}, r"item 1: field 'image' must be text, got 17"),
    "image not there": ({**GOOD, "image": "two"}, r"item 1: field 'image': .*two\.jpg: no such file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_item_is_named_with_file_item_and_field(tmp_path: Path, run: list[str], case: str) -> None:
    item, message = BROKEN[case]
    task = broken_item(tmp_path, run, item)
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        evaluate(task)
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        training_batch(task, size=2)
