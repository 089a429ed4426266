"""What a vocabulary knows of texts."""

import pytest

from elip.data.text import Tokenizer
from elip.data.words import KnownWords, PlacedText, count_known

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "seven", "##s"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return Tokenizer.load(path)


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
