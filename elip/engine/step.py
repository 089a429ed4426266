"""One optimiser step of any task: forward and backward passes, clipping, checks, update."""

import inspect
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from elip.config.schema import TrainConfig
from elip.distributed import is_distributed, rank, world_size
from elip.engine.loader import to_device
from elip.engine.runtime import Run
from elip.errors import ElipError
from elip.rng import derived_seed, seed_everything
from elip.task import Batch, Progress, StepOutput, Task

_MIN_SCALE = 1e-4
"""Loss scale of fp16 below which gradients are too large for anything: the scaler has halved it 30 times and more."""


class TrainingError(ElipError):
    """Training cannot go on: its numbers are no longer finite."""


@dataclass(frozen=True)
class StepReport:
    """What one optimiser step gave, the mean over its forward passes and over all ranks.

    Args:
        loss: what is minimised, `Task.total_loss` of the losses.
        losses: by name, not weighted.
        logs: by name.
        grad_norm: before clipping.
        skipped: number of broken samples passed over, of all ranks.
        skipped_here: those of this rank, in words.
        stop: whether any rank was asked to stop.
    """

    loss: float
    losses: dict[str, float]
    logs: dict[str, float]
    grad_norm: float
    skipped: int
    skipped_here: list[str]
    stop: bool

    @property
    def not_finite(self) -> str:
        """The losses that are no numbers any more, in words; else the gradient, if it is none; "" if all is well."""
        losses = [f"{name} is {value}" for name, value in self.losses.items() if not math.isfinite(value)]
        if not losses and not math.isfinite(self.grad_norm):
            return f"the gradient norm is {self.grad_norm} (the losses are finite)"
        return ", ".join(losses)


class StepRunner:
    """Takes optimiser steps: gradients of all ranks are averaged, those of several forward passes too.

    Random numbers of each forward pass follow from seed, rank, step and pass alone. What is drawn before the reducer
    acts, such as masks and negatives, is then the same in two runs that differ in the reducer only.

    Args:
        task: on the run's device already.
        optimizer: over the task's parameters.
        config: accumulation is given by the number of batches; clipping and compilation are read here.
        run: device, precision, and whether to stop.

    Raises:
        ConfigError: a loss that the task does not have is given a weight.
    """

    def __init__(self, task: Task, optimizer: Optimizer, config: TrainConfig, run: Run) -> None:
        task.check_loss_weights()
        self._task = task
        self._optimizer = optimizer
        self._run = run
        self._seed = config.seed
        self._precision = config.precision
        self._max_norm = config.clip_grad_norm
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._ddp = _wrap(task) if is_distributed() else None
        module = self._ddp or _TaskStep(task)
        self._forward = torch.compile(module) if config.compile and not task.compiles_parts else module
        self.scaler = run.grad_scaler()

    def step(self, batches: list[Batch], progress: Progress, advice: str) -> StepReport:
        """Return the report of one optimiser step on the mean loss of `batches`.

        Args:
            advice: what to tell the user about the last good checkpoint if a loss is not finite.

        Raises:
            TrainingError: a loss or the gradient is not finite; parameters are as before. A scaler passes over a
                gradient that is not, unless weights are not either, or its scale has become too small to be of use.
        """
        step = progress.step + 1
        with torch.no_grad():
            self._task.on_step_start()
        self._optimizer.zero_grad(set_to_none=True)
        tally = _Tally()
        for number, batch in enumerate(batches):
            seed_everything(derived_seed(self._seed, rank(), progress.step, number))
            with self._synchronised(batch is batches[-1]), self._blaming_weights(step, advice):
                self._forward_backward(batch, progress, 1 / len(batches), tally)
        grad_norm = self._clip()
        report = tally.report(self._task, grad_norm, self._run)
        if report.not_finite and not self._scaler_copes(report):
            raise self._error(step, report.not_finite, "Training stops before this update", advice)
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return report

    def check_weights(self, step: int, advice: str) -> None:
        """Raise a `TrainingError` if trained weights are not finite after `step` steps: nobody wants to keep those.

        It waits for the device: for moments before an evaluation or a checkpoint, not for every step.
        """
        if self._spoilt_weights():
            raise self._error(step, "the update went out of range", "It is neither evaluated nor saved", advice)

    @contextmanager
    def _blaming_weights(self, step: int, advice: str) -> Iterator[None]:
        """Return a context in which what fails because weights are not finite is told as that.

        The losses would tell, but something on the way there, such as a draw in a plug-in, may not take NaN.
        """
        try:
            yield
        except ElipError:
            raise
        except Exception as error:
            if not self._spoilt_weights():
                raise
            what = f"the forward or backward pass failed ({type(error).__name__})"
            raise self._error(step, what, "Training stops before this update", advice) from error

    def _scaler_copes(self, report: StepReport) -> bool:
        """Return whether this is no more than a gradient too large for the loss scale, which is then lowered."""
        if not self.scaler.is_enabled() or not all(map(math.isfinite, report.losses.values())):
            return False
        return self.scaler.get_scale() > _MIN_SCALE and not self._spoilt_weights()

    def _error(self, step: int, what: str, consequence: str, advice: str) -> TrainingError:
        weights = self._spoilt_weights()
        clip = "set train.clip_grad_norm" + ("" if self._max_norm is None else f" below {self._max_norm:g}")
        remedies = ["Lower optim.lr", clip]
        if self._precision != "fp32":
            remedies.append("try train.precision=fp32")
        remedy = f"{', '.join(remedies[:-1])} or {remedies[-1]}"
        return TrainingError(f"step {step}: {what}. {weights and weights + ' '}{consequence}. {advice} {remedy}.")

    def _spoilt_weights(self) -> str:
        """Return how many of the trained weights are not finite, and which is the first, in words; "" if all are."""
        named = list(self._task.parameters_to_optimise())
        finite = torch.stack([parameter.detach().isfinite().all() for _, parameter in named]).tolist()
        spoilt = [name for (name, _), good in zip(named, finite, strict=True) if not good]
        return f"{len(spoilt)} of {len(named)} trained weights are not finite, the first {spoilt[0]}." if spoilt else ""

    def _forward_backward(self, batch: Batch, progress: Progress, share: float, tally: "_Tally") -> None:
        tally.skipped += batch.pop("skipped", [])
        batch = to_device(self._task.prepare(batch), self._run.device)
        with self._run.autocast():
            output: StepOutput = self._forward(batch, progress)
        self.scaler.scale(self._task.total_loss(output.losses) * share).backward()
        if output.after_backward is not None:
            output.after_backward()
        tally.add(output)

    def _clip(self) -> Tensor:
        """Return the norm of the gradient, which is cut to the configured one."""
        self.scaler.unscale_(self._optimizer)
        return clip_grad_norm_(self._parameters, math.inf if self._max_norm is None else self._max_norm)

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Return a context for one forward pass; gradients are exchanged in the last of a step only."""
        return nullcontext() if self._ddp is None or last else self._ddp.no_sync()


class _TaskStep(nn.Module):
    """A training step as a forward pass, which is what DDP and `torch.compile` take."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        return self.task.training_step(batch, progress)


def _wrap(task: Task) -> DistributedDataParallel:
    """Return the step under DDP, with parameters and buffers as on rank 0.

    Buffers are sent once: a task changes them alike on all ranks, and a feature queue is too large to send every step.
    """
    for buffer in task.buffers():
        dist.broadcast(buffer, src=0)
    # the option's new name sends the buffers at the start itself; the old one warns where the new one exists
    new_name = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    no_buffers: dict[str, Any] = {"forward_sync_buffers" if new_name else "broadcast_buffers": False}
    return DistributedDataParallel(
        _TaskStep(task),
        find_unused_parameters=task.leaves_parameters_out,
        gradient_as_bucket_view=True,
        **no_buffers,
    )


class _Tally:
    """Adds up the forward passes of a step, and reads all figures from the device at once."""

    def __init__(self) -> None:
        self.skipped: list[str] = []
        self._rows: list[Tensor] = []
        self._losses: list[str] = []
        self._logs: list[str] = []

    def add(self, output: StepOutput) -> None:
        """Take in one forward pass; all of a run have the same names in the same order."""
        self._losses, self._logs = list(output.losses), list(output.logs)
        device = next(iter(output.losses.values())).device
        scalars = [*output.losses.values(), *output.logs.values()]
        numbers = [torch.as_tensor(value, dtype=torch.float64) for value in scalars]
        self._rows.append(torch.stack([n.detach().to(device, non_blocking=True).reshape(()) for n in numbers]))

    def report(self, task: Task, grad_norm: Tensor, run: Run) -> StepReport:
        """Return the figures over all forward passes and ranks. The one place where a step waits for the device."""
        counts = torch.tensor([len(self.skipped), run.stop_signal is not None], dtype=torch.float64)
        figures = torch.stack(self._rows).mean(dim=0)
        figures = torch.cat([figures, grad_norm.double().reshape(1), counts.to(figures.device, non_blocking=True)])
        if is_distributed():
            dist.all_reduce(figures)
        *values, skipped, stops = figures.tolist()
        means = [value / world_size() for value in values]
        names = len(self._losses)
        losses = dict(zip(self._losses, means[:names], strict=True))
        return StepReport(
            loss=task.total_loss(losses),
            losses=losses,
            logs=dict(zip(self._logs, means[names:-1], strict=True)),
            grad_norm=means[-1],
            skipped=round(skipped),
            skipped_here=self.skipped,
            stop=stops > 0,
        )
