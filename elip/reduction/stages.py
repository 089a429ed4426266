"""Reducers that act at a few blocks, their stages, and leave as many tokens there as a schedule says."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from elip.reduction.encoder import EncoderInfo, require_class_token
from elip.reduction.reducer import AttentionFacts, Needs, ReductionContext, TokenReducer
from elip.reduction.schedule import Base, KeepSchedule, Ratios
from elip.reduction.tokens import Tokens


@dataclass(frozen=True)
class Stage:
    """Where a stage-wise reducer is, and what it may know there.

    Args:
        block: counted from 0.
        index: of the stage, counted from 0.
        attention: what was asked for of the block's attention (`StageReducer.at_stage`).
        context: of this forward pass.
    """

    block: int
    index: int
    attention: AttentionFacts
    context: ReductionContext

    @property
    def cls_row(self) -> Tensor:
        """[B, heads, N], attention of CLS to the patches."""
        assert self.attention.cls_row is not None, "at_stage lacks Needs.CLS_ROW"
        return self.attention.cls_row

    @property
    def keys(self) -> Tensor:
        """[B, N, d], keys of the patches, averaged over heads; they only rank, so that no gradient goes through."""
        assert self.attention.keys is not None, "at_stage lacks Needs.KEYS"
        return self.attention.keys.detach()

    @property
    def value_norms(self) -> Tensor:
        """[B, heads, N], length of each patch's value vector."""
        assert self.attention.value_norms is not None, "at_stage lacks Needs.VALUE_NORMS"
        return self.attention.value_norms


class StageReducer(TokenReducer):
    """Reduce at some blocks to the number of tokens that a schedule gives.

    A subclass gives `reduce`, which is called only where tokens are to go. Parameters of its own stand in its
    constructor, which passes on the others: `def __init__(self, encoder, *, seed=0, **stages)`.

    Args:
        encoder: the encoder to reduce.
        begin: blocks to reduce at, counted from 0.
        keep_ratio: tokens left after each, as a share of what `of` says, in (0, 1]: one for each block of `begin`; one
            number, the same as a list of it; or {shape, first, last}, a line or a cosine over the blocks.
        of: what the ratios are shares of: initial, the image's patches, or current, the patch tokens that arrive at
            the block. None for initial, where one number for several blocks is refused as ambiguous.
        warmup: how the reduction sets in over training (`elip.reduction.Warmup`); None for in full from the start.
    """

    at_stage: ClassVar[Needs] = Needs.NOTHING
    """What it wants to know of the attention of a stage's block. If anything, tokens go between that attention and the
    MLP; else in front of the block."""
    base: ClassVar[Base | None] = None
    """What the method's keep ratios are shares of where `of` does not say; None for the initial patches."""
    rounding: ClassVar[Literal["floor", "ceil"]] = "floor"
    """Of the number of tokens left."""
    schedule: KeepSchedule

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] = (3, 6, 9),
        keep_ratio: Ratios = (0.7, 0.49, 0.343),
        of: Base | None = None,
        warmup: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if Needs.CLS_ROW in self.at_stage:
            require_class_token(encoder)
        self.schedule = KeepSchedule(
            encoder, begin=begin, keep_ratio=keep_ratio, of=of or self.base, rounding=self.rounding, warmup=warmup
        )

    @abstractmethod
    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        """Return the tokens that are left after a stage.

        Args:
            tokens: that arrive.
            keep: how many of them to keep, fewer than arrive (soft reducers: at most as many); a method that fuses the
                others may add one for them.
            stage: where in the pass this is.
        """

    def needs(self, block: int) -> Needs:
        return self.at_stage if block in self.schedule.begin else Needs.NOTHING

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        return tokens if self.at_stage else self.reduced(block, tokens, AttentionFacts(), context)

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        return self.reduced(block, tokens, attention, context) if self.at_stage else tokens

    def reduced(self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext) -> Tokens:
        """Return the tokens after `reduce`, or as they are where there is nothing to do."""
        keep = self.num_keep(block, tokens, context)
        # A soft reducer makes new tokens of the old ones even where as many are left.
        if block not in self.schedule.begin or (keep == tokens.num_tokens and not self.soft):
            return tokens
        return self.reduce(tokens, keep, Stage(block, self.schedule.begin.index(block), attention, context))

    def num_keep(self, block: int, tokens: Tokens, context: ReductionContext) -> int:
        """Return how many of the tokens that arrive at a block to keep; all where there is no stage."""
        return self.schedule.num_keep(block, tokens.num_tokens, context.guide.progress)
