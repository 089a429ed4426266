"""Pretrained weights of the text encoder: every tensor is accounted for, whatever the file is wrapped in."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from elip.config.schema import TextConfig
from elip.errors import CheckpointError, ConfigError
from elip.models.text import MLMHead, TextEncoder
from elip.weights.bert import bert_config, load_bert

SMALL = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 12,
    "max_position_embeddings": 6,
}
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def bert() -> State:
    """The tensors of a random BERT, as transformers names them, with all that old files have."""
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SMALL))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    extra = {"bert.pooler.dense.weight": torch.ones(8, 8), "cls.seq_relationship.bias": torch.ones(2)}
    return {**{name: t.clone() for name, t in model.state_dict().items()}, **extra}


def load(path: Path, head: bool = True, **more: Any) -> tuple[TextEncoder, MLMHead]:
    config = TextConfig(weights=str(path), fusion_layer=1, options=SMALL, **more)
    encoder = TextEncoder(bert_config(config), 1, image_width=8)
    mlm_head = MLMHead(encoder.bert_config)
    load_bert(config, encoder, mlm_head if head else None)
    return encoder, mlm_head


def assert_loaded(encoder: TextEncoder, mlm_head: MLMHead, bert: State) -> None:
    for name, tensor in encoder.state_dict().items():
        assert ".crossattention." in name or torch.equal(tensor, bert[f"bert.{name}"]), name
    assert torch.equal(mlm_head.bias, bert["cls.predictions.bias"])
    assert torch.equal(mlm_head.dense.weight, bert["cls.predictions.transform.dense.weight"])


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "none": lambda state: state,
    "module. in a state_dict": lambda state: {"state_dict": {f"module.{n}": t for n, t in state.items()}},
    "ALBEF": lambda state: {
        "model": {
            **{f"text_encoder.{n}": t for n, t in state.items()},
            **{f"text_encoder_m.{n}": torch.zeros_like(t) for n, t in state.items()},
            "visual_encoder.norm.weight": torch.ones(3),
        }
    },
    "names of the first files": lambda state: {
        n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for n, t in state.items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS.values(), ids=WRAPPINGS.keys())
def test_a_file_is_read_whatever_it_is_wrapped_in(
    wrapping: Callable[[State], Any], bert: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    torch.save(wrapping(bert), tmp_path / "bert.pth")
    assert_loaded(*load(tmp_path / "bert.pth"), bert)
    assert f"model.text.weights: weights from {tmp_path / 'bert.pth'}" in caplog.text
    assert "left over" in caplog.text


def test_a_folder_is_read_in_each_of_its_forms(bert: State, tmp_path: Path) -> None:
    BertConfig(**SMALL).save_pretrained(tmp_path)
    torch.save(bert, tmp_path / "pytorch_model.bin")
    assert_loaded(*load(tmp_path), bert)
    names = list(bert)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: bert[name].clone() for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "pytorch_model.bin").write_bytes(b"not read where there is a better one")
    assert_loaded(*load(tmp_path), bert)


def test_a_bert_without_a_vocabulary_head_is_taken_with_a_warning(
    bert: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = {name.removeprefix("bert."): tensor for name, tensor in bert.items() if name.startswith("bert.")}
    torch.save(body, tmp_path / "bert.pth")
    encoder, _ = load(tmp_path / "bert.pth")
    assert torch.equal(encoder.embeddings.word_embeddings.weight, bert["bert.embeddings.word_embeddings.weight"])
    assert "has no vocabulary head, which starts from random weights" in caplog.text
    caplog.clear()
    load(tmp_path / "bert.pth", head=False)
    assert "vocabulary head" not in caplog.text


WORDS = "bert.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {f"roberta.{n}": t for n, t in s.items()}, "has nothing in common .*roberta"),
        (lambda s: {n: t for n, t in s.items() if "layer.1." not in n}, r"16 missing \(encoder.layer.1."),
        (lambda s: {**s, "bert.encoder.layer.2.x": torch.ones(1)}, r"1 without a place \(encoder.layer.2.x\)"),
        (lambda s: {**s, WORDS: torch.ones(9, 8)}, r"1 differ \(embeddings.word_embeddings.weight \[9, 8\], not \[12"),
        (lambda s: {**s, "cls.predictions.decoder.weight": torch.ones(12, 8)}, "should repeat embeddings.word_embed"),
    ],
)
def test_what_does_not_fit_is_an_error_with_file_and_examples(
    change: Callable[[State], Any], message: str, bert: State, tmp_path: Path
) -> None:
    changed = change(bert)
    if WORDS in changed and changed[WORDS] is not bert[WORDS]:
        changed.pop("cls.predictions.decoder.weight")
    path = tmp_path / "bert.pth"
    torch.save(changed, path)
    with pytest.raises(CheckpointError, match=rf"model\.text\.weights: .*{path}.*{message}"):
        load(path)


def test_cross_attention_is_there_as_a_whole_or_not_at_all(bert: State, tmp_path: Path) -> None:
    torch.save(bert, tmp_path / "bert.pth")
    encoder, _ = load(tmp_path / "bert.pth")
    crossed = {f"bert.{n}": torch.ones_like(t) for n, t in encoder.state_dict().items() if ".crossattention." in n}
    torch.save({**bert, **crossed}, tmp_path / "crossed.pth")
    encoder, _ = load(tmp_path / "crossed.pth")
    assert all((t == 1).all() for n, t in encoder.state_dict().items() if ".crossattention." in n)
    crossed.popitem()
    torch.save({**bert, **crossed}, tmp_path / "partial.pth")
    with pytest.raises(CheckpointError, match=r"partial\.pth.*do not fit: 1 missing \(encoder.layer.1.crossattention"):
        load(tmp_path / "partial.pth")


def test_what_is_allowed_by_name_may_be_left_over(bert: State, tmp_path: Path) -> None:
    torch.save({**bert, "bert.extra.weight": torch.ones(1)}, tmp_path / "bert.pth")
    with pytest.raises(CheckpointError, match=r"'model.text.weights_allow=\[extra\]'"):
        load(tmp_path / "bert.pth")
    assert_loaded(*load(tmp_path / "bert.pth", weights_allow=["extra"]), bert)


def test_a_damaged_file_and_a_pipe_are_told(bert: State, tmp_path: Path) -> None:
    torch.save(bert, tmp_path / "bert.pth")
    data = bytearray((tmp_path / "bert.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bert.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"bert\.pth is cut short or damaged"):
        load(tmp_path / "bert.pth")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is no file of weights, but a pipe"):
        load(tmp_path / "pipe")


def test_a_folder_without_weights_is_told(tmp_path: Path) -> None:
    BertConfig(**SMALL).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.text\.weights: there are no weights in .*Give a folder"):
        load(tmp_path)


def test_what_transformers_saves_today_is_read(bert: State, tmp_path: Path) -> None:
    model = BertForMaskedLM(BertConfig(**SMALL))
    model.save_pretrained(tmp_path)
    assert_loaded(*load(tmp_path), model.state_dict())
