"""DPC-KNN: merge clusters around density peaks.

Zeng et al., "Not All Tokens Are Equal: Human-centric Visual Analysis via Token Clustering Transformer", CVPR 2022,
arXiv:2204.08680, section 3.2, on the clustering of Du et al., Knowledge-Based Systems 99, 2016.
"""

from typing import Any

import torch
from torch import Tensor, nn

from elip.errors import ElipError
from elip.reduction import REDUCERS, EncoderInfo, Stage, StageReducer, Tokens, distances, merge_mean


@REDUCERS.register("dpcknn")
class DpcKnn(StageReducer):
    """Merge the patches in front of some blocks into clusters, each around a dense patch far from denser ones.

    New tokens are in falling order of their centre's score. Ties in density, which the published code breaks by noise,
    are left to the order of the patches, so that results repeat.

    Args:
        neighbors: k, nearest patches, itself among them, that the density is taken from.
        scored: weigh patches in their cluster's mean by a learned importance, exp(linear), as the paper does; all alike
            otherwise, without parameters.
    """

    paper = "Zeng et al., CVPR 2022, arXiv:2204.08680"

    def __init__(self, encoder: EncoderInfo, *, neighbors: int = 5, scored: bool = False, **stages: Any) -> None:
        super().__init__(encoder, **stages)
        if neighbors < 1:
            raise ElipError(f"neighbors must be at least 1, got {neighbors}.")
        self.neighbors = neighbors
        self.cluster_layers = nn.ModuleList(
            nn.ModuleDict({"score": nn.Linear(encoder.width, 1)}) for _ in self.schedule.begin if scored
        )

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        _, assignment = density_peaks(tokens.x.detach(), keep, self.neighbors)
        return merge_mean(tokens, assignment, keep, self.weight(stage.index, tokens.x), eps=1e-6)

    def weight(self, stage: int, x: Tensor) -> Tensor:
        """Return the importance of each patch in its cluster's mean: [B, N, D] to [B, N]."""
        if not self.cluster_layers:
            return x.new_ones(x.shape[:2], dtype=torch.float32)
        return self.cluster_layers[stage].get_submodule("score")(x).squeeze(-1).float().exp()


def density_peaks(x: Tensor, num_clusters: int, neighbors: int) -> tuple[Tensor, Tensor]:
    """Return the patches that are cluster centres, and each patch's cluster (section 3.2, eq. 1 to 3).

    Args:
        x: [B, N, D].
        num_clusters: K.
        neighbors: k nearest, itself among them.

    Returns:
        centres: [B, K], in falling order of density times distance to the next denser patch.
        assignment: [B, N], in [0, K).
    """
    distance = distances(x) * x.shape[-1] ** -0.5
    nearest = distance.topk(min(neighbors, x.shape[1]), dim=-1, largest=False).values
    density = (-nearest.square().mean(dim=-1)).exp()
    denser = density.unsqueeze(1) > density.unsqueeze(2)  # [B, i, j]: j is denser than i
    to_denser = distance.masked_fill(~denser, float("inf")).amin(dim=-1)
    to_denser = torch.minimum(to_denser, distance.amax(dim=(1, 2)).unsqueeze(1))  # the densest: as far as any
    centres = (density * to_denser).topk(num_clusters, dim=1).indices
    from_centre = distance.gather(1, centres.unsqueeze(-1).expand(-1, -1, x.shape[1]))
    own = torch.arange(num_clusters, device=x.device).expand_as(centres)
    return centres, from_centre.argmin(dim=1).scatter(1, centres, own)
