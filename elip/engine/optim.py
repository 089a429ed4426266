"""AdamW over what a task trains, and the learning rate as a function of the step."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer

from elip.config.schema import OptimConfig
from elip.errors import CheckpointError
from elip.task import Task

Moments = dict[str, Tensor]
"""What AdamW keeps of a parameter; nothing before its first update."""
_KEPT = ("step", "exp_avg", "exp_avg_sq")


def build_optimizer(task: Task, config: OptimConfig) -> AdamW:
    """Return AdamW over `task.parameters_to_optimise()`, without decay on biases and 1-d parameters.

    All other parameters are frozen: no gradient is computed for them.
    """
    trained = {id(parameter) for _, parameter in task.parameters_to_optimise()}
    for parameter in task.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
    groups = param_groups_weight_decay(task, config.weight_decay)
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


class LearningRate:
    """The learning rate of every step: warm-up, then a cosine down to `min_lr`.

    `schedule: epoch` is ALBEF's: in the first epoch it jumps up every `warmup_interval` steps, `warmup_steps` in all;
    each later epoch has one value, from a cosine over epochs. (So a warm-up longer than the first epoch is cut off by
    the second.) `schedule: step` is linear over `warmup_steps`, then follows a cosine over what is left of the run.

    Args:
        optimizer: whose groups get the rate; theirs at this moment is the peak.
        epochs: epochs of the whole training.
        steps_per_epoch: optimiser steps of one epoch.
        total_steps: optimiser steps that the run will do.
    """

    def __init__(
        self, optimizer: Optimizer, config: OptimConfig, epochs: int, steps_per_epoch: int, total_steps: int
    ) -> None:
        self._optimizer = optimizer
        self._per_epoch = config.schedule == "epoch"
        self._steps_per_epoch = steps_per_epoch
        self._interval = config.warmup_interval
        if self._per_epoch:
            self._warmup = math.ceil(config.warmup_steps / config.warmup_interval)
            length = epochs
        else:
            self._warmup = min(config.warmup_steps, total_steps)
            length = total_steps - self._warmup
        self._cosine = CosineLRScheduler(
            optimizer,
            t_initial=max(2, length),  # timm warns of 1, of which only the first value is used: that of 2 is the same
            lr_min=config.min_lr,
            warmup_t=self._warmup,
            warmup_lr_init=config.warmup_lr,
            warmup_prefix=True,
        )

    def apply(self, step: int) -> float:
        """Set the rate for the update after `step` others, and return it. The past does not matter."""
        self._cosine.step(self._time(step))
        return float(self._optimizer.param_groups[0]["lr"])

    def _time(self, step: int) -> int:
        """Return where on timm's time axis, which has the warm-up first, `step` lies."""
        if not self._per_epoch:
            return step
        epoch, iteration = divmod(step, self._steps_per_epoch)
        if epoch > 0:
            return self._warmup + epoch
        jumps = max(0, iteration - 1) // self._interval  # the published code jumps after the iteration, not before
        return min(jumps, self._warmup)


def optimizer_state(optimizer: Optimizer) -> dict[int, Moments]:
    """Return the moments of each parameter, by its place in the optimiser; rates and decays belong to the config.

    All parameters have an entry, an empty one where no gradient has come yet, so that a lost one is noticed.
    """
    state = optimizer.state_dict()["state"]
    return {place: state.get(place, {}) for place in range(len(_parameters(optimizer)))}


def load_optimizer_state(optimizer: Optimizer, state: Mapping[Any, Any], path: Path) -> None:
    """Put the moments that `optimizer_state` gave into `optimizer`, and leave its rates and decays as they are.

    Args:
        path: the checkpoint they come from, for the message.

    Raises:
        CheckpointError: they are those of other parameters, or some are missing.
    """
    parameters = _parameters(optimizer)
    for place, parameter in enumerate(parameters):
        moments = state.get(place)
        if (
            isinstance(moments, Mapping)
            and (shape := getattr(moments.get("exp_avg"), "shape", parameter.shape)) != parameter.shape
        ):
            raise _not_ours(path, f"one of shape {list(shape)} is {list(parameter.shape)} here")
    if state.keys() - range(len(parameters)):
        raise _not_ours(path, f"{len(state)} of them, here {len(parameters)}")
    missing = [place for place in range(len(parameters)) if place not in state or not _is_whole(state[place])]
    if missing:
        raise CheckpointError(
            f"{path} lacks the optimiser's moments of {len(missing)} of {len(parameters)} trained parameters: training "
            "would not go on, but begin anew from its weights. To do that, start a new run from them with --init."
        )
    moving = {place: moments for place, moments in state.items() if moments}
    optimizer.load_state_dict({"state": moving, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_whole(moments: Any) -> bool:
    return isinstance(moments, Mapping) and (not moments or all(isinstance(moments.get(one), Tensor) for one in _KEPT))


def _not_ours(path: Path, how: str) -> CheckpointError:
    return CheckpointError(
        f"{path} comes from a run that trained other parameters than this config does ({how}). "
        "Start a new run from its weights with --init."
    )
