"""What reducers share that put a few new tokens, made by a layer of theirs, in place of all patches of a stage."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from elip.reduction.encoder import EncoderInfo
from elip.reduction.schedule import Base, Ratios
from elip.reduction.stages import Stage, StageReducer
from elip.reduction.tokens import Tokens


class SoftClusters(StageReducer):
    """Replace the patches in front of some blocks by fewer new tokens, each of which draws on all of them.

    Subclasses give `cluster_layer`. The numbers of new tokens are fixed when it is built: there is no warm-up.
    """

    soft = True

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (3, 6, 9),
        keep_ratio: Ratios = (0.7, 0.49, 0.343),
        of: Base | None = None,
    ) -> None:
        super().__init__(encoder, begin=begin, keep_ratio=keep_ratio, of=of)
        counts = self.schedule.counts().values()
        self.cluster_layers = nn.ModuleList(self.cluster_layer(encoder.width, count) for count in counts)

    @abstractmethod
    def cluster_layer(self, width: int, num_tokens: int) -> nn.Module:
        """Return a layer that makes that many new tokens: [B, N, D] to [B, num_tokens, D]."""

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        new: Tensor = self.cluster_layers[stage.index](tokens.x)
        return tokens.mix(new.to(tokens.x.dtype))
