"""A reducer that needs the whole text: an example, and a test of what a plug-in can ask for."""

from typing import Any

from torch.nn.functional import normalize

from elip.reduction import REDUCERS, EncoderInfo, Stage, StageReducer, Tokens, require_text_width


@REDUCERS.register("word_similarity")
class WordSimilarity(StageReducer):
    """Keep the patches that are most like any word of the text, by cosine, in image order."""

    requires_text = True
    keeps_order = True

    def __init__(self, encoder: EncoderInfo, **stages: Any) -> None:
        super().__init__(encoder, **stages)
        require_text_width(encoder)

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        text = stage.context.text
        words = normalize(text.states.to(tokens.x.dtype), dim=-1)
        similarity = normalize(tokens.x, dim=-1) @ words.mT  # [B, N, L]
        best = similarity.masked_fill(~text.mask.bool().unsqueeze(1), -1.0).amax(dim=-1)
        return tokens.keep(best.topk(keep, dim=1).indices.sort(dim=1).values)
