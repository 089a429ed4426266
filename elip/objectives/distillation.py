"""Momentum distillation: the slow copy of the model softens the targets (ALBEF, section 3.3)."""

from torch import Tensor
from torch.nn import functional as F


def alpha_at(epochs: float, alpha: float, warmup: bool) -> float:
    """Return alpha after that many epochs: with `warmup` it rises linearly from 0 over the first."""
    return alpha * min(1.0, epochs) if warmup else alpha


def distilled_cross_entropy(logits: Tensor, labels: Tensor, teacher: Tensor | None, alpha: float) -> Tensor:
    """Return (1 - alpha) * cross-entropy + alpha * cross-entropy with the momentum model's distribution.

    Args:
        logits: [M, classes].
        labels: [M], the right classes.
        teacher: [M, classes], the momentum model's logits; None for no distillation.
        alpha: weight of the teacher.
    """
    logits = logits.float()
    hard = F.cross_entropy(logits, labels)
    if teacher is None:
        return hard
    soft = -(F.log_softmax(logits, dim=1) * F.softmax(teacher.float(), dim=1)).sum(dim=1).mean()
    return (1 - alpha) * hard + alpha * soft
