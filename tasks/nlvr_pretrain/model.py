"""Which of two images a text belongs to: the model of text assignment, which prepares an encoder of pairs for NLVR2.

Li et al., "Align before Fuse", NeurIPS 2021, section 5 (NLVR2).
"""

import torch
from torch import Tensor, nn

from elip.models.albef import Albef
from elip.models.classifier import Classified, fuse_texts
from elip.models.heads import LinearHead
from elip.reduction.guide import Guide, Text, Watch
from tasks.nlvr_pretrain.objective import CHOICES, PairLots, Pairs, draw_pairs


class TextAssignment(nn.Module):
    """ALBEF for pairs of images, with a head that assigns a text to the left image, the right one, or neither.

    The projections and the temperature come from pre-training. They only say which images are alike, so that pairs
    are hard to tell apart, and are not trained.

    Args:
        albef: the encoders, with projections and a `PairTextEncoder`.
        temp: temperature of contrast, as pre-training has left it.
        draw_temp: temperature of the draw; None takes that of contrast.
    """

    def __init__(self, albef: Albef, temp: float, draw_temp: float | None = None) -> None:
        super().__init__()
        self.albef = albef
        self.ta_head = LinearHead(albef.text_encoder.width, len(CHOICES))
        self.temp = nn.Parameter(torch.tensor(temp), requires_grad=False)
        self.draw_temp = draw_temp
        albef.vision_proj.requires_grad_(False)
        albef.text_proj.requires_grad_(False)

    def forward(
        self, image: Tensor, ids: Tensor, mask: Tensor, guide: Guide | None = None, watch: Watch | None = None
    ) -> Classified:
        """Return logits [T, 3] of texts with two images each; see `fuse_texts`."""
        fused = fuse_texts(self.albef, image, ids, mask, guide, watch, cls_only=True)
        return Classified(self.ta_head(fused.cls), fused.vision)

    def assign(
        self, image: Tensor, ids: Tensor, mask: Tensor, pairs: Pairs | None = None, progress: float = 1.0
    ) -> tuple[Classified, Pairs]:
        """Return logits [B, 3] of texts with two images of their batch, and which two.

        Each image is encoded once, with its own text, whichever texts it meets then.

        Args:
            image: [B, 3, H, W].
            ids, mask: [B, L], the text of each image.
            pairs: the images that each text meets; None draws them, the more alike the more likely.
            progress: share of the training done.
        """
        encoder = self.albef.text_encoder
        lots = PairLots.draw(len(image), image.device)
        text = encoder.encode(ids, mask)
        vision = self.albef.encode_image(image, Guide(Text(text, mask), progress))
        similarity: Tensor | None = None
        if pairs is None:
            similarity = self._similarity(vision.embeds)
            pairs = draw_pairs(similarity, lots)
        image_kv = encoder.project(vision.embeds, vision.mask)
        logits = self.ta_head(encoder.fuse_cls(text, mask, image_kv, torch.stack([pairs.left, pairs.right])))
        if similarity is not None:  # else only the draw would know that they are not finite, and it does not tell
            logits = logits + (0 * similarity).sum(dim=1, keepdim=True)
        return Classified(logits, vision), pairs

    @torch.no_grad()
    def _similarity(self, embeds: Tensor) -> Tensor:
        """Return how alike the images are, over the temperature of the draw, [B, B]."""
        feat = self.albef.image_feat(embeds)
        return feat @ feat.T / (self.temp if self.draw_temp is None else self.draw_temp)
