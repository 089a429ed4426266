"""Text assignment: what a step and an evaluation do, and what broken data is told. Numbers are in tests/golden."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from elip.errors import ConfigError, DataError
from elip.task import Task
from elip.testing import LocalEvaluator
from tests.tasks.small import (
    PROGRESS,
    learn,
    small_run,
    small_task,
    training_batch,
    without_reducer,
    write_items,
)


@pytest.fixture
def run(digits: Path, tiny: list[str]) -> list[str]:
    return small_run("nlvr_pretrain", digits, tiny)


def evaluate(task: Task, split: str = "val") -> Any:
    with torch.no_grad():
        return task.eval().evaluate(split, LocalEvaluator())


def test_a_step_gives_a_loss_and_what_tensorboard_shows(run: list[str]) -> None:
    task = small_task("nlvr_pretrain", run)
    output = task.training_step(training_batch(task), PROGRESS)
    assert list(output.losses) == ["loss_ta"]
    assert 0 <= output.logs["batch_accuracy"].item() <= 100
    assert [output.logs[f"tokens/block{i:02d}"] for i in range(3)] == [17, 1 + 12 + 1, 1 + 8 + 1]


def test_it_learns_which_of_two_plain_images_a_text_belongs_to(run: list[str]) -> None:
    task = small_task("nlvr_pretrain", [*without_reducer(run), "reducer={name: none}"])
    colours = 2 * torch.eye(3)[:, :, None, None].expand(-1, -1, 32, 32)
    ids = torch.tensor([[2, 10, 20], [2, 11, 21], [2, 12, 22]])
    outputs = learn(task, {"image": colours, "ids": ids, "mask": torch.ones_like(ids)}, steps=250)
    last = [output.logs["batch_accuracy"].item() for output in outputs[-60:]]
    assert sum(last) / len(last) > 55  # a third by chance; pairs are drawn anew in each step


@pytest.mark.parametrize(("temp", "alike"), [(0.01, True), (10.0, False)])
def test_images_drawn_are_the_more_alike_the_lower_the_temperature(run: list[str], temp: float, alike: bool) -> None:
    task = small_task("nlvr_pretrain", [*without_reducer(run), "reducer={name: none}", f"task.draw_temp={temp}"])
    image = torch.tensor([-2.0, -1.9, 1.9, 2.0])[:, None, None, None].expand(-1, 3, 32, 32)  # two dark, two bright
    ids, own = torch.tensor([[2, 10, 20]]).expand(4, -1), torch.arange(4)
    drawn = [task.model.assign(image, ids, torch.ones_like(ids))[1] for _ in range(60)]
    first = torch.cat([torch.where(pairs.left == own, pairs.right, pairs.left) for pairs in drawn])
    share = (first // 2 == own.repeat(60) // 2).double().mean().item()
    assert share > 0.9 if alike else share < 0.5  # a third by chance


def test_projections_and_temperature_stay_as_pretraining_has_left_them(run: list[str]) -> None:
    task = small_task("nlvr_pretrain", run)
    trained = dict(task.parameters_to_optimise())
    fixed = {name for name, _ in task.named_parameters()} - trained.keys()
    projections = {f"model.albef.{side}_proj.{kind}" for side in ("vision", "text") for kind in ("weight", "bias")}
    assert fixed == {"model.temp", *projections}


def test_the_second_image_may_be_given_and_then_the_first_is_the_texts_own(run: list[str]) -> None:
    task = small_task("nlvr_pretrain", [*without_reducer(run), "reducer={name: none}"]).eval()
    batch = {**training_batch(task, 4), "second_image": torch.tensor([1, 2, 3, 0])}
    losses = [task.training_step(batch, PROGRESS).losses["loss_ta"] for _ in range(2)]
    assert torch.equal(*losses)
    with torch.no_grad():
        left = torch.zeros(4, dtype=torch.long)
        torch.testing.assert_close(losses[0].detach(), F.cross_entropy(task(batch), left))


def test_once_trained_both_images_are_encoded_with_the_caption(run: list[str]) -> None:
    task = small_task("nlvr_pretrain", run)
    batch = {**training_batch(task, 4), "second_image": torch.tensor([1, 2, 3, 0])}
    assert len(task.classify(batch).vision.embeds) == 8


def test_evaluation_shows_every_caption_with_two_images(run: list[str]) -> None:
    result = evaluate(small_task("nlvr_pretrain", run))
    assert len(result.predictions) == 5 * 6
    right = [one["prediction"] == one["truth"] for one in result.predictions]
    assert result.metrics == {"accuracy": pytest.approx(100 * sum(right) / 30)}
    assert result.chance == {"accuracy": pytest.approx(100 / 3)}
    assert {one["truth"] for one in result.predictions} == {"left", "right", "neither"}
    assert {*result.sheets} == {"examples"}


def test_a_batch_of_two_is_refused_because_neither_needs_two_other_images(run: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size: text assignment needs at least 3 pairs.*got 2"):
        small_task("nlvr_pretrain", [*run, "train.batch_size=2"])


def test_two_pictures_are_too_few_to_evaluate_on(run: list[str], tmp_path: Path) -> None:
    path = write_items(tmp_path / "two.json", [{"image": f"{i}.jpg", "caption": ["a seven"]} for i in range(2)])
    task = small_task("nlvr_pretrain", [*run, f"data.val=[{path}]"])
    with pytest.raises(DataError, match=r"two\.json: .*only 2 in all; give a file of at least 3"):
        evaluate(task)


GOOD = {"image": "one.jpg", "caption": ["a red seven"]}
BROKEN = {
    "missing caption": ({"image": "two.jpg"}, r"item 1: field 'caption' is missing"),
    "caption no text": ({"image": "two.jpg", "caption": [7]}, r"item 1: field 'caption' must be .*text.*, got \[7\]"),
    "no caption": ({"image": "two.jpg", "caption": []}, r"item 1: field 'caption' is (an )?empty"),
    "missing image": ({"caption": ["a"]}, r"item 1: field 'image' is missing"),
    "image not there": ({**GOOD, "image": "gone.jpg"}, r"item 1: field 'image': .*gone\.jpg: no such file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_item_is_named_with_file_item_and_field(tmp_path: Path, run: list[str], case: str) -> None:
    item, message = BROKEN[case]
    for name in ("one", "two", "three", "four"):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{name}.jpg")
    others = [{**GOOD, "image": f"{name}.jpg"} for name in ("three", "four")]
    path = write_items(tmp_path / "items.json", [GOOD, item, *others])
    overrides = [*run, f"data.image_root={tmp_path}", f"data.train=[{path}]", f"data.val=[{path}]"]
    task = small_task("nlvr_pretrain", overrides)
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        evaluate(task)
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        training_batch(task, size=2)
