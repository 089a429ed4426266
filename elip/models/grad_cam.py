"""Grad-CAM: where in an image a model looks when it finds that a text belongs to it.

Selvaraju et al., "Grad-CAM", ICCV 2017, on attention as in ALBEF (Li et al., NeurIPS 2021, section 6.3 and appendix).
"""

import torch
from torch import Tensor

from elip.models.contrastive import AlignmentModel
from elip.reduction.guide import Watch
from elip.reduction.tokens import Tokens


@torch.enable_grad()
def matching_map(model: AlignmentModel, image: Tensor, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
    """Return Grad-CAM on the cross-attention of a fusion layer, for the logit of a match.

    Attention from each token of the text to the patches, times its gradient where that is positive, averaged over heads
    and over the places of the text, where padding counts as 0: maps of one batch compare, those of several do not.
    Images are encoded without the text, as in training.

    Args:
        model: with encoders and matching head, in evaluation mode.
        image: [B, 3, H, W].
        ids, mask: [B, L], the text of each image.
        layer: counted from 0 over all layers of the text encoder.

    Returns:
        [B, rows, columns], on the patch grid; 0 where a patch was dropped.
    """
    encoder = model.albef.text_encoder
    with torch.no_grad():  # the gradient goes back to a fusion layer only
        vision = model.albef.encode_image(image, watch=Watch(source=True))
        text, image_kv = encoder.encode(ids, mask), encoder.project(vision.embeds, vision.mask)
    fused, attention = encoder.fuse_watched(text, mask, image_kv, layer)
    weighted = _positive(model.matching_logits(fused[:, 0])[:, 1].sum(), attention).mean(dim=1)  # [B, L, P + N]
    there = mask.to(weighted.dtype).unsqueeze(-1)
    return _on_grid((weighted * there).mean(dim=1), vision.tokens)


@torch.enable_grad()
def contrast_map(model: AlignmentModel, image: Tensor, ids: Tensor, mask: Tensor, block: int) -> Tensor:
    """Return Grad-CAM on the attention of CLS in a block of the ViT, for the similarity of image and text.

    Args:
        model: with encoders and projections, in evaluation mode.
        image: [B, 3, H, W].
        ids, mask: [B, L], the text of each image.
        block: of the ViT, counted from 0.

    Returns:
        [B, rows, columns], on the patch grid; 0 where a patch was dropped.
    """
    albef = model.albef
    vision = albef.encode_image(image, watch=Watch(source=True, attention=block))
    assert vision.attention is not None
    similarity = (albef.image_feat(vision.embeds) * albef.text_feat(albef.text_encoder.encode(ids, mask))).sum()
    similarity = similarity / model.temp
    weighted = _positive(similarity, vision.attention.matrix)[:, :, 0].mean(dim=1)  # [B, P + N]
    return _on_grid(weighted, vision.attention.tokens)


def _positive(score: Tensor, attention: Tensor) -> Tensor:
    """Return attention times the positive part of the score's gradient, without a graph."""
    (gradient,) = torch.autograd.grad(score, attention)
    return (attention * gradient.clamp_min(0)).detach()


def _on_grid(values: Tensor, tokens: Tokens) -> Tensor:
    """Return each patch's share of its token's value: [B, P + N], prefix first, to [B, rows, columns]."""
    patches = values[:, values.shape[1] - tokens.num_tokens :]
    return tokens.restore(patches / tokens.sizes.to(patches.dtype))
