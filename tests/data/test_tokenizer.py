"""Tokenising, and what a vocabulary knows of texts."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from elip.data.tokenizer import KnownWords, PlacedText, Tokenizer, count_known
from elip.errors import DataError

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "seven", "left", "##s", "two"]
PAD, UNK, CLS, SEP, MASK, A, RED, SEVEN, LEFT, PLURAL, TWO = range(len(WORDS))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


@pytest.fixture(scope="module")
def tokenizer(vocabulary: Path) -> Tokenizer:
    return Tokenizer.load(vocabulary)


def test_a_text_starts_with_cls_and_has_no_sep(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["a red sevens"])
    assert ids.tolist() == [[CLS, A, RED, SEVEN, PLURAL]]
    assert mask.tolist() == [[True] * 5]
    assert ids.dtype == torch.long


def test_a_batch_is_padded_to_its_longest_text(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["a red seven", "two", ""])
    assert ids.tolist() == [[CLS, A, RED, SEVEN], [CLS, TWO, PAD, PAD], [CLS, PAD, PAD, PAD]]
    assert mask.sum(dim=1).tolist() == [4, 2, 1]
    assert torch.equal(mask, ids != PAD)


def test_max_length_counts_cls(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(["a red seven left", "two"], max_length=3).ids.tolist() == [[CLS, A, RED], [CLS, TWO, PAD]]


def test_an_answer_ends_with_sep_even_where_it_is_cut(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["a red seven", "two"], max_length=4, append_sep=True)
    assert ids.tolist() == [[CLS, A, RED, SEP], [CLS, TWO, SEP, PAD]]
    assert mask.tolist() == [[True] * 4, [True, True, True, False]]


def test_no_texts_make_an_empty_batch(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode([])
    assert len(ids) == len(mask) == 0


def test_decoding_gives_the_text_without_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(["a red sevens", "two"], append_sep=True).ids) == ["a red sevens", "two"]


def test_special_ids_and_size_are_those_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    ids = (tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.vocab_size)
    assert ids == (PAD, CLS, SEP, MASK, len(WORDS))


def test_an_unknown_word_is_unk(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(["zebra"]).ids.tolist() == [[CLS, UNK]]


def test_the_fingerprint_tells_words_their_order_and_the_rules(vocabulary: Path, tmp_path: Path) -> None:
    words = vocabulary.read_text().splitlines()
    same = Tokenizer.load(vocabulary).fingerprint()
    assert Tokenizer.load(vocabulary.parent).fingerprint() == same
    others = {same}
    for name, changed, settings in (
        ("words", [*words[:-1], "zebra"], {}),
        ("order", [*words[:-2], words[-1], words[-2]], {}),
        ("rules", words, {"do_lower_case": False}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.txt").write_text("\n".join(changed))
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(settings))
        others.add(Tokenizer.load(tmp_path / name).fingerprint())
    assert len(others) == 4


def test_a_tokenizer_can_go_to_another_process(tokenizer: Tokenizer) -> None:
    assert torch.equal(pickle.loads(pickle.dumps(tokenizer)).encode(["a two"]).ids, tokenizer.encode(["a two"]).ids)


def test_a_folder_is_as_good_as_its_vocabulary_file(vocabulary: Path) -> None:
    assert Tokenizer.load(vocabulary.parent).encode(["two"]).ids.tolist() == [[CLS, TWO]]


def test_a_mistyped_path_names_the_nearest_file(vocabulary: Path) -> None:
    with pytest.raises(DataError, match=r"vocab\.tx.*no such file.*Did you mean 'vocab\.txt'"):
        Tokenizer.load(vocabulary.with_suffix(".tx"))


def test_a_folder_without_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds neither vocab\.txt nor tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_file_of_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("a\n")
    with pytest.raises(DataError, match=r"must be named vocab\.txt"):
        Tokenizer.load(tmp_path / "words.txt")


def test_a_vocabulary_without_special_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\na\nred\n")
    with pytest.raises(DataError, match=r"not a BERT vocabulary, it lacks \[UNK\], \[CLS\], \[SEP\], \[MASK\]"):
        Tokenizer.load(tmp_path)


def test_a_hub_name_without_network_asks_for_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"bert-of-nobody.*Without a network, give a folder with the vocab\.txt"):
        Tokenizer.load("bert-of-nobody")


def test_transformers_is_imported_only_by_who_loads_a_tokenizer() -> None:
    code = "import sys, elip.data.tokenizer; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def placed(*texts: str) -> list[PlacedText]:
    return [PlacedText(f"item {number}", text) for number, text in enumerate(texts)]


def test_unknown_tokens_are_counted_and_the_worst_text_is_kept(tokenizer: Tokenizer) -> None:
    found = count_known(placed("a red sevens", "a zebra", "😀 🎉", "red"), tokenizer)
    assert found == KnownWords(texts=4, tokens=9, unknown=3, lost=1, worst=PlacedText("item 2", "😀 🎉"))
    assert found.unknown_share == pytest.approx(1 / 3)


def test_a_text_of_which_no_token_is_left_is_lost_too(tokenizer: Tokenizer) -> None:
    found = count_known(placed("a", "\u200d"), tokenizer)
    assert (found.tokens, found.lost, found.worst) == (1, 1, PlacedText("item 1", "\u200d"))


def test_where_all_is_known_there_is_no_worst_text(tokenizer: Tokenizer) -> None:
    assert count_known(placed(*["a red seven"] * 1200), tokenizer) == KnownWords(texts=1200, tokens=3600)
