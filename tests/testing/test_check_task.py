"""The conformance suite of tasks: it passes one that is right, and catches each that is wrong, in words."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from elip.config.schema import DataConfig, RunConfig, TaskConfig
from elip.data.datasets import SampleKey
from elip.errors import ElipError
from elip.task import Batch, EvalResult, Evaluator, ItemScores, Progress, StepOutput, Task
from elip.testing import TASK_CHECKS, LocalEvaluator, TaskTrial, check_task
from elip.testing.ranks import on_ranks

WIDTH = 3


class Points(Dataset[dict[str, Tensor]]):
    """Points whose numbers add up to something."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, key: SampleKey | int) -> dict[str, Tensor]:
        index = key.index if isinstance(key, SampleKey) else key
        x = torch.arange(WIDTH) / (1 + index)
        return {"x": x, "y": x.sum()}


class Honest(Task[TaskConfig]):
    """Learns to add, beside a momentum copy and a queue: right in every way."""

    headline = "error"
    losses = ("fit", "old")

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.layer = nn.Linear(WIDTH, 1)
        self.momentum = nn.Linear(WIDTH, 1).requires_grad_(False)
        self.register_buffer("queue", torch.randn(5))

    def train_dataset(self) -> Dataset:
        return Points()

    def collate(self, samples: list[Any]) -> Batch:
        return {name: torch.stack([sample[name] for sample in samples]) for name in ("x", "y")}

    def on_step_start(self) -> None:
        for copy, online in zip(self.momentum.parameters(), self.layer.parameters(), strict=True):
            copy.lerp_(online, 0.5)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        out = self({"x": F.dropout(batch["x"], 0.5)})
        losses = {"loss_fit": F.mse_loss(out, batch["y"]), "loss_old": (out - self.queue.mean()).square().mean()}
        return StepOutput(losses, {"mean": out.mean().detach()}, lambda: self.remember(out.detach()))

    def remember(self, out: Tensor) -> None:
        self.queue.copy_(torch.cat([self.queue, out])[-5:])

    def forward(self, batch: Batch) -> Tensor:
        return self.layer(batch["x"]).squeeze(1)

    def example_batch(self, batch_size: int) -> Batch:
        return {"x": torch.randn(batch_size, WIDTH), "y": torch.randn(batch_size)}

    def eval_splits(self) -> Sequence[str]:
        return [split for split in ("val", "test") if getattr(self.config.data, split)]

    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        rows = evaluator.map(Points(), self.errors, self.collate)
        return EvalResult(
            {"error": rows["error"].mean().item()},
            [{"error": error} for error in rows["error"].tolist()],
            {"sheet": np.zeros((4, 4, 3), np.uint8)},
            {"error": 1.0},
        )

    def errors(self, batch: Batch) -> dict[str, Tensor]:
        return {"error": (self(batch) - batch["y"]).abs()}


class ReadsFile(Honest):
    def example_batch(self, batch_size: int) -> Batch:
        if not self.config.data.train:
            raise ElipError("data.train: name a file")
        return super().example_batch(batch_size)


class EvaluatesNothing(Honest):
    def eval_splits(self) -> Sequence[str]:
        return ["val"]


class GivesOneRow(Honest):
    def forward(self, batch: Batch) -> Tensor:
        out = super().forward(batch)
        return out if self.training else out.sum()

    def errors(self, batch: Batch) -> dict[str, Tensor]:
        return {"error": self.layer(batch["x"]).squeeze(1).abs()}


def changing(**losses: Callable[[Tensor], Tensor]) -> type[Honest]:
    """Return the honest task with losses that a function makes of the loss of the fit."""

    class Changed(Honest):
        def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
            output = super().training_step(batch, progress)
            output.losses.update({name: make(output.losses["loss_fit"]) for name, make in losses.items()})
            return output

    return Changed


class LosesOne(Honest):
    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        output = super().training_step(batch, progress)
        del output.losses["loss_old"]
        return output


class LogsRows(Honest):
    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        output = super().training_step(batch, progress)
        output.logs["x"] = batch["x"]
        return output


class HasUnused(Honest):
    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.unused = nn.Linear(1, 1)


class SaysSo(HasUnused):
    """Right again."""

    leaves_parameters_out = True


class TrainsSecretly(Honest):
    def parameters_to_optimise(self) -> Any:
        return ((name, p) for name, p in super().parameters_to_optimise() if name != "layer.bias")


class FillsTooEarly(Honest):
    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        output = super().training_step(batch, progress)
        self.remember(torch.zeros(2))
        return output


class FollowsInStep(Honest):
    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        output = super().training_step(batch, progress)
        return StepOutput(output.losses, output.logs, torch.no_grad()(self.on_step_start))


class AsksItem(Honest):
    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        output = super().training_step(batch, progress)
        return StepOutput(output.losses, {"y": batch["y"].sum().item()}, output.after_backward)


class AsksList(Honest):
    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        output = super().training_step(batch, progress)
        return StepOutput(output.losses, {"y": sum(batch["y"].tolist())}, output.after_backward)


class PicksRows(Honest):
    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        some = batch["y"] > -100
        return super().training_step({name: values[some] for name, values in batch.items()}, progress)


class Unseeded(Honest):
    draws = 0

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        Unseeded.draws += 1
        return super().training_step({**batch, "y": batch["y"] + Unseeded.draws}, progress)


class CollatesElse(Honest):
    def collate(self, samples: list[Any]) -> Batch:
        batch = super().collate(samples)
        return {"points": batch["x"], "y": batch["y"]}

    def errors(self, batch: Batch) -> dict[str, Tensor]:
        return super().errors({"x": batch["points"], "y": batch["y"]})


class LogsElse(Honest):
    def collate(self, samples: list[Any]) -> Batch:
        return {**super().collate(samples), "real": True}

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        output = super().training_step(batch, progress)
        return StepOutput(output.losses, {"real": 1.0} if "real" in batch else output.logs, output.after_backward)


class FillsInEvaluation(Honest):
    def errors(self, batch: Batch) -> dict[str, Tensor]:
        self.remember(batch["y"])
        return super().errors(batch)


class TrainsOn(Honest):
    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        result = super().evaluate(split, evaluator)
        self.train()
        return result


class DrawsInEvaluation(Honest):
    def errors(self, batch: Batch) -> dict[str, Tensor]:
        np.random.rand()
        return super().errors(batch)


class Headless(Honest):
    headline = "accuracy"


class NoPictures(Honest):
    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        result = super().evaluate(split, evaluator)
        result.sheets["sheet"] = result.sheets["sheet"][..., 0]
        return result


class KeepsTensors(Honest):
    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        result = super().evaluate(split, evaluator)
        result.predictions[0]["error"] = torch.zeros(())
        return result


class ScoresOthers(Honest):
    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        result = super().evaluate(split, evaluator)
        result.scores = [ItemScores([50.0], ["a"]), ItemScores([50.0], ["a"], weight=0.5)]
        return result


class ScoresNobody(Honest):
    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        result = super().evaluate(split, evaluator)
        result.scores = [ItemScores([1.0, 2.0], ["a"])]
        return result


class ScoresNothing(Honest):
    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        result = super().evaluate(split, evaluator)
        result.scores = [ItemScores([], [])]
        return result


class ScoresItsShare(Honest):
    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        result = super().evaluate(split, evaluator)
        share = evaluator.shard(len(Points()))
        result.scores = [ItemScores([result.metrics["error"]] * len(share), [str(index) for index in share])]
        return result


class CountsItsShare(Honest):
    def evaluate(self, split: str, evaluator: Evaluator) -> EvalResult:
        result = super().evaluate(split, evaluator)
        result.metrics["error"] += len(evaluator.shard(7))
        return result


class Forgetful(Honest):
    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.scale = torch.rand(()).item()

    def forward(self, batch: Batch) -> Tensor:
        return self.scale * super().forward(batch)


class Renames(Honest):
    @classmethod
    def adapt_checkpoint(cls, state: Any) -> dict[str, Tensor]:
        return {name: tensor + 1 if name == "queue" else tensor for name, tensor in state.items()}


class NamesAnother(Honest):
    def eval_splits(self) -> Sequence[str]:
        return [*super().eval_splits(), "test"] if self.config.data.val else []


BROKEN = [
    ("made_up_batches_need_no_file", ReadsFile, r"ElipError: data\.train: name a file"),
    ("made_up_batches_need_no_file", EvaluatesNothing, r"eval_splits gives \['val'\] for a config that names no files"),
    ("made_up_batches_need_no_file", GivesOneRow, r"forward gives no tensor with a row for each of the 4 items"),
    ("losses_are_declared", changing(loss_new=lambda fit: 2 * fit), r"a step gives new, which loss_names does not"),
    ("losses_are_declared", changing(new=lambda fit: 2 * fit), r"the loss 'new' is to be named loss_\.\.\."),
    ("losses_are_declared", changing(loss_fit=lambda fit: fit[None]), r"loss_fit is not one finite number: tensor"),
    ("losses_are_declared", changing(loss_fit=lambda fit: fit * math.nan), r"loss_fit is not one finite number"),
    ("losses_are_declared", changing(loss_fit=lambda fit: fit.detach()), r"loss_fit has no gradient"),
    ("losses_are_declared", LosesOne, r"losses names old, which a step does not give"),
    ("losses_are_declared", LogsRows, r"the log x is not one finite number"),
    ("gradients_reach_parameters", HasUnused, r"no gradient gets to unused\.weight, unused\.bias: leave them out"),
    ("gradients_reach_parameters", TrainsSecretly, r"a gradient gets to layer\.bias, which parameters_to_optimise"),
    ("steps_change_nothing_themselves", FillsTooEarly, r"training_step changes queue: leave that to on_step_start"),
    ("steps_change_nothing_themselves", FollowsInStep, r"after_backward changes momentum\.weight, momentum\.bias"),
    (
        "steps_do_not_wait",
        AsksItem,
        r"a training step waits .*_local_scalar_dense reads values.*let prepare find out before",
    ),
    ("steps_do_not_wait", AsksList, r"a training step waits .*Tensor.tolist reads values"),
    ("steps_do_not_wait", PicksRows, r"a training step waits .*index by a mask has the device count"),
    ("seeds_decide_losses", Unseeded, r"loss_fit is .* once and .* again, from one seed"),
    ("real_batches_train", CollatesElse, r"KeyError: 'x'"),
    ("real_batches_train", LogsElse, r"logs of real batches are real, of made-up ones mean"),
    ("splits_are_those_with_files", NamesAnother, r"eval_splits gives 'test', and data\.test names no file"),
    ("evaluation_changes_nothing", FillsInEvaluation, r"evaluate changes queue"),
    ("evaluation_changes_nothing", TrainsOn, r"evaluate leaves the task, layer, momentum in training mode"),
    ("evaluation_changes_nothing", DrawsInEvaluation, r"evaluate draws random numbers \(numpy\)"),
    ("evaluation_measures_the_headline", Headless, r"metrics has no 'accuracy', the headline, but error"),
    ("evaluation_measures_the_headline", NoPictures, r"the sheet sheet is not \[H, W, 3\] uint8"),
    ("evaluation_measures_the_headline", KeepsTensors, r"predictions cannot be written as JSON: .*Tensor"),
    ("evaluation_measures_the_headline", ScoresOthers, r"the scores of items come to 75, and error is [\d.]+"),
    ("evaluation_measures_the_headline", ScoresNobody, r"2 scores have 1 clusters"),
    ("evaluation_measures_the_headline", ScoresNothing, "there are scores of no item"),
    ("ranks_agree", ScoresItsShare, "rank 0 of 2 has scores of other items, or in another order, than one process"),
    ("ranks_agree", CountsItsShare, r"rank 0 of 2 measures error [\d.]+, one process alone [\d.]+"),
    ("checkpoints_bring_it_back", Forgetful, r"forward gives something else after its state was loaded"),
    ("checkpoints_bring_it_back", Renames, r"adapt_checkpoint changes queue of a checkpoint of this task itself"),
]


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    data = DataConfig(train=["train.json"], val=["val.json"])
    return RunConfig(task=TaskConfig(name="honest"), data=data, output_dir=str(tmp_path))


@pytest.mark.parametrize("task", [Honest, SaysSo])
def test_a_task_that_is_right_passes(config: RunConfig, task: type[Honest]) -> None:
    check_task(task, config)


@pytest.mark.parametrize(
    ("check", "task", "message"), BROKEN, ids=[f"{check}-{number}" for number, (check, _, _) in enumerate(BROKEN)]
)
def test_what_is_wrong_is_caught_by_its_own_check(
    config: RunConfig, check: str, task: type[Honest], message: str
) -> None:
    with pytest.raises(AssertionError, match=rf"\n  {check}: {message}"):
        check_task(task, config)


def test_each_check_has_a_task_that_fails_it() -> None:
    assert {check for check, _, _ in BROKEN} == {*TASK_CHECKS}


def test_a_run_with_nothing_to_evaluate_is_told(config: RunConfig) -> None:
    bare = config.model_copy(update={"data": DataConfig(train=["train.json"])})
    with pytest.raises(AssertionError, match=r"give a config that names files for it, such as data\.val"):
        TASK_CHECKS["ranks_agree"](TaskTrial(Honest, bare))


def test_local_ranks_join_what_each_has_in_order() -> None:
    def numbers(evaluator: Evaluator) -> list[int]:
        rows = evaluator.map(Points(), lambda batch: batch, lambda items: {"sum": torch.stack([i["y"] for i in items])})
        return [round(3 / total) for total in rows["sum"].tolist()]

    assert on_ranks(2, numbers) == [[*range(1, 8)]] * 2
    assert numbers(LocalEvaluator()) == [*range(1, 8)]


def test_a_rank_that_fails_ends_the_others() -> None:
    def fail(evaluator: Evaluator) -> None:
        if evaluator.shard(2).start == 1:
            raise ValueError("no more")
        evaluator.map(Points(), lambda batch: batch, lambda items: {"x": torch.zeros(len(items))})

    with pytest.raises(ValueError, match="no more"):
        on_ranks(2, fail)
