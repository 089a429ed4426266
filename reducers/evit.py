"""EViT: keep the patches that CLS attends to, fuse the others.

Liang et al., "Not All Patches are What You Need: Expediting Vision Transformers via Token Reorganizations", ICLR 2022,
arXiv:2202.07800, section 3.
"""

from typing import Any

from elip.reduction import REDUCERS, EncoderInfo, Needs, Ratios, Stage, StageReducer, Tokens


@REDUCERS.register("evit")
class EViT(StageReducer):
    """Keep the patches with the largest attention from CLS; fuse the others into one token. Between attention and MLP.

    Kept tokens are in falling order of attention; their number is rounded up. The fused token is the sum of the others
    weighted by that attention, as it is (section 3.2); it comes last and is an ordinary patch token from then on. EViT
    is trained with a warm-up along a cosine (section 3.3). The encoder needs a class token.

    Args:
        of: what the ratios are shares of: initial, the image's patches, or current, the patch tokens that arrive at
            the block. None for current.
        fuse: append the fused token; otherwise the patches that are not kept are dropped.
    """

    paper = "Liang et al., ICLR 2022, arXiv:2202.07800"
    at_stage = Needs.CLS_ROW
    base = "current"
    rounding = "ceil"

    def __init__(self, encoder: EncoderInfo, *, keep_ratio: Ratios = 0.7, fuse: bool = True, **stages: Any) -> None:
        super().__init__(encoder, keep_ratio=keep_ratio, **stages)
        self.fuse = fuse

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        scores, order = stage.cls_row.mean(dim=1).sort(dim=1, descending=True)
        if not self.fuse:
            return tokens.keep(order[:, :keep])
        return tokens.keep_and_fuse(order[:, :keep], order[:, keep:], scores[:, keep:])
