"""What an image costs in a run: in training as it goes on, and in evaluations, which may keep more tokens."""

import logging
from collections.abc import Callable, Mapping
from inspect import signature
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elip.efficiency.count import count_macs
from elip.efficiency.passes import encoders_of, to_device_of, unreduced, without_values
from elip.efficiency.report import label
from elip.efficiency.task_cost import mean_train_step_macs, train_step_macs
from elip.efficiency.vision_cost import adaptive
from elip.models.momentum import MomentumTwins
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import BlockTokens, VisionOutput
from elip.task import Task
from elip.undisturbed import undisturbed

logger = logging.getLogger(__name__)
IMAGES = 4
"""Images of a batch to take the mean over where costs differ between images."""


class EncoderCall(NamedTuple):
    """A pass of an image encoder: what it was called with, of its first images, and the tokens in it.

    Args:
        encoder: that ran.
        training: whether it was in training mode.
        image, reducer, guide: of the call.
        blocks: tokens in each block.
    """

    encoder: VisionEncoder
    training: bool
    image: Tensor
    reducer: TokenReducer | None
    guide: Guide
    blocks: list[BlockTokens]

    def gmacs(self, images: int) -> float:
        """Return the GMACs of the same pass over one image, the mean over the first `images` of them."""
        return fmean(self._macs(slice(first, first + 1)) for first in range(min(images, len(self.image)))) / 1e9

    def dense_gmacs(self) -> float:
        """Return the GMACs of the same pass over one image with all tokens kept."""
        return self._replace(reducer=None).gmacs(images=1)

    def _macs(self, one: slice) -> int:
        model = nn.ModuleList([self.encoder, *([] if self.reducer is None else [self.reducer])])

        def part(tensor: Tensor) -> Tensor:
            return to_device_of(model, tensor[one])

        def run() -> int:
            with undisturbed(model, training=self.training), torch.no_grad():
                works = count_macs(model, lambda: self.encoder(part(self.image), self.reducer, self.guide.map(part)))
            return sum(works.values())

        return without_values(model, run)


def watch_encoders(model: nn.Module, remember: Callable[[EncoderCall], None], wanted: Callable[..., bool]) -> None:
    """Hand every later pass of the image encoders, those of momentum copies left out, to `remember`.

    Args:
        model: that has them.
        remember: is given a pass after it ran.
        wanted: from an encoder to whether its present pass is to be remembered.
    """

    def hook(encoder: VisionEncoder, args: tuple[Any, ...], options: dict[str, Any], output: VisionOutput) -> None:
        if wanted(encoder):
            given = signature(VisionEncoder.forward).bind(encoder, *args, **options).arguments
            guide = (given.get("guide") or Guide()).map(_of_first_images)
            image, reducer = _of_first_images(given["image"]), given.get("reducer")
            remember(EncoderCall(encoder, encoder.training, image, reducer, guide, output.blocks))

    # a momentum copy runs in training mode too, and sees whole images: it must not pass for the encoder that is trained
    twins = {id(copy) for part in model.modules() if isinstance(part, MomentumTwins) for copy in encoders_of(part)}
    for encoder in encoders_of(model):
        if id(encoder) not in twins:
            encoder.register_forward_hook(hook, with_kwargs=True)


def _of_first_images(tensor: Tensor) -> Tensor:
    """Return a tensor [B, ...] for a few images, in a memory of its own."""
    tensor = tensor[:IMAGES].detach().clone()
    return tensor.float() if tensor.is_floating_point() else tensor  # a half of mixed precision


class RunningCost:
    """GMACs of a run's images, as they are now and beside those of the same run without reduction.

    The image encoder's are those of its last training pass: with a warm-up they fall as tokens do. It is counted again
    only when tokens per block have changed, and always under a reducer that keeps different numbers in different
    images. A whole training step is counted once, with the reduction in full force and in the mean over the training.

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

        `gmacs/train_mean` is the mean of such steps over the whole training, during which a reduction may set in and
        end. Ratios are to the same without reduction. Empty before the first training pass, and where counting has
        failed.
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
    found = {"train_step": train_step_macs(task), "train_mean": mean_train_step_macs(task)}
    with unreduced(task):
        dense = train_step_macs(task)
    figures: dict[str, float] = {}
    for name, macs in found.items():
        figures |= {f"gmacs/{name}": macs / 1e9, f"gmacs/{name}_ratio": macs / dense}
    return figures


class EvaluationCost:
    """The reducer that was in force in an evaluation, and what it made of the cost of an image.

    The first pass of an image encoder in evaluation mode stands for all of an evaluation; drawing comes later. So a
    reducer that needs a text shows as what it does where images are encoded alone: it keeps all tokens.

    Args:
        task: its forward passes are watched from now on.
    """

    def __init__(self, task: Task) -> None:
        evaluation, training = task.config.eval.reducer, task.config.reducer
        self._config = training if evaluation is None else evaluation
        self._call: EncoderCall | None = None
        watch_encoders(task, self._remember, lambda encoder: self._call is None and not encoder.training)

    def figures(self) -> dict[str, Any]:
        """Return what the evaluation since the last time has cost.

        Returns:
            `reducer`, the one in force, "none" where all tokens are kept; `note`, why it is not the config's, or None;
            `vision_gmacs` of the image encoder, one image, forward, and `vision_gmacs_dense` of the same with all
            tokens, None where they cannot be counted. Empty if no image was encoded.
        """
        call, self._call = self._call, None
        if call is None:
            return {}
        note = self._why_dense(call)
        gmacs = self._count(call)
        self._call = None  # counting is a pass, too
        return {"reducer": "none" if note else label(self._config), "note": note, **gmacs}

    def _why_dense(self, call: EncoderCall) -> str | None:
        reducer, name = call.reducer, self._config.name
        if name == "none":
            return None
        if reducer is None:
            return "images are encoded without a reducer"
        if reducer.is_over(call.guide.progress):
            return f"tuned on whole images from {reducer.until:g} of the training: all tokens are kept"
        lack = reducer.lacks(call.guide)
        if lack is None:
            return None
        why = "which no evaluation has" if reducer.requires_teacher else "and images are encoded without one"
        return f"{name} needs {lack}, {why}: all tokens are kept"

    def _count(self, call: EncoderCall) -> dict[str, float | None]:
        try:
            reduced = call.gmacs(IMAGES if adaptive(call.blocks) else 1)
            return {"vision_gmacs": reduced, "vision_gmacs_dense": call.dense_gmacs()}
        except Exception as error:  # as in a run's log: a figure is not worth an evaluation
            logger.warning(f"GMACs are not recorded, because counting failed: {type(error).__name__}: {error}")
            return {"vision_gmacs": None, "vision_gmacs_dense": None}

    def _remember(self, call: EncoderCall) -> None:
        self._call = call


def describe_cost(figures: Mapping[str, Any]) -> str:
    """Return in words what `EvaluationCost.figures` gave."""
    if "reducer" not in figures:
        return "no image was encoded, so there is no cost to tell"
    note = f" ({figures['note']})" if figures["note"] else ""
    said = f"reducer in this evaluation: {figures['reducer']}{note}"
    gmacs, dense = figures["vision_gmacs"], figures["vision_gmacs_dense"]
    if gmacs is None:
        return f"{said}; its cost could not be counted"
    return f"{said}; image encoder: {gmacs:.4g} GMACs an image, {gmacs / dense:.2f} of all tokens kept"
