"""What pre-training, retrieval and grounding share: contrast and matching of images and texts, with momentum twins.

Li et al., "Align before Fuse", NeurIPS 2021, sections 3.2 and 3.3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elip.execution import Precision
from elip.models.albef import Albef
from elip.models.heads import Contrast, LinearHead
from elip.models.momentum import FeatureQueues, MomentumTwins
from elip.models.text import ImageKV, places_of_cls
from elip.objectives.itc import Similarities
from elip.objectives.itm import Negatives, sample_negatives
from elip.reduction.guide import Guide, Text
from elip.reduction.walk import VisionOutput

MIN_TEMP, MAX_TEMP = 0.001, 0.5
"""Bounds of the learned temperature, as published."""


@dataclass(frozen=True)
class MomentumFeatures:
    """What the momentum twin says of a batch, without gradient.

    Args:
        image, text: unit features [B, E].
        vision: its image tokens.
    """

    image: Tensor
    text: Tensor
    vision: VisionOutput


@dataclass(frozen=True)
class MatchingLogits:
    """Matching logits of aligned pairs [B, 2] and negatives [2B, 2]; fused states of masked texts [B, P, D]."""

    positive: Tensor
    negative: Tensor
    masked: Tensor | None = None


class AlignmentModel(nn.Module):
    """ALBEF with its temperature, matching head, momentum twins and feature queues.

    Args:
        albef: the encoders.
        queue_size: Q.
        momentum: decay of the twins per step.
        temp: initial temperature.
        min_temp: lower bound of what it may become.
        twins: further modules to keep momentum twins of, by name.
        image_ids: remember in the queues which image a feature is of.
        momentum_precision: arithmetic of the twins' passes; None for that in force around them.
    """

    def __init__(
        self,
        albef: Albef,
        queue_size: int,
        momentum: float,
        temp: float,
        min_temp: float = MIN_TEMP,
        twins: dict[str, nn.Module] | None = None,
        image_ids: bool = False,
        momentum_precision: Precision | None = None,
    ) -> None:
        super().__init__()
        self.albef = albef
        self.itm_head = LinearHead(albef.text_encoder.width, 2)
        self.temp = nn.Parameter(torch.tensor(temp))
        self.min_temp = min_temp
        self.similarity = Contrast()
        self._twinned = ["albef", "similarity", *(twins or {})]
        for name, module in (twins or {}).items():
            self.add_module(name, module)
        self.momentum = MomentumTwins(self.online(), momentum, momentum_precision)
        self.queues = FeatureQueues(albef.vision_proj.out_features, queue_size, with_ids=image_ids)

    def online(self) -> dict[str, nn.Module]:
        """Return the modules that have momentum twins."""
        return {name: self.get_submodule(name) for name in self._twinned}

    @torch.no_grad()
    def on_step_start(self) -> None:
        """Keep the temperature in bounds and let the twins follow; once per optimiser step, before its forward pass.

        A temperature that is not finite becomes NaN, for the loss to tell: bounds would hide that training diverged.
        """
        bounded = self.temp.clamp(self.min_temp, MAX_TEMP)
        self.temp.copy_(torch.where(self.temp.isfinite(), bounded, torch.nan))
        self.momentum.follow(self.online())

    @property
    def teacher(self) -> Albef:
        """The momentum twin of the encoders."""
        return self.momentum["albef"]  # type: ignore[return-value]

    def momentum_features(
        self, image: Tensor, text: Text, *, reduce: bool = False, progress: float = 1.0
    ) -> MomentumFeatures:
        """Return the twin's features of a batch; it sees the whole image unless `reduce`.

        Args:
            image: [B, 3, H, W].
            text: from the twin's own text layers.
            progress: share of the training done, which the twin's reducer goes by, too.
        """
        guide, watch = Guide(text, progress), self.albef.teacher_needs.watch()
        with self.momentum.teaching():
            output = self.teacher.encode_image(image, guide, watch, reduce=reduce)
            image_feat, text_feat = self.teacher.image_feat(output.embeds), self.teacher.text_feat(text.states)
        return MomentumFeatures(image_feat, text_feat, output)

    def guide(self, keys: MomentumFeatures, text: Text | None = None, progress: float = 1.0) -> Guide:
        """Return what may decide which patches of a batch to keep in training.

        Args:
            keys: the twin's features of the batch.
            text: of each image; None where images are encoded alone.
            progress: share of the training done.
        """
        return Guide(text, progress, keys.vision.teacher(self.albef.teacher_needs))

    def contrast(self, image_feat: Tensor, text_feat: Tensor, keys: MomentumFeatures) -> Similarities:
        """Return similarities [B, B + Q] with the batch's momentum features and the queues, over the temperature."""
        return self._contrast(self.similarity, image_feat, text_feat, keys)

    def teacher_contrast(self, keys: MomentumFeatures) -> Similarities:
        """Return the same of the momentum features themselves, without gradient."""
        with self.momentum.teaching():
            return self._contrast(self.momentum["similarity"], keys.image, keys.text, keys)

    def _contrast(self, similarity: nn.Module, image: Tensor, text: Tensor, keys: MomentumFeatures) -> Similarities:
        return similarity(image, text, (keys.image, self.queues.image), (keys.text, self.queues.text), self.temp)

    def matching_logits(self, cls: Tensor) -> Tensor:
        """Return [T, 2] logits (no match, match) from fused hidden states of [CLS], [T, D]."""
        return self.itm_head(cls)

    def draw_negatives(self, sim: Similarities, same: Tensor | None = None, lots: Tensor | None = None) -> Negatives:
        """Return hard negatives from this batch's part of the similarities; see `sample_negatives`."""
        batch = len(sim.i2t)
        return sample_negatives(sim.i2t[:, :batch].detach(), sim.t2i[:, :batch].detach(), same, lots)

    def match(
        self,
        text: Tensor,
        mask: Tensor,
        image_kv: ImageKV,
        negatives: Negatives,
        masked: tuple[Tensor, Tensor] | None = None,
    ) -> MatchingLogits:
        """Return matching logits of the aligned pairs and of their negatives.

        All texts that meet the image of their own row go through the fusion layers together and share its keys and
        values.

        Args:
            text: [B, L, D], from the text layers;  mask: [B, L].
            image_kv: B images.
            negatives: for each row.
            masked: the same texts with words masked (MLM), [B, L, D], and the places wanted of them, [B, P], to fuse in
                the same pass.
        """
        encoder, batch, cls = self.albef.text_encoder, len(text), places_of_cls(text)
        texts, masks, places = [text, text[negatives.text]], [mask, mask[negatives.text]], [torch.cat([cls, cls])]
        if masked is not None:
            texts, masks, places = [*texts, masked[0]], [*masks, mask], [*places, masked[1]]
        matched, *at_masked = encoder.fuse_at(torch.cat(texts), torch.cat(masks), image_kv, places)
        positive, wrong_text = matched[:, 0].split(batch)
        # by index into keys and values that are there: a wrong image costs no projection of its own
        wrong_image = encoder.fuse_cls(text, mask, image_kv, negatives.image)
        return MatchingLogits(
            positive=self.matching_logits(positive),
            negative=self.matching_logits(torch.cat([wrong_image, wrong_text])),
            masked=at_masked[0] if at_masked else None,
        )
