"""What only a GPU can show: every task, precision and reducer on it, without waiting for it; compiled; on two of them.

    make test-cuda

All of it is skipped where there is no CUDA device.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from elip.benchmark.step import TrainingStep
from elip.engine.loader import to_device
from elip.engine.optim import build_optimizer
from elip.engine.runtime import Run
from elip.engine.step import StepReport, StepRunner
from elip.execution import PRECISIONS
from elip.registry import REDUCERS
from elip.task import Progress, Task
from tests.conftest import PROJECT
from tests.tasks.small import FILES, PROGRESS, small_run, small_task, without_reducer
from tests.tasks.test_any_reducer import NAMES, SIZES

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
CUDA = torch.device("cuda")
TASKS = ["pretrain", *FILES]


@contextmanager
def never_waiting() -> Iterator[None]:
    """Return a context in which whatever waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def steps_of(task: Task[Any], count: int) -> list[StepReport]:
    """Take whole optimiser steps, each on another made-up batch."""
    task.to(CUDA).train()
    train = task.config.train
    run = Run(CUDA, Path("unused"), PRECISIONS[train.precision])
    runner = StepRunner(task, build_optimizer(task, task.config.optim), train, run)
    torch.manual_seed(3)
    batches = [task.example_batch(4) for _ in range(count)]
    return [runner.step([batch], Progress(step, 6, 3), "") for step, batch in enumerate(batches)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", TASKS)
def test_every_task_trains_in_every_precision(digits: Path, tiny: list[str], name: str, precision: str) -> None:
    overrides = small_run(name, digits, tiny)
    on_cpu = small_task(name, overrides)
    right = StepRunner(
        on_cpu.train(),
        build_optimizer(on_cpu, on_cpu.config.optim),
        on_cpu.config.train,
        Run(torch.device("cpu"), Path()),
    )
    torch.manual_seed(3)
    expected = right.step([on_cpu.example_batch(4)], Progress(0, 6, 3), "").losses
    first, *others = steps_of(small_task(name, [*overrides, f"train.precision={precision}"]), 12)
    # the scaler of fp16 passes over steps until its scale fits
    assert not all(step.not_finite for step in others) if precision == "fp16" else not others[-1].not_finite
    drawn_on_device = {"loss_itm", "loss_ta"}  # negatives and pairs: another generator, and so others
    for loss in first.losses.keys() - drawn_on_device:
        assert first.losses[loss] == pytest.approx(expected[loss], rel=1e-3 if precision == "fp32" else 0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("task_name", ["pretrain", "ve"])
def test_under_every_reducer_a_step_never_waits(digits: Path, tiny: list[str], task_name: str, name: str) -> None:
    overrides = [*without_reducer(small_run(task_name, digits, tiny)), *SIZES, f"reducer={{name: {name}}}"]
    task = small_task(task_name, overrides).to(CUDA)
    batch = to_device(task.prepare(task.example_batch(4)), CUDA)
    task.training_step(batch, PROGRESS)  # what is set up once may wait
    with never_waiting() if REDUCERS.get(name).static_counts else nullcontext():  # else counts are asked for
        output = task.training_step(batch, PROGRESS)
        loss = task.total_loss(output.losses)
        loss.backward()
        if output.after_backward is not None:
            output.after_backward()
    assert loss.isfinite()


@pytest.mark.parametrize("name", TASKS)
def test_a_step_of_a_task_never_waits(digits: Path, tiny: list[str], name: str) -> None:
    task = small_task(name, small_run(name, digits, tiny)).to(CUDA)
    batch = to_device(task.prepare(task.example_batch(4)), CUDA)
    task.training_step(batch, PROGRESS)
    with never_waiting():
        output = task.training_step(batch, PROGRESS)
        task.total_loss(output.losses).backward()
        if output.after_backward is not None:
            output.after_backward()


@pytest.mark.parametrize(
    "reducer",
    [
        "{name: none}",
        "{name: elip, begin: [1], look_ahead: [1], keep_ratio: [0.5]}",
        "{name: evit, begin: [1], keep_ratio: [0.5]}",
        "{name: tome, r: 3}",
        "{name: topk, begin: [1], keep_ratio: [0.5]}",
        "{name: random, begin: [1], keep_ratio: [0.5]}",
    ],
)
def test_compiled_blocks_train_as_they_are(tiny: list[str], reducer: str) -> None:
    overrides = [*without_reducer(tiny), f"reducer={reducer}"]
    plain, compiled = (
        steps_of(small_task("pretrain", [*overrides, f"train.compile={given}"]), 3) for given in ("false", "true")
    )
    for mine, right in zip(compiled, plain, strict=True):
        assert mine.losses == pytest.approx(right.losses, abs=1e-4)


def test_what_is_recomputed_needs_no_memory_until_then(tiny: list[str]) -> None:
    vit = "model.vision.options={patch_size: 16, embed_dim: 192, depth: 12, num_heads: 3}"
    sizes = ["model.vision.image_size=224", vit, "reducer.name=none", "train.batch_size=32"]

    def peak(recompute: str) -> int:
        task = small_task("pretrain", [*without_reducer(tiny), *sizes, f"train.recompute={recompute}"])
        return TrainingStep(task.config, CUDA).peak_bytes() or 0

    none, light, full = map(peak, ("none", "light", "full"))
    assert full < light < none


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two CUDA devices here")
def test_two_devices_train_together(tiny: list[str], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    train = [str(PROJECT / "tools/train.py"), str(PROJECT / "configs/demo/pretrain.yaml"), *tiny]
    for precision in PRECISIONS:
        out = tmp_path / precision
        done = subprocess.run(
            [*torchrun, *train, f"train.precision={precision}", "train.max_steps=2", f"output_dir={out}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert any(event.get("event") == "eval" for event in events)
