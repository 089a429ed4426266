"""What an image costs in a ViT under a token reducer."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from elip.efficiency.count import count_macs
from elip.efficiency.look_ahead import LookAhead, looking_ahead_through
from elip.efficiency.state import device_of, undisturbed
from elip.models.vision import BlockTokens, VisionEncoder
from elip.reducer import TokenReducer


@dataclass(frozen=True)
class BlockTrace:
    """Tokens of one image in one block, prefix included; the mean where images differ.

    Args:
        attention: in its attention.
        mlp: in its MLP, which are those that leave it.
    """

    attention: float
    mlp: float


@dataclass(frozen=True)
class VisionCost:
    """MACs of one image in one inference.

    Args:
        total: everything, with what the reducer adds.
        look_ahead: the part of it that the reducer runs ahead, without gradient.
        norm: the part of it in normalisation layers.
        tokens: in each block.
        parameters: of encoder and reducer.
    """

    total: int
    look_ahead: int
    norm: int
    tokens: list[BlockTrace]
    parameters: int

    @property
    def forward_backward(self) -> int:
        """MACs of a forward and a backward pass: the latter costs twice the former, and nothing for look-ahead."""
        return 3 * (self.total - self.look_ahead) + self.look_ahead


def vision_cost(encoder: VisionEncoder, reducer: TokenReducer | None = None) -> VisionCost:
    """Return what one image costs, from patches to the classifier head if there is one.

    Args:
        encoder: with random weights or others.
        reducer: made for that encoder; None keeps all tokens. One that needs a text gets a made-up text [CLS].
    """
    model = _Classifier(encoder, reducer)
    with undisturbed(model, training=False), looking_ahead_through(model.look_ahead, encoder), torch.no_grad():
        works = count_macs(model, model.example())
    return VisionCost(
        total=sum(works.values()),
        look_ahead=sum(macs for work, macs in works.items() if "look_ahead" in work.scopes),
        norm=sum(macs for work, macs in works.items() if work.kind == "norm"),
        tokens=token_trace(model.blocks),
        parameters=sum(p.numel() for p in model.parameters()),
    )


def token_trace(blocks: Iterable[BlockTokens]) -> list[BlockTrace]:
    """Return the tokens of an image in each block, the mean of the batch."""
    return [
        BlockTrace(b.attention, b.mlp if b.per_image is None else b.per_image.float().mean().item()) for b in blocks
    ]


class _Classifier(nn.Module):
    """Encoder, reducer and head as one module that takes tensors only, and a place for look-ahead."""

    def __init__(self, encoder: VisionEncoder, reducer: TokenReducer | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.reducer = reducer
        self.look_ahead = LookAhead()
        self.blocks: list[BlockTokens] = []

    def forward(self, image: Tensor, text_cls: Tensor | None = None) -> Tensor:
        output = self.encoder(image, self.reducer, text_cls=text_cls)
        self.blocks = output.blocks
        return self.encoder.classify(output.embeds)

    def example(self) -> tuple[Tensor, ...]:
        """Return one image, and a text [CLS] where the reducer needs one."""
        patches, device = cast(PatchEmbed, self.encoder.patch_embed), device_of(self.encoder)
        image = torch.randn(1, patches.proj.in_channels, *patches.img_size, device=device)
        if self.reducer is None or not self.reducer.requires_text:
            return (image,)
        return image, torch.randn(1, self.encoder.width, device=device)
