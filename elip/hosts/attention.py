"""Self-attention of timm's ViT blocks with a reducer's wishes: fused wherever nothing forbids it."""

import torch
from timm.layers import Attention
from torch import Tensor
from torch.nn import functional as F

from elip.reduction.reducer import AttentionFacts, AttentionFunction, Needs


def self_attention(
    attn: Attention,
    x: Tensor,
    num_prefix: int,
    needs: Needs = Needs.NOTHING,
    bias: Tensor | None = None,
    function: AttentionFunction | None = None,
) -> tuple[Tensor, AttentionFacts]:
    """Return the attention's output and what was asked for beside it.

    Args:
        attn: timm's module, whose parameters are used.
        x: normalised tokens.
        num_prefix: how many of them are prefix tokens.
        needs: what else to compute.
        bias: added to the logits of each key, [B, P + N]; None for nothing.
        function: used in place of softmax attention.

    Shape:
        x: [B, P + N, D];  returns [B, P + N, D]
    """
    q, k, v = project_qkv(attn, x)
    mask = None if bias is None else bias.to(q.dtype)[:, None, None]  # [B, 1, 1, P + N], one row for all queries
    matrix = softmax_attention(attn, q, k, mask) if Needs.MATRIX in needs else None
    if function is not None:
        out = function(q, k, v)
    elif matrix is not None:
        out = attn.attn_drop(matrix) @ v
    else:
        dropout = attn.attn_drop.p if attn.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=attn.scale)
    facts = AttentionFacts(
        cls_row=softmax_attention(attn, q[:, :, :1], k, mask)[:, :, 0, num_prefix:] if Needs.CLS_ROW in needs else None,
        keys=k[:, :, num_prefix:].mean(dim=1) if Needs.KEYS in needs else None,
        value_norms=v[:, :, num_prefix:].norm(dim=-1) if Needs.VALUE_NORMS in needs else None,
        matrix=matrix,
    )
    return _project_out(attn, x, out.transpose(1, 2).flatten(2)), facts


def cls_attention_row(attn: Attention, x: Tensor, num_prefix: int) -> Tensor:
    """Return the attention probabilities of CLS over the patches, from one query and all keys; no values.

    Shape:
        x: [B, P + N, D], normalised;  returns [B, heads, N]
    """
    width = attn.qkv.out_features // 3
    weight, bias = attn.qkv.weight, attn.qkv.bias
    q = F.linear(x[:, :1], weight[:width], None if bias is None else bias[:width])
    k = F.linear(x, weight[width : 2 * width], None if bias is None else bias[width : 2 * width])
    q, k = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k))
    return softmax_attention(attn, attn.q_norm(q), attn.k_norm(k), None)[:, :, 0, num_prefix:]


def softmax_attention(attn: Attention, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention probabilities [B, heads, queries, keys] in float32 precision or better than the inputs'."""
    logits = (q * attn.scale) @ k.transpose(-2, -1)
    return (logits if mask is None else logits + mask).softmax(dim=-1)


def project_qkv(attn: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key, value, each [B, heads, P + N, d]."""
    qkv = attn.qkv(x).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    return attn.q_norm(q), attn.k_norm(k), v


def _project_out(attn: Attention, x: Tensor, out: Tensor) -> Tensor:
    # norm and gate came to timm after 1.0; both are identities in the ViTs that older versions know.
    norm, gate = getattr(attn, "norm", None), getattr(attn, "gate", None)
    out = out if norm is None else norm(out)
    out = out if gate is None else out * torch.sigmoid(gate(x))
    return attn.proj_drop(attn.proj(out))
