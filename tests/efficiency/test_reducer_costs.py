"""What the project's reducers cost: three independent counts of each, and the figures that are published."""

from typing import Any

import pytest
import torch

from elip.efficiency.vision_cost import vision_cost
from elip.registry import REDUCERS
from tests.efficiency.counts import torch_macs, vit_macs
from tests.efficiency.models import Classifier, make_encoder
from tests.efficiency.test_vision_cost import published

C, HEAD = 32, 16
STAGES = {"begin": [1, 2], "keep_ratio": [0.75, 0.5]}
ARRIVE = (16, 12)
"""Patches that arrive at the two stages; 12 and 8 are left, where nothing is fused."""


def row(patches: int) -> int:
    """Attention of CLS: one query, all keys."""
    return (patches + 1) * C


def bipartite(patches: int) -> int:
    """Half of the patches meet the other half."""
    return (patches // 2) * (patches - patches // 2) * HEAD


def predictor(patches: int) -> int:
    """C to C, C to C/2, C/2 to C/4, C/4 to 2, for each patch."""
    return patches * (C * C + C * C // 2 + C * C // 8 + C // 4 * 2)


def slimming(patches: int, new: int) -> int:
    """C to C/2, C/2 to a weight for each new token, and the weighted sums."""
    return patches * (C * C // 2 + C // 2 * new) + new * patches * C


OWN: dict[str, tuple[dict[str, Any], int]] = {
    "topk": (STAGES, sum(map(row, ARRIVE))),
    "evit": ({"begin": [1, 2], "keep_ratio": 0.75}, row(16) + 4 * C + row(13) + 3 * C),
    "ats": (STAGES, sum(map(row, ARRIVE))),
    "dynamicvit": (STAGES, sum(map(predictor, ARRIVE))),
    "tome": ({"r": 3}, sum(map(bipartite, (16, 13, 10)))),
    "tofu": ({"r": 3}, sum(map(bipartite, (16, 13, 10)))),
    "pitome": ({"keep_ratio": 0.75}, (16**2 + 12**2 + 9**2) * HEAD),
    "dpcknn": (STAGES, sum(n * n * C for n in ARRIVE)),
    "kmedoids": (STAGES, sum(n * n * C for n in ARRIVE)),
    "patchmerger": (STAGES, 2 * C * (12 * 16 + 8 * 12)),
    "sinkhorn": (STAGES, 2 * C * (12 * 16 + 8 * 12)),
    "sit": (STAGES, slimming(16, 12) + slimming(12, 8)),
    "trips": ({"begin": [1, 2], "keep_ratio": 0.75}, sum(C * C + (n + 1) * C * C + row(n) for n in (16, 13)) + 8 * C),
    "guided": (STAGES, (4 + 5) * C),
    "pool": ({"begin": [1], "keep_ratio": 0.25}, 0),
}
"""Parameters of each reducer, and what it multiplies beside the ViT."""


@pytest.mark.parametrize("name", OWN)
def test_three_counts_agree(name: str) -> None:
    torch.manual_seed(0)
    params, own = OWN[name]
    encoder, image = make_encoder(), torch.rand(1, 3, 32, 32)
    reducer = REDUCERS.build(name, encoder.info(C), **params)
    cost = vision_cost(encoder, reducer, [image[0]])
    formula = vit_macs(encoder, [b.attention for b in cost.tokens], [b.mlp for b in cost.tokens]) + own
    assert torch_macs(Classifier(encoder, reducer).eval(), [image, torch.rand(1, C)]) == formula
    assert cost.total - cost.norm == formula


def test_every_reducer_of_the_project_is_counted_here_or_beside_its_look_ahead() -> None:
    built_in = {name for name in REDUCERS.names() if REDUCERS.get(name).__module__.startswith("reducers.")}
    assert built_in == {*OWN, "none", "random", "elip"}


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        *[
            ("evit", {"keep_ratio": keep, "fuse": fuse}, gmacs)
            for keep, gmacs in [(0.9, 4.0), (0.8, 3.5), (0.7, 3.0), (0.6, 2.6), (0.5, 2.3)]
            for fuse in (True, False)
        ],
        *[("tome", {"r": r}, gmacs) for r, gmacs in [(8, 3.4), (13, 2.7), (16, 2.3)]],
    ],
)
def test_published_gmacs_on_deit_small_are_met_to_the_printed_digit(
    name: str, params: dict[str, Any], expected: float
) -> None:
    encoder = published("deit_small_patch16_224")
    cost = vision_cost(encoder, REDUCERS.build(name, encoder.info(), **params))
    assert round(cost.total / 1e9, 1) == expected


def test_dynamicvits_published_gmacs_are_met_without_its_predictors() -> None:
    encoder = published("deit_small_patch16_224")
    cost = vision_cost(encoder, REDUCERS.build("dynamicvit", encoder.info(), keep_ratio=[0.7, 0.49, 0.343]))
    width = encoder.width
    layers = width**2 + width**2 // 2 + width**2 // 8 + width // 4 * 2
    predictors = sum(patches * layers for patches in (196, 137, 96))
    assert round((cost.total - predictors) / 1e9, 1) == 2.9
    assert round(cost.total / 1e9, 2) == 2.99  # with all that it adds
