"""Every tensor of the published checkpoints of every task has its place, and goes there and back unchanged."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from elip.config.schema import ModelConfig, RunConfig, VisionConfig
from elip.registry import TASKS
from elip.task import Task
from elip.weights.files import read_weights
from elip.weights.names import from_albef, to_albef
from elip.weights.warm_start import start_from

from .model import golden_config, queue_size

PRETRAINED = "pretrain"
FINETUNED = ("retrieval", "vqa", "ve", "nlvr", "nlvr_pretrain")
ALL = (PRETRAINED, *FINETUNED)


@pytest.fixture(scope="module")
def published(golden_albef: Path) -> dict[str, dict[str, tuple[tuple[int, ...], str]]]:
    """Shape and dtype of every tensor of the full-size checkpoints, by task and name."""
    listed = json.loads((golden_albef / "checkpoint_keys_full_size.json").read_text())
    return {task: {name: (tuple(shape), dtype) for name, (shape, dtype) in of.items()} for task, of in listed.items()}


def small(folder: Path, name: str) -> Task:
    """Return a task in the sizes of the small reference weights."""
    torch.manual_seed(0)
    queues = {"queue_size": queue_size(folder)} if name in ("pretrain", "retrieval") else {}
    return TASKS.build(name, golden_config(folder, {"name": name, **queues}, {"name": "none"}))


def full_size(name: str, image_size: int) -> Task:
    """Return a task in full size, without memory for its weights."""
    task, model = TASKS.get(name).Config(), ModelConfig(vision=VisionConfig(image_size=image_size))
    with torch.device("meta"):
        return TASKS.build(name, RunConfig(task=task, model=model))


def facts(state: dict[str, Tensor]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in state.items()}


def test_all_tasks_of_the_list_are_tested(published: dict) -> None:
    assert set(published) == set(ALL)


@pytest.mark.parametrize("name", ALL)
def test_our_full_size_model_has_the_published_names_shapes_and_dtypes(name: str, published: dict) -> None:
    patches = published[name]["visual_encoder.pos_embed"][0][1] - 1
    state = full_size(name, image_size=16 * round(patches**0.5)).state_dict()
    ours = {key.removeprefix("model."): tensor for key, tensor in state.items() if not key.endswith("queues.filled")}
    assert facts(to_albef(ours)) == published[name]


@pytest.mark.parametrize("name", ALL)
def test_every_tensor_is_taken_or_repeats_another(name: str, golden_albef: Path, published: dict) -> None:
    weights = read_weights(golden_albef / f"{name}_weights.safetensors")
    report = start_from(small(golden_albef, name), weights, complete=True)
    assert report.left_over == report.new == report.adapted == report.twins == []
    assert len([one for one in report.taken if "queues.filled" not in one]) + len(report.derived) == len(
        published[name]
    )


@pytest.mark.parametrize("name", ALL)
def test_weights_come_back_under_the_published_names(name: str, golden_albef: Path, published: dict) -> None:
    state = load_file(golden_albef / f"{name}_weights.safetensors")
    assert state.keys() == published[name].keys()
    back = to_albef(from_albef(state))
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert torch.equal(back[key], tensor), key
        assert back[key].dtype == tensor.dtype


@pytest.mark.parametrize("name", ALL)
def test_every_task_starts_from_published_pretraining(name: str, golden_albef: Path) -> None:
    task = small(golden_albef, name)
    report = start_from(task, read_weights(golden_albef / "pretrain_weights.safetensors"))
    assert not [key for key in report.new if ".albef." in key], "the encoders and their twins are all there"
    heads = {"ve": "cls_head", "nlvr": "cls_head", "nlvr_pretrain": "ta_head", "retrieval": "queues.ids"}
    assert all(heads[name] in key for key in report.new) if name in heads else not report.new


def test_nlvr_starts_from_published_text_assignment(golden_albef: Path) -> None:
    task = small(golden_albef, "nlvr")
    report = start_from(task, read_weights(golden_albef / "nlvr_pretrain_weights.safetensors"))
    assert all("cls_head" in key for key in report.new)
    assert report.adapted == []
    assert sorted(report.left_over) == sorted(
        f"model.{key}"
        for key in (
            "temp",
            "ta_head.weight",
            "ta_head.bias",
            *(f"albef.{m}_proj.{p}" for m in ("vision", "text") for p in ("weight", "bias")),
        )
    )
    state = task.state_dict()
    assert all(torch.equal(state[key], state[key.replace("momentum.", "")]) for key in state if "momentum." in key)
