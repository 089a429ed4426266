"""What an image costs in a run that is going on, for its log."""

import logging
from collections.abc import Callable
from typing import Any

import torch

from elip.efficiency.passes import unreduced
from elip.efficiency.replay import IMAGES, EncoderCall, watch_encoders
from elip.efficiency.task_cost import train_step_macs
from elip.efficiency.vision_cost import adaptive
from elip.task import Task

logger = logging.getLogger(__name__)


class RunningCost:
    """GMACs of a run's images, as they are now and beside those of the same run without reduction.

    The image encoder's are those of its last training pass: with a warm-up they fall as tokens do. It is counted again
    only when tokens per block have changed, and always under a reducer that keeps different numbers in different
    images. A whole training step is counted once, with schedules over training at their end.

    Training goes on as if nothing had been counted: random state and buffers are left as they are. What cannot be
    counted costs the run nothing but its figures: a warning says why.

    Args:
        task: on its device; its forward passes are watched from now on.
    """

    def __init__(self, task: Task) -> None:
        self._call: EncoderCall | None = None
        self._known: dict[Any, float] = {}
        self._countable = True
        self._step = self._attempt(lambda: _step_figures(task))
        watch_encoders(task, self._remember, lambda encoder: encoder.training and torch.is_grad_enabled())

    def figures(self) -> dict[str, float]:
        """Return, per image: `gmacs/vision`, forward, and `gmacs/train_step`, forward and backward; and their ratios.

        Ratios are to the same without reduction. Empty before the first training pass, and where counting has failed.
        """
        call = self._call
        if call is None or not self._countable:
            return {}
        return self._attempt(lambda: {**self._vision_figures(call), **self._step})

    def _vision_figures(self, call: EncoderCall) -> dict[str, float]:
        if "dense" not in self._known:
            self._known["dense"] = call.dense_gmacs()
        if adaptive(call.blocks):
            vision = call.gmacs(IMAGES)
        else:
            tokens = tuple((block.attention, block.mlp) for block in call.blocks)
            if tokens not in self._known:
                self._known[tokens] = call.gmacs(images=1)
            vision = self._known[tokens]
        return {"gmacs/vision": vision, "gmacs/vision_ratio": vision / self._known["dense"]}

    def _remember(self, call: EncoderCall) -> None:
        self._call = call

    def _attempt(self, count: Callable[[], dict[str, float]]) -> dict[str, float]:
        try:
            return count()
        except Exception as error:  # whatever a reducer from elsewhere does under tracing: a figure is not worth a run
            self._countable = False
            logger.warning(f"GMACs are not logged, because counting failed: {type(error).__name__}: {error}")
            return {}


def _step_figures(task: Task) -> dict[str, float]:
    reduced = train_step_macs(task)
    with unreduced(task):
        dense = train_step_macs(task)
    return {"gmacs/train_step": reduced / 1e9, "gmacs/train_step_ratio": reduced / dense}
