"""The small ViT of the reducers' reference numbers, and how one of its passes is compared."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from elip.hosts.timm import TimmBlock
from elip.models.vision import VisionEncoder
from elip.reduction.guide import Watch
from elip.reduction.reducer import TokenReducer
from elip.reduction.tokens import Tokens
from elip.reduction.walk import VisionOutput

TOKENS = {"rtol": 0.0, "atol": 1e-4}
LOGITS = {"rtol": 0.0, "atol": 5e-5}


@dataclass(frozen=True)
class Reference:
    """One file of numbers.

    Args:
        tensors: by name.
        settings: the file's metadata, its JSON read.
    """

    tensors: dict[str, Tensor]
    settings: dict[str, Any]

    def run(self, prefix: str) -> "Reference":
        """Return the tensors whose names start with `prefix`, without it."""
        found = {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
        return Reference(found, self.settings)


def load_reference(path: Path) -> Reference:
    """Return the numbers and settings of a file."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    return Reference(load_file(path), {key: json.loads(value) for key, value in metadata.items()})


def small_vit(folder: Path) -> VisionEncoder:
    """Return the ViT that all the files share, its sizes from `vit_weights`, in evaluation mode."""
    weights = load_reference(folder / "vit_weights.safetensors")
    sizes = weights.settings["config"]
    vit = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=sizes["img"],
        patch_size=sizes["patch"],
        embed_dim=sizes["dim"],
        depth=sizes["depth"],
        num_heads=sizes["heads"],
        mlp_ratio=sizes["mlp"],
        num_classes=sizes["classes"],
    )
    vit.load_state_dict(weights.tensors)
    return VisionEncoder(vit).eval()


@torch.no_grad()
def stream(
    encoder: VisionEncoder, image: Tensor, reducer: TokenReducer | None, watch: Watch | None = None
) -> tuple[VisionOutput, list[Tensor]]:
    """Return the encoder's output, and the residual stream that leaves each block, [B, P + N, D]."""
    left: list[Tensor] = []
    mlp = TimmBlock.mlp

    def watched(block: TimmBlock, x: Tensor) -> Tensor:
        left.append(mlp(block, x))
        return left[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TimmBlock, "mlp", watched)
        return encoder(image, reducer, watch=watch), left


def assert_same_pass(encoder: VisionEncoder, reducer: TokenReducer | None, expected: Mapping[str, Tensor]) -> None:
    """Check tokens after each block, after the final norm, and logits, of `expected["image"]` under a reducer."""
    output, left = stream(encoder, expected["image"], reducer)
    for block, x in enumerate(left):
        torch.testing.assert_close(
            x, expected[f"tokens.block{block}"], **TOKENS, msg=lambda m, b=block: f"block {b}: {m}"
        )
    torch.testing.assert_close(output.embeds, expected["norm"], **TOKENS)
    torch.testing.assert_close(encoder.classify(output.embeds), expected["logits"], **LOGITS)


def places_kept(encoder: VisionEncoder, reducer: TokenReducer, image: Tensor) -> dict[int, list[list[int]]]:
    """Return which of the patch tokens that arrived each block let go on alone, in their new order, image by image."""
    kept: dict[int, list[list[int]]] = {}

    def watched(hook: Callable[..., Tokens]) -> Callable[..., Tokens]:
        def call(block: int, tokens: Tokens, *rest: Any) -> Tokens:
            fresh = Tokens.start(tokens.x, (1, tokens.num_tokens), track_source=True)
            after = hook(block, replace(fresh, mask=tokens.mask), *rest)
            if after.source is not None and after.source is not fresh.source:
                kept[block] = [_alone(source, after.num_tokens) for source in after.source]
            return replace(after, grid=tokens.grid, source=None)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("before_block", "after_attention"):
            patch.setattr(reducer, name, watched(getattr(reducer, name)))
        stream(encoder, image, reducer)
    return kept


def _alone(source: Tensor, num_tokens: int) -> list[int]:
    """Return the place that each token came from, of those tokens that came from one place. source: [places]."""
    members = [(source == token).nonzero().flatten().tolist() for token in range(num_tokens)]
    return [places[0] for places in members if len(places) == 1]
