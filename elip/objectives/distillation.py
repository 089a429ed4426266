"""Momentum distillation: the momentum copy of the model softens the targets (ALBEF, section 3.3)."""

from torch import Tensor
from torch.nn import functional as F


def alpha_at(epochs: float, alpha: float, warmup: bool) -> float:
    """Return alpha after that many epochs: with `warmup` it rises linearly from 0 over the first."""
    return alpha * min(1.0, epochs) if warmup else alpha


def distilled_cross_entropy(
    logits: Tensor, labels: Tensor, teacher: Tensor | None, alpha: float, weight: Tensor | None = None
) -> Tensor:
    """Return (1 - alpha) * cross-entropy + alpha * cross-entropy with the momentum model's distribution.

    It is the mean of all rows, or their sum under `weight`.

    Args:
        logits: [M, classes].
        labels: [M], the right classes.
        teacher: [M, classes], the momentum model's logits; None for no distillation.
        alpha: weight of the teacher.
        weight: [M], of the rows.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, reduction="none")
    if teacher is not None:
        soft = -(F.log_softmax(logits, dim=1) * F.softmax(teacher.float(), dim=1)).sum(dim=1)
        loss = (1 - alpha) * loss + alpha * soft
    return loss.mean() if weight is None else (loss * weight).sum()
