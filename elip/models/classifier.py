"""What visual entailment and NLVR2 share: classes told from the fused [CLS], under momentum distillation.

Li et al., "Align before Fuse", NeurIPS 2021, sections 3.3 and 5.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from elip.execution import Precision
from elip.models.albef import Albef
from elip.models.heads import ClassifierHead
from elip.models.momentum import MomentumTwins
from elip.reduction.guide import Guide, Text, Watch
from elip.reduction.walk import VisionOutput


class Fused(NamedTuple):
    """Texts that have met their images: hidden states [T, L, D]; tokens of K * T images, all first ones first."""

    states: Tensor
    vision: VisionOutput

    @property
    def cls(self) -> Tensor:
        """Hidden states at [CLS], [T, D]."""
        return self.states[:, 0]


class Classified(NamedTuple):
    """Logits [T, classes] of texts with their images; tokens of the K * T images, all first ones first."""

    logits: Tensor
    vision: VisionOutput


def fuse_texts(
    albef: Albef,
    image: Tensor,
    ids: Tensor,
    mask: Tensor,
    guide: Guide | None = None,
    watch: Watch | None = None,
    *,
    reduce: bool = True,
    cls_only: bool = False,
) -> Fused:
    """Return the hidden states of texts that each go with the same number of images.

    Args:
        albef: its text encoder takes as many images a text.
        image: [T, 3, H, W], or [T, K, 3, H, W] where each text goes with K images. All images of a text are encoded
            with that text, for reducers that let it decide.
        ids, mask: [T, L].
        guide: of the image encoder, but for the text.
        watch: what to give back of the image encoder beside the tokens.
        reduce: run it under the reducer; else keep all tokens.
        cls_only: give the states of [CLS] alone, [T, 1, D], which spares the last layer all others.
    """
    encoder = albef.text_encoder
    text = encoder.encode(ids, mask)
    num_images = 1 if image.dim() == 4 else image.shape[1]
    if image.dim() == 5:
        image = image.transpose(0, 1).flatten(0, 1)  # the first image of every text, then the second of every text
    guide = replace(guide or Guide(), text=Text(text, mask).repeat(num_images))
    vision = albef.encode_image(image, guide, watch, reduce=reduce)
    image_kv = encoder.project(vision.embeds, vision.mask)
    if cls_only:
        return Fused(encoder.fuse_cls(text, mask, image_kv).unsqueeze(1), vision)
    return Fused(encoder.fuse(text, mask, image_kv), vision)


class FusedClassifier(nn.Module):
    """ALBEF with a classifier on the fused [CLS], and momentum twins of both.

    Args:
        albef: the encoders; with `PairTextEncoder`, texts go with two images.
        num_classes: labels to tell apart.
        momentum: decay of the twins per step.
        momentum_precision: arithmetic of the twins' passes; None for that in force around them.
    """

    def __init__(
        self, albef: Albef, num_classes: int, momentum: float, momentum_precision: Precision | None = None
    ) -> None:
        super().__init__()
        width = albef.text_encoder.width
        self.albef = albef
        self.cls_head = ClassifierHead(width, num_classes)
        self.momentum = MomentumTwins(self.online(), momentum, momentum_precision)

    def online(self) -> dict[str, nn.Module]:
        """Return the modules that have momentum twins."""
        return {"albef": self.albef, "cls_head": self.cls_head}

    @torch.no_grad()
    def on_step_start(self) -> None:
        """Let the twins follow; once per optimiser step, before its forward pass."""
        self.momentum.follow(self.online())

    def forward(
        self, image: Tensor, ids: Tensor, mask: Tensor, guide: Guide | None = None, watch: Watch | None = None
    ) -> Classified:
        """Return logits of texts with their images; see `fuse_texts`."""
        fused = fuse_texts(self.albef, image, ids, mask, guide, watch, cls_only=True)
        return Classified(self.cls_head(fused.cls), fused.vision)

    def teach(self, image: Tensor, ids: Tensor, mask: Tensor) -> Classified:
        """Return what the twins say of the same images, which they see whole, and texts."""
        teacher: Albef = self.momentum["albef"]  # type: ignore[assignment]
        with self.momentum.teaching():
            watch = self.albef.teacher_needs.watch()
            fused = fuse_texts(teacher, image, ids, mask, watch=watch, reduce=False, cls_only=True)
            return Classified(self.momentum["cls_head"](fused.cls), fused.vision)
