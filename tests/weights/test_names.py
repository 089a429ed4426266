"""Published names and ours, in both directions."""

import pytest
import torch

from elip.weights.names import from_albef, is_derived, to_albef

PAIRS = {
    "visual_encoder.blocks.3.attn.qkv.weight": "albef.visual_encoder.blocks.3.attn.qkv.weight",
    "visual_encoder_m.pos_embed": "momentum.albef.visual_encoder.pos_embed",
    "text_proj.bias": "albef.text_proj.bias",
    "vision_proj_m.weight": "momentum.albef.vision_proj.weight",
    "itm_head.weight": "itm_head.weight",
    "ta_head.bias": "ta_head.bias",
    "cls_head.0.weight": "cls_head.0.weight",
    "cls_head_m.2.bias": "momentum.cls_head.2.bias",
    "temp": "temp",
    "image_queue": "queues.image",
    "text_queue": "queues.text",
    "idx_queue": "queues.ids",
    "queue_ptr": "queues.pointer",
}


@pytest.mark.parametrize(("theirs", "ours"), PAIRS.items())
def test_each_published_name_has_one_of_ours(theirs: str, ours: str) -> None:
    tensor = torch.zeros(2, 3)
    assert from_albef({theirs: tensor})[ours] is tensor
    assert to_albef({ours: tensor}) == {theirs: tensor}


@pytest.mark.parametrize("bert", ["", "bert."])
@pytest.mark.parametrize(("theirs", "ours"), {"text_encoder": "albef.", "text_encoder_m": "momentum.albef."}.items())
def test_both_spellings_of_the_text_encoder_are_read(bert: str, theirs: str, ours: str) -> None:
    assert list(from_albef({f"{theirs}.{bert}encoder.layer.7.output.dense.bias": torch.ones(1)})) == [
        f"{ours}text_encoder.encoder.layer.7.output.dense.bias"
    ]


@pytest.mark.parametrize(("encoder", "head"), {"albef.text_encoder": "mlm_head", "decoder": "decoder.mlm_head"}.items())
@pytest.mark.parametrize("twin", ["", "momentum."])
def test_a_bert_with_a_vocabulary_head_says_bert_and_repeats_its_tied_layer(encoder: str, head: str, twin: str) -> None:
    words, positions, bias = torch.rand(5, 2), torch.rand(3, 2), torch.rand(5)
    written = to_albef(
        {
            f"{twin}{encoder}.embeddings.word_embeddings.weight": words,
            f"{twin}{encoder}.embeddings.position_embeddings.weight": positions,
            f"{twin}{head}.bias": bias,
            f"{twin}{head}.dense.bias": positions,
        }
    )
    theirs = f"text_{encoder.rpartition('_')[2]}{'_m' if twin else ''}"
    assert set(written) == {
        f"{theirs}.{name}"
        for name in (
            "bert.embeddings.word_embeddings.weight",
            "bert.embeddings.position_embeddings.weight",
            "bert.embeddings.position_ids",
            "cls.predictions.bias",
            "cls.predictions.transform.dense.bias",
            "cls.predictions.decoder.weight",
            "cls.predictions.decoder.bias",
        )
    }
    assert written[f"{theirs}.cls.predictions.decoder.weight"] is words
    assert written[f"{theirs}.cls.predictions.decoder.bias"] is bias
    assert written[f"{theirs}.bert.embeddings.position_ids"].tolist() == [[0, 1, 2]]


def test_a_bert_without_a_vocabulary_head_does_not_say_bert() -> None:
    name = "albef.text_encoder.embeddings.word_embeddings.weight"
    assert list(to_albef({name: torch.ones(1)})) == ["text_encoder.embeddings.word_embeddings.weight"]


@pytest.mark.parametrize(("filled", "told"), [(4, False), (3, True), (0, True)])
def test_only_queues_that_are_not_full_say_so_in_a_published_file(filled: int, told: bool) -> None:
    ours = {"queues.image": torch.ones(2, 4), "queues.filled": torch.tensor([filled])}
    written = to_albef(ours)
    assert ("queues.filled" in written) is told
    assert from_albef(written)["queues.filled"].tolist() == [filled]


@pytest.mark.parametrize(
    "name", ["temperature", "albef.reducer.score.weight", "visual_encodera.weight", "momentum.albef.reducer.a"]
)
def test_names_in_no_table_stay_in_both_directions(name: str) -> None:
    state = {name: torch.ones(1)}
    assert from_albef(state) == to_albef(state) == state


def test_what_repeats_others_is_known_by_its_name() -> None:
    assert is_derived("text_decoder_m.cls.predictions.decoder.bias")
    assert is_derived("text_encoder.embeddings.position_ids")
    assert not is_derived("text_encoder.cls.predictions.bias")
