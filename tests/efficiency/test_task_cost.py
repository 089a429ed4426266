"""The cost of a whole task, part by part, against closed formulas for a tiny pre-training model."""

from typing import Any

import pytest
import torch

from elip.config import config_from_dict
from elip.efficiency.passes import unreduced
from elip.efficiency.task_cost import TaskCost, mean_train_step_macs, task_cost, train_step_macs
from elip.reduction.reducer import NoReduction, ReductionContext
from elip.reduction.tokens import Tokens
from elip.registry import TASKS
from elip.task import Progress, Task
from tests.efficiency.models import KeepBright

D, L, HEADS, E, Q, VOCAB, PATCHES = 32, 25, 2, 16, 40, 100, 16
"""Width of both encoders, tokens of a text, attention heads, joint width, queue, words, patches."""
WORDS = 4  # of a caption of 25 that are masked: 15%
IMAGES = 2  # in the batch that is measured
ELIP: dict[str, Any] = {"name": "elip", "begin": [1, 2], "look_ahead": [1, 1], "keep_ratio": [0.75, 0.5]}


def make_task(reducer: Any = "none", **sections: Any) -> Task:
    values = {
        "task": {"name": "pretrain", "queue_size": Q, **sections.pop("task", {})},
        "reducer": reducer,
        "model": {
            "embed_dim": E,
            "vision": {
                "name": "vit_tiny_patch16_224",
                "image_size": 32,
                "options": {"patch_size": 8, "embed_dim": D, "depth": 3, "num_heads": HEADS},
            },
            "text": {
                "fusion_layer": 1,
                "options": {
                    "hidden_size": D,
                    "num_hidden_layers": 3,
                    "num_attention_heads": HEADS,
                    "intermediate_size": 4 * D,
                    "vocab_size": VOCAB,
                },
            },
        },
        **sections,
    }
    config = config_from_dict(values, "test")
    return TASKS.build(config.task.name, config)


def norm(tokens: int) -> int:
    return tokens * D * 5


def vision(*tokens: int) -> int:
    """A ViT with these tokens in its blocks."""
    blocks = sum(12 * n * D**2 + 2 * n**2 * D + 2 * norm(n) for n in tokens)
    return PATCHES * D * 3 * 8**2 + blocks + norm(tokens[-1])


TEXT_LAYER = 12 * L * D**2 + 2 * L**2 * D + 2 * norm(L)


def text() -> int:
    """Embeddings and one layer, for one text."""
    return norm(L) + TEXT_LAYER


def fusion(matched: int, tokens: int, masked: int = 0) -> int:
    """Two layers that attend to an image: its keys and values once, the rest for each text.

    Of the last layer a text to match wants [CLS] alone, and one with masked words those.
    """
    cross = 2 * L * D**2 + 2 * L * tokens * D + norm(L)
    return (
        2 * 2 * tokens * D**2
        + (matched + masked) * (TEXT_LAYER + cross)
        + matched * last(1, tokens)
        + masked * last(WORDS, tokens)
    )


def last(wanted: int, tokens: int) -> int:
    """A layer of which a few tokens are wanted: keys and values of all tokens, the rest for those."""
    attention = 2 * wanted * D**2 + 2 * wanted * L * D + norm(wanted)
    cross = 2 * wanted * D**2 + 2 * wanted * tokens * D + norm(wanted)
    return 2 * L * D**2 + attention + cross + 8 * wanted * D**2 + norm(wanted)


@pytest.fixture(scope="module")
def dense() -> TaskCost:
    return task_cost(make_task())


@pytest.fixture(scope="module")
def reduced() -> TaskCost:
    return task_cost(make_task(ELIP))


def test_parts_of_an_inference_are_those_of_the_closed_formula(dense: TaskCost) -> None:
    cost = dense.inference
    assert cost.vision == vision(17, 17, 17)
    assert cost.text == text()
    assert cost.fusion == fusion(1, 17)
    assert cost.heads == 2 * D
    assert (cost.look_ahead, cost.momentum) == (0, 0)


def test_parts_of_a_training_step_are_those_of_the_closed_formula(dense: TaskCost) -> None:
    cost = dense.train_forward
    wrong_images = 1  # texts with the image of another row; its keys and values are there already
    similarities = 2 * (IMAGES + Q) * E
    mlm = WORDS * (D**2 + D * VOCAB) + norm(WORDS)
    assert cost.vision == vision(17, 17, 17)
    assert cost.text == 2 * text()
    assert cost.fusion == fusion(2 + wrong_images, 17, masked=1)
    assert cost.heads == 2 * D * E + similarities + 3 * 2 * D + mlm
    assert cost.momentum == cost.vision + cost.text + fusion(0, 17, masked=1) + 2 * D * E + mlm + similarities


def test_the_backward_pass_costs_twice_what_has_a_gradient(dense: TaskCost, reduced: TaskCost) -> None:
    for cost in (dense, reduced):
        parts = cost.train_forward
        learning = parts.vision + parts.text + parts.fusion + parts.heads
        assert cost.train_step == 3 * learning + parts.look_ahead + parts.momentum


def test_a_reducer_changes_vision_and_fusion_and_pays_for_its_look_ahead(dense: TaskCost, reduced: TaskCost) -> None:
    fused = (4 + (13 - 8)) * D
    row = sum(D**2 + n * D**2 + n * D + norm(n) for n in (17, 14))
    assert reduced.inference.vision == vision(17, 14, 10) + fused
    assert reduced.inference.look_ahead == row
    assert reduced.inference.fusion == fusion(1, 10)
    assert reduced.train_forward.look_ahead == row
    assert reduced.train_forward.momentum == dense.train_forward.momentum
    assert reduced.train_forward.heads == dense.train_forward.heads
    assert [block.mlp for block in reduced.tokens] == [17, 14, 10]
    assert reduced.saved_bytes < dense.saved_bytes


@pytest.mark.parametrize("share", [0.2, 0.0])
def test_a_teachers_row_is_a_part_of_momentum_and_its_choice_saves_the_rest(dense: TaskCost, share: float) -> None:
    cost = task_cost(make_task({"name": "guided", "text_weight": share}))
    row = 17 * D + (D**2 + 17 * D**2 + norm(17) if share else 0)  # query and keys are there without the text
    assert cost.train_forward.momentum == dense.train_forward.momentum + row
    left = 1 + 6 + 1  # CLS, 0.4 of 16 patches, the others
    assert cost.train_forward.vision == vision(left, left, left) + 10 * D
    assert cost.train_forward.fusion == fusion(3, left, masked=1)
    assert cost.train_forward.look_ahead == 0
    assert cost.inference == dense.inference


def test_look_ahead_of_a_reduced_momentum_encoder_is_part_of_momentum(reduced: TaskCost) -> None:
    cost = task_cost(make_task(ELIP, task={"reduce_momentum": True}))
    assert cost.train_forward.look_ahead == reduced.train_forward.look_ahead
    saved = vision(17, 17, 17) + fusion(0, 17, masked=1) - reduced.inference.vision - fusion(0, 10, masked=1)
    assert cost.train_forward.momentum == reduced.train_forward.momentum - saved + reduced.inference.look_ahead


def test_parameters_are_those_trained_and_momentum_copies_apart(dense: TaskCost) -> None:
    task = make_task()
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    heads = 2 * D + 2 + 1  # matching head and temperature have no copy
    assert dense.parameters == trained
    assert dense.momentum_parameters == trained - heads


@pytest.mark.parametrize(("recompute", "share"), [("light", 0.9), ("full", 0.7)])
def test_what_is_recomputed_is_not_kept(dense: TaskCost, recompute: str, share: float) -> None:
    cost = task_cost(make_task(train={"recompute": recompute}))
    assert cost.train_forward == dense.train_forward
    assert cost.saved_bytes < share * dense.saved_bytes


def test_the_task_is_left_as_it_was() -> None:
    task = make_task(ELIP).train()
    state = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    random = torch.get_rng_state()
    task_cost(task)
    assert task.training
    assert all(torch.equal(state[name], tensor) for name, tensor in task.state_dict().items())
    assert all(parameter.grad is None for parameter in task.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_buffers_that_a_pass_changes_are_put_back() -> None:
    class Counting(NoReduction):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("passes", torch.zeros(()))

        def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
            self.passes += 1
            return tokens

    task = make_task()
    task.model.albef.reducer = Counting()
    task_cost(task)
    assert task.model.albef.reducer.passes == 0


def test_images_that_keep_different_numbers_are_averaged_over() -> None:
    task = make_task()
    task.model.albef.reducer = KeepBright()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        left = [task.model.albef.encode_image(image.unsqueeze(0)).blocks[-1].mlp for image in images]
    costs = [vision(17, n, n) for n in left]
    cost = task_cost(task, list(images))
    assert cost.inference.vision == pytest.approx(sum(costs) / 3)
    assert cost.inference.fusion == pytest.approx(sum(fusion(1, n) for n in left) / 3)
    assert cost.spread is not None
    assert (cost.spread.least, cost.spread.most) == (min(costs), max(costs))
    # batches of two, filled up with the first image: each is padded to the longer one
    padded = [max(left[0], left[1]), max(left[2], left[0])]
    assert cost.train_forward.vision == pytest.approx(sum(vision(17, n, n) for n in padded) / 2)


UNTIL: dict[str, Any] = {"name": "random", "begin": [1], "keep_ratio": [0.5], "until": 0.7}
WARMUP = {"start": 0.2, "end": 0.9, "shape": "linear"}


def test_a_reduction_that_ends_costs_as_such_in_training_and_nothing_in_inference(dense: TaskCost) -> None:
    cost, endless = task_cost(make_task(UNTIL)), task_cost(make_task({**UNTIL, "until": None}))
    assert cost.inference == dense.inference
    assert (cost.train_step, cost.saved_bytes) == (endless.train_step, endless.saved_bytes)
    assert cost.train_mean == pytest.approx(0.7 * endless.train_step + 0.3 * dense.train_step)
    assert endless.train_mean == endless.train_step


@pytest.mark.parametrize("changes", [{}, {"warmup": WARMUP}, {"warmup": WARMUP, "until": None}, {"until": None}])
@pytest.mark.parametrize("steps", [1, 7])
def test_the_mean_over_a_training_is_that_of_all_its_steps(changes: dict[str, Any], steps: int) -> None:
    task = make_task({**UNTIL, **changes})
    each = [train_step_macs(task, Progress(step, steps, steps)) for step in range(steps)]
    assert mean_train_step_macs(task, steps) == pytest.approx(sum(each) / steps, rel=1e-12)


def test_a_change_in_one_step_of_many_is_found() -> None:
    task = make_task({**UNTIL, "warmup": {"start": 0.123, "end": 0.3456, "shape": "step"}})
    weak, strong = (train_step_macs(task, Progress(step, 8, 8)) for step in (0, 4))
    share = 0.7 - 0.3456  # of all steps, in which tokens are dropped
    assert mean_train_step_macs(task, 10_000) == pytest.approx(share * strong + (1 - share) * weak, rel=1e-9)


def test_a_training_step_by_itself_costs_what_it_does_among_all(dense: TaskCost, reduced: TaskCost) -> None:
    task = make_task(ELIP)
    assert train_step_macs(task) == reduced.train_step
    with unreduced(task):
        assert train_step_macs(task) == dense.train_step
    assert train_step_macs(task) == reduced.train_step
