"""The training loop, the same for every task."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from shutil import copyfileobj
from typing import Any

from elip.atomic import write_atomically
from elip.config import config_to_dict, save_config
from elip.config.schema import RunConfig
from elip.distributed import gather_objects, on_first_rank, rank, share
from elip.engine import checkpoint
from elip.engine.broken import BrokenSamples
from elip.engine.continuity import check_data, check_vocabulary, data_record, tell_schedule, workers_of
from elip.engine.evaluator import EvaluationStopped, evaluate
from elip.engine.loader import TrainLoader
from elip.engine.optim import LearningRate, build_optimizer, load_optimizer_state, optimizer_state
from elip.engine.results import IN_TRAINING, write_result, write_sheets
from elip.engine.run_log import RunLog
from elip.engine.runtime import Run
from elip.engine.step import StepRunner
from elip.rng import rng_state, set_rng_state
from elip.task import Batch, EvalResult, Progress, Task
from elip.weights import run_folder
from elip.weights.fitting import load_all

Evaluation = dict[str, Any]
"""Outcome of an evaluation as a checkpoint keeps it: `step`, `split`, `metrics`."""

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a task as its config says, from the start or from a checkpoint, in one process or in many.

    Args:
        task: built, on any device.
        config: all of it; the task's own.
        run: from `start_run`.
        figures: gives more to log beside each logged step, by name; every process calls it.
        evaluation_cost: gives what an evaluation that has just been made has cost, by name, for its `about.json`.
    """

    def __init__(
        self,
        task: Task,
        config: RunConfig,
        run: Run,
        figures: Callable[[], Mapping[str, float]] = dict,
        evaluation_cost: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._task = task.to(run.device)
        self._config = config
        self._run = run
        self._figures = figures
        self._evaluation_cost = evaluation_cost
        self._dataset = task.train_dataset()
        self._loader = TrainLoader(self._dataset, task.collate, config, run.device)
        train, per_epoch = config.train, self._loader.steps_per_epoch
        self._total_steps = min(train.epochs * per_epoch, train.max_steps or train.epochs * per_epoch)
        self._optimizer = build_optimizer(task, config.optim)
        self._rate = LearningRate(self._optimizer, config.optim, train.epochs, per_epoch, self._total_steps)
        self._runner = StepRunner(task, self._optimizer, train, run)
        self._broken = BrokenSamples(config.data.max_broken_ratio, self._loader.num_samples, per_epoch)
        split = next(iter(task.eval_splits()), None)
        self._data = data_record(self._dataset, self._loader, config, split, task.data_files())
        self._vocabulary = task.vocabulary()
        self._step = 0
        self._evaluated: Evaluation | None = None
        self._best: Evaluation | None = None
        self._saved: Path | None = None

    def fit(self, resume: bool | Path = False) -> dict[str, Any]:
        """Train to the end, or until SIGTERM, SIGUSR1 or Ctrl-C, and return how far it came.

        Args:
            resume: go on from the last checkpoint in the output folder, or from the given one (a folder: its last).

        Returns:
            `step`; `stopped`, whether a signal ended the run before its time; `metrics` of the last evaluation;
            `best`, the best evaluation (step, split, metrics) or None; `checkpoint`, the last one written or None.

        Raises:
            CheckpointError: there is nothing to resume from, it does not fit this run, or none can be written.
            TrainingError: a loss is not finite.
            DataError: too many training samples are broken.
            Interrupted: Ctrl-C was pressed again, or a signal came before the first step.
        """
        self._begin(resume)
        self._task.train()
        with (
            self._open_log() as log,
            closing(self._loader.batches(self._step, self._total_steps)) as batches,
            self._run.saving_first(),
        ):
            stopped = self._train(log, batches)
        return self._outcome(stopped)

    def _train(self, log: RunLog, batches: Iterator[Batch]) -> bool:
        """Take all steps that are left, and return whether a signal ended that before its time."""
        try:
            if self._evaluate_if_due(log):  # the run was stopped before it came to that
                self._save(log)
            while self._step < self._total_steps:
                step_batches = list(islice(batches, self._config.train.accumulate))
                lr = self._rate.apply(self._step)
                report = self._runner.step(step_batches, self._progress(), self._last_good())
                self._step += 1
                self._broken.add(self._step, report)
                if rank() == 0:
                    self._keep_folder()
                log.train(self._step, lr, report, self._broken.count)
                if not report.stop:
                    self._evaluate_if_due(log)
                if report.stop or self._is_due(self._config.train.save_every):
                    self._save(log)
                if report.stop:
                    return True
        except EvaluationStopped:
            self._save(log)
            return True
        return False

    def _begin(self, resume: bool | Path) -> None:
        folder = self._run.output_dir
        start = checkpoint.starting_point(folder, resume)
        if start is not None:
            self._resume(start)
        on_first_rank(lambda: save_config(self._config, folder / "config.yaml"))
        for split in self._task.eval_splits()[:1]:
            self._task.check_evaluation(split)
        on_first_rank(lambda: self._task.inspect_training_data(self._dataset))

    def _resume(self, path: Path) -> None:
        contents = checkpoint.load_whole(path)
        load_all(self._task, contents["model"], path)
        self._check_same_run(contents, path)
        load_optimizer_state(self._optimizer, contents["optimizer"], path)
        if contents["scaler"]:
            with checkpoint.restoring(path, "loss scale"):
                self._runner.scaler.load_state_dict(contents["scaler"])
        self._step = contents["step"]
        tell_schedule(contents, self._step, self._total_steps, self._rate.apply(self._step), path)
        self._evaluated, self._best = contents["evaluated"], contents["best"]
        self._broken.count = contents["skipped"]
        self._saved = path
        on_first_rank(self._set_aside)
        on_first_rank(lambda: self._bring_best(path.parent / run_folder.BEST))
        self._forget_lost_best()
        with checkpoint.restoring(path, "random state"):
            set_rng_state(contents["rng"][rank()])
        logger.info(f"going on from {path}, after step {self._step} of {self._total_steps}")

    def _set_aside(self) -> None:
        later, damaged = checkpoint.set_aside(self._run.output_dir, self._step)
        for path in later:
            logger.warning(f"this run goes on from step {self._step}: a later checkpoint is now named {path}")
        for path in damaged:
            logger.warning(f"the best checkpoint of this run is damaged, and is now named {path}")

    def _bring_best(self, theirs: Path) -> None:
        """Copy the best checkpoint of the run that goes on, if it was in another folder."""
        ours = self._run.output_dir / run_folder.BEST
        if not ours.exists() and theirs.is_file():
            with suppress(OSError), theirs.open("rb") as source:  # what cannot be read is as good as lost
                write_atomically(ours, lambda target: copyfileobj(source, target))

    def _forget_lost_best(self) -> None:
        best = self._run.output_dir / run_folder.BEST
        held = share(checkpoint.saved_step(best) if self._best and rank() == 0 else None)
        if self._best and held != self._best["step"]:
            logger.warning(
                f"the checkpoint of the best evaluation so far, after step {self._best['step']}, is not there any "
                f"more: {best} will be the best of those from here on"
            )
            self._best = None

    def _check_same_run(self, contents: dict[str, Any], path: Path) -> None:
        """Refuse what would change the order of the data, and name whatever else differs."""
        check_vocabulary(contents, self._vocabulary, path)
        check_data(contents, self._data, path)
        workers = workers_of(contents)
        if self._loader.is_stream and max(1, workers) != max(1, self._loader.num_workers):
            logger.warning(
                f"the order of shards depends on the number of loader processes: {workers} are started, as in the run "
                f"of {path}, instead of {self._loader.num_workers}"
            )
            self._loader.num_workers = self._data["num_workers"] = workers
        changed = checkpoint.changes(contents["config"], config_to_dict(self._config))
        if changed:
            logger.warning(f"the config is not the one of {path}: {'; '.join(changed)}")

    def _open_log(self) -> RunLog:
        loader = self._loader
        return RunLog(
            self._run.output_dir,
            start=self._step,
            total_steps=self._total_steps,
            steps_per_epoch=loader.steps_per_epoch,
            samples_per_step=loader.samples_per_step,
            every=self._config.train.log_every,
            figures=self._figures,
        )

    def _progress(self) -> Progress:
        return Progress(self._step, self._total_steps, self._loader.steps_per_epoch)

    def _last_good(self) -> str:
        return f"The last good checkpoint is {self._saved}." if self._saved else "There is no checkpoint yet."

    def _is_due(self, every: int | None) -> bool:
        """Return whether something comes now that is done after so many steps, or epochs, and at the end."""
        return self._step % (every or self._loader.steps_per_epoch) == 0 or self._step == self._total_steps

    def _evaluate_if_due(self, log: RunLog) -> bool:
        """Evaluate if it is time and was not done yet, and return whether it was."""
        done_at = self._evaluated["step"] if self._evaluated else 0
        splits = self._task.eval_splits()
        if not splits or self._step == done_at or not self._is_due(self._config.train.eval_every):
            return False
        self._runner.check_weights(self._step, self._last_good())
        with log.pause():
            result = evaluate(self._task, splits[0], self._config, self._run)
            self._evaluated = {"step": self._step, "split": splits[0], "metrics": share(result.metrics)}
            log.evaluation(**self._evaluated, sheets=result.sheets)
            on_first_rank(lambda: self._write(result, splits[0]))
            self._keep_if_best()
        return True

    def _keep_folder(self) -> None:
        """Make the output folder again where it was removed, with the config that tells what is in it."""
        self._run.keep_folder()
        if not (self._run.output_dir / "config.yaml").is_file():
            save_config(self._config, self._run.output_dir / "config.yaml")

    def _write(self, result: EvalResult, split: str) -> None:
        self._keep_folder()
        folder = self._run.output_dir
        about = {"checkpoint": IN_TRAINING, "step": self._step, "headline": self._task.headline}
        write_result(result, folder / "eval" / split, {**about, **self._evaluation_cost()})
        write_sheets(result.sheets, folder / "sheets", prefix=f"step-{self._step:08d}-")

    def _keep_if_best(self) -> None:
        assert self._evaluated is not None
        score = self._evaluated["metrics"].get(self._task.headline, -math.inf)  # none where the truth is not known
        best = self._best["metrics"].get(self._task.headline, -math.inf) if self._best else -math.inf
        if score > best:
            self._best = self._evaluated
            self._write_checkpoint(self._run.output_dir / run_folder.BEST)

    def _save(self, log: RunLog) -> None:
        folder, path = self._run.output_dir, run_folder.path_at(self._run.output_dir, self._step)
        with log.pause():
            self._write_checkpoint(path)
            on_first_rank(lambda: checkpoint.keep_last(folder, self._config.train.keep_last))
        self._saved = path

    def _write_checkpoint(self, path: Path) -> None:
        self._runner.check_weights(self._step, self._last_good())
        contents = {
            "config": config_to_dict(self._config),
            "model": self._task.state_dict(),
            "optimizer": optimizer_state(self._optimizer),
            "scaler": self._runner.scaler.state_dict(),
            "step": self._step,
            "epoch": self._step // self._loader.steps_per_epoch,
            "steps_per_epoch": self._loader.steps_per_epoch,
            "total_steps": self._total_steps,
            "next_lr": self._rate.apply(self._step),
            "data": self._data,
            "vocabulary": self._vocabulary,
            "rng": gather_objects(rng_state()),
            "skipped": self._broken.count,
            "evaluated": self._evaluated,
            "best": self._best,
        }
        on_first_rank(self._keep_folder)
        on_first_rank(lambda: checkpoint.save(path, contents))

    def _outcome(self, stopped: bool) -> dict[str, Any]:
        if stopped:
            logger.info(
                f"stopped by {self._run.stop_signal or 'a signal to another process'} after step {self._step} of "
                f"{self._total_steps}; the same command with --resume goes on from {self._saved}"
            )
        return {
            "step": self._step,
            "stopped": stopped,
            "metrics": self._evaluated["metrics"] if self._evaluated else {},
            "best": self._best,
            "checkpoint": self._saved,
        }
