"""ELIP: refusals, and what the caption changes. Its numbers are in tests/golden."""

from typing import Any

import pytest
import timm
import torch

from elip.errors import ElipError
from elip.models.vision import VisionEncoder
from elip.reduction.encoder import EncoderInfo
from elip.reduction.guide import Guide, Watch, text_of_cls
from elip.registry import REDUCERS

INFO = EncoderInfo(depth=6, width=32, num_heads=2, grid=(4, 4))
STAGES: dict[str, Any] = {"begin": [1, 3], "look_ahead": [2, 1], "keep_ratio": [0.5, 0.25]}


@pytest.fixture
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, embed_dim=32, depth=6, num_heads=2, num_classes=0, reg_tokens=2
    )
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return VisionEncoder(vit).eval()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep_ratio": [0.5, 1.4]}, r"keep_ratio: each value must be in \(0, 1\], got 1.4"),
        ({"keep_ratio": [0.5, 0.0]}, r"keep_ratio: each value must be in \(0, 1\], got 0.0"),
        ({"keep_ratio": [0.5, 0.01]}, "0.01 of 16 patches leaves none; give at least 0.0625"),
        ({"keep_ratio": [0.5]}, "begin has 2 blocks but keep_ratio has 1 values"),
        ({"look_ahead": [1]}, "begin has 2 blocks but look_ahead has 1 values"),
        ({"begin": [1, 6]}, "begin: block 6 does not exist; this ViT has blocks 0 to 5"),
        ({"begin": [3, 1]}, r"begin: blocks must rise, got \[3, 1\]"),
        ({"look_ahead": [2, 4]}, "look_ahead: from block 3 of 6 there are 1 to 3 blocks to run ahead, got 4"),
        ({"keep_ration": 1}, "has no parameter 'keep_ration'. Did you mean 'keep_ratio'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ElipError, match=message):
        REDUCERS.build("elip", INFO, **{**STAGES, **change})


def test_text_and_vit_of_different_widths_are_refused() -> None:
    info = EncoderInfo(depth=6, width=32, num_heads=2, grid=(4, 4), text_width=48)
    with pytest.raises(ElipError, match="the ViT's is 32, the text encoder's 48"):
        REDUCERS.build("elip", info, **STAGES)


def test_a_vit_without_a_class_token_is_refused() -> None:
    info = EncoderInfo(6, 32, 2, (4, 4), num_prefix_tokens=0, has_class_token=False)
    with pytest.raises(ElipError, match="attention of the class token, and this ViT has none"):
        REDUCERS.build("elip", info, **STAGES)


@torch.no_grad()
def test_the_caption_decides_what_is_kept(encoder: VisionEncoder) -> None:
    reducer = REDUCERS.build("elip", encoder.info(), text_weight=0.9, **STAGES)
    image = torch.randn(1, 3, 64, 64).expand(8, -1, -1, -1)
    kept = encoder(image, reducer, guide=Guide(text_of_cls(10 * torch.randn(8, 32))), watch=Watch(source=True)).kept
    assert sorted(kept) == [1, 3]
    assert kept[1].sum((1, 2)).tolist() == [8] * 8
    assert len({tuple(picture.flatten().tolist()) for picture in kept[1]}) > 1


@torch.no_grad()
def test_registers_stay_and_the_counts_are_those_of_the_schedule(encoder: VisionEncoder) -> None:
    reducer = REDUCERS.build("elip", encoder.info(), **STAGES)
    output = encoder(
        torch.randn(2, 3, 64, 64), reducer, guide=Guide(text_of_cls(torch.randn(2, 32))), watch=Watch(source=True)
    )
    assert [block.mlp for block in output.blocks] == [19, 12, 12, 8, 8, 8]
    assert output.tokens.sizes.sum(1).tolist() == [16, 16]
    assert (output.tokens.source >= 0).all()


@torch.no_grad()
def test_running_the_last_look_ahead_block_in_full_changes_nothing(encoder: VisionEncoder) -> None:
    image, text = torch.randn(2, 3, 64, 64), torch.randn(2, 32)
    lean = encoder(image, REDUCERS.build("elip", encoder.info(), **STAGES), guide=Guide(text_of_cls(text)))
    full = encoder(
        image, REDUCERS.build("elip", encoder.info(), full_look_ahead=True, **STAGES), guide=Guide(text_of_cls(text))
    )
    torch.testing.assert_close(lean.embeds, full.embeds)


@torch.no_grad()
def test_keeping_all_patches_is_the_identity(encoder: VisionEncoder) -> None:
    reducer = REDUCERS.build("elip", encoder.info(), begin=[1], look_ahead=[2], keep_ratio=[1.0])
    image = torch.randn(2, 3, 64, 64)
    reduced = encoder(image, reducer, guide=Guide(text_of_cls(torch.randn(2, 32)))).embeds
    torch.testing.assert_close(reduced, encoder(image).embeds, atol=1e-6, rtol=0)


def test_the_guide_costs_no_gradient_but_the_merged_token_passes_one(encoder: VisionEncoder) -> None:
    reducer = REDUCERS.build("elip", encoder.info(), **STAGES)
    text = torch.randn(2, 32, requires_grad=True)
    image = torch.randn(2, 3, 64, 64, requires_grad=True)
    output = encoder(image, reducer, guide=Guide(text_of_cls(text)))
    output.embeds[:, -1].square().sum().backward()
    assert text.grad is None
    assert image.grad.flatten(1).abs().amax(1).min() > 0
