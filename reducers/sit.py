"""SiT: a small network weighs the patches for each new token.

Zong et al., "Self-slimmed Vision Transformer", ECCV 2022, arXiv:2111.12624, section 3.2 (token slimming module).
"""

import torch
from torch import Tensor, nn

from elip.reduction import REDUCERS, SoftClusters


@REDUCERS.register("sit")
class SiT(SoftClusters):
    """Replace the patches by weighted means of them, with weights that each patch gives to each new token."""

    paper = "Zong et al., ECCV 2022, arXiv:2111.12624"

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
