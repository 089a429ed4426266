"""Two processes evaluate every task as one does: nothing is counted twice, nothing lost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import tiny_run
from tests.tasks.small import FILES, small_run
from tests.tasks.two_processes import evaluated

pytestmark = pytest.mark.slow

BATCH = "eval.batch_size=4"  # leaves batches that are not full, of different numbers of items on the two ranks


@pytest.fixture(scope="module")
def runs(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Overrides of a small run of each task."""
    overrides = tiny_run(digits, tmp_path_factory.mktemp("runs"))
    return {name: [*small_run(name, digits, overrides), BATCH] for name in FILES}


@pytest.fixture(scope="module")
def ranks(runs: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes under torchrun got."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "runs.json").write_text(json.dumps(runs))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "tests.tasks.two_processes", str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", FILES)
def test_both_ranks_get_what_one_process_gets(
    runs: dict[str, list[str]], ranks: list[dict[str, Any]], name: str
) -> None:
    alone = evaluated(name, runs[name])
    for rank in ranks:
        assert rank[name]["metrics"] == pytest.approx(alone["metrics"])
        assert rank[name]["pictures"] == alone["pictures"]
        for ours, theirs in zip(rank[name]["predictions"], alone["predictions"], strict=True):
            assert ours.get("scores") == pytest.approx(theirs.get("scores"), abs=1e-5)
            assert {**ours, "scores": None} == {**theirs, "scores": None}
