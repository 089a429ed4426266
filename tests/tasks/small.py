"""Small runs of the demo configs, for tests of tasks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elip.config import load_config
from elip.data.datasets import SampleKey
from elip.registry import TASKS
from elip.task import Batch, Progress, StepOutput, Task
from tests.conftest import PROJECT

PROGRESS = Progress(step=3, total_steps=6, steps_per_epoch=3)
FILES = {
    "ve": {"train": "ve_train", "val": "ve_val", "test": "ve_test"},
    "nlvr": {"train": "nlvr_train", "val": "nlvr_val", "test": "nlvr_test"},
    "retrieval": {"train": "retrieval_train", "val": "retrieval_val", "test": "retrieval_test"},
    "vqa": {"train": "vqa_train", "val": "vqa_val", "test": "vqa_test"},
    "grounding": {"train": "grounding_train", "val": "grounding_val", "test": "grounding_testA"},
    "nlvr_pretrain": {"train": "pretrain_train", "val": "retrieval_val", "test": "retrieval_test"},
}
"""Annotation files of the tests' DigitScenes, by task and split."""

OWN = {"retrieval": ("reducer.look_ahead=",), "grounding": ("task.k_test=", "reducer.look_ahead=")}
"""Beginnings of the overrides that a demo config does not take; by default those of the task."""

FURTHER = {
    "vqa": {"task.answer_list": "vqa_answer_list"},
    "grounding": {f"task.{name}": f"grounding_{name}" for name in ("refs", "instances", "detections")},
}
"""Keys that name further files of the tests' DigitScenes."""


def small_run(name: str, digits: Path, tiny: Sequence[str]) -> list[str]:
    """Return overrides that turn configs/demo/NAME.yaml into a run of seconds."""
    if name == "pretrain":  # which `tiny` is made for
        return list(tiny)
    replaced = ("data.train=", "data.val=", "data.test=", *OWN.get(name, ("task.",)))
    shared = [one for one in tiny if not one.startswith(replaced)]
    if name == "grounding":
        shared.append("task.cam_layer=1")
    shared += [f"{key}={digits}/{file}.json" for key, file in FURTHER.get(name, {}).items()]
    return shared + [f"data.{split}=[{digits}/{file}.json]" for split, file in FILES[name].items()]


def small_task(name: str, overrides: Sequence[str]) -> Task:
    """Return the task of configs/demo/NAME.yaml, with the same random weights each time."""
    torch.manual_seed(0)
    config = load_config(PROJECT / f"configs/demo/{name}.yaml", list(overrides))
    return TASKS.build(config.task.name, config)


def without_reducer(overrides: Sequence[str]) -> list[str]:
    """Return the overrides for a run with another reducer than that of the config."""
    return [one for one in overrides if not one.startswith("reducer.")]


def training_batch(task: Task, size: int = 8) -> Batch:
    """Return the first samples of the training set."""
    dataset = task.train_dataset()
    return task.collate([dataset[SampleKey(0, index)] for index in range(size)])


def learn(task: Task, batch: Batch, steps: int, lr: float = 3e-3) -> list[StepOutput]:
    """Return what steps on one batch gave, one after the other."""
    optimizer = torch.optim.AdamW([p for _, p in task.parameters_to_optimise()], lr=lr)
    outputs = []
    for step in range(steps):
        task.on_step_start()
        outputs.append(task.training_step(batch, Progress(step, steps, steps)))
        optimizer.zero_grad()
        sum(outputs[-1].losses.values()).backward()
        optimizer.step()
    return outputs


def state_of(task: Task) -> dict[str, Tensor]:
    """Return a copy of parameters and buffers."""
    return {name: tensor.clone() for name, tensor in task.state_dict().items()}


def write_items(path: Path, items: Sequence[dict[str, Any]]) -> Path:
    """Return the path of a new annotation file."""
    path.write_text(json.dumps(list(items)))
    return path
