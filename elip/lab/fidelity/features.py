"""What an encoder makes of pictures under several reducers, each picture opened once and all of them run on it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from elip.lab.fidelity.subjects import Subject
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, Watch
from elip.reduction.reducer import NoReduction, TokenReducer
from elip.reduction.walk import VisionOutput
from elip.task.finite import check_finite


@dataclass(frozen=True)
class Features:
    """What is kept of N pictures under one reducer.

    Args:
        pooled: [N, D], what the ViT's own head pools.
        patches: [N], cosine of the patch features, put back on the patch grid, to those with all tokens, the mean of a
            picture's patches; a patch that was dropped counts 0. None for a reducer that mixes tokens softly.
        joint: [N, E], in the space that texts are in, too; None where there is none, or where the picture's own text
            decided what to keep of it.
    """

    pooled: Tensor
    patches: Tensor | None
    joint: Tensor | None


def encode(
    subject: Subject,
    reducers: Sequence[TokenReducer],
    batches: Iterable[Tensor],
    captions: Sequence[str] | None = None,
) -> list[Features]:
    """Return the features of all pictures with all tokens kept, then those under each reducer.

    Patch features are compared within a batch and not held: memory grows with pictures times reducers times D.

    Args:
        subject: the encoder, in evaluation mode.
        reducers: made for it.
        batches: of pictures, [B, 3, S, S] each.
        captions: one of each picture, for reducers that need a text; None where there are none.
    """
    passes = [_Pass(subject, reducer) for reducer in (NoReduction(), *reducers)]
    guided = any(reducer.requires_text for reducer in reducers)
    device, seen = next(subject.encoder.parameters()).device, 0
    with torch.inference_mode():
        for batch in batches:
            images = batch.to(device)
            here = None if captions is None else captions[seen : seen + len(images)]
            guide = subject.guide(here) if guided and here is not None else None
            dense = passes[0].run(images).restore()
            passes[0].compare(dense, dense)
            for one in passes[1:]:
                output = one.run(images, guide)
                if output.tokens.source is not None:
                    one.compare(output.restore(), dense)
            seen += len(images)
    found = [one.features() for one in passes]
    for reducer, features in zip((None, *reducers), found, strict=True):
        check_finite(features.pooled, f"features under {type(reducer).__name__}" if reducer else "features")
    return found


def pooled(encoder: VisionEncoder, output: VisionOutput) -> Tensor:
    """Return what the ViT's own head pools, [B, D]; of images that kept different numbers of tokens, of their own."""
    if output.mask is None:
        return encoder.classify(output.embeds)
    rows = zip(output.embeds, output.mask, strict=True)
    return torch.cat([encoder.classify(tokens[there].unsqueeze(0)) for tokens, there in rows])


class _Pass:
    """The passes of all batches under one reducer."""

    def __init__(self, subject: Subject, reducer: TokenReducer) -> None:
        self._encoder, self._reducer = subject.encoder, reducer
        self._space = None if reducer.requires_text else subject.joint_space
        self._pooled: list[Tensor] = []
        self._patches: list[Tensor] = []
        self._joint: list[Tensor] = []

    def run(self, images: Tensor, guide: Guide | None = None) -> VisionOutput:
        """Encode a batch, and keep its features."""
        guide = guide if self._reducer.requires_text else None
        output = self._encoder(images, self._reducer, guide, Watch(source=True))
        # a copy: where the head takes CLS as it is, the feature is a view that would keep all tokens alive
        self._pooled.append(pooled(self._encoder, output).float().cpu().clone())
        if self._space is not None:
            self._joint.append(self._space.of_images(output).float().cpu())
        return output

    def compare(self, patches: Tensor, dense: Tensor) -> None:
        """Keep how alike the patch features of a batch are to those with all tokens: [B, rows, columns, D] each."""
        cosine = F.cosine_similarity(patches.float(), dense.float(), dim=-1)
        self._patches.append(cosine.flatten(1).mean(dim=1).cpu())

    def features(self) -> Features:
        """Return what was kept."""
        patches, joint = (torch.cat(found) if found else None for found in (self._patches, self._joint))
        return Features(torch.cat(self._pooled), patches, joint)
