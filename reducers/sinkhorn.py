"""Sinkhorn: soft assignment of patches to learned centres by optimal transport.

Haurum et al., "Multi-Scale Hybrid Vision Transformer and Sinkhorn Tokenizer for Sewer Defect Classification", 2022,
arXiv:2202.01902 (Automation in Construction 144), section 3.3.
"""

from math import inf, log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elip.errors import ElipError
from elip.reduction import REDUCERS, EncoderInfo, SoftClusters


@REDUCERS.register("sinkhorn")
class Sinkhorn(SoftClusters):
    """Replace the patches by sums of them, weighted by a transport plan between patches and learned centres.

    Patches enter with unit length, as their similarity to the centres is a cosine: their scale is lost.

    Args:
        eps: temperature of the similarities; the smaller, the harder the assignment.
        iterations: of Sinkhorn's normalisation.
    """

    paper = "Haurum et al., 2022, arXiv:2202.01902"

    def __init__(self, encoder: EncoderInfo, *, eps: float = 1.0, iterations: int = 3, **stages: Any) -> None:
        if not 0 < eps < inf or iterations < 1:
            raise ElipError(f"eps must be above 0 and iterations at least 1, got {eps} and {iterations}.")
        self.eps, self.iterations = eps, iterations
        super().__init__(encoder, **stages)

    def cluster_layer(self, width: int, num_tokens: int) -> nn.Module:
        return Centres(width, num_tokens, self.eps, self.iterations)


class Centres(nn.Module):
    """Learned centres and the patches' assignment to them."""

    def __init__(self, width: int, num_tokens: int, eps: float, iterations: int) -> None:
        super().__init__()
        self.eps, self.iterations = eps, iterations
        self.v = nn.Parameter(F.normalize(torch.randn(num_tokens, width), dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the new tokens: [B, N, D] to [B, M, D]."""
        unit = F.normalize(x, dim=-1)
        similarity = F.normalize(self.v, dim=-1) @ unit.mT
        return transport_plan(similarity.float() / self.eps, self.iterations).to(unit.dtype) @ unit


def transport_plan(logits: Tensor, iterations: int) -> Tensor:
    """Return how much of each token goes to each centre; each token's shares add up to 1.

    Sinkhorn's iterations on logarithms. All rows and columns have the same mass, so that those of the side that is
    normalised last, the tokens, are exact.

    Shape:
        logits: [B, M, N];  returns [B, M, N]
    """
    mass = -log(sum(logits.shape[-2:]))
    u, v = logits.new_zeros(logits.shape[:-1]), logits.new_zeros(logits.shape[0], logits.shape[-1])
    for _ in range(iterations):
        u = mass - (logits + v.unsqueeze(1)).logsumexp(dim=2)
        v = mass - (logits + u.unsqueeze(2)).logsumexp(dim=1)
    return (logits + u.unsqueeze(2) + v.unsqueeze(1) - mass).exp()
