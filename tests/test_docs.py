"""The documents' examples run as they are printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PROJECT / "docs" / document).read_text(encoding="utf-8"), re.S)


@pytest.mark.slow
def test_the_task_of_the_example_trains_evaluates_and_is_costed(digits: Path, tiny: list[str], tmp_path: Path) -> None:
    task, maker = blocks("adding_a_task.md", "python")
    (config,) = blocks("adding_a_task.md", "yaml")
    (tmp_path / "matching.py").write_text(task)
    (tmp_path / "matching.yaml").write_text(config)
    (tmp_path / "make_matching.py").write_text(maker)
    (tmp_path / "configs").symlink_to(PROJECT / "configs")

    def run(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    own = ("data.train", "data.val", "data.test", "task.", "output_dir")
    smaller = [override for override in tiny if not override.startswith(own)]
    run("make_matching.py", str(digits))
    run(str(PROJECT / "tools/train.py"), "matching.yaml", *smaller)
    assert "accuracy" in run(str(PROJECT / "tools/evaluate.py"), "runs/matching")
    metrics = json.loads((tmp_path / "runs/matching/eval/val/metrics.json").read_text())
    assert 0 <= metrics["accuracy"] <= 100
    log = [json.loads(line) for line in (tmp_path / "runs/matching/log.jsonl").read_text().splitlines()]
    losses = [entry["loss_cls"] for entry in log if entry["event"] == "train"]
    assert len(losses) == 30  # two epochs of 24 pictures with 5 captions each, 8 a batch
    assert "elip" in run(str(PROJECT / "tools/flops.py"), "--config", "matching.yaml", *smaller)
