"""Image-text contrastive loss with soft targets from the momentum model (ALBEF, sections 3.2 and 3.3)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Similarities(NamedTuple):
    """Similarity over temperature of this batch (rows) with the batch's momentum features, then the queue's.

    Shape:
        i2t, t2i: [B, B + Q]
    """

    i2t: Tensor
    t2i: Tensor


def similarities(
    image_feat: Tensor,
    text_feat: Tensor,
    image_keys: tuple[Tensor, Tensor],
    text_keys: tuple[Tensor, Tensor],
    temp: Tensor,
) -> Similarities:
    """Return similarities of unit features with what they are contrasted with.

    Args:
        image_feat, text_feat: [B, E].
        image_keys: momentum image features of the batch [B, E], and the image queue [E, Q].
        text_keys: the same of texts.
        temp: temperature, a scalar.
    """

    def against(feat: Tensor, keys: tuple[Tensor, Tensor]) -> Tensor:
        batch, queue = keys  # the queue keeps single precision, features come as their encoder's precision gives them
        return torch.cat([feat @ keys.to(feat.dtype) for keys in (batch.T, queue)], dim=1) / temp

    return Similarities(i2t=against(image_feat, text_keys), t2i=against(text_feat, image_keys))


def soft_targets(hard: Tensor, momentum: Tensor, alpha: float) -> Tensor:
    """Return (1 - alpha) * hard targets + alpha * softmax of the momentum model's similarities. All [B, B + Q]."""
    return (1 - alpha) * hard + alpha * F.softmax(momentum, dim=1)


def one_hot_targets(like: Tensor) -> Tensor:
    """Return targets that pair row b with column b. like: [B, B + Q]."""
    return torch.eye(*like.shape, dtype=like.dtype, device=like.device)


def same_image_targets(image_id: Tensor, queue_ids: Tensor) -> Tensor:
    """Return targets spread evenly over all entries of a row's own image, in the batch and in the queue.

    Shape:
        image_id: [B];  queue_ids: [1, Q];  returns [B, B + Q]
    """
    same = (image_id[:, None] == torch.cat([image_id[None], queue_ids], dim=1)).float()
    return same / same.sum(dim=1, keepdim=True)


def itc_loss(sim: Similarities, i2t_targets: Tensor, t2i_targets: Tensor) -> Tensor:
    """Return the cross-entropy with the targets, the mean of both directions and of the batch."""
    i2t = -(F.log_softmax(sim.i2t, dim=1) * i2t_targets).sum(dim=1).mean()
    t2i = -(F.log_softmax(sim.t2i, dim=1) * t2i_targets).sum(dim=1).mean()
    return (i2t + t2i) / 2
