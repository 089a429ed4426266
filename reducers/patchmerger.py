"""PatchMerger: a few learned queries each gather from all patches.

Renggli et al., "Learning to Merge Tokens in Vision Transformers", 2022, arXiv:2202.12015, section 2.
"""

import torch
from torch import Tensor, nn

from elip.reduction import REDUCERS, SoftClusters


@REDUCERS.register("patchmerger")
class PatchMerger(SoftClusters):
    """Replace the patches by sums of normalised patches, weighted by the softmax of learned queries."""

    paper = "Renggli et al., 2022, arXiv:2202.12015"

    def cluster_layer(self, width: int, num_tokens: int) -> nn.Module:
        return Merger(width, num_tokens)


class Merger(nn.Module):
    """softmax(Q LN(x)^T) LN(x), without scale (section 2)."""

    def __init__(self, width: int, num_tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(num_tokens, width) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the new tokens: [B, N, D] to [B, M, D]."""
        y = self.norm(x)
        return (self.queries @ y.mT).softmax(dim=-1) @ y
