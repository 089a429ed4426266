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

BATCH = "eval.batch_size=4"  # leaves batches that are not full


@pytest.fixture(scope="module")
def runs(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Overrides of a small run of each task, whose evaluation set cannot be halved."""
    folder = tmp_path_factory.mktemp("runs")
    overrides = tiny_run(digits, folder)
    return {name: [*small_run(name, digits, overrides), BATCH, odd_val(name, digits, folder)] for name in FILES}


def odd_val(name: str, digits: Path, folder: Path) -> str:
    """Return the override that names a file of an odd number of items, and of captions where they have several."""
    items = json.loads((digits / f"{FILES[name]['val']}.json").read_text())
    items = items[: len(items) - (1 - len(items) % 2)]
    assert len(items) % 2 == 1
    path = folder / f"{name}_val.json"
    path.write_text(json.dumps(items))
    return f"data.val=[{path}]"


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
        assert rank[name]["sheets"] == alone["sheets"]
        for ours, theirs in zip(rank[name]["predictions"], alone["predictions"], strict=True):
            assert ours.get("scores") == pytest.approx(theirs.get("scores"), abs=1e-5)
            assert {**ours, "scores": None} == {**theirs, "scores": None}
