"""`torchrun --nproc-per-node 2 -m tests.tasks.two_processes FOLDER`: what `test_distributed` looks at.

FOLDER/runs.json holds the overrides of a small run for each task; each rank leaves what its evaluation gave.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from elip.engine.evaluator import evaluate
from elip.engine.runtime import start_run
from tests.tasks.small import small_task


def evaluated(name: str, overrides: list[str]) -> dict[str, Any]:
    """Return metrics and predictions on val and the shapes of sheets, under random weights."""
    task = small_task(name, overrides)
    with start_run(task.config) as run:
        result = evaluate(task.to(run.device), "val", task.config, run)
    shapes = {name: list(sheet.shape) for name, sheet in result.sheets.items()}
    return {"metrics": result.metrics, "predictions": result.predictions, "sheets": shapes}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    runs = json.loads((folder / "runs.json").read_text())
    results = {name: evaluated(name, overrides) for name, overrides in runs.items()}
    (folder / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")  # the runs share it
    main(Path(sys.argv[1]))
    torch.distributed.destroy_process_group()
