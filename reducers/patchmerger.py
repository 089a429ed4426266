"""PatchMerger: a few learned queries each gather from all patches.

Renggli et al., "Learning to Merge Tokens in Vision Transformers", 2022, arXiv:2202.12015, section 2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from elip.reduction import EncoderInfo, Ratios, SoftClusters
from elip.registry import REDUCERS


@REDUCERS.register("patchmerger")
class PatchMerger(SoftClusters):
    """Replace the patches by sums of normalised patches, weighted by the softmax of learned queries.

    Args:
        encoder: the encoder to reduce.
        begin: blocks to merge in front of, counted from 0.
        keep_ratio: new tokens of each, as a share of the image's initial patches, in (0, 1].
    """

    paper = "Renggli et al., 2022, arXiv:2202.12015"

    def __init__(self, encoder: EncoderInfo, *, begin: Sequence[int] = (3, 6, 9), keep_ratio: Ratios = 0.7) -> None:
        super().__init__("patchmerger", encoder, begin, keep_ratio)

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
