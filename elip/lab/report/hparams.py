"""A sweep in TensorBoard's HPARAMS: one entry a run, with its settings, what it reached and what that cost."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from elip.atomic import writing
from elip.config.sources import Draft, read_files
from elip.engine.tensorboard import hyperparameters
from elip.errors import ElipError
from elip.lab.report.results import DONE, RunResult, SweepResults

FOLDER = "tensorboard"
_SUFFIX = ".sweep"
_COSTS = ("inference_ratio", "train_step_ratio", "train_ratio", "time_ratio", "saved_bytes_ratio")


def write_hparams(results: SweepResults) -> None:
    """Put what was reached beside what each run wrote for TensorBoard itself; what an earlier report put there goes.

    A run has its settings there already, so that its figures in the same folder make one entry of both.

    Args:
        results: of the sweep.
    """
    done: dict[Path, list[RunResult]] = {}
    for run in results.runs:
        if run.status == DONE:
            done.setdefault(run.folder, []).append(run)
    for folder, runs in done.items():
        with writing(folder / FOLDER):
            _write(folder / FOLDER, runs, results)


def _write(folder: Path, runs: Sequence[RunResult], results: SweepResults) -> None:
    for old in folder.glob(f"*tfevents*{_SUFFIX}"):
        old.unlink(missing_ok=True)
    has_settings = any(folder.glob("*tfevents*"))
    arm = next(one for one in results.arms if one.name == runs[0].arm)
    steps = [run.outcome.step for run in runs if run.outcome is not None and run.outcome.step is not None]
    step = max(steps, default=0)
    with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
        if not has_settings:  # someone removed them
            _, settings, _ = hparams(_settings(folder.parent), {})
            writer.file_writer.add_summary(settings)  # type: ignore[attr-defined]  # declared as None, but there by now
        for run in runs:
            assert run.outcome is not None
            writer.add_scalar(f"sweep/{run.split}_{run.outcome.metric}", run.outcome.value, step)
        for key in _COSTS:
            value = arm.cost(key)
            if value is not None:
                writer.add_scalar(f"sweep/{key}", value, step)


def _settings(folder: Path) -> dict[str, Any]:
    with suppress(ElipError):
        return hyperparameters(Draft(read_files(folder / "config.yaml")).values)
    return {}
