"""PiToMe: merge what has many others like it, as the large homogeneous regions of an image do; protect the others.

Tran et al., "Accelerating Transformers with Spectrum-Preserving Token Merging", NeurIPS 2024, arXiv:2405.16148, and the
authors' implementation for timm's ViTs, whose numbers it is held to.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from elip.errors import ElipError, did_you_mean
from elip.reduction import (
    REDUCERS,
    EncoderInfo,
    Matching,
    Needs,
    Ratios,
    Stage,
    StageReducer,
    Tokens,
    best_pairs,
    merge_mean,
    take,
)

FORMS = ("pitome", "bsm", "text")
"""How patches are split in two halves; `energy_matching` says it."""
RELEASED = "released"

Margins: TypeAlias = float | Sequence[float]
"""The margin of the first block, from which it falls to 0 over the depth, or one for each block to merge in."""


@REDUCERS.register("pitome")
class PiToMe(StageReducer):
    """Merge pairs of patches ranked by energy: how many others are like them, and how much.

    Between attention and MLP, on the cosine of keys averaged over heads; means are weighted by the number of patches in
    each token.

    The released code and the paper (section 3.2, algorithm 1) differ. By default this is the released code, but for
    proportional attention: there it is written, but never handed the sizes, and without it much of the fidelity is
    lost. `proportional=False` gives the released numbers. The paper has one form, `pitome`, in all blocks, and margins
    from 0.9 (`{form: pitome, margin: 0.9}`); above the margin its energy is the similarity itself, here as released
    what it has above the margin.

    Args:
        begin: blocks to merge in, counted from 0; None for all.
        keep_ratio: tokens left after each, as a share of what `of` says, rounded up, in [0.5, 1]: each token that goes
            needs one that stays.
        of: what the ratios are shares of: initial, the image's patches, or current, the patch tokens that arrive at
            the block. None for current.
        form: how to choose the pairs (`energy_matching`): pitome, bsm, text, a list of them, one for each block of
            `begin`; or released: bsm in the first half of the encoder's blocks, rounded up, and pitome in the others.
        margin: similarity from which patches count as alike, in [-1, 1): of the first block, falling in a line to 0
            over the encoder's depth, or a list, one for each block of `begin`.
        proportional: add the logarithm of each token's size to its attention logits.
    """

    paper = "Tran et al., NeurIPS 2024, arXiv:2405.16148"
    at_stage = Needs.KEYS
    base = "current"
    rounding = "ceil"

    def __init__(
        self,
        encoder: EncoderInfo,
        *,
        begin: Sequence[int] | None = None,
        keep_ratio: Ratios = 0.925,
        form: str | Sequence[str] = RELEASED,
        margin: Margins = 0.75,
        proportional: bool = True,
        **stages: Any,
    ) -> None:
        begin = range(encoder.depth) if begin is None else begin
        super().__init__(encoder, begin=begin, keep_ratio=keep_ratio, **stages)
        self.proportional = proportional
        for ratio in self.schedule.ratios.values():
            if ratio < 0.5:
                raise ElipError(
                    f"keep_ratio: tokens merge in pairs, so that at least half of them are left "
                    f"after a block; give 0.5 to 1, got {ratio:g}."
                )
        self.forms = _forms(form, self.schedule.begin, encoder.depth)
        self.margins = _margins(margin, self.schedule.begin, encoder.depth)

    def reduce(self, tokens: Tokens, keep: int, stage: Stage) -> Tokens:
        margin, form = self.margins[stage.block], self.forms[stage.block]
        matching = energy_matching(stage.keys, tokens.num_tokens - keep, margin, form)
        return merge_mean(tokens, matching.group, keep)


def energy_matching(metric: Tensor, r: int, margin: float, form: str = "pitome") -> Matching:
    """Pair tokens by their energy: the one of each pair goes into the most similar of the other half.

    - pitome: the 2r tokens of largest energy, every other one of which goes.
    - bsm: all tokens in falling order of energy, every other one of which may go; the r most similar to their partner
      do.
    - text: for text encoders; the r tokens of largest energy go into the next r.

    The others go on first, in falling order of energy (bsm: of similarity to their partner), then the other half.

    Args:
        metric: [B, N, d], what similarity is measured on, by its cosine.
        r: tokens to merge; not more than half of them.
        margin: similarity from which tokens count as alike.
        form: one of those above.
    """
    unit = F.normalize(metric, dim=-1)
    similarity = unit @ unit.mT
    ranking = energy(similarity, margin, form).argsort(dim=1, descending=True)
    count = ranking.shape[1] if form == "bsm" else 2 * r
    pool, protected = ranking[:, :count], ranking[:, count:]
    source, target = (pool[:, :r], pool[:, r:]) if form == "text" else (pool[:, ::2], pool[:, 1::2])
    across = take(similarity, source).gather(2, target.unsqueeze(1).expand(-1, source.shape[1], -1))
    matching = best_pairs(across, source, target, r)
    return matching._replace(order=torch.cat([protected, matching.order], dim=1))


def energy(similarity: Tensor, margin: float, form: str = "pitome") -> Tensor:
    """Return the energy of each token, from its similarity to all, itself included: high where many are alike.

    Shape:
        similarity: [B, N, N];  returns [B, N]
    """
    if form == "text":  # a bell around similarity 1, as wide as the margin is below it; its height ranks nothing
        return (-0.5 * ((1 - similarity) / (1 - margin)).square()).exp().mean(dim=-1)
    return F.elu(similarity - margin).mean(dim=-1)


def _forms(form: str | Sequence[str], begin: Sequence[int], depth: int) -> dict[int, str]:
    """Return the form of each block to merge in."""
    if form == RELEASED:
        return {block: "bsm" if block < ceil(depth / 2) else "pitome" for block in begin}
    one_for_all = isinstance(form, str) or not isinstance(form, Sequence)
    forms = [form] * len(begin) if one_for_all else list(form)
    for name in forms:
        if name not in FORMS:
            raise ElipError(
                f"form: expected {RELEASED}, one of {', '.join(FORMS)}, or a list of these, got "
                f"{name!r}.{did_you_mean(str(name), [RELEASED, *FORMS])}"
            )
    return _one_a_block("form", forms, begin)


def _margins(margin: Margins, begin: Sequence[int], depth: int) -> dict[int, float]:
    """Return the margin of each block to merge in."""
    values = list(margin) if isinstance(margin, Sequence) else [margin]
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool) or not -1 <= value < 1:
            raise ElipError(f"margin: expected a similarity in [-1, 1), or one for each block, got {value!r}.")
    if isinstance(margin, Sequence):
        return _one_a_block("margin", values, begin)
    return {block: margin - margin * block / depth for block in begin}


def _one_a_block(parameter: str, values: Sequence[Any], begin: Sequence[int]) -> dict[int, Any]:
    if len(values) != len(begin):
        raise ElipError(
            f"{parameter} has {len(values)} values but there are {len(begin)} blocks to merge in; "
            "give one for each, or one for all."
        )
    return dict(zip(begin, values, strict=True))
