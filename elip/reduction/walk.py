"""One forward pass through the blocks of a ViT under a token reducer.

The walk knows no particular ViT. It asks a host (`elip.hosts`) for the two halves of each block, attention and MLP, and
for embedding, final norm and sizes; all else, what a reducer may see, change and leave behind, is the same for all.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elip.errors import ElipError
from elip.execution import AT_ONCE
from elip.reduction.encoder import EncoderInfo
from elip.reduction.guide import Guide, Teacher, TeacherNeeds, Watch
from elip.reduction.reducer import (
    AttentionFacts,
    Blocks,
    Needs,
    NoReduction,
    ReductionContext,
    TokenReducer,
    Wishes,
)
from elip.reduction.tokens import Tokens

logger = logging.getLogger(__name__)

Run = Callable[..., Any]
"""Calls a function with arguments, in a place or in a way of its own."""


class BlockHalves(Protocol):
    """A block of a ViT as the walk needs it: attention and MLP, each with its norm, residual and whatever else."""

    num_heads: int

    def attention(self, x: Tensor, num_prefix: int, wishes: Wishes) -> tuple[Tensor, AttentionFacts]:
        """Return all tokens after the block's attention, [B, P + N, D], and what was wished to know of it."""
        ...

    def mlp(self, x: Tensor) -> Tensor:
        """Return all tokens after the block's MLP, [B, P + N, D]."""
        ...

    def cls_row(self, x: Tensor, num_prefix: int) -> Tensor:
        """Return the attention of CLS to the patches, [B, heads, N], and compute nothing else of the block."""
        ...


class Host(Protocol):
    """A ViT as the walk needs it.

    Args:
        blocks: in their order.
        grid: rows and columns of patches.
        width: D.
        num_prefix_tokens: CLS and registers, which stand in front.
        has_class_token: whether the first of them is CLS.
    """

    blocks: Sequence[BlockHalves]
    grid: tuple[int, int]
    width: int
    num_prefix_tokens: int
    has_class_token: bool

    def embed(self, image: Tensor) -> Tensor:
        """Return prefix and patch tokens as the first block gets them: [B, 3, H, W] to [B, P + N, D]."""
        ...

    def norm(self, x: Tensor) -> Tensor:
        """Return all tokens after what follows the last block."""
        ...

    def head(self, x: Tensor) -> Tensor:
        """Return what the ViT itself makes of the tokens after `norm`, pooled: class logits, or a feature."""
        ...


def encoder_info(host: Host, text_width: int | None = None) -> EncoderInfo:
    """Return what a reducer may know of a ViT when it is built.

    Args:
        host: the ViT.
        text_width: of the text encoder beside it; None where there is none.
    """
    return EncoderInfo(
        depth=len(host.blocks),
        width=host.width,
        num_heads=host.blocks[0].num_heads,
        grid=host.grid,
        num_prefix_tokens=host.num_prefix_tokens,
        has_class_token=host.has_class_token,
        text_width=text_width,
    )


@dataclass(frozen=True)
class BlockTokens:
    """How many tokens, prefix included, one block worked on.

    Args:
        attention: tokens in its attention.
        mlp: tokens in its MLP, which are those that leave it.
        per_image: [B], those that leave it, image by image, where a reducer keeps different numbers; else None.
    """

    attention: int
    mlp: int
    per_image: Tensor | None = None


@dataclass(frozen=True)
class BlockAttention:
    """The attention of one block, as its result was computed from it.

    Args:
        matrix: [B, heads, P + N, P + N], probabilities.
        tokens: the patch tokens that met in it.
    """

    matrix: Tensor
    tokens: Tokens


@dataclass(frozen=True)
class VisionOutput:
    """What a walk gives back.

    Args:
        embeds: [B, P + N, D], prefix tokens, then the patch tokens left, after the final norm.
        tokens: the patch tokens left, with size, mask and source.
        blocks: tokens in each block.
        losses: what the reducer adds to the task's losses.
        kept: for each block that reduced, which patches still had a token to themselves, [B, rows, columns] bool; only
            where the source of the tokens is watched.
        cls_rows: CLS attention to the patches, [B, heads, N], of the blocks watched.
        mixed_rows: the same of a CLS that is mixed with the text's.
        keys: of the patches, averaged over heads, [B, N, d], of the blocks watched.
        attention: of the block watched.
    """

    embeds: Tensor
    tokens: Tokens
    blocks: list[BlockTokens]
    losses: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[int, Tensor] = field(default_factory=dict)
    cls_rows: dict[int, Tensor] = field(default_factory=dict)
    mixed_rows: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)
    attention: BlockAttention | None = None

    @property
    def mask(self) -> Tensor | None:
        """[B, P + N] bool, False where there is no token; None while there are tokens everywhere."""
        if self.tokens.mask is None:
            return None
        return F.pad(self.tokens.mask, (self.embeds.shape[1] - self.tokens.num_tokens, 0), value=True)

    def restore(self, values: Tensor | None = None, fill: float = 0.0) -> Tensor:
        """Return per-token values back on the patch grid; see `Tokens.restore`."""
        return self.tokens.restore(values, fill)

    def teacher(self, needs: TeacherNeeds) -> Teacher | None:
        """Return what the reducer of another encoder wants to know of this pass, which watched it; None for nothing."""
        if not needs:
            return None
        return Teacher(
            cls_rows={block: self.cls_rows[block] for block in needs.cls_rows},
            mixed_rows={block: self.mixed_rows[block] for block in needs.mixed_rows},
            keys={block: self.keys[block] for block in needs.keys},
            tokens=self.tokens.x if needs.tokens else None,
        )


class LookAhead(nn.Module):
    """The place among the modules of an encoder where its blocks run for a reducer that looks ahead.

    It holds nothing. Work that happens in it is told apart from the encoder's own by whoever counts.
    """

    cost_part: ClassVar[str] = "look_ahead"

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what the function gives."""
        return function(*args)


class _BlocksAhead(Blocks):
    """The blocks of a host, as a reducer that looks ahead may use them."""

    def __init__(self, host: Host, look_ahead: Run, run: Run) -> None:
        self._host = host
        self._look_ahead = look_ahead
        self._half = run

    def run(self, block: int, x: Tensor) -> Tensor:
        return self._look_ahead(self._run, block, x, Wishes())[0]

    def cls_row(self, block: int, x: Tensor) -> Tensor:
        return self._look_ahead(self._host.blocks[block].cls_row, x, self._host.num_prefix_tokens)

    def run_with_cls_row(self, block: int, x: Tensor) -> tuple[Tensor, Tensor]:
        x, facts = self._look_ahead(self._run, block, x, Wishes(Needs.CLS_ROW))
        assert facts.cls_row is not None
        return x, facts.cls_row

    def _run(self, block: int, x: Tensor, wishes: Wishes) -> tuple[Tensor, AttentionFacts]:
        halves = self._host.blocks[block]
        x, facts = self._half(halves.attention, x, self._host.num_prefix_tokens, wishes)
        return self._half(halves.mlp, x), facts


def walk(
    host: Host,
    image: Tensor,
    reducer: TokenReducer | None = None,
    guide: Guide | None = None,
    watch: Watch | None = None,
    *,
    training: bool = False,
    run: Run = AT_ONCE,
    look_ahead: Run = AT_ONCE,
) -> VisionOutput:
    """Return the image's tokens, reduced on the way.

    Args:
        host: the ViT.
        image: [B, 3, H, W].
        reducer: None keeps all tokens; so does one whose `until` has come, and one that requires a text or a teacher
            where the guide has none, unless it is strict.
        guide: what may decide which patches to keep.
        watch: what to give back beside the tokens.
        training: whether the pass is one of training.
        run: calls the halves of blocks; see `elip.execution`.
        look_ahead: calls what reducers run ahead; an encoder's `LookAhead`, so that it can be told apart.

    Raises:
        ElipError: the reducer is strict and there is no text or teacher; a block is watched that is not there, or whose
            row is to be mixed with a text that is not there.
    """
    guide, watch = guide or Guide(), watch or Watch()
    for block in watch.blocks:
        if not 0 <= block < len(host.blocks):
            raise ElipError(f"block {block} cannot be watched: this ViT has blocks 0 to {len(host.blocks) - 1}.")
    if watch.mixed_rows and guide.text is None:
        raise ElipError("attention of CLS mixed with a text is asked for, and this pass encodes images alone.")
    reducer = _usable(reducer, guide)
    context = ReductionContext(_BlocksAhead(host, look_ahead, run), training, guide)
    state = _Pass(host, reducer, context, watch, run)
    x = host.embed(image)
    tokens = Tokens.start(x[:, host.num_prefix_tokens :], host.grid, watch.source)
    for index in range(len(host.blocks)):
        x, tokens = state.block(index, x, tokens)
    x = host.norm(x)
    # Whoever reads the tokens, losses of the reducer among them, reads what the encoder gives back.
    tokens = tokens.with_x(x[:, host.num_prefix_tokens :])
    losses = reducer.auxiliary_losses(tokens, context)
    return VisionOutput(
        x, tokens, state.counts, losses, state.kept, state.rows, state.mixed_rows, state.keys, state.attention
    )


class _Pass:
    """The tokens on their way through the blocks, and what is noted of them."""

    def __init__(self, host: Host, reducer: TokenReducer, context: ReductionContext, watch: Watch, run: Run) -> None:
        self.host, self.reducer, self.context, self.watch, self.run = host, reducer, context, watch, run
        self.attention: BlockAttention | None = None
        self.counts: list[BlockTokens] = []
        self.rows: dict[int, Tensor] = {}
        self.mixed_rows: dict[int, Tensor] = {}
        self.keys: dict[int, Tensor] = {}
        self.kept: dict[int, Tensor] = {}

    def block(self, index: int, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """Return the residual stream and its patch tokens after one block."""
        reducer, context, halves, arrived = self.reducer, self.context, self.host.blocks[index], tokens
        # What the reducer wants is asked for after it has changed the tokens: a bias is as long as they are now.
        x, tokens = self._reduced(x, tokens, lambda t: reducer.before_block(index, t, context))
        in_attention = x.shape[1]
        if index in self.watch.mixed_rows:
            cls = self.context.text.mixed_into(x[:, :1], self.watch.mixed_rows[index])
            mixed = torch.cat([cls.to(x.dtype), x[:, 1:]], dim=1)
            self.mixed_rows[index] = halves.cls_row(mixed, self.host.num_prefix_tokens)
        wishes = Wishes(self._needs(index), self._bias(index, tokens), reducer.attention(index, tokens, context))
        x, facts = self.run(halves.attention, x, self.host.num_prefix_tokens, wishes)
        self._note(index, facts, tokens)
        x, tokens = self._reduced(x, tokens, lambda t: reducer.after_attention(index, t, facts, context))
        x = self.run(halves.mlp, x)
        per_image = None if tokens.mask is None else tokens.mask.sum(dim=1) + self.host.num_prefix_tokens
        self.counts.append(BlockTokens(in_attention, x.shape[1], per_image))
        # The same map means that no patch has moved; comparing its values would wait for the device.
        if tokens.source is not None and tokens.source is not arrived.source:
            self.kept[index] = tokens.kept()
        return x, tokens

    def _reduced(self, x: Tensor, tokens: Tokens, hook: Callable[[Tokens], Tokens]) -> tuple[Tensor, Tokens]:
        """Return stream and tokens after a hook, which gets the patch tokens alone."""
        num_prefix = self.host.num_prefix_tokens
        before = tokens.with_x(x[:, num_prefix:])
        self.context.prefix = x[:, :num_prefix]  # in sight, and out of reach: a reducer gives back patches only
        after = hook(before)
        # The same tensor means that nothing was done: most blocks of most reducers, and no copy of the stream for it.
        if after.x is not before.x:
            x = torch.cat([self.context.prefix, after.x.to(x.dtype)], dim=1)
        return x, after

    def _needs(self, index: int) -> Needs:
        """What the reducer and the caller want of this block's attention."""
        needs = self.reducer.needs(index)
        if index in self.watch.cls_rows:
            needs |= Needs.CLS_ROW
        if index in self.watch.keys:
            needs |= Needs.KEYS
        if index == self.watch.attention:
            needs |= Needs.MATRIX
        return needs

    def _bias(self, index: int, tokens: Tokens) -> Tensor | None:
        """Logit bias over prefix and patches: the reducer's, and minus infinity where there is no token."""
        bias = self.reducer.key_bias(index, tokens, self.context)
        # Images that keep fewer tokens than others have places without one. No token attends to them; what is computed
        # at them is never read.
        if tokens.mask is not None:
            bias = tokens.x.new_zeros(tokens.mask.shape) if bias is None else bias
            bias = bias.masked_fill(~tokens.mask, float("-inf"))
        return None if bias is None else F.pad(bias, (self.host.num_prefix_tokens, 0))

    def _note(self, index: int, facts: AttentionFacts, tokens: Tokens) -> None:
        if index in self.watch.cls_rows and facts.cls_row is not None:
            self.rows[index] = facts.cls_row
        if index in self.watch.keys and facts.keys is not None:
            self.keys[index] = facts.keys
        if index == self.watch.attention and facts.matrix is not None:
            self.attention = BlockAttention(facts.matrix, tokens)


_warned: WeakSet[TokenReducer] = WeakSet()
"""Reducers that have been found without the text or teacher that they need: said once for each."""


def _usable(reducer: TokenReducer | None, guide: Guide) -> TokenReducer:
    if reducer is None or reducer.is_over(guide.progress):
        return NoReduction()
    lack = reducer.lacks(guide)
    if lack is None:
        return reducer
    name = type(reducer).__name__
    if reducer.strict:
        raise ElipError(
            f"reducer {name} needs {lack}, and this pass has none (reducer.strict is true). "
            "Set reducer.strict=false to keep all tokens here, or take a reducer that needs none."
        )
    if not torch.compiler.is_compiling() and reducer not in _warned:  # a graph has no place for what is said
        _warned.add(reducer)
        logger.warning("reducer %s needs %s and this pass has none: all tokens are kept", name, lack)
    return NoReduction()
