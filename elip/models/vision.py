"""A timm Vision Transformer whose blocks run under a token reducer."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import timm
import torch
from timm.layers import Attention, PatchDropout
from timm.models.vision_transformer import Block, VisionTransformer, global_pool_nlc
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from elip.config.schema import VisionConfig
from elip.errors import ConfigError, ElipError, did_you_mean
from elip.hosts.attention import AttentionFacts, cls_attention_row, self_attention
from elip.reduction.reducer import Blocks, EncoderInfo, Needs, NoReduction, ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from elip.weights.vit import load_timm_weights, load_vision_weights

_LOADING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"}
"""Options of timm's that would load weights without an account of them."""

log = logging.getLogger(__name__)


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
    """What the encoder gives back.

    Args:
        embeds: [B, P + N, D], prefix tokens, then the patch tokens left, after the final norm.
        tokens: the patch tokens left, with size, mask and source.
        blocks: tokens in each block.
        losses: what the reducer adds to the task's losses.
        cls_rows: CLS attention to the patches, [B, heads, N], of the blocks it was asked for.
        kept: for each block that reduced, which patches still had a token to themselves, [B, rows, columns] bool; only
            where the source of the tokens is tracked.
        attention: of the block that was asked for.
    """

    embeds: Tensor
    tokens: Tokens
    blocks: list[BlockTokens]
    losses: dict[str, Tensor] = field(default_factory=dict)
    cls_rows: dict[int, Tensor] = field(default_factory=dict)
    kept: dict[int, Tensor] = field(default_factory=dict)
    attention: BlockAttention | None = None

    @property
    def mask(self) -> Tensor | None:
        """[B, P + N] bool, False where there is no token; None while there are tokens everywhere."""
        if self.tokens.mask is None:
            return None
        return F.pad(self.tokens.mask, (self.embeds.shape[1] - self.tokens.num_tokens, 0), value=True)

    def guidance(self) -> dict[str, Tensor]:
        """Return what the reducer of another encoder may learn from this pass, as options of `VisionEncoder.forward`.

        These are scores [B, P] of the patches and their tokens [B, P, D]; nothing if no CLS attention was asked for.
        """
        if not self.cls_rows:
            return {}
        (row,) = self.cls_rows.values()
        return {"scores": row.mean(dim=1), "teacher": self.tokens.x}


class VisionEncoder(nn.Module):
    """A ViT that lets a reducer act before each block and between its attention and its MLP.

    Parameters are those of the timm model, under the same names.

    Args:
        vit: a timm ViT with standard pre-norm blocks: any prefix tokens, pooling, q/k norm, layer scale, drop path.

    Raises:
        ElipError: if the ViT's blocks are of another kind.
    """

    patch_embed: nn.Module
    pos_drop: nn.Module
    norm_pre: nn.Module
    blocks: nn.Sequential
    norm: nn.Module
    fc_norm: nn.Module
    head_drop: nn.Module
    head: nn.Module

    def __init__(self, vit: nn.Module) -> None:
        super().__init__()
        vit = _supported(vit)
        for name, parameter in vit.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, module in vit.named_children():
            self.add_module(name, module)
        self.grid: tuple[int, int] = tuple(vit.patch_embed.grid_size)
        self.width: int = vit.embed_dim
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.has_class_token: bool = vit.has_class_token
        self.pooling: str = vit.global_pool
        self.no_embed_class: bool = vit.no_embed_class
        self.pool_include_prefix: bool = vit.pool_include_prefix
        self.checkpoint_activations = False
        self.make_blocks: Callable[[VisionEncoder], Blocks] = _OwnBlocks  # cost accounting watches look-ahead here
        self._warned: set[str] = set()

    @classmethod
    def create(cls, config: VisionConfig, num_classes: int = 0) -> "VisionEncoder":
        """Return a new encoder by its timm name, with the weights that the config asks for.

        Args:
            config: name, image size, weights, options.
            num_classes: width of timm's classifier head; 0 for none.
        """
        if not timm.is_model(config.name):
            raise ConfigError(
                f"model.vision.name: timm {timm.__version__} has no model {config.name!r}."
                f"{did_you_mean(config.name, timm.list_models('*vit*') + timm.list_models('*deit*'))}"
            )
        for option in _LOADING & config.options.keys():
            raise ConfigError(
                f"model.vision.options.{option}: weights are named by model.vision.weights (timm, or a file)."
            )
        try:
            size, options = config.image_size, config.options
            vit = _supported(timm.create_model(config.name, img_size=size, num_classes=num_classes, **options))
            if config.weights == "timm":
                load_timm_weights(vit, num_classes, config.weights_allow)
        except ElipError:
            raise
        except (TypeError, AssertionError, OSError, RuntimeError, ValueError, LookupError, ArithmeticError) as error:
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"model.vision: timm cannot build {config.name!r} with these settings: {reason}"
            ) from error
        _check_patches(vit, config.image_size)
        if config.weights not in (None, "timm"):
            log.info("%s", load_vision_weights(vit, Path(config.weights), config.weights_allow))
        return cls(vit)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def info(self, text_width: int | None = None) -> EncoderInfo:
        """Return what a reducer may know of this encoder."""
        return EncoderInfo(
            depth=self.depth,
            width=self.width,
            num_heads=self.attn(0).num_heads,
            grid=self.grid,
            num_prefix_tokens=self.num_prefix_tokens,
            has_class_token=self.has_class_token,
            text_width=text_width,
        )

    def block(self, index: int) -> Block:
        """Return one transformer block."""
        return cast(Block, self.blocks[index])

    def attn(self, index: int) -> Attention:
        """Return the attention of one block."""
        return cast(Attention, self.block(index).attn)

    def forward(
        self,
        image: Tensor,
        reducer: TokenReducer | None = None,
        *,
        text_cls: Tensor | None = None,
        progress: float = 1.0,
        scores: Tensor | None = None,
        teacher: Tensor | None = None,
        track_source: bool = False,
        cls_rows: tuple[int, ...] = (),
        attention_of: int | None = None,
    ) -> VisionOutput:
        """Return the image's tokens, reduced on the way.

        Args:
            image: [B, 3, H, W].
            reducer: None keeps all tokens.
            text_cls: [B, width of the text], for reducers that let the text decide.
            progress: share of the training done, in [0, 1], for schedules.
            scores: [B, P], importance of the patches computed elsewhere.
            teacher: [B, P, D], patch tokens of an unreduced encoder.
            track_source: keep track of which token each patch lives in.
            cls_rows: blocks whose CLS attention to give back.
            attention_of: block whose whole attention to give back, as a part of the graph; it is not fused then.
        """
        run = _Pass(
            encoder=self,
            reducer=self._usable(reducer, text_cls),
            context=ReductionContext(
                blocks=self.make_blocks(self),
                training=self.training,
                text_cls=text_cls,
                progress=progress,
                scores=scores,
                teacher=teacher,
            ),
            wanted_rows=cls_rows,
            wanted_attention=attention_of,
        )
        x = self.embed(image)
        tokens = Tokens.start(x[:, self.num_prefix_tokens :], self.grid, track_source)
        for index in range(self.depth):
            x, tokens = run.block(index, x, tokens)
        x = self.norm(x)
        tokens = tokens.with_x(x[:, self.num_prefix_tokens :])
        losses = run.reducer.auxiliary_losses(tokens, run.context)
        return VisionOutput(x, tokens, run.counts, losses, run.rows, run.kept, run.attention)

    def embed(self, image: Tensor) -> Tensor:
        """Return prefix and patch tokens with their positions, as block 0 gets them: [B, P + N, D]."""
        x = self.patch_embed(image)
        prefix = [t.expand(len(x), -1, -1) for t in (self._own("cls_token"), self._own("reg_token")) if t is not None]
        position = self._own("pos_embed")
        if position is not None and self.no_embed_class:
            x = x + position
        x = torch.cat([*prefix, x], dim=1) if prefix else x
        if position is not None and not self.no_embed_class:
            x = x + position
        return self.norm_pre(self.pos_drop(x))

    def attention_half(
        self, index: int, x: Tensor, needs: Needs, bias: Tensor | None, function: Callable | None
    ) -> tuple[Tensor, AttentionFacts]:
        """Return the residual stream after one block's attention, and what was asked for of it."""
        block = self.block(index)
        out, facts = self_attention(self.attn(index), block.norm1(x), self.num_prefix_tokens, needs, bias, function)
        return x + block.drop_path1(block.ls1(out)), facts

    def mlp_half(self, index: int, x: Tensor) -> Tensor:
        """Return the residual stream after one block's MLP."""
        block = self.block(index)
        return x + block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def pooled(self, embeds: Tensor) -> Tensor:
        """Return one vector an image as timm pools it: [B, P + N, D] to [B, D]."""
        pool = self._modules.get("attn_pool")
        if pool is None:
            x = global_pool_nlc(embeds, self.pooling, self.num_prefix_tokens, self.pool_include_prefix)
        else:
            x = pool(embeds if self.pool_include_prefix else embeds[:, self.num_prefix_tokens :])
        return self.fc_norm(x)

    def classify(self, embeds: Tensor) -> Tensor:
        """Return timm's class logits: [B, P + N, D] to [B, classes]."""
        return self.head(self.head_drop(self.pooled(embeds)))

    def _own(self, name: str) -> Tensor | None:
        return self._parameters.get(name)

    def _usable(self, reducer: TokenReducer | None, text_cls: Tensor | None) -> TokenReducer:
        if reducer is None:
            return NoReduction()
        if not reducer.requires_text or text_cls is not None:
            return reducer
        name = type(reducer).__name__
        if reducer.strict:
            raise ElipError(
                f"reducer {name} needs a text, and this pass encodes images alone (reducer.strict is true). "
                "Set reducer.strict=false to keep all tokens here, or take a reducer that needs no text."
            )
        if name not in self._warned:
            self._warned.add(name)
            log.warning("reducer %s needs a text and this pass has none: all tokens are kept", name)
        return NoReduction()


class _Pass:
    """One forward pass: the tokens on their way through the blocks."""

    def __init__(
        self,
        encoder: VisionEncoder,
        reducer: TokenReducer,
        context: ReductionContext,
        wanted_rows: tuple[int, ...],
        wanted_attention: int | None,
    ) -> None:
        self.encoder = encoder
        self.reducer = reducer
        self.context = context
        self.wanted_rows = wanted_rows
        self.wanted_attention = wanted_attention
        self.attention: BlockAttention | None = None
        self.counts: list[BlockTokens] = []
        self.rows: dict[int, Tensor] = {}
        self.kept: dict[int, Tensor] = {}

    def block(self, index: int, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tokens]:
        """Return the residual stream and its patch tokens after one block."""
        reducer, context, run, arrived = self.reducer, self.context, self._maybe_checkpointed, tokens
        x, tokens = self._reduced(x, tokens, lambda t: reducer.before_block(index, t, context))
        in_attention = x.shape[1]
        needs = reducer.needs(index) | (Needs.CLS_ROW if index in self.wanted_rows else Needs.NOTHING)
        needs |= Needs.MATRIX if index == self.wanted_attention else Needs.NOTHING
        bias = self._bias(index, tokens)
        function = reducer.attention(index, tokens, context)
        x, facts = run(self.encoder.attention_half, index, x, needs, bias, function)
        if index in self.wanted_rows and facts.cls_row is not None:
            self.rows[index] = facts.cls_row
        if index == self.wanted_attention and facts.matrix is not None:
            self.attention = BlockAttention(facts.matrix, tokens)
        x, tokens = self._reduced(x, tokens, lambda t: reducer.after_attention(index, t, facts, context))
        x = run(self.encoder.mlp_half, index, x)
        per_image = None if tokens.mask is None else tokens.mask.sum(dim=1) + self.encoder.num_prefix_tokens
        self.counts.append(BlockTokens(in_attention, x.shape[1], per_image))
        if tokens.source is not None and tokens.source is not arrived.source:
            self.kept[index] = tokens.kept()
        return x, tokens

    def _reduced(self, x: Tensor, tokens: Tokens, hook: Callable[[Tokens], Tokens]) -> tuple[Tensor, Tokens]:
        num_prefix = self.encoder.num_prefix_tokens
        before = tokens.with_x(x[:, num_prefix:])
        self.context.prefix = x[:, :num_prefix]
        after = hook(before)
        if after.x is not before.x:
            x = torch.cat([self.context.prefix, after.x.to(x.dtype)], dim=1)
        return x, after

    def _bias(self, index: int, tokens: Tokens) -> Tensor | None:
        """Logit bias over prefix and patches: the reducer's, and minus infinity where there is no token."""
        bias = self.reducer.key_bias(index, tokens, self.context)
        if tokens.mask is not None:
            bias = tokens.x.new_zeros(tokens.mask.shape) if bias is None else bias
            bias = bias.masked_fill(~tokens.mask, float("-inf"))
        return None if bias is None else F.pad(bias, (self.encoder.num_prefix_tokens, 0))

    def _maybe_checkpointed(self, function: Callable, *args: Any) -> Any:
        if self.encoder.checkpoint_activations and self.context.training and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)


class _OwnBlocks(Blocks):
    """The blocks of an encoder, as a reducer that looks ahead may use them."""

    def __init__(self, encoder: VisionEncoder) -> None:
        self.encoder = encoder

    def run(self, block: int, x: Tensor) -> Tensor:
        x, _ = self.encoder.attention_half(block, x, Needs.NOTHING, None, None)
        return self.encoder.mlp_half(block, x)

    def cls_row(self, block: int, x: Tensor) -> Tensor:
        normed = self.encoder.block(block).norm1(x)
        return cls_attention_row(self.encoder.attn(block), normed, self.encoder.num_prefix_tokens)

    def run_with_cls_row(self, block: int, x: Tensor) -> tuple[Tensor, Tensor]:
        x, facts = self.encoder.attention_half(block, x, Needs.CLS_ROW, None, None)
        assert facts.cls_row is not None
        return self.encoder.mlp_half(block, x), facts.cls_row


def _check_patches(vit: VisionTransformer, side: int) -> None:
    """Warn of pixels that no patch sees, and refuse images of less than one patch."""
    patch: int = vit.patch_embed.patch_size[0]
    if side < patch:
        raise ConfigError(f"model.vision.image_size: {side} px is less than one patch of {patch} px.")
    if side % patch and not vit.patch_embed.proj.weight.is_meta:  # one without memory is built to try, and then again
        log.warning(
            "model.vision.image_size: %d px are no multiple of the patches' %d px: the %d px at the right and at the "
            "bottom of each image are not seen; take %d or %d",
            *(side, patch, side % patch, side - side % patch, side + patch - side % patch),
        )


def _supported(vit: nn.Module) -> VisionTransformer:
    """Return the ViT, or raise an error that names its first part that is not the standard one."""
    remedy = "Take a plain ViT or DeiT of timm (vit_*, deit_*, deit3_*)."
    if not isinstance(vit, VisionTransformer):
        raise ElipError(f"{type(vit).__name__} is not a timm VisionTransformer. {remedy}")
    if isinstance(vit.get_submodule("patch_drop"), PatchDropout):
        raise ElipError("this ViT drops patches by itself (patch_drop_rate); use the reducer 'random' instead.")
    if vit.dynamic_img_size:
        raise ElipError("dynamic_img_size is not supported: set model.vision.image_size.")
    for index, block in enumerate(vit.blocks):
        if type(block) is not Block or type(block.attn) is not Attention:
            kind = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
            raise ElipError(f"block {index} of this ViT is a {kind}, not a pre-norm Block with Attention. {remedy}")
    return vit
