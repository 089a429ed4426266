"""What a token reducer is to the rest of the toolkit: the contract between `reducers/` and the encoders.

A reducer acts at two places: before a block, and between a block's attention and its MLP. It is handed patch tokens
only, and one `ReductionContext` per forward pass, where everything lives that belongs to that pass.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from math import nextafter
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from elip.errors import ElipError
from elip.reduction.guide import Guide, TeacherNeeds, Text
from elip.reduction.schedule import KeepSchedule, RemovalSchedule, scaled_ratios, scaled_removals
from elip.reduction.tokens import Tokens
from elip.registry import constructor_parameters


class Needs(Flag):
    """What a reducer wants from a block's attention, beyond its output. Whatever is not asked for is not computed."""

    NOTHING = 0
    CLS_ROW = auto()
    """Attention of CLS to the patches, O(N)."""
    KEYS = auto()
    """Keys of the patches, averaged over heads."""
    VALUE_NORMS = auto()
    """Length of each patch's value vector, per head."""
    MATRIX = auto()
    """The whole attention matrix. Gives up fused attention in this block."""


@dataclass(frozen=True)
class AttentionFacts:
    """What was asked for of one block's attention; the rest is None.

    Shape (N patches, P prefix tokens, d width of a head):
        cls_row: [B, heads, N], probabilities after the softmax over all tokens
        keys: [B, N, d]
        value_norms: [B, heads, N]
        matrix: [B, heads, P + N, P + N]
    """

    cls_row: Tensor | None = None
    keys: Tensor | None = None
    value_norms: Tensor | None = None
    matrix: Tensor | None = None


@dataclass(frozen=True)
class Wishes:
    """What is wanted of one block's attention.

    Args:
        needs: what to compute beside its output.
        bias: added to the logits of each key, prefix tokens included, [B, P + N]; None for nothing.
        function: used in place of softmax attention; None for the fused one.
    """

    needs: Needs = Needs.NOTHING
    bias: Tensor | None = None
    function: "AttentionFunction | None" = None


class Blocks(Protocol):
    """The encoder's own blocks, for a reducer that looks ahead."""

    def run(self, block: int, x: Tensor) -> Tensor:
        """Return all tokens, prefix included, after one block. x: [B, P + N, D]."""
        ...

    def cls_row(self, block: int, x: Tensor) -> Tensor:
        """Return the attention of CLS to the patches in one block, [B, heads, N], and compute nothing else of it."""
        ...

    def run_with_cls_row(self, block: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return all tokens after one block, and the attention of CLS to the patches in it, [B, heads, N]."""
        ...


@dataclass
class ReductionContext:
    """What a reducer knows of one forward pass, and where it keeps what belongs to it.

    Args:
        blocks: the encoder's blocks.
        training: whether the pass is one of training.
        guide: text, progress of the training, and what the teacher saw.
        prefix: [B, number of prefix tokens, D], the prefix tokens now; to read only.
        state: anything the reducer carries from block to block.
    """

    blocks: Blocks
    training: bool
    guide: Guide = field(default_factory=Guide)
    prefix: Tensor = field(default_factory=lambda: torch.empty(0))
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> Text:
        """The text of each image, for a reducer that requires one."""
        assert self.guide.text is not None, "requires_text is False, so that there may be none: look at guide.text"
        return self.guide.text


AttentionFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(query, key, value), each [B, heads, P + N, d], to the attention's output of the same shape."""


class TokenReducer(nn.Module):
    """Prunes or merges patch tokens inside a ViT.

    The constructor takes the `EncoderInfo` first and its own parameters by keyword; it raises an `ElipError` for
    parameters that make no sense for that encoder, before which the registry puts the reducer's name. Every hook
    returns its tokens unchanged unless overridden. `StageReducer` and `PairMerging` do the bookkeeping of most methods.
    `elip.testing.check_reducer` holds a class to all that is said here.
    """

    paper: ClassVar[str] = ""
    """Where the method comes from, e.g. "Liang et al., ICLR 2022, arXiv:2202.07800"."""
    requires_text: ClassVar[bool] = False
    """Keep all tokens in a pass without a text (or fail there, if `strict`)."""
    requires_teacher: ClassVar[bool] = False
    """Keep all tokens in a pass without a teacher, as in evaluation (or fail there, if `strict`)."""
    teacher_needs: TeacherNeeds = TeacherNeeds()
    """What it wants to know of the momentum encoder's pass, where there is one, as `Guide.teacher`; set it in the
    constructor where it depends on the encoder."""
    soft: ClassVar[bool] = False
    """Each token it makes draws on many: no patch lives in one of them, so that there is no source map, and keeping as
    many tokens as there are is not the identity."""
    keeps_order: ClassVar[bool] = False
    """Patches that keep a token to themselves stay in image order."""
    static_counts: ClassVar[bool] = True
    """Numbers of tokens follow from shapes and parameters alone, not from what is in the images, so that the forward
    pass in evaluation can be compiled as one graph and exported."""
    schedule: KeepSchedule | RemovalSchedule | None = None
    """How many tokens it keeps or removes in which block, where such a schedule says so."""
    strict: bool = False
    until: float | None = None
    """Share of the training from which on all tokens are kept; None for never."""
    proportional: bool = False
    """Add the logarithm of each token's size to its attention logits, so that a token that stands for many patches
    weighs as much as they did (Bolya et al., ICLR 2023, section 3, eq. 1)."""
    losses: ClassVar[Sequence[str]] = ()
    """Names, without `loss_`, of what `auxiliary_losses` may give."""

    @classmethod
    def at_strength(cls, params: Mapping[str, Any], strength: float) -> dict[str, Any]:
        """Return parameters for a reduction that is `strength` times as strong as that by `params`.

        Scales `keep_ratio` and `r`, as `elip.reduction.schedule` understands them; what `params` lacks of them has the
        constructor's default. Override it in a reducer whose strength lies in other parameters.

        Args:
            params: for the constructor.
            strength: 0 for keeping all tokens, 1 for `params` as they are, more for more; parameters beyond what the
                constructor takes are its to refuse.

        Raises:
            ElipError: if there is neither.
        """
        defaults = {
            key: parameter.default
            for key, parameter in constructor_parameters(cls).items()
            if parameter.default is not parameter.empty
        }
        scaled = dict(params)
        for key, scale in (("keep_ratio", scaled_ratios), ("r", scaled_removals)):
            value = params.get(key, defaults.get(key))
            if value is not None:
                scaled[key] = scale(value, strength)
        if not {"keep_ratio", "r"} & set(scaled):
            raise ElipError(
                f"{cls.__name__} has neither keep_ratio nor r to scale, so that its strength cannot be set: "
                "let it override at_strength."
            )
        return scaled

    @property
    def full_force(self) -> float:
        """Progress of the training at which the reduction is as strong as it gets: its end, or just before `until`."""
        return 1.0 if self.until is None else nextafter(self.until, 0.0)

    def lacks(self, guide: Guide) -> str | None:
        """Return what it requires and a guide does not have, in words; None for nothing."""
        if self.requires_text and guide.text is None:
            return "a text"
        if self.requires_teacher and guide.teacher is None:
            return "what the momentum encoder saw"
        return None

    def is_over(self, progress: float) -> bool:
        """Return whether all tokens are kept for good, when so much of the training is done."""
        return self.until is not None and progress >= self.until

    def needs(self, block: int) -> Needs:
        """Return what `after_attention` wants to know of this block's attention."""
        return Needs.NOTHING

    def before_block(self, block: int, tokens: Tokens, context: ReductionContext) -> Tokens:
        """Return the tokens that enter the block."""
        return tokens

    def after_attention(
        self, block: int, tokens: Tokens, attention: AttentionFacts, context: ReductionContext
    ) -> Tokens:
        """Return the tokens that go on from the block's attention (residual added) to its MLP."""
        return tokens

    def key_bias(self, block: int, tokens: Tokens, context: ReductionContext) -> Tensor | None:
        """Return what to add to the attention logits of each patch as a key, [B, N], or None for nothing."""
        return tokens.size.log() if self.proportional and tokens.size is not None else None

    def attention(self, block: int, tokens: Tokens, context: ReductionContext) -> AttentionFunction | None:
        """Return a function to use in place of softmax attention in this block, or None for the fused one."""
        return None

    def auxiliary_losses(self, tokens: Tokens, context: ReductionContext) -> dict[str, Tensor]:
        """Return named losses of this pass to add to the task's. tokens: after the last block and the final norm."""
        return {}


class NoReduction(TokenReducer):
    """Keep all tokens: what an encoder does unless told otherwise."""

    keeps_order = True

    @classmethod
    def at_strength(cls, params: Mapping[str, Any], strength: float) -> dict[str, Any]:
        return dict(params)
