"""Checks of what a task gives to the engine, and of what it leaves alone."""

import json
from collections.abc import Mapping
from math import isclose, isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elip.rng import rng_state
from elip.task.contract import LOSS_PREFIX, EvalResult, StepOutput
from elip.testing.ranks import LocalEvaluator, on_ranks
from elip.testing.task_trial import BATCH_SIZE, HALF_WAY, TaskTrial, changed, state_of
from elip.testing.trial import expect
from elip.testing.waiting import never_waiting


def made_up_batches_need_no_file(trial: TaskTrial) -> None:
    """A made-up batch trains and infers where there are neither data nor a tokenizer."""
    task = trial.task(config=trial.without_data())
    splits = list(task.eval_splits())
    expect(not splits, f"eval_splits gives {splits} for a config that names no files")
    batch = trial.made_up_batch(task)
    _check_losses(trial.step(task, batch))
    with torch.no_grad():
        output = task.eval()(batch)
    fits = isinstance(output, Tensor) and output.shape[:1] == (BATCH_SIZE,)
    expect(fits, f"forward gives no tensor with a row for each of the {BATCH_SIZE} items of a batch")
    expect(output.isfinite().all(), "forward gives NaN or infinity")


def losses_are_declared(trial: TaskTrial) -> None:
    """Losses are finite scalars named `loss_...`, those that the class declares; logs are finite scalars too."""
    task = trial.task()
    output = trial.step(task, trial.made_up_batch(task))
    _check_losses(output)
    for name, value in output.logs.items():
        expect(_is_finite_scalar(value), f"the log {name} is not one finite number: {value}")
    given = {name.removeprefix(LOSS_PREFIX) for name in output.losses}
    missing, unknown = set(task.losses) - given, given - set(task.loss_names())
    expect(not missing, f"losses names {_list(missing)}, which a step does not give")
    expect(not unknown, f"a step gives {_list(unknown)}, which loss_names does not give: add it to losses")


def gradients_reach_parameters(trial: TaskTrial) -> None:
    """A step takes a finite gradient to all that is to be optimised, unless the class says less, and nowhere else."""
    task = trial.task()
    task.total_loss(trial.step(task, trial.made_up_batch(task)).losses).backward()
    trained = dict(task.parameters_to_optimise())
    expect(bool(trained), "parameters_to_optimise gives none")
    without = [name for name, parameter in trained.items() if parameter.grad is None]
    expect(
        task.leaves_parameters_out or not without,
        f"no gradient gets to {_list(without)}: leave them out of parameters_to_optimise, or set leaves_parameters_out",
    )
    spoilt = [name for name, p in trained.items() if p.grad is not None and not p.grad.isfinite().all()]
    expect(not spoilt, f"NaN or infinity in the gradient of {_list(spoilt)}")
    stray = [name for name, p in task.named_parameters() if p.grad is not None and name not in trained]
    expect(not stray, f"a gradient gets to {_list(stray)}, which parameters_to_optimise does not give")


def steps_change_nothing_themselves(trial: TaskTrial) -> None:
    """A training step changes neither parameters nor buffers: that is for on_step_start and after_backward."""
    task = trial.task()
    before = state_of(task)
    output = trial.step(task, trial.made_up_batch(task))
    moved = changed(before, task)
    expect(not moved, f"training_step changes {_list(moved)}: leave that to on_step_start or after_backward")
    task.total_loss(output.losses).backward()
    if output.after_backward is not None:
        output.after_backward()
    moved = [name for name, _ in task.named_parameters() if not torch.equal(before[name], task.get_parameter(name))]
    expect(not moved, f"after_backward changes {_list(moved)}, which is the optimiser's or on_step_start's to change")


def steps_do_not_wait(trial: TaskTrial) -> None:
    """Between the batch and its gradients, nothing makes the processor wait for the device."""
    task = trial.task()
    batch = task.prepare(trial.made_up_batch(task))
    try:
        with never_waiting():
            output = task.training_step(batch, HALF_WAY)
            task.total_loss(output.losses).backward()
            if output.after_backward is not None:
                output.after_backward()
    except AssertionError as error:
        raise AssertionError(f"a training step waits for the device: {error}; let prepare find out before") from error


def seeds_decide_losses(trial: TaskTrial) -> None:
    """The same seed builds the same task and draws the same losses."""
    tasks = [trial.task(seed=3) for _ in range(2)]
    differing = changed(state_of(tasks[0]), tasks[1])
    expect(not differing, f"two tasks built from one seed differ in {_list(differing)}")
    batch = trial.made_up_batch(tasks[0])
    first, second = (trial.step(task, batch).losses for task in tasks)
    for name, loss in first.items():
        expect(torch.equal(loss, second[name]), f"{name} is {loss} once and {second[name]} again, from one seed")


def real_batches_train(trial: TaskTrial) -> None:
    """What collate makes of samples of the training set is what a step takes, with the losses of made-up batches."""
    task = trial.task()
    dataset = task.train_dataset()
    expect(len(dataset) > 0, "the training set is empty")  # type: ignore[arg-type]
    task.inspect_training_data(dataset)
    output = trial.step(task, trial.real_batch(task))
    _check_losses(output)
    made_up = trial.step(task, trial.made_up_batch(task))
    for kind, real, other in (("losses", output.losses, made_up.losses), ("logs", output.logs, made_up.logs)):
        expect([*real] == [*other], f"{kind} of real batches are {_list(real)}, of made-up ones {_list(other)}")


def evaluation_changes_nothing(trial: TaskTrial) -> None:
    """An evaluation leaves parameters, buffers and modes as they are, and draws no random numbers."""
    task = trial.task().eval()
    before, random = state_of(task), rng_state()
    trial.evaluate(task, LocalEvaluator())
    moved = changed(before, task)
    expect(not moved, f"evaluate changes {_list(moved)}")
    training = [name or "the task" for name, module in task.named_modules() if module.training]
    expect(not training, f"evaluate leaves {_list(training)} in training mode")
    drawn = [name for name, state in rng_state().items() if not _same(state, random[name])]
    expect(not drawn, f"evaluate draws random numbers ({_list(drawn)}): use a generator of its own with a fixed seed")


def evaluation_measures_the_headline(trial: TaskTrial) -> None:
    """An evaluation gives the metric that picks the best checkpoint, and all in the form that the engine writes."""
    task = trial.task()
    result = trial.evaluate(task, LocalEvaluator())
    expect(
        task.headline in result.metrics, f"metrics has no {task.headline!r}, the headline, but {_list(result.metrics)}"
    )
    for name, value in result.metrics.items():
        expect(_is_finite_scalar(value), f"the metric {name} is not one finite number: {value}")
    _check_scores(result, task.headline)
    stray = result.chance.keys() - result.metrics.keys()
    expect(not stray, f"chance has {_list(stray)}, of which there is no metric")
    expect(bool(result.predictions), "there are no predictions")
    for part in ("predictions", "files"):
        try:
            json.dumps(getattr(result, part))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{part} cannot be written as JSON: {error}") from error
    for name, sheet in result.sheets.items():
        fits = isinstance(sheet, np.ndarray) and sheet.dtype == np.uint8 and sheet.ndim == 3 and sheet.shape[2] == 3
        expect(fits, f"the sheet {name} is not [H, W, 3] uint8")


def ranks_agree(trial: TaskTrial) -> None:
    """Two ranks that share an evaluation come, both, to what one alone comes to."""
    few_drawn = trial.config.model_copy(update={"eval": trial.config.eval.model_copy(update={"sheets": 1})})
    alone, *ranks = [
        result
        for size in (1, 2)
        for result in on_ranks(size, lambda evaluator: trial.evaluate(trial.task(config=few_drawn), evaluator))
    ]
    for rank, result in enumerate(ranks):
        _check_same(f"rank {rank} of 2", result, alone)


def splits_are_those_with_files(trial: TaskTrial) -> None:
    """Each split has files in the config, and what stops its evaluation would be told before training."""
    task, data = trial.task(), trial.config.data
    for split in task.eval_splits():
        expect(bool(getattr(data, split, None)), f"eval_splits gives {split!r}, and data.{split} names no file")
        task.check_evaluation(split)


@torch.no_grad()
def checkpoints_bring_it_back(trial: TaskTrial) -> None:
    """The state of a task makes another one give the same, and adapt_checkpoint leaves it as it is."""
    task, other = trial.task().eval(), trial.task(seed=1).eval()
    state = task.state_dict()
    adapted = trial.cls.adapt_checkpoint(state)
    differing = adapted.keys() ^ state.keys() or {k for k in state if not torch.equal(state[k], adapted[k])}
    expect(not differing, f"adapt_checkpoint changes {_list(differing)} of a checkpoint of this task itself")
    other.load_state_dict(adapted)
    batch = trial.made_up_batch(task)
    expect(
        torch.equal(task(batch), other(batch)),
        "forward gives something else after its state was loaded: keep all that it needs in parameters and buffers",
    )


def _check_losses(output: StepOutput) -> None:
    expect(bool(output.losses), "a step gives no loss")
    for name, loss in output.losses.items():
        expect(name.startswith(LOSS_PREFIX), f"the loss {name!r} is to be named {LOSS_PREFIX}...")
        expect(isinstance(loss, Tensor) and _is_finite_scalar(loss), f"{name} is not one finite number: {loss}")
        expect(loss.requires_grad, f"{name} has no gradient")


def _check_scores(result: EvalResult, headline: str) -> None:
    for part in result.scores:
        expect(bool(part.values), "there are scores of no item: give no `ItemScores` for them")
        expect(len(part.values) == len(part.clusters), f"{len(part.values)} scores have {len(part.clusters)} clusters")
    if result.scores:
        total = sum(part.weight * sum(part.values) / len(part.values) for part in result.scores)
        same = isclose(total, result.metrics[headline], rel_tol=1e-9, abs_tol=1e-9)
        expect(same, f"the scores of items come to {total:g}, and {headline} is {result.metrics[headline]:g}")


def _check_same(who: str, found: EvalResult, alone: EvalResult) -> None:
    expect(found.metrics.keys() == alone.metrics.keys(), f"{who} measures {_list(found.metrics)}")
    for name, value in alone.metrics.items():
        same = isclose(found.metrics[name], value, rel_tol=1e-4, abs_tol=1e-6)
        expect(same, f"{who} measures {name} {found.metrics[name]:g}, one process alone {value:g}")
    expect(
        len(found.predictions) == len(alone.predictions),
        f"{who} has {len(found.predictions)} predictions, one process alone {len(alone.predictions)}",
    )
    clusters, of_one = ([part.clusters for part in result.scores] for result in (found, alone))
    expect(clusters == of_one, f"{who} has scores of other items, or in another order, than one process alone")
    expect(found.sheets.keys() == alone.sheets.keys(), f"{who} draws {_list(found.sheets)}")


def _is_finite_scalar(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dim() == 0 and bool(value.isfinite())
    return isinstance(value, float | int) and isfinite(value)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return all(_same(value, other[name]) for name, value in one.items())
    return bool(one == other)


def _list(names: Any) -> str:
    first, *more = [str(name) for name in names] or ["none"]
    return ", ".join([first, *more[:3]]) + (f" and {len(more) - 3} more" if len(more) > 3 else "")
