"""What a model gives is numbers: NaN compares as false with everything, and would count as some rank or class."""

import torch
from torch import Tensor

from elip.errors import ElipError


def check_finite(values: Tensor, what: str) -> None:
    """Raise an error if some of `values` [N, ...], `what` the model gives for N items, are NaN or infinite.

    Raises:
        ElipError: how many, and what to try.
    """
    broken = ~torch.isfinite(values.unsqueeze(-1)).flatten(1).all(dim=1)
    if broken.any():
        raise ElipError(
            f"the model's {what} are not finite numbers for {int(broken.sum())} of {len(values)} items and give no "
            "figures: its weights are broken, or too large for the precision. Evaluate an earlier checkpoint, or with "
            "train.precision=fp32."
        )
