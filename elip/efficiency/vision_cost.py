"""What an image costs in a ViT under a token reducer, and what else tells reducers apart, measured and not declared."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import NamedTuple, cast

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn

from elip.efficiency.count import count_macs
from elip.efficiency.parts import Work
from elip.efficiency.passes import NoValuesError, to_device_of, without_values
from elip.efficiency.resources import saved_bytes
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, Teacher, Watch, text_of_cls
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
    """MACs of one image in one pass under the reducer; the mean where images differ.

    It is at work even where it would not be in an inference: without a text or a teacher, or after its `until`. What a
    teacher does is not counted: it runs anyway.

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
    passes = without_values(model, lambda: _count(model, images))
    works = sum((one.works for one in passes), Counter[Work]())
    return VisionCost(
        total=sum(works.values()) / len(passes),
        look_ahead=sum(macs for work, macs in works.items() if work.part == "look_ahead") / len(passes),
        norm=sum(macs for work, macs in works.items() if work.kind == "norm") / len(passes),
        tokens=mean_trace([token_trace(one.blocks) for one in passes]),
        parameters=sum(p.numel() for p in model.parameters()),
        spread=Spread.of([sum(one.works.values()) for one in passes]),
    )


def _count(model: "Classifier", images: Sequence[Tensor] | None) -> list[Pass]:
    """Return one pass that stands for all, or one for each image where they differ."""
    with undisturbed(model, training=False), torch.no_grad():
        first = model.count(model.example())
        if not adaptive(first.blocks):
            return [first]  # pictures may be slow to open, and none of them would cost anything else
        return [model.count(model.example(image)) for image in images or model.noise(NOISE_IMAGES)]


def adaptive(blocks: Iterable[BlockTokens]) -> bool:
    """Return whether the numbers of tokens in a pass differ from image to image.

    Raises:
        NoValuesError: they do, and the images have no values.
    """
    counts = [block.per_image for block in blocks if block.per_image is not None]
    if any(count.is_meta for count in counts):
        raise NoValuesError("how many tokens are kept depends on what is in the images")
    return bool(counts)


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


@dataclass(frozen=True)
class Properties:
    """What a reducer is like in a ViT.

    Args:
        added_parameters: its own, beside the encoder's.
        drops_in_training: whether fewer tokens leave the last block in training, too, and not only in inference.
        saved_bytes: kept for the backward pass of encoder and reducer, per image, in single precision.
        has_source: whether it is known of each patch which token it lives in.
    """

    added_parameters: int
    drops_in_training: bool
    saved_bytes: float
    has_source: bool


def measure_properties(encoder: VisionEncoder, reducer: TokenReducer) -> Properties:
    """Return what the reducer is like in that encoder, once training's schedules are at their end.

    Args:
        encoder: with random weights or others.
        reducer: made for that encoder. One that needs a text gets a made-up text [CLS].
    """
    model = Classifier(encoder, reducer)
    return without_values(model, lambda: _measure(model, reducer))


def _measure(model: "Classifier", reducer: TokenReducer) -> Properties:
    batch_size, encoder = 2, model.encoder
    with undisturbed(model, training=False), torch.no_grad():
        inputs = tuple(torch.cat([tensor] * batch_size) for tensor in model.example())
        has_source = model.encode(*inputs, source=True).tokens.source is not None
    with undisturbed(model, training=True):
        saved = saved_bytes(lambda: model.loss(*inputs), model)
    whole = encoder.num_prefix_tokens + encoder.grid[0] * encoder.grid[1]
    return Properties(
        added_parameters=sum(p.numel() for p in reducer.parameters()),
        drops_in_training=model.blocks[-1].mlp < whole,
        saved_bytes=saved / batch_size,
        has_source=has_source,
    )


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
        progress = 1.0 if self.reducer is None else self.reducer.full_force
        teacher = self._made_up_teacher(image) if self.reducer is not None and self.reducer.requires_teacher else None
        guide = Guide(None if text_cls is None else text_of_cls(text_cls), progress, teacher)
        output = self.encoder(image, self.reducer, guide, Watch(source=source))
        self.blocks = output.blocks
        return output

    def count(self, inputs: tuple[Tensor, ...]) -> Pass:
        """Return one pass, counted."""
        return Pass(count_macs(self, lambda: self(*inputs)), self.blocks)

    def _made_up_teacher(self, image: Tensor) -> Teacher:
        """Return what a momentum encoder might have seen of the images."""
        assert self.reducer is not None
        info, needs, batch = self.encoder.info(), self.reducer.teacher_needs, len(image)
        rows = torch.rand(batch, info.num_heads, info.num_patches, device=image.device)
        keys = torch.randn(batch, info.num_patches, info.width // info.num_heads, device=image.device)
        tokens = torch.randn(batch, info.num_patches, info.width, device=image.device) if needs.tokens else None
        return Teacher(
            dict.fromkeys(needs.cls_rows, rows),
            dict.fromkeys(needs.mixed_rows, rows),
            dict.fromkeys(needs.keys, keys),
            tokens,
        )

    def noise(self, count: int) -> Tensor:
        """Return pictures of noise, [count, 3, H, W]."""
        patches = cast(PatchEmbed, self.encoder.patch_embed)
        return to_device_of(self.encoder, torch.randn(count, patches.proj.in_channels, *patches.img_size))

    def example(self, image: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return a batch of one image, or of noise, and a text [CLS] where the reducer needs one."""
        batch = self.noise(1) if image is None else to_device_of(self.encoder, image.unsqueeze(0))
        if self.reducer is None or not self.reducer.requires_text:
            return (batch,)
        return batch, to_device_of(self.encoder, torch.randn(1, self.encoder.width))
