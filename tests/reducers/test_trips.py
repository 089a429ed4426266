"""TRIPS: the text's [CLS] queries the block's own keys."""

import pytest
import timm
import torch

from elip.models.vision import VisionEncoder
from elip.reduction.guide import Guide, Watch, text_of_cls
from elip.registry import REDUCERS


@pytest.fixture
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=32, depth=2, num_heads=2, num_classes=0)
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return VisionEncoder(vit).eval()


@torch.no_grad()
def test_kept_patches_are_those_whose_keys_the_texts_query_meets_best(encoder: VisionEncoder) -> None:
    reducer = REDUCERS.build("trips", encoder.info(32), begin=[0], keep_ratio=0.5)
    image, text = torch.randn(2, 3, 64, 64), torch.randn(2, 32)
    output = encoder(image, reducer, guide=Guide(text_of_cls(text)), watch=Watch(source=True))
    block = encoder.blocks[0]
    patches = encoder.embed(image)[:, 1:]
    tokens = block.norm1(torch.cat([text.unsqueeze(1), patches], dim=1))
    q, k, _ = block.attn.qkv(tokens).view(2, 17, 3, 2, 16).permute(2, 0, 3, 1, 4)
    attention = (q[:, :, :1] @ k.mT / 4).softmax(-1)[:, :, 0, 1:].mean(1)
    expected = torch.zeros(2, 16, dtype=torch.bool).scatter(1, attention.topk(8, dim=1).indices, True)
    assert torch.equal(output.kept[0].flatten(1), expected)
    assert output.tokens.sizes.tolist() == [[1.0] * 8 + [8.0]] * 2


@torch.no_grad()
def test_another_text_keeps_other_patches(encoder: VisionEncoder) -> None:
    reducer = REDUCERS.build("trips", encoder.info(32), begin=[0], keep_ratio=0.5)
    image = torch.randn(1, 3, 64, 64).expand(8, -1, -1, -1)
    kept = encoder(image, reducer, guide=Guide(text_of_cls(torch.randn(8, 32))), watch=Watch(source=True)).kept[0]
    assert len({tuple(picture.flatten().tolist()) for picture in kept}) > 1
