"""What an image costs in a ViT under a token reducer."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import NamedTuple, cast

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from elip.efficiency.count import Work, count_macs
from elip.efficiency.passes import device_of
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, Watch, text_of_cls
from elip.reduction.reducer import TokenReducer
from elip.reduction.walk import BlockTokens, VisionOutput
from elip.undisturbed import undisturbed

NOISE_IMAGES = 8
"""Pictures of noise that stand for a data set where costs differ between images and none is given."""


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
class Spread:
    """How much the MACs in the image encoder differ between images.

    Args:
        images: how many were counted, one by one.
        std: standard deviation.
        least: of all.
        most: of all.
    """

    images: int
    std: float
    least: float
    most: float

    @classmethod
    def of(cls, totals: Sequence[float]) -> "Spread | None":
        """Return the spread of the images' totals; None for a single one, which stands for all."""
        return cls(len(totals), pstdev(totals), min(totals), max(totals)) if len(totals) > 1 else None


@dataclass(frozen=True)
class VisionCost:
    """MACs of one image in one inference; the mean where images differ.

    Args:
        total: everything, with what the reducer adds.
        look_ahead: the part of it that the reducer runs ahead, without gradient.
        norm: the part of it in normalisation layers.
        tokens: in each block.
        parameters: of encoder and reducer.
        spread: of the total; None where all images cost the same.
    """

    total: float
    look_ahead: float
    norm: float
    tokens: list[BlockTrace]
    parameters: int
    spread: Spread | None = None

    @property
    def forward_backward(self) -> float:
        """MACs of a forward and a backward pass: the latter costs twice the former, and nothing for look-ahead."""
        return 3 * (self.total - self.look_ahead) + self.look_ahead


class Pass(NamedTuple):
    """One forward pass that was counted: its MACs and the tokens in each block of the image encoder."""

    works: Counter[Work]
    blocks: list[BlockTokens]


def vision_cost(
    encoder: VisionEncoder, reducer: TokenReducer | None = None, images: Sequence[Tensor] | None = None
) -> VisionCost:
    """Return what one image costs, from patches to the classifier head if there is one.

    Args:
        encoder: with random weights or others.
        reducer: made for that encoder; None keeps all tokens. One that needs a text gets a made-up text [CLS].
        images: [3, H, W] each, to take the mean over where the reducer keeps different numbers of tokens in different
            images; None for noise. All others are counted once.
    """
    model = Classifier(encoder, reducer)
    with undisturbed(model, training=False), torch.no_grad():
        passes = [model.count(model.example())]
        if adaptive(passes[0].blocks):
            passes = [model.count(model.example(image)) for image in images or model.noise(NOISE_IMAGES)]
    works = sum((one.works for one in passes), Counter[Work]())
    return VisionCost(
        total=sum(works.values()) / len(passes),
        look_ahead=sum(macs for work, macs in works.items() if work.looked_ahead) / len(passes),
        norm=sum(macs for work, macs in works.items() if work.kind == "norm") / len(passes),
        tokens=mean_trace([token_trace(one.blocks) for one in passes]),
        parameters=sum(p.numel() for p in model.parameters()),
        spread=Spread.of([sum(one.works.values()) for one in passes]),
    )


def adaptive(blocks: Iterable[BlockTokens]) -> bool:
    """Return whether the numbers of tokens in a pass differ from image to image."""
    return any(block.per_image is not None for block in blocks)


def token_trace(blocks: Iterable[BlockTokens]) -> list[BlockTrace]:
    """Return the tokens of an image in each block, the mean of the batch."""
    return [
        BlockTrace(b.attention, b.mlp if b.per_image is None else b.per_image.float().mean().item()) for b in blocks
    ]


def mean_trace(traces: Sequence[list[BlockTrace]]) -> list[BlockTrace]:
    """Return the mean of several passes, block by block."""
    if len(traces) == 1:
        return traces[0]
    return [
        BlockTrace(fmean(block.attention for block in blocks), fmean(block.mlp for block in blocks))
        for blocks in zip(*traces, strict=True)
    ]


class Classifier(nn.Module):
    """Encoder, reducer and head as one module that takes tensors only."""

    def __init__(self, encoder: VisionEncoder, reducer: TokenReducer | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.reducer = reducer
        self.blocks: list[BlockTokens] = []

    def forward(self, image: Tensor, text_cls: Tensor | None = None) -> Tensor:
        return self.encoder.classify(self.encode(image, text_cls).embeds)

    def loss(self, image: Tensor, text_cls: Tensor | None = None) -> Tensor:
        """Return some loss of the classes, and the reducer's own."""
        output = self.encode(image, text_cls)
        return self.encoder.classify(output.embeds).square().mean() + sum(output.losses.values())

    def encode(self, image: Tensor, text_cls: Tensor | None = None, *, source: bool = False) -> VisionOutput:
        """Return the image's tokens; those of each block are kept in `blocks`."""
        guide = Guide() if text_cls is None else Guide(text_of_cls(text_cls))
        output = self.encoder(image, self.reducer, guide, Watch(source=source))
        self.blocks = output.blocks
        return output

    def count(self, inputs: tuple[Tensor, ...]) -> Pass:
        """Return one pass, counted."""
        return Pass(count_macs(self, inputs), self.blocks)

    def noise(self, count: int) -> Tensor:
        """Return pictures of noise, [count, 3, H, W]."""
        patches = cast(PatchEmbed, self.encoder.patch_embed)
        return torch.randn(count, patches.proj.in_channels, *patches.img_size, device=device_of(self.encoder))

    def example(self, image: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return a batch of one image, or of noise, and a text [CLS] where the reducer needs one."""
        batch = self.noise(1) if image is None else image.unsqueeze(0).to(device_of(self.encoder))
        if self.reducer is None or not self.reducer.requires_text:
            return (batch,)
        return batch, torch.randn(1, self.encoder.width, device=batch.device)
