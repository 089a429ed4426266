"""BERT in two parts: layers that see text only, then fusion layers that also attend to the image.

Parameters carry Hugging Face's names for BERT, with `crossattention` in the fusion layers (Li et al., "Align before
Fuse", NeurIPS 2021, section 3.1). The keys and values of an image are projected once per fusion layer and shared by
every text that meets the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig

from elip.execution import Execution
from elip.models.bert_layers import (
    Embeddings,
    FusionLayer,
    KeyValue,
    Layer,
    LayerStack,
    activation,
    at_places,
    init_bert_weights,
    key_mask,
)


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
        attended: bool = False,
    ) -> list[Tensor]:
        """Return what `fuse` does at some places only, which leaves the last layer hardly anything to do.

        Args:
            text, mask, image_kv, image_index: as in `fuse`.
            places: for each group of texts, in their order, the tokens that are wanted: [T of the group, P]. As texts,
                groups without an `image_index` are of multiples of B.
            attended: the texts come from `attend_alone`.

        Returns:
            [T of the group, P, D] of each group.
        """
        sizes, last = [len(wanted) for wanted in places], len(self.fusion_layers) - 1
        if last < 0:
            return [at_places(part, wanted) for part, wanted in zip(text.split(sizes), places, strict=True)]
        for number in range(last):
            text = self._meet(number, text, mask, image_kv, image_index, attended=attended)
        indices = [None] * len(sizes) if image_index is None else image_index.split(sizes, dim=-1)
        groups = zip(text.split(sizes), mask.split(sizes), indices, places, strict=True)
        return [
            self._meet(last, part, there, image_kv, index, wanted, attended) for part, there, index, wanted in groups
        ]

    def fuse_cls(
        self,
        text: Tensor,
        mask: Tensor,
        image_kv: ImageKV,
        image_index: Tensor | None = None,
        attended: bool = False,
    ) -> Tensor:
        """Return the last hidden states of [CLS] alone, [T, D]; see `fuse_at`."""
        return self.fuse_at(text, mask, image_kv, [places_of_cls(text)], image_index, attended)[0][:, 0]

    def attend_alone(self, text: Tensor, mask: Tensor) -> Tensor:
        """Return texts after that part of the fusion layers in which no image has a part: of the first, attention.

        For texts that meet many images: this is done once, and not for each of them.

        Shape:
            text: [T, L, D], from `encode`;  mask: [T, L];  returns [T, L, D]
        """
        return self.fusion_layers[0].attend(text, key_mask(mask)) if self.fusion_layers else text

    def _meet(
        self,
        number: int,
        text: Tensor,
        mask: Tensor,
        image_kv: ImageKV,
        image_index: Tensor | None,
        places: Tensor | None = None,
        attended: bool = False,
    ) -> Tensor:
        """Return texts after one of the fusion layers, counted from 0; `attended` is about the first of them."""
        layer, (source, source_mask) = (
            self.fusion_layers[number],
            self._source(number, len(text), image_kv, image_index),
        )
        if attended and number == 0:
            return layer.meet(text if places is None else at_places(text, places), source, source_mask)
        return self._run(layer, text, key_mask(mask), source, source_mask, places)

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


def places_of_cls(text: Tensor) -> Tensor:
    """Return the place of [CLS] in each text, [T, L, D] to [T, 1]."""
    return torch.zeros(len(text), 1, dtype=torch.long, device=text.device)
