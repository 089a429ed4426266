"""What an image costs in a run that is going on, for its log."""

import logging
from collections.abc import Callable
from inspect import signature
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elip.efficiency.count import count_macs
from elip.efficiency.state import encoders_of, undisturbed, unreduced
from elip.efficiency.task import train_step_macs
from elip.efficiency.vision import adaptive
from elip.models.momentum import MomentumTwins
from elip.models.vision import BlockTokens, VisionEncoder, VisionOutput
from elip.reducer import TokenReducer
from elip.task import Task

IMAGES = 4
"""Images of a batch to take the mean over where costs differ between images."""

_logger = logging.getLogger(__name__)


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
        self._call: _Call | None = None
        self._known: dict[Any, float] = {}
        self._countable = True
        self._step = self._attempt(lambda: _step_figures(task))
        twins = {id(copy) for part in task.modules() if isinstance(part, MomentumTwins) for copy in encoders_of(part)}
        for encoder in encoders_of(task):
            if id(encoder) not in twins:
                encoder.register_forward_hook(self._remember, with_kwargs=True)

    def figures(self) -> dict[str, float]:
        """Return, per image: `gmacs/vision`, forward, and `gmacs/train_step`, forward and backward; and their ratios.

        Ratios are to the same without reduction. Empty before the first training pass, and where counting has failed.
        """
        call = self._call
        if call is None or not self._countable:
            return {}
        return self._attempt(lambda: {**self._vision_figures(call), **self._step})

    def _vision_figures(self, call: "_Call") -> dict[str, float]:
        if "dense" not in self._known:
            with unreduced(call.encoder):
                self._known["dense"] = call.gmacs(images=1)
        if adaptive(call.blocks):
            vision = call.gmacs(IMAGES)
        else:
            tokens = tuple((block.attention, block.mlp) for block in call.blocks)
            if tokens not in self._known:
                self._known[tokens] = call.gmacs(images=1)
            vision = self._known[tokens]
        return {"gmacs/vision": vision, "gmacs/vision_ratio": vision / self._known["dense"]}

    def _remember(
        self, encoder: VisionEncoder, args: tuple[Any, ...], options: dict[str, Any], output: VisionOutput
    ) -> None:
        if encoder.training and torch.is_grad_enabled():
            self._call = _Call(
                encoder,
                tuple(_of_first_images(value) for value in args),
                {name: _of_first_images(value) for name, value in options.items()},
                output.blocks,
            )

    def _attempt(self, count: Callable[[], dict[str, float]]) -> dict[str, float]:
        try:
            return count()
        except Exception as error:  # whatever a reducer from elsewhere does under tracing: a figure is not worth a run
            self._countable = False
            _logger.warning(f"GMACs are not logged, because counting failed: {type(error).__name__}: {error}")
            return {}


class _Call(NamedTuple):
    """A training pass of an image encoder: what it was called with, of its first images, and the tokens in it."""

    encoder: VisionEncoder
    args: tuple[Any, ...]
    options: dict[str, Any]
    blocks: list[BlockTokens]

    def gmacs(self, images: int) -> float:
        """Return the GMACs of the same pass over one image, the mean over the first `images` of them."""
        given = signature(VisionEncoder.forward).bind(self.encoder, *self.args, **self.options).arguments
        replay = _Replay(given.pop("self"), given)
        with undisturbed(replay, training=True), torch.no_grad():
            totals = [sum(count_macs(replay, replay.inputs(i)).values()) for i in range(min(images, replay.images))]
        return fmean(totals) / 1e9


class _Replay(nn.Module):
    """A pass of an image encoder as a module that takes tensors only."""

    def __init__(self, encoder: VisionEncoder, given: dict[str, Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.reducer: TokenReducer | None = given.pop("reducer", None)
        self._tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        self._rest = {name: value for name, value in given.items() if name not in self._tensors}
        self.images = len(self._tensors["image"])

    def inputs(self, index: int) -> tuple[Tensor, ...]:
        """Return what one image is called with."""
        return tuple(tensor[index : index + 1] for tensor in self._tensors.values())

    def forward(self, *tensors: Tensor) -> Tensor:
        given = dict(zip(self._tensors, tensors, strict=True))
        return self.encoder(reducer=self.reducer, **given, **self._rest).embeds


def _step_figures(task: Task) -> dict[str, float]:
    reduced = train_step_macs(task)
    with unreduced(task):
        dense = train_step_macs(task)
    return {"gmacs/train_step": reduced / 1e9, "gmacs/train_step_ratio": reduced / dense}


def _of_first_images(value: Any) -> Any:
    """Return a tensor [B, ...] for a few images, in a memory of its own; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    value = value[:IMAGES].detach().clone()
    return value.float() if value.is_floating_point() else value  # a half of mixed precision
