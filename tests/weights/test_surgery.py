"""Fusion layers doubled for pairs of images, and turned into a decoder, worked by hand on named numbers."""

import pytest
import torch
from torch import Tensor
from transformers import BertConfig

from elip.models.pair_text import PairTextEncoder
from elip.models.text import MLMHead, TextEncoder
from elip.weights.surgery import decoder_from_fusion, double_fusion_layers
from tasks.vqa.decoder import AnswerDecoder

BERT = BertConfig(
    hidden_size=8,
    num_hidden_layers=5,
    num_attention_heads=2,
    intermediate_size=16,
    vocab_size=12,
    max_position_embeddings=6,
)
FUSION_LAYER = 2


def encoder(image_width: int = 8) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(BERT, FUSION_LAYER, image_width).eval()


def state_of(module: torch.nn.Module, prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def layers_of(state: dict[str, Tensor], name: str) -> set[int]:
    return {
        int(key.removeprefix(f"{name}encoder.layer.").split(".")[0])
        for key in state
        if key.startswith(f"{name}encoder.layer.")
    }


@pytest.mark.parametrize("prefix", ["text_encoder.", "model.albef.text_encoder.", "model.momentum.albef.text_encoder."])
def test_doubled_weights_are_those_of_the_pair_encoder_made_from_the_single_one(prefix: str) -> None:
    single = encoder()
    doubled = double_fusion_layers({**state_of(single, prefix), "other": torch.ones(1)})
    assert doubled.pop("other") == 1
    expected = state_of(PairTextEncoder(single), prefix)
    assert doubled.keys() == expected.keys()
    assert all(torch.equal(doubled[name], expected[name]) for name in expected)


def test_layer_l_becomes_two_layers_after_those_of_the_layers_before_it() -> None:
    state = state_of(encoder(), "text_encoder.")
    doubled = double_fusion_layers(state)
    for old, new in {0: [0], 1: [1], 2: [2, 3], 3: [4, 5], 4: [6, 7]}.items():
        for layer in new:
            name = "text_encoder.encoder.layer.{}.intermediate.dense.weight"
            assert torch.equal(doubled[name.format(layer)], state[name.format(old)])
    assert layers_of(doubled, "text_encoder.") == set(range(8))


def test_a_doubled_encoder_stays_as_it_is_even_after_its_layers_have_parted() -> None:
    pair = PairTextEncoder(encoder())
    with torch.no_grad():
        for layer in pair.encoder.layer:
            layer.output.dense.weight.add_(torch.randn_like(layer.output.dense.weight))
    state = state_of(pair, "text_encoder.")
    assert double_fusion_layers(state).keys() == state.keys()
    assert all(tensor is state[name] for name, tensor in double_fusion_layers(state).items())


def test_each_encoder_is_doubled_by_itself() -> None:
    done, still_single = PairTextEncoder(encoder()), encoder()
    state = {**state_of(done, "albef.text_encoder."), **state_of(still_single, "momentum.albef.text_encoder.")}
    doubled = double_fusion_layers(state)
    assert (
        len(layers_of(doubled, "momentum.albef.text_encoder.")) == len(layers_of(doubled, "albef.text_encoder.")) == 8
    )


@pytest.mark.parametrize("place", ["", "model.", "model.momentum."])
def test_the_decoder_has_embeddings_fusion_layers_and_vocabulary_head(place: str) -> None:
    text, head, decoder = encoder(), MLMHead(BERT), AnswerDecoder(BERT, 3)
    state = {**state_of(text, f"{place}albef.text_encoder."), **state_of(head, f"{place}mlm_head.")}
    made = decoder_from_fusion(state)
    assert {name for name in made if name in state} == {name for name in state if "mlm_head" not in name}
    taken = {name.removeprefix(f"{place}decoder."): t for name, t in made.items() if name not in state}
    decoder.load_state_dict(taken)
    assert torch.equal(decoder.encoder.layer[0].output.dense.weight, text.encoder.layer[2].output.dense.weight)
    assert torch.equal(decoder.embeddings.word_embeddings.weight, text.embeddings.word_embeddings.weight)
    assert torch.equal(decoder.mlm_head.dense.weight, head.dense.weight)


def test_keys_and_values_of_images_of_another_width_are_not_taken() -> None:
    made = decoder_from_fusion(state_of(encoder(image_width=4), "albef.text_encoder."))
    missing, unexpected = AnswerDecoder(BERT, 3).load_state_dict(
        {name.removeprefix("decoder."): t for name, t in made.items() if name.startswith("decoder.")}, strict=False
    )
    assert not unexpected
    assert {name for name in missing if "mlm_head" not in name} == {
        f"encoder.layer.{layer}.crossattention.self.{part}.{kind}"
        for layer in range(3)
        for part in ("key", "value")
        for kind in ("weight", "bias")
    }


def test_a_decoder_that_is_there_is_kept() -> None:
    state = {**state_of(encoder(), "albef.text_encoder."), **state_of(AnswerDecoder(BERT, 3), "decoder.")}
    made = decoder_from_fusion(state)
    assert made.keys() == state.keys()
    assert all(made[name] is state[name] for name in state)
