"""Top-K: keep the patches that CLS attends to most.

Haurum et al., "Which Tokens to Use? Investigating Token Reduction in Vision Transformers", ICCV workshops 2023,
arXiv:2308.04657, section 3.
"""

from elip.reduction import REDUCERS, Needs, Stage, StageReducer, Tokens


@REDUCERS.register("topk")
class TopK(StageReducer):
    """Keep the patches with the largest attention from CLS, averaged over heads, between attention and MLP.

    Kept tokens are in falling order of attention. The encoder needs a class token.
    """

    paper = "Haurum et al., ICCVW 2023, arXiv:2308.04657"
    at_stage = Needs.CLS_ROW

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        return tokens.keep(stage.cls_row.mean(dim=1).topk(keep, dim=1).indices)
