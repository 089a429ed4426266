"""The loop: what a step does, when it evaluates, what it keeps, why it stops."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from elip.engine.step import TrainingError
from elip.errors import DataError
from elip.task import Batch, Progress, StepOutput
from elip.weights import run_folder
from tests.engine.conftest import assert_close, assert_same, read_log, train
from tests.engine.stub import StubTask, stub_config


def test_training_learns_and_says_so(tmp_path: Path) -> None:
    _, outcome = train(stub_config(tmp_path, epochs=20, eval_every=100, save_every=100), dropout=0.0)
    assert outcome["metrics"]["error"] < 0.2
    assert outcome["step"] == 100
    assert not outcome["stopped"]


def test_a_task_in_evaluation_mode_is_trained_in_training_mode(tmp_path: Path) -> None:
    task, _ = train(stub_config(tmp_path / "eval"), prepare=lambda task: task.eval())
    other, _ = train(stub_config(tmp_path / "train"))
    assert_same(task, other)


def test_a_log_entry_holds_every_loss_and_what_goes_with_it(tmp_path: Path) -> None:
    train(stub_config(tmp_path))
    entry = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[6])
    assert entry["event"] == "train"
    assert (entry["step"], entry["epoch"]) == (6, 1)
    assert entry["loss"] == entry["loss_fit"] + entry["loss_spread"]
    assert entry["lr"] == pytest.approx((0.1 + 1e-5) / 2)
    assert entry["progress"] == 0.5
    assert entry["grad_norm"] > 0
    assert entry["images_per_second"] > 0
    assert entry["memory_process_peak_mib"] > 0
    assert entry["skipped"] == 0


def test_accumulated_batches_train_like_one_big_batch(tmp_path: Path) -> None:
    optim = {"weight_decay": 0.1}
    big, _ = train(stub_config(tmp_path / "big", batch_size=4, optim=optim), dropout=0.0, queue=False)
    small, _ = train(stub_config(tmp_path / "small", batch_size=2, accumulate=2, optim=optim), dropout=0.0, queue=False)
    assert_close(big, small.state_dict())
    assert [entry["grad_norm"] for entry in read_log(tmp_path / "small")[:5]] == pytest.approx(
        [entry["grad_norm"] for entry in read_log(tmp_path / "big")[:5]], rel=1e-4
    )


def test_the_task_is_told_of_each_step_once_and_of_each_backward_pass(tmp_path: Path) -> None:
    class Momentum(StubTask):
        starts, refills = 0, 0

        def on_step_start(self) -> None:
            self.starts += 1
            super().on_step_start()

        def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
            def refill() -> None:
                assert self.layers[2].weight.grad is not None
                self.refills += 1

            return replace(super().training_step(batch, progress), after_backward=refill)

    task, _ = train(stub_config(tmp_path, batch_size=2, accumulate=2, max_steps=3), kind=Momentum)
    assert (task.starts, task.refills) == (3, 6)


def test_only_what_the_task_wants_trained_is_trained(tmp_path: Path) -> None:
    class LastLayer(StubTask):
        def parameters_to_optimise(self) -> list[tuple[str, nn.Parameter]]:
            return list(self.layers[2].named_parameters())

    start = LastLayer(stub_config(tmp_path)).state_dict()
    trained, _ = train(stub_config(tmp_path), kind=LastLayer, weights=start)
    assert torch.equal(trained.layers[0].weight, start["layers.0.weight"])
    assert not torch.equal(trained.layers[2].weight, start["layers.2.weight"])
    assert trained.layers[0].weight.grad is None


def test_clipping_cuts_the_gradient_to_the_given_norm(tmp_path: Path) -> None:
    task, _ = train(stub_config(tmp_path, clip_grad_norm=0.5, max_steps=1))
    norm = torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in task.layers.parameters()])).item()
    assert norm == pytest.approx(0.5, rel=1e-4)
    assert read_log(tmp_path)[0]["grad_norm"] > 0.5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains(tmp_path: Path, precision: str) -> None:
    _, outcome = train(
        stub_config(tmp_path, precision=precision, epochs=20, eval_every=100, save_every=100), dropout=0.0
    )
    assert outcome["metrics"]["error"] < 0.3


def test_a_loss_scale_survives_resuming(tmp_path: Path) -> None:
    def overflow(self: StubTask) -> None:
        self.layers[2].weight.register_hook(lambda gradient: gradient * math.inf)

    train(stub_config(tmp_path, precision="fp16", max_steps=1), prepare=overflow)
    saved = run_folder.load(tmp_path / "checkpoint-00000001.pt")
    assert saved["scaler"]["scale"] == 2.0**15  # from 2^16, and the step was not taken
    assert all(moments["step"] == 0 for moments in saved["optimizer"].values() if moments)
    train(stub_config(tmp_path, precision="fp16", max_steps=2), resume=True, prepare=overflow)
    assert run_folder.load(tmp_path / "checkpoint-00000002.pt")["scaler"]["scale"] == 2.0**14


def test_evaluation_does_not_change_training(tmp_path: Path) -> None:
    often, _ = train(stub_config(tmp_path / "often", eval_every=1))
    seldom, _ = train(stub_config(tmp_path / "seldom"))
    assert_same(often, seldom)
    assert [e["step"] for e in read_log(tmp_path / "often") if e["event"] == "eval"] == [*range(1, 11)]


def test_an_evaluation_leaves_figures_predictions_and_sheets(tmp_path: Path) -> None:
    _, outcome = train(stub_config(tmp_path, max_steps=3))
    assert json.loads((tmp_path / "eval" / "val" / "metrics.json").read_text()) == outcome["metrics"]
    predictions = [json.loads(line) for line in (tmp_path / "eval/val/predictions.jsonl").read_text().splitlines()]
    assert [item["index"] for item in predictions] == [*range(7)]
    names = {path.name for path in (tmp_path / "sheets").iterdir()}
    assert names == {"step-00000003-sheet.png"}
    assert np.array(Image.open(tmp_path / "sheets" / "step-00000003-sheet.png"))[0, 0].tolist() == [200, 200, 200]


def test_the_best_checkpoint_is_that_of_the_best_evaluation(tmp_path: Path) -> None:
    _, outcome = train(stub_config(tmp_path, eval_every=1), accuracies=[1.0, 3.0, math.nan, 2.0])
    assert outcome["best"]["step"] == 2
    assert run_folder.load(tmp_path / "best.pt")["step"] == 2


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    train(stub_config(tmp_path, save_every=1, keep_last=3))
    names = [path.name for path in tmp_path.glob("*.pt*")]
    assert sorted(names) == ["best.pt", *(f"checkpoint-{step:08d}.pt" for step in (8, 9, 10))]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_is_named(tmp_path: Path, value: float) -> None:
    with pytest.raises(TrainingError, match=rf"step 4: loss_spread is {value}\. .*checkpoint is .*-00000002\.pt"):
        train(stub_config(tmp_path, save_every=2), spoil=(3, value))
    good = run_folder.load(tmp_path / "checkpoint-00000002.pt")
    assert all(value.isfinite().all() for value in good["model"].values())
    assert [entry["step"] for entry in read_log(tmp_path)] == [1, 2, 3]


def test_a_gradient_that_is_no_number_stops_the_run_before_the_update(tmp_path: Path) -> None:
    def poison(self: StubTask) -> None:
        self.kept = self.layers[2].weight.detach().clone()
        self.layers[2].weight.register_hook(lambda gradient: gradient * math.nan)

    tasks: list[StubTask] = []

    def prepare(task: StubTask) -> None:
        poison(task)
        tasks.append(task)

    with pytest.raises(
        TrainingError, match=r"step 1: the gradient norm is nan \(the losses are finite\).*no checkpoint"
    ):
        train(stub_config(tmp_path), prepare=prepare)
    assert torch.equal(tasks[0].layers[2].weight, tasks[0].kept)


def test_broken_samples_are_counted(tmp_path: Path) -> None:
    train(stub_config(tmp_path, data={"max_broken_ratio": 0.1}), broken=[3, 5])
    assert read_log(tmp_path)[-2]["skipped"] == 4


def test_too_many_broken_samples_stop_the_run_and_are_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 broken samples up to .*max_broken_ratio=0.1 .*item \d is broken; item"):
        train(stub_config(tmp_path, data={"max_broken_ratio": 0.1}), broken=[3, 5, 7])


def test_a_training_set_smaller_than_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"20 samples are fewer than the 24 of one step \(train.batch_size 12 x"):
        train(stub_config(tmp_path, batch_size=12, accumulate=2))
