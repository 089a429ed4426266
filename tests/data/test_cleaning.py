"""Cleaning."""

from hypothesis import given
from hypothesis import strategies as st

from elip.data.cleaning import clean_caption, clean_question


@given(st.text(st.characters(exclude_characters="<")), st.integers(1, 5))
def test_cleaning_a_caption_again_changes_nothing(text: str, max_words: int) -> None:
    once = clean_caption(text, max_words)
    assert clean_caption(once, max_words) == once


@given(st.text(), st.integers(1, 5))
def test_a_clean_text_has_no_more_than_max_words_and_no_punctuation(text: str, max_words: int) -> None:
    for clean in (clean_caption(text, max_words), clean_question(text, max_words)):
        assert len(clean.split(" ")) <= max_words
        assert not set(clean) & set(",.'!?\"()*#:;~-/")


def test_a_caption_keeps_thirty_words_unless_told_otherwise() -> None:
    assert len(clean_caption("word " * 40).split()) == 30


def test_spaces_within_a_question_count_as_words() -> None:
    assert clean_question("  why  two spaces?", max_words=4) == "  why "
