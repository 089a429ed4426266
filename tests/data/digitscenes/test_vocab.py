import json
import re
from pathlib import Path

import pytest
from transformers import BertTokenizerFast  # type: ignore[attr-defined]

from elip.data.digitscenes.vocab import vocabulary
from elip.data.vocabulary import SPECIAL_TOKENS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(vocabulary(), folder)
    return BertTokenizerFast.from_pretrained(folder, local_files_only=True)


def texts_in(content: object) -> list[str]:
    """Return all texts of an annotation file, file names aside."""
    if isinstance(content, str):
        return [content]
    if isinstance(content, list):
        return [text for entry in content for text in texts_in(entry)]
    if isinstance(content, dict):
        skipped = ("image", "images", "dataset", "file_name", "split", "label")
        return [text for name, entry in content.items() if name not in skipped for text in texts_in(entry)]
    return []


def test_special_tokens_come_first() -> None:
    assert vocabulary()[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tuple(vocabulary()[:5]) == SPECIAL_TOKENS


def test_tokens_are_unique() -> None:
    assert len(set(vocabulary())) == len(vocabulary())


def test_the_tokenizer_gives_ids_in_the_order_of_the_file(tokenizer: BertTokenizerFast) -> None:
    assert tokenizer.convert_tokens_to_ids(vocabulary()) == list(range(len(vocabulary())))
    assert len(tokenizer) == len(vocabulary())
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 4)


def test_every_word_of_every_text_is_one_token(folder: Path, tokenizer: BertTokenizerFast) -> None:
    texts = [
        text
        for file in folder.glob("*.json")
        if file.name not in ("meta.json", "grounding_detections.json")
        for text in texts_in(json.loads(file.read_text()))
    ]
    assert len(texts) > 500
    for text in set(texts):
        assert tokenizer.tokenize(text) == re.findall(r"[a-z]+|[^a-z ]", text)


def test_words_of_a_user_fall_into_characters(tokenizer: BertTokenizerFast) -> None:
    assert tokenizer.tokenize("A Zebra's 42!") == [
        *("a", "z", "##e", "##b", "##r", "##a", "'", "s", "4", "##2", "!"),
    ]


def test_any_printable_ascii_text_is_known(tokenizer: BertTokenizerFast) -> None:
    printable = " ".join(map(chr, range(33, 127))) + "".join(map(chr, range(33, 127)))
    assert "[UNK]" not in tokenizer.tokenize(printable)


def test_a_text_comes_back_from_its_ids(tokenizer: BertTokenizerFast) -> None:
    ids = tokenizer("a red seven at the top left").input_ids
    assert tokenizer.decode(ids) == "[CLS] a red seven at the top left [SEP]"
