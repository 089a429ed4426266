"""Image-text matching with hard negatives (ALBEF, section 3.2, equation 3)."""

import logging
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)
_warned: set[str] = set()


class Negatives(NamedTuple):
    """A hard negative for each row of a batch.

    Shape:
        image: [B], the image that text b is wrongly paired with
        text: [B], the text that image b is wrongly paired with
        valid: [B] bool, False for rows for which the batch holds no negative
    """

    image: Tensor
    text: Tensor
    valid: Tensor


def draw_lots(rows: int, device: torch.device, draws: int = 2) -> Tensor:
    """Return what decides so many draws from a batch, for each of its rows: [draws, B, B].

    Drawn before a reducer may draw random numbers of its own, they make its runs comparable to those of others.
    """
    return torch.empty(draws, rows, rows, device=device).exponential_()


def fall_of(lots: Tensor, weight: Tensor) -> Tensor:
    """Return how far in front each place of a row is by its lot; the first k are k draws, none twice, by weight.

    Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006: the places of least lot over weight.

    Shape:
        lots: [B, B], of `draw_lots`;  weight: [B, B], 0 or more;  returns [B, B]
    """
    return weight.log() - lots.clamp_min(torch.finfo(lots.dtype).tiny).log()


@torch.no_grad()
def sample_negatives(
    sim_i2t: Tensor, sim_t2i: Tensor, same: Tensor | None = None, lots: Tensor | None = None
) -> Negatives:
    """Draw negatives within the batch, the more likely the more similar they are.

    Args:
        sim_i2t, sim_t2i: similarity over temperature within the batch, [B, B].
        same: [B, B] bool, pairs that are no negatives; by default each row with itself.
        lots: of `draw_lots`, [2, B, B], for images and texts; by default drawn now.
    """
    same = _itself(sim_i2t) if same is None else same
    for_image, for_text = draw_lots(len(same), same.device) if lots is None else lots
    return Negatives(
        image=fall_of(for_image, chance_of_negatives(sim_t2i, same)).argmax(dim=1),
        text=fall_of(for_text, chance_of_negatives(sim_i2t, same)).argmax(dim=1),
        valid=~same.all(dim=1),
    )


def warn_of_one_image(image_id: Tensor) -> None:
    """Log, once, that a batch is of one image throughout, so that none of its rows has a negative.

    Args:
        image_id: [B], on the CPU.
    """
    if "negatives" not in _warned and bool((image_id == image_id[0]).all()):
        _warned.add("negatives")
        logger.warning("a batch is of one image throughout and has no negatives: its rows are left out of ITM")


def chance_of_negatives(similarity: Tensor, same: Tensor | None = None) -> Tensor:
    """Return for each row how likely each other one is to be drawn, [B, B], not normalised; 0 for what is no negative.

    Where similarities are not finite, as in a model that has diverged, all negatives of the row are alike: a draw never
    fails. It is for the losses to tell.

    Args:
        similarity: over temperature, [B, B].
        same: [B, B] bool, pairs that are no negatives; by default each row with itself.
    """
    same = _itself(similarity) if same is None else same
    # Probabilities that the softmax rounds to zero stay possible: a row always has something to draw from.
    tiny = torch.finfo(torch.float32).tiny
    return F.softmax(similarity.float(), dim=1).nan_to_num(nan=tiny).clamp_min(tiny).masked_fill(same, 0)


def _itself(similarity: Tensor) -> Tensor:
    return torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)


def itm_loss(positive: Tensor, negative: Tensor, valid: Tensor) -> Tensor:
    """Return the cross-entropy of matching logits, label 1 for aligned pairs, 0 for negatives.

    Rows without a valid negative count nowhere.

    Args:
        positive: logits of the aligned pairs, [B, 2].
        negative: logits of the negatives, [2B, 2]: a wrong image for each text, then a wrong text for each image.
        valid: [B] bool.
    """
    logits = torch.cat([positive, negative]).float()
    labels = torch.cat([torch.ones_like(valid), torch.zeros_like(valid), torch.zeros_like(valid)]).long()
    # weighed with 0 rather than left out: picking rows would wait for the device and change shapes from step to step
    weight = valid.repeat(3).to(logits.dtype)
    losses = F.cross_entropy(logits, labels, reduction="none") * weight
    return losses.sum() / weight.sum().clamp_min(1)
