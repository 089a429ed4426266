"""Passes of an image encoder that are remembered as they happen, to be counted later."""

from collections.abc import Callable
from inspect import signature
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elip.efficiency.count import count_macs
from elip.efficiency.passes import encoders_of, unreduced
from elip.models.momentum import MomentumTwins
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import BlockTokens, VisionOutput
from elip.undisturbed import undisturbed

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
        totals = []
        for first in range(min(images, len(self.image))):
            one = slice(first, first + 1)
            replay = _Replay(self.encoder, self.reducer, self.guide.map(lambda tensor, one=one: tensor[one]))
            with undisturbed(replay, training=self.training), torch.no_grad():
                totals.append(sum(count_macs(replay, (self.image[one],)).values()))
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
            given = signature(VisionEncoder.forward).bind(encoder, *args, **options).arguments
            guide = (given.get("guide") or Guide()).map(_of_first_images)
            image, reducer = _of_first_images(given["image"]), given.get("reducer")
            remember(EncoderCall(encoder, encoder.training, image, reducer, guide, output.blocks))

    twins = {id(copy) for part in model.modules() if isinstance(part, MomentumTwins) for copy in encoders_of(part)}
    for encoder in encoders_of(model):
        if id(encoder) not in twins:
            encoder.register_forward_hook(hook, with_kwargs=True)


class _Replay(nn.Module):
    """A pass of an image encoder as a module that takes images only."""

    def __init__(self, encoder: VisionEncoder, reducer: TokenReducer | None, guide: Guide) -> None:
        super().__init__()
        self.encoder = encoder
        self.reducer = reducer
        self._guide = guide

    def forward(self, image: Tensor) -> Tensor:
        return self.encoder(image, self.reducer, self._guide).embeds


def _of_first_images(tensor: Tensor) -> Tensor:
    """Return a tensor [B, ...] for a few images, in a memory of its own."""
    tensor = tensor[:IMAGES].detach().clone()
    return tensor.float() if tensor.is_floating_point() else tensor  # a half of mixed precision
