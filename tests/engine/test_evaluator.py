"""Evaluation in one process; that several give the same is shown in test_distributed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from elip.engine.evaluator import RankEvaluator, evaluate
from elip.engine.results import write_result
from elip.engine.runtime import Run
from elip.task import Batch, EvalResult
from tests.engine.stub import EvalPoints, StubTask, collate, stub_config


def run_in(folder: Path, **options: Any) -> Run:
    return Run(torch.device("cpu"), folder, **options)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 100])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_item_comes_once_and_in_order(tmp_path: Path, batch_size: int | None, num_workers: int) -> None:
    def step(batch: Batch) -> dict[str, Any]:
        assert not torch.is_grad_enabled()
        return {"index": batch["index"], "names": [f"item {index}" for index in batch["index"].tolist()]}

    evaluator = RankEvaluator(run_in(tmp_path), batch_size=3, num_workers=num_workers)
    rows = evaluator.map(EvalPoints(7), step, collate, batch_size)
    assert rows["index"].tolist() == [*range(7)]
    assert rows["names"] == [f"item {index}" for index in range(7)]


def test_steps_run_under_the_runs_precision(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    evaluator = RankEvaluator(run_in(tmp_path, precision=torch.bfloat16), 3, 0)
    rows = evaluator.map(EvalPoints(7), lambda batch: {"out": layer(batch["x"])}, collate)
    assert rows["out"].dtype is torch.bfloat16
    assert rows["out"].shape == (7, 2)


def test_an_evaluation_repeats_itself_and_gives_every_module_its_mode_back(tmp_path: Path) -> None:
    task = StubTask(stub_config(tmp_path))
    task.train()
    task.momentum.eval()
    modes = [module.training for module in task.modules()]
    before = {name: value.clone() for name, value in task.state_dict().items()}
    first, second = (evaluate(task, "val", stub_config(tmp_path), run_in(tmp_path)) for _ in range(2))
    assert first.metrics == second.metrics
    assert [module.training for module in task.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in task.state_dict().items())


def test_a_result_that_cannot_be_written_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "eval").touch()
    with pytest.raises(ValueError, match=f"cannot write {tmp_path}/eval/val"):
        write_result(EvalResult({"accuracy": 1.0}), tmp_path / "eval" / "val")
