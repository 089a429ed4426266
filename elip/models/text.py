"""BERT in two parts: layers that see text only, then fusion layers that also attend to the image.

Parameters carry Hugging Face's names for BERT, with `crossattention` in the fusion layers (Li et al., "Align before
Fuse", NeurIPS 2021, section 3.1). The keys and values of an image are projected once per fusion layer and shared by
every text that meets the image.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from elip.execution import Execution, linear_of

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


@dataclass(frozen=True)
class ImageKV:
    """Keys and values of a batch of images for every fusion layer.

    Args:
        layers: one entry a fusion layer.
        mask: [B, N] bool, False where an image has no token; None while there are tokens everywhere.
    """

    layers: tuple[KeyValue, ...]
    mask: Tensor | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.layers[0].key)


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


class TextEncoder(nn.Module):
    """BERT whose layers from `fusion_layer` on attend to an image.

    Args:
        config: BERT's; `num_hidden_layers` counts text and fusion layers.
        fusion_layer: index of the first fusion layer.
        image_width: width of the image tokens.
    """

    cost_part: ClassVar[str] = "text"

    def __init__(self, config: BertConfig, fusion_layer: int, image_width: int) -> None:
        super().__init__()
        self.bert_config = config
        self.fusion_layer = fusion_layer
        self.execution = Execution()
        self.embeddings = Embeddings(config)
        self.encoder = LayerStack(
            [
                Layer(config) if i < fusion_layer else FusionLayer(config, image_width)
                for i in range(config.num_hidden_layers)
            ]
        )
        self.apply(lambda module: init_bert_weights(module, config.initializer_range))

    @property
    def width(self) -> int:
        """D."""
        return self.bert_config.hidden_size

    @property
    def text_layers(self) -> list[Layer]:
        """The layers that see text only."""
        return list(self.encoder.layer[: self.fusion_layer])  # type: ignore[arg-type]

    @property
    def fusion_layers(self) -> list[Layer]:
        """The layers with cross-attention."""
        return list(self.encoder.layer[self.fusion_layer :])  # type: ignore[arg-type]

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the last hidden states of the text-only layers.

        Shape:
            ids, mask: [T, L], mask True or 1 where there is a token;  returns [T, L, D]
        """
        x = self.embeddings(ids)
        for layer in self.text_layers:
            x = self._run(layer, x, key_mask(mask))
        return x

    def project(self, image_embeds: Tensor, mask: Tensor | None = None) -> ImageKV:
        """Return keys and values of images for every fusion layer.

        Shape:
            image_embeds: [B, N, image width];  mask: [B, N] bool or None
        """
        return ImageKV(tuple(layer.crossattention.self.project(image_embeds) for layer in self.fusion_layers), mask)

    def fuse(self, text: Tensor, mask: Tensor, image_kv: ImageKV, image_index: Tensor | None = None) -> Tensor:
        """Return the last hidden states of texts that have met their images.

        Without `image_index`, text t meets image t % B, and nothing of the images is copied: concatenate texts in
        groups of B.

        Args:
            text: [T, L, D], from `encode`.
            mask: [T, L], True or 1 where there is a token.
            image_kv: B images, from `project`.
            image_index: [T], the image each text meets.
        """
        for number in range(len(self.fusion_layers)):
            text = self._meet(number, text, mask, image_kv, image_index)
        return text

    def fuse_at(
        self,
        text: Tensor,
        mask: Tensor,
        image_kv: ImageKV,
        places: Sequence[Tensor],
        image_index: Tensor | None = None,
    ) -> list[Tensor]:
        """Return what `fuse` does at some places only, which leaves the last layer hardly anything to do.

        Args:
            text, mask, image_kv, image_index: as in `fuse`.
            places: for each group of texts, in their order, the tokens that are wanted: [T of the group, P]. As texts,
                groups without an `image_index` are of multiples of B.

        Returns:
            [T of the group, P, D] of each group.
        """
        if not self.fusion_layers:
            return [
                at_places(part, wanted) for part, wanted in zip(text.split(list(map(len, places))), places, strict=True)
            ]
        last = len(self.fusion_layers) - 1
        for number in range(last):
            text = self._meet(number, text, mask, image_kv, image_index)
        sizes = [len(wanted) for wanted in places]
        indices = [None] * len(sizes) if image_index is None else image_index.split(sizes, dim=-1)
        groups = zip(text.split(sizes), mask.split(sizes), indices, places, strict=True)
        return [self._meet(last, part, there, image_kv, index, wanted) for part, there, index, wanted in groups]

    def fuse_cls(self, text: Tensor, mask: Tensor, image_kv: ImageKV, image_index: Tensor | None = None) -> Tensor:
        """Return the last hidden states of [CLS] alone, [T, D]; see `fuse`."""
        return self.fuse_at(text, mask, image_kv, [places_of_cls(text)], image_index)[0][:, 0]

    def attend_alone(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return texts after that part of the fusion layers in which no image has a part: of the first, attention.

        Shape:
            text: [T, L, D], from `encode`;  mask: [T, L];  returns [T, L, D], for `score`
        """
        return self.fusion_layers[0].attend(text, key_mask(mask)) if self.fusion_layers else text

    def score(self, attended: Tensor, mask: Tensor, image_kv: ImageKV) -> Tensor:
        """Return what `fuse_cls` gives, [T, D], for texts that meet many images, but are made ready for it once.

        Args:
            attended: [T, L, D], from `attend_alone`.
            mask: [T, L].
            image_kv: B images; text t meets image t % B.
        """
        if not self.fusion_layers:
            return attended[:, 0]
        source, source_mask = self._source(0, len(attended), image_kv, None)
        places, last = places_of_cls(attended), len(self.fusion_layers) - 1
        text = at_places(attended, places) if last == 0 else attended
        text = self.fusion_layers[0].meet(text, source, source_mask)
        for number in range(1, last + 1):
            text = self._meet(number, text, mask, image_kv, None, places if number == last else None)
        return text[:, 0]

    def _meet(
        self,
        number: int,
        text: Tensor,
        mask: Tensor,
        image_kv: ImageKV,
        image_index: Tensor | None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Return texts after one of the fusion layers, counted from 0."""
        source, source_mask = self._source(number, len(text), image_kv, image_index)
        return self._run(self.fusion_layers[number], text, key_mask(mask), source, source_mask, places)

    def _source(
        self, number: int, num_texts: int, image_kv: ImageKV, image_index: Tensor | None
    ) -> tuple[KeyValue, Tensor | None]:
        """Return what the cross-attention of a fusion layer attends to, and where there is something."""
        if image_index is None and num_texts % len(image_kv):
            raise ValueError(f"{num_texts} texts cannot be shared out evenly over {len(image_kv)} images")
        kv, mask = image_kv.layers[number], image_kv.mask
        if image_index is not None:
            kv, mask = kv.select(image_index), None if mask is None else mask[image_index]
        return kv, None if mask is None else key_mask(mask)

    def fuse_watched(self, text: Tensor, mask: Tensor, image_kv: ImageKV, layer: int) -> tuple[Tensor, Tensor]:
        """Return what `fuse` returns for as many texts as images, and the cross-attention of one layer.

        Args:
            text, mask, image_kv: as in `fuse`.
            layer: counted from 0 over all layers, text-only ones included.

        Returns:
            [T, L, D], and probabilities [T, heads, L, N], from which the former was computed.
        """
        attention = None
        source_mask = None if image_kv.mask is None else key_mask(image_kv.mask)
        for index, (fusion, kv) in enumerate(zip(self.fusion_layers, image_kv.layers, strict=True), self.fusion_layer):
            if index == layer:
                text, attention = fusion.watched(text, key_mask(mask), kv, source_mask)
            else:
                text = fusion(text, key_mask(mask), kv, source_mask)
        if attention is None:
            last = len(self.encoder.layer) - 1
            raise ValueError(f"layer {layer} is no fusion layer; those are {self.fusion_layer} to {last}")
        return text, attention

    def _run(
        self,
        layer: Layer,
        x: Tensor,
        mask: Tensor,
        source: KeyValue | None = None,
        source_mask: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        if not self.training:
            return layer(x, mask, source, source_mask, places=places)
        return self.execution(layer, x, mask, source, source_mask, False, self.execution.light, places)


class MLMHead(nn.Module):
    """Vocabulary logits from hidden states; the output matrix is the word embedding.

    Args:
        config: BERT's.
    """

    cost_part: ClassVar[str] = "heads"

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.apply(lambda module: init_bert_weights(module, config.initializer_range))

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """Return logits [..., vocabulary] for hidden [..., D] and word embeddings [vocabulary, D]."""
        return F.linear(self.LayerNorm(self.activation(self.dense(hidden))), word_embeddings, self.bias)


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


def places_of_cls(text: Tensor) -> Tensor:
    """Return the place of [CLS] in each text, [T, L, D] to [T, 1]."""
    return torch.zeros(len(text), 1, dtype=torch.long, device=text.device)


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
