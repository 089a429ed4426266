"""Starting from the weights of others: what is taken, resized, adapted, left over, new, and what is an error."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from elip.errors import CheckpointError
from elip.task import Task
from elip.weights.files import Weights
from elip.weights.vit import resize_pos_embed
from elip.weights.warm_start import start_from
from tests.tasks import small
from tests.tasks.small import small_task

TASKS = ("ve", "nlvr", "nlvr_pretrain", "retrieval", "vqa", "grounding")
POSITIONS = "model.albef.visual_encoder.pos_embed"


def weights_of(task: Task, **more: Tensor) -> Weights:
    """Return all weights of a task, none of them alike, as if from a file."""
    torch.manual_seed(1)
    for parameter in task.parameters():
        torch.nn.init.normal_(parameter)
    return Weights(Path("other.pt"), "elip", {**task.state_dict(), **{f"model.{name}": t for name, t in more.items()}})


def small_run(name: str, digits: Path, tiny: list[str]) -> list[str]:
    overrides = small.small_run(name, digits, tiny)
    return [*overrides, "task.cam_layer=1"] if name == "grounding" else overrides


@pytest.fixture
def pretrained(tiny: list[str]) -> Weights:
    return weights_of(small_task("pretrain", tiny))


def without(weights: Weights, part: str) -> Weights:
    return Weights(weights.path, weights.form, {n: t for n, t in weights.state.items() if part not in n})


@pytest.mark.parametrize("name", TASKS)
def test_every_task_starts_from_pretraining(name: str, pretrained: Weights, digits: Path, tiny: list[str]) -> None:
    task = small_task(name, small_run(name, digits, tiny))
    report = start_from(task, pretrained)
    state = task.state_dict()
    assert all("head" in key or key == "model.queues.ids" for key in report.new), report
    for key in ("visual_encoder.pos_embed", "text_encoder.encoder.layer.1.output.dense.weight"):
        assert torch.equal(state[f"model.albef.{key}"], pretrained.state[f"model.albef.{key}"])
    every = [*report.taken, *report.resized, *report.twins, *report.new]
    assert sorted(every) == sorted(state), "each tensor of the model is told of once"


@pytest.mark.parametrize("name", TASKS)
def test_what_a_task_has_saved_it_takes_whole(name: str, digits: Path, tiny: list[str]) -> None:
    overrides = small_run(name, digits, tiny)
    weights = weights_of(small_task(name, overrides))
    task = small_task(name, overrides)
    report = start_from(task, weights, complete=True)
    assert report.left_over == report.new == report.adapted == report.twins == []
    assert all(torch.equal(tensor, weights.state[key]) for key, tensor in task.state_dict().items())


def test_position_embeddings_are_resized_those_of_the_twin_too(
    pretrained: Weights, digits: Path, tiny: list[str]
) -> None:
    larger = [one for one in small_run("ve", digits, tiny) if not one.startswith("model.vision.image_size")]
    task = small_task("ve", [*larger, "model.vision.image_size=48"])
    report = start_from(task, pretrained)
    assert report.resized == {
        POSITIONS: "4 x 4 to 6 x 6",
        POSITIONS.replace("model.", "model.momentum."): "4 x 4 to 6 x 6",
    }
    for key in report.resized:
        expected = resize_pos_embed(pretrained.state[key], (6, 6), num_prefix=1)
        assert torch.equal(task.state_dict()[key], expected)
        assert torch.equal(expected[:, 0], pretrained.state[key][:, 0])


def test_momentum_copies_that_the_file_lacks_follow_its_weights(
    pretrained: Weights, digits: Path, tiny: list[str]
) -> None:
    task = small_task("ve", small_run("ve", digits, tiny))
    report = start_from(task, without(pretrained, "momentum."))
    assert report.twins
    for name, module in task.model.online().items():
        twin = task.model.momentum[name].state_dict()
        assert all(torch.equal(twin[key], tensor) for key, tensor in module.state_dict().items())


def test_momentum_copies_in_the_file_are_taken(pretrained: Weights, digits: Path, tiny: list[str]) -> None:
    task = small_task("ve", small_run("ve", digits, tiny))
    start_from(task, pretrained)
    key = "model.momentum.albef.visual_encoder.norm.weight"
    assert torch.equal(task.state_dict()[key], pretrained.state[key])
    assert not torch.equal(task.state_dict()[key], task.state_dict()[key.replace("momentum.", "")])


@pytest.mark.parametrize("size", [8, 60])
def test_queues_of_another_size_stay_as_they_are_as_a_whole(size: int, tiny: list[str]) -> None:
    other = [one for one in tiny if not one.startswith("task.queue_size")]
    weights = weights_of(small_task("pretrain", [*other, f"task.queue_size={size}"]))
    weights.state["model.queues.pointer"] += 5
    task = small_task("pretrain", tiny)
    report = start_from(task, weights)
    assert {key for key in report.new if "queues" in key} == {key for key in task.state_dict() if "queues" in key}
    assert task.model.queues.pointer == 0


@pytest.mark.parametrize(
    "part", ["albef.visual_encoder.blocks.2.", "albef.text_encoder.encoder.layer.1.crossattention."]
)
def test_an_encoder_that_is_there_in_part_is_an_error_unless_it_is_allowed_by_name(
    part: str, pretrained: Weights, digits: Path, tiny: list[str]
) -> None:
    task = small_task("ve", small_run("ve", digits, tiny))
    with pytest.raises(CheckpointError, match=rf"other.pt has only a part of .*missing \({part}.*model.init_allow="):
        start_from(task, without(pretrained, part))
    assert start_from(task, without(pretrained, part), [part])


def test_a_whole_encoder_may_be_missing(pretrained: Weights, digits: Path, tiny: list[str]) -> None:
    report = start_from(small_task("ve", small_run("ve", digits, tiny)), without(pretrained, "text_encoder"))
    assert "albef.text_encoder (" in next(line for line in str(report).splitlines() if "newly initialised" in line)


def test_an_unknown_tensor_is_an_error_unless_it_is_allowed_by_name(digits: Path, tiny: list[str]) -> None:
    weights = weights_of(small_task("pretrain", tiny), **{"extra.weight": torch.ones(1), "extra.bias": torch.ones(1)})
    task = small_task("ve", small_run("ve", digits, tiny))
    before = {key: tensor.clone() for key, tensor in task.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"no place .* extra.weight, extra.bias.*'model.init_allow=\[extra\]'"):
        start_from(task, weights)
    assert all(torch.equal(before[key], tensor) for key, tensor in task.state_dict().items()), "nothing was loaded"
    assert {"model.extra.weight", "model.extra.bias"} <= set(start_from(task, weights, ["extra"]).left_over)


@pytest.mark.parametrize("allowed", [["ext"], ["extra.bias"], ["extra.weight.more"]])
def test_only_whole_parts_of_a_name_allow_it(allowed: list[str], digits: Path, tiny: list[str]) -> None:
    weights = weights_of(small_task("pretrain", tiny), **{"extra.weight": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"no place in this model for extra\.weight"):
        start_from(small_task("ve", small_run("ve", digits, tiny)), weights, allowed)


def test_a_shape_that_differs_is_an_error_unless_it_is_allowed_by_name(digits: Path, tiny: list[str]) -> None:
    weights = weights_of(small_task("ve", small_run("ve", digits, tiny)))
    task = small_task("nlvr", small_run("nlvr", digits, tiny))
    with pytest.raises(CheckpointError, match=r"cls_head.2.weight \[3, 32\] \(here \[2, 32\]\)"):
        start_from(task, weights)
    report = start_from(task, weights, ["cls_head.2"])
    assert {key for key in report.new if "momentum" not in key} == {"model.cls_head.2.weight", "model.cls_head.2.bias"}


def test_an_expected_name_of_another_shape_is_an_error_all_the_same(pretrained: Weights, tiny: list[str]) -> None:
    with pytest.raises(CheckpointError, match="vision_proj"):
        start_from(small_task("pretrain", [*tiny, "model.embed_dim=48"]), pretrained)


def test_layers_for_two_images_do_not_pass_for_those_of_one(digits: Path, tiny: list[str]) -> None:
    weights = weights_of(small_task("nlvr", small_run("nlvr", digits, tiny)))
    with pytest.raises(CheckpointError, match=r"text_encoder.encoder.layer.2\."):
        start_from(small_task("ve", small_run("ve", digits, tiny)), weights, ["cls_head"])


def test_a_file_with_nothing_in_common_is_an_error(tiny: list[str]) -> None:
    weights = Weights(
        Path("resnet.pth"), "albef", {"model.layer1.weight": torch.ones(1), "model.temp": torch.tensor(0.1)}
    )
    with pytest.raises(CheckpointError, match=r"resnet.pth has nothing in common with this model: .*layer1"):
        start_from(small_task("pretrain", tiny), weights, ["layer1"])


def test_an_evaluation_wants_all_weights_but_no_momentum_copies_and_queues(tiny: list[str]) -> None:
    task = small_task("pretrain", tiny)
    weights = weights_of(small_task("pretrain", tiny))
    start_from(task, without(without(weights, "momentum."), "queues."), complete=True)
    with pytest.raises(CheckpointError, match=r"lacks weights of this model: itm_head \(2\)"):
        start_from(task, without(weights, "itm_head"), complete=True)


def test_the_report_is_one_block_that_names_groups_with_their_numbers(
    pretrained: Weights, digits: Path, tiny: list[str]
) -> None:
    larger = [one for one in small_run("nlvr", digits, tiny) if not one.startswith("model.vision.image_size")]
    report = start_from(small_task("nlvr", [*larger, "model.vision.image_size=48"]), pretrained)
    lines = {line.split("  ")[1]: line for line in str(report).splitlines()[1:]}
    assert str(report).startswith("weights from other.pt")
    assert "albef.visual_encoder (41), albef.text_encoder" in lines["taken"]
    assert "albef.visual_encoder.pos_embed 4 x 4 to 6 x 6" in lines["resized"]
    assert "cls_head (4)" in lines["newly initialised"]
    assert "itm_head (2)" in lines["left over"]
    assert "queues (4)" in lines["left over"]


def test_weights_that_are_not_finite_are_refused_where_they_would_be_taken(
    pretrained: Weights, digits: Path, tiny: list[str]
) -> None:
    task = small_task("ve", small_run("ve", digits, tiny))
    pretrained.state["model.temp"].fill_(torch.inf)  # that this task has no place for
    start_from(task, pretrained)
    pretrained.state["model.albef.visual_encoder.norm.bias"][0] = torch.nan
    with pytest.raises(CheckpointError, match=r"other.pt: weights are NaN .*visual_encoder.norm.bias"):
        start_from(task, pretrained)


def test_whole_numbers_do_not_pass_for_weights(pretrained: Weights, digits: Path, tiny: list[str]) -> None:
    name = "model.albef.visual_encoder.norm.bias"
    pretrained.state[name] = pretrained.state[name].int()
    with pytest.raises(CheckpointError, match=r"visual_encoder.norm.bias \[32\] int32 \(here \[32\]\)"):
        start_from(small_task("ve", small_run("ve", digits, tiny)), pretrained)
