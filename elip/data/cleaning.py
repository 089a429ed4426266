"""Captions and questions as ALBEF reads them: cleaned words, before a tokenizer makes pieces of them."""

import re

from elip.errors import DataError, shorten

_DROP_PUNCTUATION = str.maketrans("-/", "  ", ",.'!?\"()*#:;~")
_WHITESPACE_RUN = re.compile(r"\s{2,}")


def clean_caption(text: str, max_words: int = 30) -> str:
    """Return a caption in lower case, without punctuation or runs of white space, cut to `max_words` words.

    Hyphens and slashes part words, `<person>` becomes a word, a single tab or line break inside stays. The result may
    be empty; whether that is a mistake is for the caller to say.
    """
    text = text.lower().translate(_DROP_PUNCTUATION).replace("<person>", "person")
    text = _WHITESPACE_RUN.sub(" ", text).rstrip("\n").strip(" ")
    return _cut(text, max_words)


def usable_caption(caption: str, max_words: int, field: str = "caption") -> str:
    """Return the cleaned caption, which an item holds in `field`.

    Raises:
        DataError: nothing is left of it.
    """
    text = clean_caption(caption, max_words)
    if not text.strip():
        raise DataError(f"field {field!r} is empty after cleaning: {shorten(caption)}")
    return text


def clean_question(text: str, max_words: int) -> str:
    """Return a question in lower case, without punctuation, cut to `max_words` words.

    Unlike in captions, spaces in front and between words stay as they are, and count as (empty) words.
    """
    return _cut(text.lower().translate(_DROP_PUNCTUATION).rstrip(" "), max_words)


def _cut(text: str, max_words: int) -> str:
    return " ".join(text.split(" ")[:max_words])
