"""BERT with fusion layers: Hugging Face's numbers for text, and image keys and values that are shared, not copied."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from elip.config.schema import TextConfig
from elip.errors import ConfigError
from elip.execution import Execution
from elip.models.text import MLMHead, TextEncoder
from elip.weights.bert import bert_config, load_bert

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,
}


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(BertConfig(**SMALL), fusion_layer=2, image_width=12).eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(1, 50, (6, 7), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def mask() -> Tensor:
    return torch.arange(7) < torch.tensor([7, 3, 5, 1, 6, 7])[:, None]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 5, 12, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> tuple[BertForMaskedLM, str]:
    torch.manual_seed(3)
    bert = BertForMaskedLM(BertConfig(**SMALL)).eval()
    folder = str(tmp_path_factory.mktemp("bert"))
    bert.save_pretrained(folder)
    return bert, folder


@torch.no_grad()
def test_pretrained_bert_gives_hugging_faces_numbers(
    hugging_face: tuple[BertForMaskedLM, str], ids: Tensor, mask: Tensor
) -> None:
    bert, folder = hugging_face
    config = TextConfig(weights=folder, fusion_layer=4)
    encoder = TextEncoder(bert_config(config), config.fusion_layer, image_width=12).eval()
    head = MLMHead(encoder.bert_config).eval()
    load_bert(config, encoder, head)
    expected = bert(ids, attention_mask=mask, output_hidden_states=True)
    hidden = encoder.encode(ids, mask)
    torch.testing.assert_close(hidden[mask], expected.hidden_states[-1][mask], atol=1e-5, rtol=1e-5)
    logits = head(hidden[mask], encoder.embeddings.word_embeddings.weight)
    torch.testing.assert_close(logits, expected.logits[mask], atol=1e-5, rtol=1e-5)


def test_weights_that_cannot_be_had_name_the_key_and_a_way_out(encoder: TextEncoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.text\.weights.*Give a folder"):
        load_bert(TextConfig(weights=str(tmp_path)), encoder)


def test_an_unknown_bert_option_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"model\.text\.options.*'hiden_size'.*Did you mean 'hidden_size'"):
        bert_config(TextConfig(options={"hiden_size": 3}))


def test_a_fusion_layer_beyond_the_depth_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.text\.fusion_layer.*0 to 4, got 5"):
        bert_config(TextConfig(fusion_layer=5, options=SMALL))


@torch.no_grad()
def test_padding_changes_nothing(encoder: TextEncoder, ids: Tensor, images: Tensor) -> None:
    short = torch.ones(1, 4, dtype=torch.bool)
    padded = torch.arange(7)[None] < 4
    kv = encoder.project(images[:1])
    alone = encoder.fuse(encoder.encode(ids[:1, :4], short), short, kv)
    beside = encoder.fuse(encoder.encode(ids[:1], padded), padded, kv)
    torch.testing.assert_close(beside[:, :4], alone)


@torch.no_grad()
def test_texts_in_groups_meet_their_images_as_if_one_by_one(
    encoder: TextEncoder, ids: Tensor, mask: Tensor, images: Tensor
) -> None:
    text = encoder.encode(ids, mask)
    together = encoder.fuse(text, mask, encoder.project(images))
    for row in range(6):
        alone = encoder.fuse(text[row : row + 1], mask[row : row + 1], encoder.project(images[row % 3 : row % 3 + 1]))
        torch.testing.assert_close(together[row : row + 1], alone)


@torch.no_grad()
def test_an_image_index_pairs_texts_freely(encoder: TextEncoder, ids: Tensor, mask: Tensor, images: Tensor) -> None:
    text, index = encoder.encode(ids, mask), torch.tensor([2, 2, 0, 1, 0, 2])
    paired = encoder.fuse(text, mask, encoder.project(images), index)
    torch.testing.assert_close(paired, encoder.fuse(text, mask, encoder.project(images[index])))


@torch.no_grad()
def test_image_tokens_that_are_masked_are_not_attended_to(
    encoder: TextEncoder, ids: Tensor, mask: Tensor, images: Tensor
) -> None:
    text = encoder.encode(ids, mask)
    image_mask = torch.arange(5)[None].expand(3, -1) < 3
    masked = encoder.fuse(text, mask, encoder.project(images, image_mask))
    torch.testing.assert_close(masked, encoder.fuse(text, mask, encoder.project(images[:, :3])))
    index = torch.tensor([2, 2, 0, 1, 0, 2])
    paired = encoder.fuse(text, mask, encoder.project(images, image_mask), index)
    torch.testing.assert_close(paired, encoder.fuse(text, mask, encoder.project(images[index][:, :3])))


def test_texts_that_cannot_be_shared_out_are_refused(encoder: TextEncoder, images: Tensor) -> None:
    with pytest.raises(ValueError, match="4 texts cannot be shared out evenly over 3 images"):
        encoder.fuse(torch.zeros(4, 2, 16), torch.ones(4, 2), encoder.project(images))


def test_images_are_projected_once_per_fusion_layer_however_many_texts(
    encoder: TextEncoder, ids: Tensor, mask: Tensor, images: Tensor
) -> None:
    rows = []
    for layer in encoder.fusion_layers:
        layer.crossattention.self.key.register_forward_hook(lambda _m, args, _o: rows.append(len(args[0])))
    encoder.fuse(encoder.encode(ids, mask), mask, encoder.project(images))
    assert rows == [3, 3]


@pytest.mark.parametrize("other", [Execution("light"), Execution("full"), Execution("light", compiled=True)], ids=str)
def test_what_is_recomputed_or_compiled_gives_the_same_gradients(
    encoder: TextEncoder, ids: Tensor, mask: Tensor, images: Tensor, other: Execution, counting_compiler: list[int]
) -> None:
    gradients = []
    for execution in (Execution(), other):
        encoder.execution = execution
        encoder.train()
        encoder.zero_grad()
        torch.manual_seed(5)  # dropout is on
        encoder.fuse(encoder.encode(ids, mask), mask, encoder.project(images)).square().mean().backward()
        gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert len(gradients[0]) > 20
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@torch.no_grad()
@pytest.mark.parametrize("fusion_layer", [2, 3, 4])  # of 4 layers: two fusion layers, one, none
def test_what_is_wanted_at_some_places_is_what_all_of_it_has_there(
    ids: Tensor, mask: Tensor, images: Tensor, fusion_layer: int
) -> None:
    torch.manual_seed(2)
    encoder = TextEncoder(BertConfig(**SMALL), fusion_layer, image_width=12).eval()
    text, kv = encoder.encode(ids, mask), encoder.project(images)
    places = [torch.tensor([[0, 2], [3, 1], [1, 1]]), torch.tensor([[0], [4], [2]])]
    index = torch.tensor([2, 2, 0, 1, 0, 2])
    for pairing in (None, index):
        whole = encoder.fuse(text, mask, kv, pairing)
        for part, wanted, found in zip(
            whole.split(3), places, encoder.fuse_at(text, mask, kv, places, pairing), strict=True
        ):
            torch.testing.assert_close(found, part[torch.arange(3)[:, None], wanted])
        torch.testing.assert_close(encoder.fuse_cls(text, mask, kv, pairing), whole[:, 0])
    attended = encoder.attend_alone(text, mask)
    torch.testing.assert_close(encoder.fuse_cls(attended, mask, kv, attended=True), encoder.fuse(text, mask, kv)[:, 0])


def test_gradients_of_what_is_wanted_are_those_of_the_whole(
    encoder: TextEncoder, ids: Tensor, mask: Tensor, images: Tensor
) -> None:
    def gradients(cls_only: bool) -> list[Tensor]:
        encoder.zero_grad()
        text, kv = encoder.encode(ids, mask), encoder.project(images)
        cls = encoder.fuse_cls(text, mask, kv) if cls_only else encoder.fuse(text, mask, kv)[:, 0]
        cls.square().sum().backward()
        return [p.grad.clone() for p in encoder.parameters() if p.grad is not None]

    for mine, right in zip(gradients(cls_only=True), gradients(cls_only=False), strict=True):
        torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-4)
