"""A BERT WordPiece vocabulary for the texts of DigitScenes.

It holds the special tokens, every word that the texts can contain as one token, and all printable ASCII characters,
alone and as continuations: a word that a user makes up falls into characters instead of [UNK]. It depends neither on
seed nor on sizes, so a model trained on one DigitScenes folder reads the texts of any other.
"""

import json
import string
from pathlib import Path

from elip.data.digitscenes import captions, claims, entailment, questions, statements, words

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_LENGTH = 512
"""Position embeddings of BERT."""


def vocabulary() -> list[str]:
    """Return all tokens in the order of their ids; [PAD] is 0."""
    pieces = string.ascii_lowercase + string.digits
    texts = set().union(*(module.words() for module in (words, captions, claims, entailment, questions, statements)))
    tokens = (*SPECIAL_TOKENS, *pieces, *string.punctuation, *(f"##{piece}" for piece in pieces), *sorted(texts))
    return list(dict.fromkeys(tokens))


def write_tokenizer(folder: Path) -> None:
    """Write what `transformers.BertTokenizerFast.from_pretrained(folder)` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": MAX_LENGTH}
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary()), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
