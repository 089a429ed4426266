"""The encoder of texts with two images: shared projections, sides, masks."""

import pytest
import torch
from torch import Tensor
from transformers import BertConfig

from elip.execution import Execution
from elip.models.pair_text import PairTextEncoder
from elip.models.text import TextEncoder

TEXTS, LENGTH, TOKENS, WIDTH = 3, 5, 7, 8


def make_encoder() -> PairTextEncoder:
    torch.manual_seed(0)
    bert = BertConfig(
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=16,
        vocab_size=20,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    encoder = PairTextEncoder(TextEncoder(bert, fusion_layer=1, image_width=6))
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(0.3 * torch.randn_like(p))  # so that the layers of a pair differ
    return encoder.eval()


@pytest.fixture(scope="module")
def encoder() -> PairTextEncoder:
    return make_encoder()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2 * TEXTS, TOKENS, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def text() -> Tensor:
    return torch.randn(TEXTS, LENGTH, WIDTH, generator=torch.Generator().manual_seed(2))


MASK = torch.ones(TEXTS, LENGTH, dtype=torch.bool)


def test_each_fusion_layer_is_there_twice_and_text_layers_once(encoder: PairTextEncoder) -> None:
    assert len(encoder.encoder.layer) == 1 + 2 * 2
    assert encoder.bert_config.num_hidden_layers == 5
    assert len(encoder.fusion_layers) == 4


def test_a_pair_starts_as_one_layer_and_shares_key_and_value_alone() -> None:
    single = TextEncoder(BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2), 1, 6)
    pairs = PairTextEncoder(single)
    left, right = pairs.fusion_layers
    for (name, ours), (_, theirs) in zip(left.state_dict().items(), right.state_dict().items(), strict=True):
        assert torch.equal(ours, theirs)
        shared = ours.data_ptr() == theirs.data_ptr()
        assert shared == name.startswith(("crossattention.self.key.", "crossattention.self.value.")), name


def test_the_single_encoder_keeps_its_own_config() -> None:
    single = TextEncoder(BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2), 1, 6)
    PairTextEncoder(single)
    assert single.bert_config.num_hidden_layers == 2


def test_an_image_is_projected_once_a_pair_of_layers(encoder: PairTextEncoder, images: Tensor) -> None:
    assert len(encoder.project(images).layers) == 2


@torch.no_grad()
def test_the_layers_see_the_left_and_the_right_image_in_turn(
    encoder: PairTextEncoder, images: Tensor, text: Tensor
) -> None:
    x = text
    for number, layer in enumerate(encoder.fusion_layers):
        side = images[:TEXTS] if number % 2 == 0 else images[TEXTS:]
        x = layer(x, MASK[:, None, None], layer.crossattention.self.project(side))
    torch.testing.assert_close(encoder.fuse(text, MASK, encoder.project(images)), x)


@torch.no_grad()
def test_images_chosen_by_index_give_what_they_give_side_by_side(
    encoder: PairTextEncoder, images: Tensor, text: Tensor
) -> None:
    index = torch.tensor([[5, 0, 0], [1, 2, 0]])
    chosen = encoder.fuse(text, MASK, encoder.project(images), index)
    torch.testing.assert_close(chosen, encoder.fuse(text, MASK, encoder.project(images[index.flatten()])))


@torch.no_grad()
def test_places_without_a_token_count_for_nothing(encoder: PairTextEncoder, images: Tensor, text: Tensor) -> None:
    there = torch.ones(2 * TEXTS, TOKENS, dtype=torch.bool)
    there[1, 4:], there[5, 2:] = False, False
    fused = encoder.fuse(text, MASK, encoder.project(images, there))
    other = torch.where(there[..., None], images, 7.0)
    torch.testing.assert_close(encoder.fuse(text, MASK, encoder.project(other, there)), fused)
    index = torch.arange(2 * TEXTS).view(2, TEXTS)
    torch.testing.assert_close(encoder.fuse(text, MASK, encoder.project(images, there), index), fused)
    assert not torch.allclose(encoder.fuse(text, MASK, encoder.project(images)), fused)


def test_recomputing_activations_changes_no_gradient(images: Tensor) -> None:
    gradients = []
    for recompute in ("none", "light", "full"):
        encoder = make_encoder().train()
        encoder.execution = Execution(recompute)
        ids = torch.arange(TEXTS * LENGTH).view(TEXTS, LENGTH)
        encoder.fuse(encoder.encode(ids, MASK), MASK, encoder.project(images)).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters() if p.grad is not None])
    for plain, *recomputed in zip(*gradients, strict=True):
        for one in recomputed:
            torch.testing.assert_close(plain, one, atol=0, rtol=0)


@torch.no_grad()
def test_cls_alone_is_that_of_the_whole(encoder: PairTextEncoder, images: Tensor, text: Tensor) -> None:
    kv = encoder.project(images)
    for index in (None, torch.arange(2 * TEXTS).view(2, TEXTS).flip(1)):
        whole = encoder.fuse(text, MASK, kv, index)
        torch.testing.assert_close(encoder.fuse_cls(text, MASK, kv, index), whole[:, 0])


def test_a_wrong_number_of_images_is_refused(encoder: PairTextEncoder, images: Tensor, text: Tensor) -> None:
    with pytest.raises(ValueError, match="3 texts need 6 images, two each; got 5"):
        encoder.fuse(text, MASK, encoder.project(images[:5]))
