"""Every task trains and infers under every reducer of the project, with the parameters that it has by default."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from elip.reduction.encoder import EncoderInfo
from elip.reduction.guide import TeacherNeeds
from elip.reduction.reducer import ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS
from elip.task.alignment import PairFinetuningTask
from elip.testing.waiting import never_waiting
from tests.tasks.small import FILES, PROGRESS, small_run, small_task, without_reducer

NAMES = [name for name in REDUCERS.names() if REDUCERS.get(name).__module__.startswith("reducers.")]
SIZES = [  # what the defaults are made for: 12 blocks and 196 patches
    "model.vision.image_size=112",
    "model.vision.options={patch_size: 8, embed_dim: 32, depth: 12, num_heads: 2}",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task_name", ["pretrain", *FILES])
def test_a_task_trains_and_infers_under_a_reducer(digits: Path, tiny: list[str], task_name: str, name: str) -> None:
    overrides = [*without_reducer(small_run(task_name, digits, tiny)), *SIZES, f"reducer={{name: {name}}}"]
    task = small_task(task_name, overrides)
    batch = task.prepare(task.example_batch(4))
    with never_waiting() if REDUCERS.get(name).static_counts else nullcontext():  # else counts are asked for
        output = task.training_step(batch, PROGRESS)
        sum(output.losses.values()).backward()
    assert all(loss.isfinite() for loss in output.losses.values())
    assert all(p.grad.isfinite().all() for _, p in task.parameters_to_optimise() if p.grad is not None)
    tokens = [float(value) for key, value in output.logs.items() if key.startswith("tokens/")]
    no_text_yet = REDUCERS.get(name).requires_text and isinstance(task, PairFinetuningTask)
    no_teacher = REDUCERS.get(name).requires_teacher and task_name == "nlvr_pretrain"
    assert (min(tokens) < 197) == (name != "none" and not no_text_yet and not no_teacher)
    with torch.no_grad():
        assert task.eval()(batch).isfinite().all()


@pytest.mark.parametrize(
    ("name", "left"), [("{name: none}", 16), ("{name: random, begin: [1], keep_ratio: [0.25]}", 4)]
)
@pytest.mark.parametrize("task_name", ["pretrain", *FILES])
def test_an_evaluation_may_use_another_reducer(
    digits: Path, tiny: list[str], task_name: str, name: str, left: int
) -> None:
    reducer = "reducer={name: random, begin: [1], keep_ratio: [0.5]}"
    overrides = [*without_reducer(small_run(task_name, digits, tiny)), reducer, f"eval.reducer={name}"]
    task, seen = small_task(task_name, overrides), []

    def see(_module: Any, _inputs: Any, output: Any) -> None:
        seen.append(output.tokens.num_tokens)

    task.model.albef.visual_encoder.register_forward_hook(see)  # type: ignore[union-attr]
    batch = task.example_batch(4)
    task(batch)
    task.eval()(batch)
    assert seen == [8, left]


class Student(TokenReducer):
    """Wants to learn from the momentum tower, and adds a loss."""

    teacher_needs = TeacherNeeds(cls_rows=(2,), tokens=True)
    losses = ("student",)

    def __init__(self, encoder: EncoderInfo) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def auxiliary_losses(self, tokens: Tokens, context: ReductionContext) -> dict[str, Tensor]:
        teacher = context.guide.teacher
        assert {*teacher.cls_rows} == {2}
        assert teacher.cls_rows[2].shape == (len(tokens.x), 2, tokens.num_tokens)
        assert context.guide.progress == pytest.approx(0.5)
        return {"loss_student": self.scale * (tokens.x - teacher.tokens).square().mean()}


@pytest.mark.parametrize("task_name", ["pretrain", *(name for name in FILES if name != "nlvr_pretrain")])
def test_a_reducer_can_learn_from_the_momentum_tower_and_add_its_own_loss(
    digits: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch, task_name: str
) -> None:
    monkeypatch.setitem(REDUCERS._classes, "student", Student)
    overrides = [*without_reducer(small_run(task_name, digits, tiny)), "reducer={name: student}"]
    task = small_task(task_name, [*overrides, "task.loss_weights={student: 2}"])  # without distillation, by default
    task.check_loss_weights()
    output = task.training_step(task.example_batch(4), PROGRESS)
    task.total_loss(output.losses).backward()
    torch.testing.assert_close(
        task.model.albef.reducer.scale.grad,  # type: ignore[union-attr]
        2 * output.losses["loss_student"].detach() / task.model.albef.reducer.scale.detach(),  # type: ignore[union-attr]
    )


@pytest.mark.parametrize("task_name", ["pretrain", "retrieval", "ve", "vqa"])
def test_momentum_encoders_may_teach_in_lower_precision(digits: Path, tiny: list[str], task_name: str) -> None:
    overrides = [*small_run(task_name, digits, tiny), "task.alpha=0.4", "task.alpha_warmup=false"]
    if task_name != "pretrain":
        overrides.append("task.distill=true")

    def losses(precision: str) -> dict[str, float]:
        task = small_task(task_name, [*overrides, f"train.momentum_precision={precision}"])
        torch.manual_seed(1)
        batch = task.example_batch(4)
        output = task.training_step(batch, PROGRESS)
        assert all(loss.dtype is torch.float32 for loss in output.losses.values())
        return {name: loss.item() for name, loss in output.losses.items()}

    lower, full = losses("bf16"), losses("null")
    assert lower == pytest.approx(full, rel=0.02)
    assert lower != full
