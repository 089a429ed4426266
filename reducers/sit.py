"""SiT: a small network weighs the patches for each new token.

Zong et al., "Self-slimmed Vision Transformer", ECCV 2022, arXiv:2111.12624, section 3.2 (token slimming module).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from elip.reduction import EncoderInfo, Ratios, SoftClusters
from elip.registry import REDUCERS


@REDUCERS.register("sit")
class SiT(SoftClusters):
    """Replace the patches by weighted means of them, with weights that each patch gives to each new token.

    Args:
        encoder: the encoder to reduce.
        begin: blocks to slim in front of, counted from 0.
        keep_ratio: new tokens of each, as a share of the image's initial patches, in (0, 1].
    """

    paper = "Zong et al., ECCV 2022, arXiv:2111.12624"

    def __init__(self, encoder: EncoderInfo, *, begin: Sequence[int] = (3, 6, 9), keep_ratio: Ratios = 0.7) -> None:
        super().__init__("sit", encoder, begin, keep_ratio)

    def cluster_layer(self, width: int, num_tokens: int) -> nn.Module:
        return Slimming(width, num_tokens)


class Slimming(nn.Module):
    """softmax over the patches of scale * MLP(LN(x)), times x (section 3.2)."""

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.weight = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width // 2), nn.GELU(), nn.Linear(width // 2, num_tokens)
        )
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the new tokens: [B, N, D] to [B, M, D]."""
        return (self.weight(x) * self.scale).softmax(dim=1).mT.to(x.dtype) @ x
