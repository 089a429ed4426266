"""DynamicViT: masks in training, drops in evaluation. Its numbers are in tests/golden."""

import timm
import torch

from elip.models.vision import VisionEncoder
from elip.registry import REDUCERS
from reducers.dynamicvit import Predictor


def make() -> tuple[VisionEncoder, torch.nn.Module]:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=32, depth=3, num_heads=2, num_classes=0)
    encoder = VisionEncoder(vit)
    return encoder, REDUCERS.build("dynamicvit", encoder.info(), begin=[1, 2], keep_ratio=[0.5, 0.25])


def test_training_keeps_all_places_and_tells_readers_which_were_dropped() -> None:
    encoder, reducer = make()
    output = encoder.train()(torch.randn(4, 3, 64, 64), reducer)
    assert output.tokens.num_tokens == 16
    assert 0 < output.tokens.mask.sum() < output.tokens.mask.numel()
    assert {*output.losses} == {"loss_ratio"}


def test_a_dropped_patch_changes_nothing_that_is_kept() -> None:
    encoder, reducer = make()
    reducer.draw = lambda scores: (torch.arange(16) % 2).float().expand(len(scores), -1)
    image = torch.randn(1, 3, 64, 64)
    other = image.clone()
    other[:, :, :16, :16] += 3  # patch 0, which is dropped from the first stage on
    with torch.no_grad():
        encoder.train()
        first, second = (encoder_tail(encoder, reducer, picture) for picture in (image, other))
    gap = (first - second).abs().amax(dim=-1)[0]
    assert gap[1] > 0.01  # the patch itself
    assert gap[2::2].max() < 1e-4  # of the others, those kept: masked ones get about a millionth


def encoder_tail(encoder: VisionEncoder, reducer: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Return the residual stream of an encoder whose first block, where all patches still meet, does nothing."""
    for output in (encoder.blocks[0].attn.proj, encoder.blocks[0].mlp.fc2):
        torch.nn.init.zeros_(output.weight)
        torch.nn.init.zeros_(output.bias)
    return encoder(image, reducer).embeds


def test_evaluation_drops_down_to_the_ratios() -> None:
    encoder, reducer = make()
    output = encoder.eval()(torch.randn(2, 3, 64, 64), reducer.eval())
    assert [block.mlp for block in output.blocks] == [17, 9, 5]
    assert output.losses == {}


def test_the_predictor_takes_a_picture_of_which_nothing_is_kept() -> None:
    scores = Predictor(32)(torch.randn(2, 5, 32), torch.zeros(2, 5))
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(2, 5))
