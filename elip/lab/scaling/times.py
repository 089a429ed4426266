"""How long training steps of several sizes take, beside one of the config, in turn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from elip.benchmark.step import TrainingStep
from elip.config.schema import RunConfig
from elip.efficiency.resources import Timing, machine, time_in_turn
from elip.efficiency.task_cost import train_step_macs
from elip.engine.runtime import device_of
from elip.lab.scaling.axes import Axis

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Timed:
    """How long a training step takes.

    Args:
        axis: the size that was changed.
        value: what it was set to.
        items: of the step.
        seconds: median over the rounds.
        ratio: median of that to the step it was timed beside.
        range: of that ratio over the rounds.
        macs_ratio: the same ratio in multiply-adds.
        machine: that it was timed on.
    """

    axis: str
    value: float
    items: int
    seconds: float
    ratio: float
    range: tuple[float, float]
    macs_ratio: float
    machine: str


def time_along(config: RunConfig, axes: Sequence[Axis], rounds: int, tell: Tell) -> list[Timed]:
    """Return how long steps take along axes.

    Batches are timed with the same model in turn, the first of them being what ratios are to. All else is timed with
    the first batch, beside the config; the second model takes as much memory again.

    Args:
        config: what is varied.
        axes: with the values to time; the first is that of the batch.
        rounds: how often each is timed.
        tell: is given what is being done, in words.

    Raises:
        ElipError: a value is refused.
    """
    device = device_of(config)
    batch, *others = axes
    sizes = [int(value) for value in batch.values]
    base_config = batch.change(config, sizes[0])
    tell("timing batches " + ", ".join(map(str, sizes)))
    base = TrainingStep(base_config, device)
    macs = train_step_macs(base.task)
    timings = time_in_turn([base.at_batch(size) for size in sizes], device, rounds, warmup=1)
    accumulate = config.train.accumulate
    found = [
        _timed(batch, size, size * accumulate, timing, size / sizes[0], device)
        for size, timing in zip(sizes, timings, strict=True)
    ]
    for axis in others:
        for value in axis.values:
            tell(f"timing {axis.name} {value:g}")
            other = TrainingStep(axis.change(base_config, value), device)
            timing = time_in_turn([base, other], device, rounds, warmup=0)[1]
            found.append(_timed(axis, value, other.items, timing, train_step_macs(other.task) / macs, device))
            del other  # its memory is wanted for the next one
    return found


def _timed(axis: Axis, value: float, items: int, timing: Timing, macs_ratio: float, device: torch.device) -> Timed:
    span = min(timing.ratios), max(timing.ratios)
    return Timed(axis.name, value, items, timing.median_seconds, timing.ratio, span, macs_ratio, machine(device))
