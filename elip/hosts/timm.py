"""timm's ViTs of plain pre-norm blocks: any prefix tokens, q/k norm, layer scale, drop path.

Attention is fused (`scaled_dot_product_attention`) wherever a reducer's wishes allow it.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NoReturn, cast

import torch
from timm.layers import Attention, Mlp, PatchDropout, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from elip.errors import ElipError
from elip.execution import linear_of
from elip.hosts.reduced import Reduced
from elip.reduction.reducer import AttentionFacts, Needs, Wishes
from elip.reduction.tokens import Tokens
from elip.reduction.walk import BlockHalves

_REMEDY = "Take a plain ViT or DeiT of timm (vit_*, deit_*, deit3_*)."


class TimmBlock:
    """One of timm's `Block`s in two halves. See `elip.reduction.walk.BlockHalves`."""

    # The halves call the block's parts in timm's order, so that not a bit differs from the block's own pass; the block
    # itself is never called, nor are hooks on it.

    def __init__(self, block: Block, light: bool = False) -> None:
        self._block = block
        self._light = light
        self._attn = cast(Attention, block.attn)
        self.num_heads: int = self._attn.num_heads

    def attention(self, x: Tensor, num_prefix: int, wishes: Wishes) -> tuple[Tensor, AttentionFacts]:
        block = self._block
        out, facts = self_attention(self._attn, x, num_prefix, wishes, block.norm1, self._light)
        return x + block.drop_path1(block.ls1(out)), facts

    def mlp(self, x: Tensor) -> Tensor:
        block = self._block
        out = light_mlp(block.mlp, block.norm2, x) if self._light else block.mlp(block.norm2(x))
        return x + block.drop_path2(block.ls2(out))

    def cls_row(self, x: Tensor, num_prefix: int) -> Tensor:
        return cls_attention_row(self._attn, self._block.norm1(x), num_prefix)


class TimmHost:
    """timm's `VisionTransformer`. See `elip.reduction.walk.Host`.

    Args:
        vit: checked before (`check`); cheap enough to be made for each pass.
        light: keep no results of LayerNorm and GELU for the backward pass (`elip.execution`).
    """

    def __init__(self, vit: nn.Module, *, light: bool = False) -> None:
        assert isinstance(vit, VisionTransformer)
        self._vit = vit
        self.blocks: Sequence[BlockHalves] = [TimmBlock(cast(Block, block), light) for block in vit.blocks]
        self.grid: tuple[int, int] = tuple(cast(PatchEmbed, vit.patch_embed).grid_size)
        self.width: int = vit.embed_dim
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.has_class_token: bool = vit.has_class_token

    @staticmethod
    def check(vit: nn.Module) -> None:
        """Raise an error that names the first part of a ViT that is not the standard one."""
        if not isinstance(vit, VisionTransformer):
            raise ElipError(f"{type(vit).__name__} is not a timm VisionTransformer. {_REMEDY}")
        # `elip.reduced` puts its own pass in the place of the class's; one that was put there before would be lost.
        replaced = {"forward", "forward_features"} & vars(vit).keys()
        if replaced:
            raise ElipError(f"the {', '.join(sorted(replaced))} of this ViT was replaced by another function.")
        if type(vit).forward_features not in (VisionTransformer.forward_features, _OfTimm.forward_features):
            raise ElipError(f"{type(vit).__name__} has a forward_features of its own. {_REMEDY}")
        if isinstance(vit.get_submodule("patch_drop"), PatchDropout):
            raise ElipError("this ViT drops patches by itself (patch_drop_rate); use the reducer 'random' instead.")
        # Reducers turn ratios into numbers of tokens when they are built.
        if vit.dynamic_img_size:
            raise ElipError("dynamic_img_size is not supported: a reducer is made for one number of patches.")
        for index, block in enumerate(vit.blocks):
            if type(block) is not Block or type(block.attn) is not Attention:
                kind = f"{type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}"
                raise ElipError(
                    f"block {index} of this ViT is a {kind}, not a pre-norm Block with Attention. {_REMEDY}"
                )

    @staticmethod
    def reduced_class(vit: nn.Module) -> type[Reduced]:
        """Return the class of a ViT under a reducer, which is one of the ViT's own class, too."""
        if isinstance(vit, Reduced):
            return type(vit)
        cls: Any = type(vit)
        return ReducedVisionTransformer if cls is VisionTransformer else _reduced_subclass(cls)

    def embed(self, image: Tensor) -> Tensor:
        vit = self._vit
        # timm's own way to place class token, registers and positions: models differ in it, and subclasses change it.
        return vit.norm_pre(vit._pos_embed(vit.patch_embed(image)))

    def norm(self, x: Tensor) -> Tensor:
        return self._vit.norm(x)

    def head(self, x: Tensor) -> Tensor:
        return self._vit.forward_head(x)


class _OfTimm(Reduced):
    """What a timm ViT under a reducer does in another way."""

    @property
    def host(self) -> TimmHost:
        return TimmHost(self)

    def forward_features(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Return prefix tokens and the patch tokens left, after the final norm: [B, 3, H, W] to [B, P + N, D]."""
        if attn_mask is not None or is_causal:
            raise ElipError("a ViT under a reducer takes no attention mask: which tokens there are is the reducer's.")
        output = self.walk(x, source=False)
        return output.embeds if output.tokens.mask is None else _filled(output.embeds, output.tokens)

    def forward_intermediates(self, *args: object, **options: object) -> NoReturn:
        """Raise an error: the blocks' outputs have no common grid."""
        raise ElipError(
            "tokens of a ViT under a reducer are on no grid that all blocks share. Take forward_intermediates from the "
            "model that was wrapped, or the final tokens on their grid: walk(images).restore()."
        )


class ReducedVisionTransformer(_OfTimm, VisionTransformer):
    """timm's `VisionTransformer` under a reducer."""


@cache  # one class for each, so that two models of one kind are of one type
def _reduced_subclass(cls: Any) -> type[Reduced]:
    """Return the class of ViTs of a subclass of timm's under a reducer, such as those with a distillation token."""
    return type(f"Reduced{cls.__name__}", (_OfTimm, cls), {})


def _filled(embeds: Tensor, tokens: Tokens) -> Tensor:
    """Return all tokens [B, P + N, D] with the mean of an image's patch tokens wherever there is no token.

    Images that keep fewer tokens than others have such places, and timm's pooling knows nothing of them. Filled so,
    the mean over all places is that of the tokens, and the greatest of all is the greatest of theirs.
    """
    assert tokens.mask is not None
    there = tokens.mask.unsqueeze(-1)
    mean = (tokens.x * there).sum(dim=1, keepdim=True) / there.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.cat([embeds[:, : -tokens.num_tokens], torch.where(there, tokens.x, mean)], dim=1)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def self_attention(
    attn: Attention,
    x: Tensor,
    num_prefix: int,
    wishes: Wishes = Wishes(),  # noqa: B008  # frozen
    norm: Callable[[Tensor], Tensor] = _as_it_is,
    light: bool = False,
) -> tuple[Tensor, AttentionFacts]:
    """Return the attention's output and what was asked for beside it.

    Args:
        attn: timm's module, whose parameters are used.
        x: tokens.
        num_prefix: how many of them are prefix tokens.
        wishes: what else to compute, and how.
        norm: of the tokens.
        light: keep no normalised tokens for the backward pass.

    Shape:
        x: [B, P + N, D];  returns [B, P + N, D]
    """
    needs, bias, function = wishes.needs, wishes.bias, wishes.function
    q, k, v = project_qkv(attn, x, norm, light)
    mask = None if bias is None else bias.to(q.dtype)[:, None, None]  # [B, 1, 1, P + N], one row for all queries
    # The output is fused, and facts are computed beside it from the same q, k and v: a row costs O(N). Only where the
    # whole matrix is asked for does the output come from it, so that gradients of the output reach it (Grad-CAM).
    matrix = softmax_attention(attn, q, k, mask) if Needs.MATRIX in needs else None
    if function is not None:
        out = function(q, k, v)
    elif matrix is not None:
        out = attn.attn_drop(matrix) @ v
    else:
        dropout = attn.attn_drop.p if attn.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=attn.scale)
    # Prefix tokens are cut off after the softmax: what CLS gives to the patches need not add up to 1.
    facts = AttentionFacts(
        cls_row=softmax_attention(attn, q[:, :, :1], k, mask)[:, :, 0, num_prefix:] if Needs.CLS_ROW in needs else None,
        keys=k[:, :, num_prefix:].mean(dim=1) if Needs.KEYS in needs else None,
        value_norms=v[:, :, num_prefix:].norm(dim=-1) if Needs.VALUE_NORMS in needs else None,
        matrix=matrix,
    )
    return _project_out(attn, x, norm, out.transpose(1, 2).flatten(2)), facts


def cls_attention_row(attn: Attention, x: Tensor, num_prefix: int) -> Tensor:
    """Return the attention probabilities of CLS over the patches, from one query and all keys; no values.

    Shape:
        x: [B, P + N, D], normalised;  returns [B, heads, N]
    """
    # The joint projection has query, key and value below each other: two of them are used, the query for CLS alone.
    width = attn.qkv.out_features // 3
    weight, bias = attn.qkv.weight, attn.qkv.bias
    q = F.linear(x[:, :1], weight[:width], None if bias is None else bias[:width])
    k = F.linear(x, weight[width : 2 * width], None if bias is None else bias[width : 2 * width])
    q, k = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k))
    return softmax_attention(attn, attn.q_norm(q), attn.k_norm(k), None)[:, :, 0, num_prefix:]


def softmax_attention(attn: Attention, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention probabilities [B, heads, queries, keys]; under autocast in float32, as any softmax."""
    # The scale goes to the queries first, as in timm: products of half precision then stay within its range.
    logits = (q * attn.scale) @ k.transpose(-2, -1)
    return (logits if mask is None else logits + mask).softmax(dim=-1)


def light_mlp(mlp: nn.Module, norm: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return mlp(norm(x)), keeping no results of norm and activation for the backward pass.

    MLPs of another kind than timm's plain one, and those with dropout inside, are run as they are.
    """
    dropout = mlp.drop1.p if isinstance(mlp, Mlp) and mlp.training else 0.0
    if type(mlp) is not Mlp or dropout:
        return mlp(norm(x))
    return mlp.drop2(linear_of(mlp.fc2, lambda hidden: mlp.norm(mlp.act(hidden)), linear_of(mlp.fc1, norm, x)))


def project_qkv(
    attn: Attention, x: Tensor, norm: Callable[[Tensor], Tensor], light: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key, value of normalised tokens, each [B, heads, P + N, d]."""
    qkv = linear_of(attn.qkv, norm, x) if light else attn.qkv(norm(x))
    qkv = qkv.unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    return attn.q_norm(q), attn.k_norm(k), v


def _project_out(attn: Attention, x: Tensor, norm: Callable[[Tensor], Tensor], out: Tensor) -> Tensor:
    # norm and gate came to timm after 1.0; both are identities in the ViTs that older versions know.
    norm_of_out, gate = getattr(attn, "norm", None), getattr(attn, "gate", None)
    out = out if norm_of_out is None else norm_of_out(out)
    out = out if gate is None else out * torch.sigmoid(gate(norm(x)))
    return attn.proj_drop(attn.proj(out))
