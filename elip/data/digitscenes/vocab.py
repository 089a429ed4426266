"""A BERT WordPiece vocabulary for the texts of DigitScenes.

It holds the special tokens, every word that the texts can contain as one token, and all printable ASCII characters,
alone and as continuations: a word that a user makes up falls into characters instead of [UNK]. It depends neither on
seed nor on sizes, so a model trained on one DigitScenes folder reads the texts of any other.
"""

from elip.data.digitscenes import captions, claims, entailment, questions, statements, words
from elip.data.vocabulary import SPECIAL_TOKENS, basic_pieces


def vocabulary() -> list[str]:
    """Return all tokens in the order of their ids; [PAD] is 0."""
    texts = set().union(*(module.words() for module in (words, captions, claims, entailment, questions, statements)))
    return list(dict.fromkeys((*SPECIAL_TOKENS, *basic_pieces(), *sorted(texts))))
