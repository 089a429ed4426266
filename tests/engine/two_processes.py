"""`torchrun --nproc-per-node 2 -m tests.engine.two_processes FOLDER`: what `test_distributed` looks at.

Every part leaves `PART-RANK.pt` in the folder.
"""

import math
import os
import signal
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elip.engine.evaluator import RankEvaluator
from elip.engine.runtime import start_run
from elip.errors import ElipError
from elip.task import Batch
from tests.engine.conftest import train
from tests.engine.stub import EvalPoints, SignalledInEvaluation, StubTask, collate, harm_at, send_self, stub_config

RANK = int(os.environ.get("RANK", "0"))
SPOILT = (6, math.nan) if RANK == 1 else None
TERMINATE = harm_at(6, partial(send_self, signal.SIGTERM)) if RANK == 1 else None


class AllUsed(StubTask):
    """The stub without the layer that no step reaches."""

    leaves_parameters_out = False

    def parameters_to_optimise(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self.layers.named_parameters()


class Cut(SignalledInEvaluation):
    """The stub whose second process alone is told to stop, in an evaluation."""

    signal_at = 5 if RANK == 1 else 0


def fit(folder: Path, resume: bool = False, **train_options: Any) -> dict[str, Any]:
    """Return weights and outcome of a run, or the message it failed with."""
    of_task = ("kind", "dropout", "queue", "spoil", "before_step")
    task = {key: train_options.pop(key) for key in of_task if key in train_options}
    try:
        stub, outcome = train(stub_config(folder, **{"batch_size": 2, **train_options}), resume, **task)
    except ElipError as error:
        return {"error": str(error)}
    return {"weights": stub.state_dict(), "stopped": outcome["stopped"], "metrics": outcome["metrics"]}


def evaluate(folder: Path, length: int, gather: bool) -> dict[str, Any]:
    """Return what rows of several types look like after an evaluation of `length` items."""

    def step(batch: Batch) -> dict[str, Any]:
        index = batch["index"]
        names = [f"item {i}" for i in index.tolist()]
        return {"index": index, "names": names, "half": batch["x"].half(), "odd": index % 2 == 1}

    with start_run(stub_config(folder)) as run:
        return RankEvaluator(run, 2, 0).map(EvalPoints(length), step, collate, gather=gather)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    parts = {
        "plain": fit(folder / "plain", kind=AllUsed, dropout=0.0),
        "accumulated": fit(folder / "accumulated", dropout=0.0, queue=False, batch_size=1, accumulate=2),
        "whole": fit(folder / "whole"),
        "stopped": fit(folder / "stopped", before_step=TERMINATE),
        "resumed": fit(folder / "stopped", resume=True),
        "cut": fit(folder / "cut", kind=Cut),
        "made up": fit(folder / "cut", resume=True),
        "spoilt": fit(folder / "spoilt", spoil=SPOILT),
        "seven": evaluate(folder, 7, gather=True),
        "one": evaluate(folder, 1, gather=True),
        "none": evaluate(folder, 0, gather=True),
        "shares": evaluate(folder, 7, gather=False),
        "share of one": evaluate(folder, 1, gather=False),
    }
    torch.save(parts, folder / f"rank-{RANK}.pt")


if __name__ == "__main__":
    with start_run(stub_config(Path(sys.argv[1]))):  # the runs inside share its process group
        main(Path(sys.argv[1]))
