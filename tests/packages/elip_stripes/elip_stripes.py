"""Keep patches at even distances: a reducer in a package of its own, found by its entry point."""

import torch

from elip.reduction import REDUCERS, Stage, StageReducer, Tokens


@REDUCERS.register("stripes")
class Stripes(StageReducer):
    """Keep patches at even distances, the same in every image."""

    paper = "none: an example"
    keeps_order = True

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        places = torch.arange(keep, device=tokens.x.device) * tokens.num_tokens // keep
        return tokens.keep(places.expand(len(tokens.x), -1))
