"""Retrieval: what a step and an evaluation do, and what broken data is told. Numbers are in tests/golden."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from elip.data.datasets import SampleKey
from elip.data.ids import image_number
from elip.errors import ConfigError, DataError
from elip.models.albef import Albef
from elip.reduction.guide import Guide
from elip.task import Batch, Task
from elip.testing import LocalEvaluator
from tests.tasks.small import (
    PROGRESS,
    learn,
    small_run,
    small_task,
    state_of,
    training_batch,
    without_reducer,
    write_items,
)

ELIP = "reducer={name: elip, begin: [1, 2], look_ahead: [1, 1], keep_ratio: [0.75, 0.5]}"


@pytest.fixture
def run(digits: Path, tiny: list[str]) -> list[str]:
    return small_run("retrieval", digits, tiny)


def evaluate(task: Task, split: str = "val") -> Any:
    with torch.no_grad():
        return task.eval().evaluate(split, LocalEvaluator())


def one_of_each(task: Task, images: int = 6, texts_per_image: int = 5) -> Batch:
    """Return a batch of the first text of the first images."""
    dataset = task.train_dataset()
    return task.collate([dataset[SampleKey(0, index * texts_per_image)] for index in range(images)])


def test_a_step_gives_both_losses_and_what_tensorboard_shows(run: list[str]) -> None:
    task = small_task("retrieval", [*run, "task.distill=true"])
    output = task.training_step(training_batch(task), PROGRESS)
    assert list(output.losses) == ["loss_itc", "loss_itm"]
    assert output.logs["alpha"] == pytest.approx(0.4)
    assert output.logs["temp"].item() == pytest.approx(0.07)
    assert [output.logs[f"tokens/block{i:02d}"] for i in range(3)] == [17, 1 + 12, 1 + 8]


def test_it_learns_to_tell_the_texts_of_a_batch_apart(run: list[str]) -> None:
    task = small_task("retrieval", [*run, "task.momentum=0.5"])
    wrong = torch.arange(6).roll(1)
    batch = {**one_of_each(task), "negative_image": wrong, "negative_text": wrong}
    outputs = learn(task, batch, steps=100, lr=1.5e-3)
    for name, first in outputs[0].losses.items():
        last = torch.stack([output.losses[name] for output in outputs[-30:]]).mean()
        assert last.item() < 0.6 * first.item(), name


def test_only_distillation_asks_the_momentum_copies_what_is_similar(run: list[str]) -> None:
    losses = {}
    for distill in ("true", "false"):
        task = small_task("retrieval", [*run, f"task.distill={distill}"])
        batch = task.example_batch(4)
        for parameter in task.model.momentum.parameters():
            parameter.mul_(1.5)  # so that their view differs from the online one
        keys = task._momentum_features(batch)
        losses[distill] = task._targets(batch["image_id"], keys, alpha=0.4)
    assert losses["false"][0].count_nonzero() == 4
    assert (losses["true"][0] > 0).all()


def test_once_the_gradients_are_taken_features_and_image_ids_go_to_the_queues(run: list[str]) -> None:
    task = small_task("retrieval", run)
    before, batch = state_of(task), training_batch(task)
    task.training_step(batch, PROGRESS).after_backward()
    after = task.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {f"model.queues.{name}" for name in ("image", "text", "ids", "pointer", "filled")}
    assert after["model.queues.ids"][0, :8].tolist() == batch["image_id"].tolist()


def test_texts_of_one_image_carry_one_number_and_are_no_negatives_of_each_other(run: list[str], digits: Path) -> None:
    task = small_task("retrieval", run)
    batch = training_batch(task)
    items = json.loads((digits / "retrieval_train.json").read_text())[:8]
    assert batch["image_id"].tolist() == [image_number(item["image_id"]) for item in items]
    same = batch["image_id"][:, None] == batch["image_id"]
    keys = task._momentum_features(batch)
    sim = task.model.contrast(keys.image, keys.text, keys)
    for _ in range(10):
        drawn = task.model.draw_negatives(sim, same)
        assert not same[torch.arange(8), drawn.image].any()
        assert not same[torch.arange(8), drawn.text].any()


def test_a_batch_of_texts_about_one_image_has_no_matching_loss_but_still_contrasts(run: list[str]) -> None:
    task = small_task("retrieval", run)
    batch = {**task.example_batch(4), "image_id": torch.zeros(4, dtype=torch.long)}
    losses = task.training_step(batch, PROGRESS).losses
    assert losses["loss_itm"].item() == 0
    assert losses["loss_itc"].item() > 0


def test_images_are_encoded_alone_so_a_reducer_that_needs_a_text_keeps_all(
    run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task, guides = small_task("retrieval", [*without_reducer(run), ELIP]), []
    encode = Albef.encode_image

    def spy(self: Albef, image: Tensor, guide: Guide | None = None, *rest: Any, **named: Any) -> Any:
        if self is task.model.albef:
            guides.append(guide and guide.text)
        return encode(self, image, guide, *rest, **named)

    monkeypatch.setattr(Albef, "encode_image", spy)
    batch = training_batch(task)
    output = task.training_step(batch, PROGRESS)
    task(batch)
    assert guides == [None, None]
    assert [output.logs[f"tokens/block{i:02d}"] for i in range(3)] == [17, 17, 17]


def test_evaluation_gives_recall_predictions_and_sheets(run: list[str]) -> None:
    task = small_task("retrieval", run)
    result = evaluate(task)
    assert set(result.metrics) == {
        *(f"{side}_r{at}" for side in ("txt", "img") for at in (1, 5, 10)),
        *("txt_r_mean", "img_r_mean", "r_mean"),
    }
    assert result.chance.keys() == result.metrics.keys()
    assert len(result.predictions) == 6
    for one in result.predictions:
        assert one["rank"] >= len(one["texts"]) or one["texts"][one["rank"]] == one["truth"]
    assert {*result.sheets} == {"examples", "kept_patches"}
    assert list(task.eval_splits()) == ["val", "test"]
    assert len(evaluate(task, "test").predictions) == 5


def test_training_captions_are_not_cut_unless_asked_for(run: list[str]) -> None:
    whole = training_batch(small_task("retrieval", run))["ids"]
    cut = training_batch(small_task("retrieval", [*run, "task.text_length=6"]))["ids"]
    assert whole.shape[1] > 6
    assert torch.equal(cut, whole[:, :6])


def test_a_batch_of_one_is_refused_because_it_has_no_negatives(run: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size: retrieval needs at least 2 pairs.*got 1"):
        small_task("retrieval", [*run, "train.batch_size=1"])


def test_more_candidates_than_there_are_is_an_error_that_says_how_many(run: list[str]) -> None:
    with pytest.raises(DataError, match=r"task\.k_test: there are 6 images and 30 texts.*at most 6"):
        evaluate(small_task("retrieval", [*run, "task.k_test=7"]))


GOOD = {"image": "one.png", "caption": "a red seven.", "image_id": 7}
BROKEN = {
    "no image id": (
        {"image": "one.png", "caption": "a"},
        r"item 1: field 'image_id' is missing\. The item has: \['image', 'caption'\]",
    ),
    "image id no id": ({**GOOD, "image_id": 1.5}, r"item 1: field 'image_id' must be text or a whole number, got 1\.5"),
    "misspelt caption": (
        {"image": "one.png", "captions": "a", "image_id": 7},
        r"item 1: field 'caption' is missing\. Did you mean 'captions'\?",
    ),
    "list of captions": ({**GOOD, "caption": ["a", "b"]}, r"item 1: field 'caption' must be text, got \['a', 'b'\]"),
    "caption without words": ({**GOOD, "caption": "?!"}, r"item 1: field 'caption' is empty after cleaning: '\?!'"),
    "id of another image": (
        {**GOOD, "image": "two.png", "image_id": "7"},
        r"item 1: field 'image_id': '7' names 'two\.png', but in .*items\.json item 0 it names 'one\.png' \(as 7",
    ),
    "image no text": ({**GOOD, "image": 17}, r"item 1: field 'image' must be text, got 17"),
    "image not there": (
        {**GOOD, "image": "two.png", "image_id": 8},
        r"item 1: field 'image': .*two\.png: no such file",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_item_to_train_on_is_named_with_file_item_and_field(tmp_path: Path, run: list[str], case: str) -> None:
    item, message = BROKEN[case]
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    path = write_items(tmp_path / "items.json", [GOOD, item])
    task = small_task("retrieval", [*run, f"data.image_root={tmp_path}", f"data.train=[{path}]"])
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        training_batch(task, size=2)


TEST = {"image": "one.png", "caption": ["a red seven.", "seven"]}
BROKEN_TEST = {
    "image twice": (TEST, r"item 1: field 'image': one\.png is in .*items\.json item 0 already"),
    "one caption, no list": (
        {"image": "two.png", "caption": "a"},
        r"item 1: field 'caption' must be a list of texts, got 'a'",
    ),
    "no captions": ({"image": "two.png", "caption": []}, r"item 1: field 'caption' is an empty list"),
    "caption without words": (
        {"image": "two.png", "caption": ["a", "!"]},
        r"item 1: field 'caption' is empty after cleaning: '!'",
    ),
    "no image": ({"caption": ["a"]}, r"item 1: field 'image' is missing"),
    "image not there": ({"image": "two.png", "caption": ["a"]}, r"item 1: field 'image': .*two\.png: no such file"),
}


@pytest.mark.parametrize("case", BROKEN_TEST)
def test_a_broken_item_to_evaluate_on_is_named_with_file_item_and_field(
    tmp_path: Path, run: list[str], case: str
) -> None:
    item, message = BROKEN_TEST[case]
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    path = write_items(tmp_path / "items.json", [TEST, item])
    task = small_task("retrieval", [*run, f"data.image_root={tmp_path}", f"data.val=[{path}]", "task.k_test=2"])
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        evaluate(task)
