"""Captions and questions are cleaned as the published code cleans them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from elip.data.cleaning import clean_caption, clean_question


@pytest.mark.parametrize(
    ("kind", "clean"),
    [("caption", clean_caption), ("question_train", clean_question), ("question_test", clean_question)],
)
def test_every_text_is_cleaned_as_published(golden_albef: Path, kind: str, clean: Callable[[str, int], str]) -> None:
    rows = json.loads((golden_albef / "text_cleaning.json").read_text(encoding="utf-8"))[kind]
    assert rows
    assert [clean(row["raw"], row["max_words"]) for row in rows] == [row["clean"] for row in rows]
