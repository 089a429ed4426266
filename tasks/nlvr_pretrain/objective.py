"""Text assignment: pairs of images of which one, or none, is the text's own (ALBEF, section 5, NLVR2)."""

from typing import NamedTuple

import torch
from torch import Tensor

from elip.objectives.itm import chance_of_negatives, draw_lots, fall_of

CHOICES = ("left", "right", "neither")
LEFT, RIGHT, NEITHER = range(len(CHOICES))
"""Labels: the image that a text belongs to."""


class Pairs(NamedTuple):
    """The images of a batch that each of its texts meets: left and right, [B] each."""

    left: Tensor
    right: Tensor

    def labels(self) -> Tensor:
        """Return which of the two is the text's own, [B]: text b belongs to image b."""
        own = torch.arange(len(self.left), device=self.left.device)
        return torch.where(self.left == own, LEFT, torch.where(self.right == own, RIGHT, NEITHER))


class PairLots(NamedTuple):
    """What decides a draw of pairs: the label of each text, [B], and which images are first for it, [B, B]."""

    label: Tensor
    images: Tensor

    @classmethod
    def draw(cls, batch: int, device: torch.device) -> "PairLots":
        """Return new lots for a batch. See `elip.objectives.itm.draw_lots`, also for when to call it."""
        return cls(torch.randint(len(CHOICES), (batch,), device=device), draw_lots(batch, device, draws=1)[0])


@torch.no_grad()
def draw_pairs(similarity: Tensor, lots: PairLots | None = None) -> Pairs:
    """Return for each text its own image beside another one, on either side, or two others: a third of the texts each.

    Other images are drawn the more likely the more they are like the text's own.

    Args:
        similarity: of the batch's images over temperature, [B, B], B at least 3.
        lots: of the draw; by default drawn now.
    """
    own = torch.arange(len(similarity), device=similarity.device)
    label, images = lots or PairLots.draw(len(similarity), similarity.device)
    first, second = fall_of(images, chance_of_negatives(similarity)).topk(2).indices.unbind(dim=1)
    return Pairs(
        left=torch.where(label == LEFT, own, first),
        right=torch.where(label == RIGHT, own, torch.where(label == LEFT, first, second)),
    )
