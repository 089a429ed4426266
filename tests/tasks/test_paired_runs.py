"""Runs of one seed that differ in the reducer only begin with the same weights, see the same data, mask the same words.

Then what tells their results apart is the reducer.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from elip.config import load_config
from elip.engine.runtime import start_run
from elip.engine.trainer import Trainer
from elip.reduction import REDUCERS, EncoderInfo, Stage, StageReducer, Tokens
from elip.registry import TASKS
from elip.task import Task
from tests.conftest import PROJECT, tiny_run
from tests.tasks.small import without_reducer
from tests.tasks.test_any_reducer import NAMES, SIZES

EARLY = "begin: [1], keep_ratio: [0.5]"
STEPS, PASSES = 2, 2


class Careless(StageReducer):
    """Draws from all generators of the process, when it is built and whenever it acts."""

    def __init__(self, encoder: EncoderInfo, **stages: Any) -> None:
        super().__init__(encoder, **stages)
        self.weight = torch.nn.Parameter(torch.randn(7))
        self.draw()

    def draw(self) -> float:
        return random.random() + np.random.rand() + torch.rand(int(100 * random.random()) + 1).sum().item()

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        self.draw()
        return tokens.keep(torch.rand(tokens.x.shape[:2]).topk(keep).indices)


@pytest.fixture(autouse=True)
def careless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the reducer that draws what it likes."""
    REDUCERS.names()
    monkeypatch.setitem(REDUCERS._classes, "careless", Careless)


@pytest.fixture
def pretraining(digits: Path, tmp_path: Path) -> list[str]:
    """Overrides of a run of a few steps that evaluates nothing."""
    steps = [f"train.max_steps={STEPS}", "data.val=[]", "train.batch_size=4"]
    return [*without_reducer(tiny_run(digits, tmp_path)), *steps]


def built(overrides: list[str], name: str = "pretrain") -> Task:
    """Return the task as a run builds it."""
    config = load_config(PROJECT / f"configs/demo/{name}.yaml", overrides)
    with start_run(config):
        return TASKS.build(config.task.name, config)


def shared_state(task: Task) -> dict[str, Tensor]:
    """Return weights and queues that have nothing to do with the reducer."""
    return {name: tensor for name, tensor in task.state_dict().items() if ".reducer." not in name}


@pytest.fixture(scope="module")
def weights_without(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Initial weights and queues without reduction."""
    overrides = without_reducer(tiny_run(digits, tmp_path_factory.mktemp("none")))
    return shared_state(built([*overrides, *SIZES, "reducer=none"]))


@pytest.mark.parametrize("name", ["careless", *(name for name in NAMES if name != "none")])
def test_initial_weights_and_queues_are_the_same(
    pretraining: list[str], weights_without: dict[str, Tensor], name: str
) -> None:
    stages = f", {EARLY}" if name == "careless" else ""
    mine = shared_state(built([*pretraining, *SIZES, f"reducer={{name: {name}{stages}}}"]))
    assert mine.keys() == weights_without.keys()
    assert all(torch.equal(mine[key], tensor) for key, tensor in weights_without.items())
    assert any(key.startswith("model.queues.") for key in mine)


def test_weights_of_a_reducer_follow_from_the_seed_and_are_no_copy_of_others(pretraining: list[str]) -> None:
    learned = [*pretraining, f"reducer={{name: patchmerger, {EARLY}}}"]
    first, again, other = (
        built([*learned, *more]).model.albef.reducer.state_dict()  # type: ignore[union-attr]
        for more in ([], [], ["train.seed=5"])
    )
    queries = next(key for key in first if key.endswith("queries"))
    assert torch.equal(first[queries], again[queries])
    assert not torch.equal(first[queries], other[queries])


def seen(overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Tensor]]:
    """Train, and yield what each forward pass has drawn and been given."""
    config = load_config(PROJECT / "configs/demo/pretrain.yaml", overrides)
    steps: list[dict[str, Tensor]] = []

    with start_run(config) as run, monkeypatch.context() as patch:
        task = TASKS.build(config.task.name, config)
        draw, step = task.model.draw_negatives, task.training_step  # type: ignore[union-attr]

        def note_batch(batch: dict[str, Tensor], progress: Any) -> Any:
            steps.append({"index": batch["index"], "image": batch["image"]})
            return step(batch, progress)

        def note_lots(sim: Any, same: Any = None, lots: Any = None) -> Any:
            steps[-1]["lots"] = lots
            return draw(sim, same, lots)

        def note_words(_module: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            steps[-1].setdefault("words", args[0])

        patch.setattr(task.model, "draw_negatives", note_lots)
        patch.setattr(task, "training_step", note_batch)
        task.model.albef.text_encoder.embeddings.register_forward_hook(note_words)  # type: ignore[union-attr]
        Trainer(task, config, run).fit()
    return iter(steps)


@pytest.mark.parametrize("reducer", [f"{{name: {name}, {EARLY}}}" for name in ("random", "dynamicvit", "careless")])
def test_items_masked_words_and_lots_of_negatives_are_the_same_in_every_step(
    pretraining: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reducer: str
) -> None:
    run = [*pretraining, f"train.accumulate={PASSES}"]
    without = list(seen([*run, "reducer=none"], monkeypatch))
    mine = list(seen([*run, f"reducer={reducer}", f"output_dir={tmp_path}/mine"], monkeypatch))
    assert len(mine) == len(without) == STEPS * PASSES
    for number, (one, other) in enumerate(zip(mine, without, strict=True)):
        for key in ("index", "image", "words", "lots"):
            assert torch.equal(one[key], other[key]), f"{key} of forward pass {number}"
    assert len({tuple(step["lots"].flatten().tolist()) for step in mine}) == STEPS * PASSES
