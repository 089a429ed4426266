"""What reducers share that put a few new tokens, made by a layer of theirs, in place of all patches of a stage."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from elip.reduction.reducer import EncoderInfo, ReductionContext, TokenReducer
from elip.reduction.schedule import KeepSchedule, Ratios
from elip.reduction.tokens import Tokens


class SoftClusters(TokenReducer):
    """Replace the patches in front of some blocks by fewer new tokens, each of which draws on all of them.

    Subclasses give `cluster_layer`. The numbers of new tokens are fixed when it is built: there is no warm-up.

    Args:
        name: of the reducer, for messages.
        encoder: the encoder to reduce.
        begin: blocks to reduce in front of, counted from 0.
        keep_ratio: new tokens of each, as a share of the image's initial patches, in (0, 1].
    """

    soft = True
    schedule: KeepSchedule

    def __init__(self, name: str, encoder: EncoderInfo, begin: Sequence[int], keep_ratio: Ratios) -> None:
        super().__init__()
        self.schedule = KeepSchedule(name, encoder.depth, encoder.num_patches, begin=begin, keep_ratio=keep_ratio)
        counts = self.schedule.counts().values()
        self.cluster_layers = nn.ModuleList(self.cluster_layer(encoder.width, count) for count in counts)

    @abstractmethod
    def cluster_layer(self, width: int, num_tokens: int) -> nn.Module:
        """Return a layer that makes that many new tokens: [B, N, D] to [B, num_tokens, D]."""

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        if block not in self.schedule.begin:
            return tokens
        new: Tensor = self.cluster_layers[self.schedule.begin.index(block)](tokens.x)
        return tokens.mix(new.to(tokens.x.dtype))
