"""A training whose last part keeps all tokens (`reducer.until`), from start to end and in the middle of it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import PROJECT, tiny_run
from tests.tasks.small import without_reducer
from tools import train

CONFIG = str(PROJECT / "configs/demo/pretrain.yaml")
RANDOM = "reducer={name: random, begin: [0], keep_ratio: 0.4, until: 0.5}"
STEPS = 4
Run = tuple[Path, list[dict[str, Any]]]


def run(folder: Path, digits: Path, *overrides: str, command: list[str] | None = None) -> list[dict[str, Any]]:
    """Train for 4 steps, here or by a command, and return what was logged of them."""
    options = [f"train.max_steps={STEPS}", "train.save_every=1", "train.keep_last=9", "data.val=[]"]
    arguments = [*without_reducer(tiny_run(digits, folder)), *options, *overrides]
    if command is None:
        assert train.main([CONFIG, *arguments]) == 0
    else:
        everything = [*command, str(PROJECT / "tools/train.py"), CONFIG, *arguments]
        done = subprocess.run(everything, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "loss" in entry]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / "run" / f"checkpoint-{step:08d}.pt", weights_only=True)["model"]


@pytest.fixture(scope="module")
def whole(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing has stopped: its folder and its log."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, digits, RANDOM)


def test_all_tokens_are_kept_from_there_on(whole: Run) -> None:
    _, log = whole
    assert [entry["tokens/block00"] for entry in log] == [7, 7, 17, 17]  # floor(0.4 of 16) and CLS, then all
    assert [entry["gmacs/vision_ratio"] < 1 for entry in log] == [True, True, False, False]
    in_force, mean = log[0]["gmacs/train_step_ratio"], log[0]["gmacs/train_mean_ratio"]
    assert mean == pytest.approx((in_force + 1) / 2)


@pytest.mark.parametrize("done", [1, 2])
def test_a_run_resumed_around_it_goes_on_bit_for_bit(whole: Run, digits: Path, tmp_path: Path, done: int) -> None:
    folder, log = whole
    checkpoint = folder / "run" / f"checkpoint-{done:08d}.pt"
    resumed = run(tmp_path, digits, RANDOM, "--resume", str(checkpoint))
    assert [entry["loss"] for entry in resumed] == [entry["loss"] for entry in log[done:]]
    final = weights(folder, STEPS)
    assert all(torch.equal(tensor, final[name]) for name, tensor in weights(tmp_path, STEPS).items())


@pytest.mark.slow
def test_parameters_of_a_reducer_that_is_over_rest_in_two_processes(digits: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    learned = "reducer={name: patchmerger, begin: [1], keep_ratio: [0.5], until: 0.5}"
    run(tmp_path, digits, learned, "train.batch_size=4", command=torchrun)
    before, after = weights(tmp_path, STEPS // 2), weights(tmp_path, STEPS)
    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    mine = {name for name in after if name.startswith("model.albef.reducer.")}
    assert mine
    assert not mine & moved  # neither by a gradient nor by weight decay
    assert any(name.startswith("model.albef.visual_encoder.blocks.") for name in moved)
