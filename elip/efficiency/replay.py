"""Passes of an image encoder that are remembered as they happen, to be counted later."""

from collections.abc import Callable
from inspect import signature
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elip.efficiency.count import count_macs
from elip.efficiency.state import encoders_of, undisturbed, unreduced
from elip.models.momentum import MomentumTwins
from elip.models.vision import BlockTokens, VisionEncoder, VisionOutput
from elip.reduction.reducer import TokenReducer

IMAGES = 4
"""Images of a batch to take the mean over where costs differ between images."""


class EncoderCall(NamedTuple):
    """A pass of an image encoder: what it was called with, of its first images, and the tokens in it.

    Args:
        encoder: that ran.
        training: whether it was in training mode.
        args, options: of the call.
        blocks: tokens in each block.
    """

    encoder: VisionEncoder
    training: bool
    args: tuple[Any, ...]
    options: dict[str, Any]
    blocks: list[BlockTokens]

    @property
    def given(self) -> dict[str, Any]:
        """What the encoder was called with, by the names that `VisionEncoder.forward` has for it."""
        given = dict(signature(VisionEncoder.forward).bind(self.encoder, *self.args, **self.options).arguments)
        del given["self"]
        return given

    def gmacs(self, images: int) -> float:
        """Return the GMACs of the same pass over one image, the mean over the first `images` of them."""
        replay = _Replay(self.encoder, self.given)
        with undisturbed(replay, training=self.training), torch.no_grad():
            totals = [sum(count_macs(replay, replay.inputs(i)).values()) for i in range(min(images, replay.images))]
        return fmean(totals) / 1e9

    def dense_gmacs(self) -> float:
        """Return the GMACs of the same pass over one image with all tokens kept."""
        with unreduced(self.encoder):
            return self.gmacs(images=1)


def watch_encoders(model: nn.Module, remember: Callable[[EncoderCall], None], wanted: Callable[..., bool]) -> None:
    """Hand every later pass of the image encoders, those of momentum copies left out, to `remember`.

    Args:
        model: that has them.
        remember: is given a pass after it ran.
        wanted: from an encoder to whether its present pass is to be remembered.
    """

    def hook(encoder: VisionEncoder, args: tuple[Any, ...], options: dict[str, Any], output: VisionOutput) -> None:
        if wanted(encoder):
            first = tuple(_of_first_images(value) for value in args)
            named = {name: _of_first_images(value) for name, value in options.items()}
            remember(EncoderCall(encoder, encoder.training, first, named, output.blocks))

    twins = {id(copy) for part in model.modules() if isinstance(part, MomentumTwins) for copy in encoders_of(part)}
    for encoder in encoders_of(model):
        if id(encoder) not in twins:
            encoder.register_forward_hook(hook, with_kwargs=True)


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


def _of_first_images(value: Any) -> Any:
    """Return a tensor [B, ...] for a few images, in a memory of its own; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    value = value[:IMAGES].detach().clone()
    return value.float() if value.is_floating_point() else value  # a half of mixed precision
