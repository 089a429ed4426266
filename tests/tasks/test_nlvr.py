"""NLVR2: what a step and an evaluation do with two images, and what broken data is told. Numbers: tests/golden."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from elip.efficiency.task_cost import task_cost
from elip.errors import DataError
from elip.models.albef import Albef
from elip.reduction.guide import Guide
from elip.task import Task
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


@pytest.fixture
def run(digits: Path, tiny: list[str]) -> list[str]:
    return small_run("nlvr", digits, tiny)


def evaluate(task: Task, split: str = "val") -> Any:
    with torch.no_grad():
        return task.eval().evaluate(split, LocalEvaluator())


def test_a_step_gives_a_loss_and_what_tensorboard_shows(run: list[str]) -> None:
    task = small_task("nlvr", [*run, "task.distill=true"])
    output = task.training_step(training_batch(task), PROGRESS)
    assert list(output.losses) == ["loss_cls"]
    assert output.logs["alpha"] == pytest.approx(0.4)
    assert [output.logs[f"tokens/block{i:02d}"] for i in range(3)] == [17, 1 + 12 + 1, 1 + 8 + 1]


@pytest.mark.parametrize("distill", ["true", "false"])
def test_it_learns_the_labels_of_a_batch(run: list[str], distill: str) -> None:
    task = small_task("nlvr", [*run, f"task.distill={distill}", "task.momentum=0.9"])
    outputs = learn(task, training_batch(task), steps=60)
    assert outputs[0].logs["batch_accuracy"].item() < 100
    assert outputs[-1].logs["batch_accuracy"].item() == 100


def test_the_momentum_copies_share_projections_as_the_online_layers_do(run: list[str]) -> None:
    task = small_task("nlvr", [*run, "task.momentum=0.5"])
    with torch.no_grad():
        for p in task.model.albef.text_encoder.parameters():
            p.add_(1)
    before = state_of(task)
    task.on_step_start()
    for name in ("layer.1.crossattention.self.key.weight", "layer.2.crossattention.self.query.weight"):
        moved = task.state_dict()[f"model.momentum.albef.text_encoder.encoder.{name}"]
        expected = before[f"model.momentum.albef.text_encoder.encoder.{name}"] + 0.5
        torch.testing.assert_close(moved, expected)
    left, right = task.model.momentum["albef"].text_encoder.fusion_layers
    assert left.crossattention.self.key is right.crossattention.self.key


def test_both_images_are_encoded_with_the_same_sentence(run: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    task, calls = small_task("nlvr", run), []
    encode = Albef.encode_image

    def spy(self: Albef, image: torch.Tensor, guide: Guide, *rest: Any, **named: Any) -> Any:
        calls.append((image, guide.text.cls))
        return encode(self, image, guide, *rest, **named)

    monkeypatch.setattr(Albef, "encode_image", spy)
    batch = training_batch(task)
    task(batch)
    ((image, cls),) = calls
    own = task.model.albef.text_encoder.encode(batch["ids"], batch["mask"])[:, 0]
    for side, (part, guide) in enumerate(zip(image.chunk(2), cls.chunk(2), strict=True)):
        torch.testing.assert_close(part, batch["image"][:, side])
        torch.testing.assert_close(guide, own)


def test_the_left_and_the_right_image_are_not_confused(run: list[str]) -> None:
    task = small_task("nlvr", run).eval()
    batch = training_batch(task)
    swapped = {**batch, "image": batch["image"].flip(1)}
    learn(task, batch, steps=5)  # both layers of a pair start alike
    with torch.no_grad():
        assert (task(batch) - task(swapped)).abs().max() > 1e-4


def test_evaluation_gives_accuracy_predictions_and_a_sheet(run: list[str]) -> None:
    result = evaluate(small_task("nlvr", run))
    right = [one["prediction"] == one["truth"] for one in result.predictions]
    assert len(right) == 4 * 5
    assert result.metrics == {"accuracy": pytest.approx(100 * sum(right) / 20)}
    assert result.chance == {"accuracy": pytest.approx(50)}
    assert all(len(one["images"]) == 2 for one in result.predictions)
    assert {*result.sheets} == {"examples"}


def test_the_sheet_has_two_more_tiles_where_patches_are_dropped(run: list[str]) -> None:
    with_kept = evaluate(small_task("nlvr", run)).sheets["examples"]
    without = evaluate(small_task("nlvr", [*without_reducer(run), "reducer={name: none}"])).sheets["examples"]
    assert with_kept.shape[0] == without.shape[0]
    assert with_kept.shape[1] == pytest.approx(without.shape[1] * (4 + 1.4) / (2 + 1.4), abs=2)


def test_no_sheet_is_drawn_where_none_is_asked_for(run: list[str]) -> None:
    assert evaluate(small_task("nlvr", [*run, "eval.sheets=0"])).sheets == {}


def test_a_statement_costs_two_images_each_projected_once_a_pair_of_layers(
    digits: Path, tiny: list[str], run: list[str]
) -> None:
    one = task_cost(small_task("ve", small_run("ve", digits, tiny))).inference
    two = task_cost(small_task("nlvr", run)).inference
    assert (two.vision, two.look_ahead, two.text) == (2 * one.vision, 2 * one.look_ahead, one.text)
    assert 0 < two.heads < one.heads  # two labels, not three
    task, projected = small_task("nlvr", run), []
    for layer in task.model.albef.text_encoder.fusion_layers:
        layer.crossattention.self.key.register_forward_hook(lambda _m, args, _o: projected.append(len(args[0])))
    task.eval()(task.example_batch(3))
    assert projected == [6, 6]  # both images of three texts; a hook of each layer of the pair is on what they share


GOOD = {"images": ["one.jpg", "one.jpg"], "sentence": "both pictures show a seven.", "label": "True"}
BROKEN = {
    "unknown label": ({**GOOD, "label": "true"}, r"item 1: field 'label' must be 'True' or 'False', got 'true'"),
    "label no text": ({**GOOD, "label": True}, r"item 1: field 'label' must be 'True' or 'False', got True"),
    "missing images": (
        {**{key: GOOD[key] for key in ("sentence", "label")}, "image": "one.jpg"},
        r"item 1: field 'images' is missing\. Did you mean 'image'\?",
    ),
    "one image": (
        {**GOOD, "images": ["one.jpg"]},
        r"item 1: field 'images' must be a list of 2 texts, got \['one\.jpg'\]",
    ),
    "three images": ({**GOOD, "images": ["one.jpg"] * 3}, r"item 1: field 'images' must be a list of 2 texts, got \["),
    "no list": ({**GOOD, "images": "one.jpg"}, r"item 1: field 'images' must be a list of 2 texts, got 'one\.jpg'"),
    "second image not there": (
        {**GOOD, "images": ["one.jpg", "two.jpg"]},
        r"item 1: field 'images': .*two\.jpg: no such file",
    ),
    "missing sentence": ({**GOOD, "sentence": None}, r"item 1: field 'sentence' must be text, got None"),
    "sentence without words": ({**GOOD, "sentence": ""}, r"item 1: field 'sentence' is empty after cleaning: ''"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_item_is_named_with_file_item_and_field(tmp_path: Path, run: list[str], case: str) -> None:
    item, message = BROKEN[case]
    Image.new("RGB", (32, 32)).save(tmp_path / "one.jpg")
    path = write_items(tmp_path / "items.json", [GOOD, item])
    task = small_task("nlvr", [*run, f"data.image_root={tmp_path}", f"data.train=[{path}]", f"data.val=[{path}]"])
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        evaluate(task)
    with pytest.raises(DataError, match=rf"items\.json {message}"):
        training_batch(task, size=2)
