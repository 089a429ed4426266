"""Masked language modelling (Devlin et al., NAACL 2019, section 3.1), distilled as in ALBEF (section 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor

from elip.objectives.distillation import distilled_cross_entropy

IGNORE = -100
"""Label of places that are not predicted: PyTorch's default `ignore_index`."""


class MaskedText(NamedTuple):
    """Masked token ids and what to predict, both [T, L]; labels are `IGNORE` where nothing is predicted."""

    ids: Tensor
    labels: Tensor


def mask_tokens(
    ids: Tensor, *, probability: float, pad_id: int, cls_id: int, mask_id: int, vocab_size: int
) -> MaskedText:
    """Return ids of which a share is to be predicted: of those 80% read [MASK], 10% another word, 10% themselves.

    Args:
        ids: [T, L].
        probability: chance of each place, PAD and CLS apart, to be predicted.
    """
    chance = torch.rand(ids.shape, device=ids.device)
    chosen = (chance < probability) & (ids != pad_id) & (ids != cls_id)
    fate = torch.rand(ids.shape, device=ids.device)
    words = torch.randint(vocab_size, ids.shape, device=ids.device)
    masked = torch.where(chosen & (fate < 0.8), mask_id, ids)
    masked = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), words, masked)
    return MaskedText(masked, torch.where(chosen, ids, IGNORE))


def places_to_predict(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return where in each text something is to be predicted: as many places in all texts, and which are real.

    It reads values, and so is for labels on the CPU.

    Shape:
        labels: [B, L];  returns places [B, P], 1 or more a text, and real [M], of M places among all B * P
    """
    chosen = labels != IGNORE
    most = max(1, int(chosen.sum(dim=1).max()))
    # stable, so that the places of a text come first and in its order
    places = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return places, chosen.gather(1, places).flatten().nonzero().flatten()


def mlm_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None, alpha: float) -> Tensor:
    """Return the distilled cross-entropy of the words predicted, or 0 where none is.

    Args:
        logits: [M, vocabulary], of the predicted places only.
        labels: [M], the words there.
        teacher: [M, vocabulary], the momentum model's logits there; None for no distillation.
        alpha: weight of the teacher.
    """
    if len(labels) == 0:
        return logits.sum() * 0.0  # nothing was masked: a zero that keeps its place in the graph
    return distilled_cross_entropy(logits, labels, teacher, alpha)
