"""ToFu beside an implementation by others, the one of PiToMe's authors: what is left of the paper's is said there."""

from math import floor
from pathlib import Path

import pytest
import torch

from elip.models.vision import VisionEncoder
from elip.reduction.encoder import EncoderInfo
from elip.reduction.merging import bipartite_matching, merge_mean
from elip.reduction.reducer import AttentionFacts, ReductionContext, TokenReducer
from elip.reduction.tokens import Tokens
from elip.registry import REDUCERS
from tests.golden.vit import Reference, assert_same_pass, load_reference, small_vit

OTHERS = {"length": "partner", "proportional": False}
"""How they read the paper."""


@pytest.fixture(scope="module")
def reference(golden_reducers: Path) -> Reference:
    return load_reference(golden_reducers / "tofu.safetensors")


def num_removed(keep_ratio: float, num_tokens: int) -> int:
    """Return how many go of that many tokens, CLS included."""
    return floor(num_tokens - num_tokens * keep_ratio)


def test_the_step_agrees_in_every_mode(reference: Reference) -> None:
    cases = reference.settings["step_cases"]
    assert cases
    for name in cases:
        inputs, kind, *ratio, mode = name.split(".")
        num_prefix = int(kind == "cls")
        metric, x = (reference.tensors[f"{inputs}.{tensor}"][:, num_prefix:] for tensor in ("metric", "x"))
        expected = reference.tensors[name][:, num_prefix:]
        patches, width = x.shape[1:]
        r = num_removed(float(".".join(ratio).removeprefix("q")), patches + num_prefix)
        tokens = Tokens.start(x, (1, patches))
        if mode == "mean":
            found = merge_mean(tokens, bipartite_matching(metric, r, num_prefix).group, patches - r)
        else:
            info = EncoderInfo(1, width, 1, tokens.grid, num_prefix, bool(num_prefix))
            reducer = REDUCERS.build("tofu", info, r=r, merge_from=int(mode == "prune"), **OTHERS)
            facts, context = AttentionFacts(keys=metric), ReductionContext(None, training=False)
            found = reducer.after_attention(0, tokens, facts, context)
        torch.testing.assert_close(found.x, expected, msg=lambda m, n=name: f"{n}: {m}")


def build(encoder: VisionEncoder, ratios: list[float], modes: list[str]) -> TokenReducer:
    """Return the reducer that removes in each block what the ratios say, and merges from the first that does."""
    left, r = encoder.num_prefix_tokens + encoder.info().num_patches, []
    for ratio in ratios:
        r.append(num_removed(ratio, left))
        left -= r[-1]
    merge_from = modes.index("tofu") if "tofu" in modes else encoder.depth
    assert "tofu" not in modes[:merge_from]
    assert "prune" not in modes[merge_from:]
    return REDUCERS.build("tofu", encoder.info(), r=r, merge_from=merge_from, **OTHERS)


def test_the_whole_vit_agrees_in_every_run(golden_reducers: Path, reference: Reference) -> None:
    encoder = small_vit(golden_reducers)
    assert reference.settings["runs"]
    for run, said in reference.settings["runs"].items():
        expected = reference.run(f"{run}.").tensors | {"image": reference.tensors["image"]}
        assert_same_pass(encoder, build(encoder, said["ratios"], said["modes"]), expected)


def test_what_they_released_prunes_in_one_block_more_than_half(reference: Reference) -> None:
    modes = reference.settings["runs"]["released"]["modes"]
    assert modes.index("tofu") == len(modes) // 2 + 1
