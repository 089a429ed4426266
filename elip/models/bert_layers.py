"""Layers of BERT, with cross-attention in those that fuse; parameters carry Hugging Face's names.

Devlin et al., NAACL 2019; the cross-attention is that of Li et al., "Align before Fuse", NeurIPS 2021, section 3.1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from elip.execution import linear_of

BERT_ACTIVATION = "gelu"
"""BERT's own, and the default."""


@dataclass(frozen=True)
class KeyValue:
    """Keys and values of one attention layer, each [B, heads, N, d]."""

    key: Tensor
    value: Tensor

    def select(self, index: Tensor) -> "KeyValue":
        """Return those of the batch rows at `index`."""
        return KeyValue(self.key[index], self.value[index])


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor) -> Tensor:
        """Return [T, L, D] for token ids [T, L]."""
        position = self.position_embeddings.weight[: ids.shape[1]]
        x = self.word_embeddings(ids) + position + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(x))


class AttentionProjections(nn.Module):
    """Query, key and value projections of multi-head attention.

    Args:
        config: BERT's.
        source_width: width of what is attended to; the text's own by default.
    """

    def __init__(self, config: BertConfig, source_width: int | None = None) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(source_width or config.hidden_size, config.hidden_size)
        self.value = nn.Linear(source_width or config.hidden_size, config.hidden_size)

    def project(self, source: Tensor) -> KeyValue:
        """Return keys and values of what is attended to. source: [B, N, width]."""
        return KeyValue(self._heads(self.key(source)), self._heads(self.value(source)))

    def forward(self, x: Tensor, kv: KeyValue, mask: Tensor | None, causal: bool = False) -> Tensor:
        """Return what each of the texts takes from its keys and values, before the output projection.

        Args:
            x: [T, L, D] queries, T a multiple of the B rows in `kv`; text t attends to row t % B.
            kv: keys and values [B, heads, N, d].
            mask: [B, 1, 1, N] bool, True where there is something to attend to; None for everywhere.
            causal: let a place attend to itself and earlier ones only (T == B, L == N).
        """
        q, images = self._heads(self.query(x)), len(kv.key)
        # Several texts an image become one longer row of queries, so that no key or value is copied.
        q = rearrange(q, "(m b) h l d -> b h (m l) d", b=images)
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q, kv.key, kv.value, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        return rearrange(out, "b h (m l) d -> (m b) l (h d)", l=x.shape[1])

    def probabilities(self, x: Tensor, kv: KeyValue, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the same from attention that is written out, and its probabilities [T, heads, L, N]; T = B."""
        q = self._heads(self.query(x))
        logits = q @ kv.key.mT * q.shape[-1] ** -0.5
        probabilities = (logits if mask is None else logits.masked_fill(~mask, float("-inf"))).softmax(dim=-1)
        return (probabilities @ kv.value).transpose(1, 2).flatten(2), probabilities

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Output(nn.Module):
    """Dense, dropout, residual, LayerNorm: how every part of a BERT layer ends."""

    def __init__(self, config: BertConfig, in_width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor, cheap: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the end of a part; of cheap(x), where that is given, which the backward pass then makes again."""
        dense = self.dense(x) if cheap is None else linear_of(self.dense, cheap, x)
        return self.LayerNorm(self.dropout(dense) + residual)


class Attention(nn.Module):
    """Attention of a BERT layer, to its own text or to something else, with its output part."""

    def __init__(self, config: BertConfig, source_width: int | None = None) -> None:
        super().__init__()
        self.self = AttentionProjections(config, source_width)
        self.output = Output(config, config.hidden_size)

    def forward(self, x: Tensor, kv: KeyValue, mask: Tensor | None, causal: bool = False) -> Tensor:
        """Return x after attention to `kv`."""
        return self.output(self.self(x, kv, mask, causal), x)


class Intermediate(nn.Module):
    """The widening half of a BERT layer's MLP."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = activation(config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class Layer(nn.Module):
    """One BERT layer.

    Args:
        config: BERT's.
        source_width: width of what its cross-attention attends to; None for a layer without one.
    """

    def __init__(self, config: BertConfig, source_width: int | None = None) -> None:
        super().__init__()
        self.attention = Attention(config)
        if source_width is not None:
            self.crossattention = Attention(config, source_width)
        self.intermediate = Intermediate(config)
        self.output = Output(config, config.intermediate_size)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        source: KeyValue | None = None,
        source_mask: Tensor | None = None,
        causal: bool = False,
        light: bool = False,
        places: Tensor | None = None,
    ) -> Tensor:
        """Return the texts [T, L, D] after this layer.

        Args:
            source: what its cross-attention attends to.
            light: keep no results of the activation for the backward pass.
            places: [T, P], of the tokens that are wanted, which costs hardly anything for all others; None for all.
        """
        return self.meet(self.attend(x, mask, causal, places), source, source_mask, light)

    def attend(self, x: Tensor, mask: Tensor | None, causal: bool = False, places: Tensor | None = None) -> Tensor:
        """Return the texts after the first part of this layer, in which each attends to itself; see `forward`."""
        tokens = self.attention.self.project(x)
        return self.attention(x if places is None else at_places(x, places), tokens, mask, causal)

    def meet(
        self, x: Tensor, source: KeyValue | None = None, source_mask: Tensor | None = None, light: bool = False
    ) -> Tensor:
        """Return the texts after the rest of this layer, given what `attend` gave."""
        if source is not None:
            x = self.crossattention(x, source, source_mask)
        if light:
            return self.output(self.intermediate.dense(x), x, self.intermediate.activation)
        return self.output(self.intermediate(x), x)

    def watched(self, x: Tensor, mask: Tensor, source: KeyValue, source_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the texts after this layer, and the probabilities of its cross-attention [T, heads, L, N]."""
        x = self.attention(x, self.attention.self.project(x), mask)
        taken, probabilities = self.crossattention.self.probabilities(x, source, source_mask)
        x = self.crossattention.output(taken, x)
        return self.output(self.intermediate(x), x), probabilities


class FusionLayer(Layer):
    """A layer with cross-attention to an image."""

    cost_part: ClassVar[str] = "fusion"


class LayerStack(nn.Module):
    """The layers, under Hugging Face's name `encoder.layer`."""

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)


def activation(name: str) -> nn.Module:
    """Return an activation by transformers' name for it."""
    return nn.GELU() if name == BERT_ACTIVATION else activations()[name]


def activations() -> Mapping[str, nn.Module]:
    """Return all activations that transformers has, by name."""
    # imported when one is asked for: it takes most of a second, which BERT's own need not wait for
    from transformers.activations import ACT2FN

    return ACT2FN


def at_places(text: Tensor, places: Tensor) -> Tensor:
    """Return the tokens at some places of each text: [T, L, D] and [T, P] to [T, P, D]."""
    return text.gather(1, places.unsqueeze(-1).expand(-1, -1, text.shape[-1]))


def key_mask(mask: Tensor) -> Tensor:
    """Return a mask over keys, [T, L] to [T, 1, 1, L] bool, the same for all heads and queries."""
    return mask.bool()[:, None, None]


def init_bert_weights(module: nn.Module, std: float) -> None:
    """Initialise one module as BERT does: normal weights, zero biases (Devlin et al., 2019)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx].detach())
