"""BERT whose fusion layers attend to two images in turn, for statements about a pair of images (NLVR2).

Li et al., "Align before Fuse", NeurIPS 2021, section 5 (NLVR2): each fusion layer is doubled, and the two layers of a
pair share the projections of image keys and values.
"""

from copy import copy, deepcopy

from torch import Tensor, nn

from elip.models.bert_layers import KeyValue, Layer, LayerStack, key_mask
from elip.models.text import ImageKV, TextEncoder


class PairTextEncoder(TextEncoder):
    """A text encoder with each fusion layer doubled: its first copy sees the left image, the second the right one.

    Both copies start as the layer they are made from, and keep its key and value projections in common: an image is
    projected once a pair of layers, whichever side it is on.

    Args:
        encoder: for one image; its parts become those of the new encoder.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        nn.Module.__init__(self)  # all parts are there already: nothing is made only to be overwritten
        single = encoder.fusion_layers
        self.bert_config = copy(encoder.bert_config)
        self.bert_config.num_hidden_layers += len(single)
        self.fusion_layer = encoder.fusion_layer
        self.execution = encoder.execution
        self.embeddings = encoder.embeddings
        pairs = [layer for left in single for layer in (left, _right_of(left))]
        self.encoder = LayerStack([*encoder.encoder.layer[: encoder.fusion_layer], *pairs])  # type: ignore[list-item]

    def project(self, image_embeds: Tensor, mask: Tensor | None = None) -> ImageKV:
        """Return keys and values of images for every pair of fusion layers.

        Shape:
            image_embeds: [B, N, image width];  mask: [B, N] bool or None
        """
        left = self.fusion_layers[::2]
        return ImageKV(tuple(layer.crossattention.self.project(image_embeds) for layer in left), mask)

    def _source(
        self, number: int, num_texts: int, image_kv: ImageKV, image_index: Tensor | None
    ) -> tuple[KeyValue, Tensor | None]:
        """Return what a layer attends to: the left images in the first of a pair, the right ones in the second.

        Without `image_index` there are 2 T images, all left ones first; else it is [2, T], the left and the right image
        each text meets.
        """
        if image_index is None and len(image_kv) != 2 * num_texts:
            raise ValueError(f"{num_texts} texts need {2 * num_texts} images, two each; got {len(image_kv)}")
        # Halves are views: nothing of the images is copied.
        sides = (slice(num_texts), slice(num_texts, None)) if image_index is None else image_index
        side, kv = sides[number % 2], image_kv.layers[number // 2]
        mask = None if image_kv.mask is None else key_mask(image_kv.mask[side])
        return KeyValue(kv.key[side], kv.value[side]), mask


def _right_of(left: Layer) -> Layer:
    """Return a copy of a fusion layer with the same key and value projections."""
    right = deepcopy(left)
    right.crossattention.self.key = left.crossattention.self.key
    right.crossattention.self.value = left.crossattention.self.value
    return right
