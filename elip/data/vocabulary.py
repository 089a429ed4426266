"""WordPiece vocabularies in BERT's form: learnt from texts, and written where a tokenizer is read from."""

import json
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer as WordPieceTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, WhitespaceSplit
from tokenizers.trainers import WordPieceTrainer

from elip.atomic import replacing
from elip.errors import DataError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUED = "##"
"""Stands before a piece that does not begin a word."""
MAX_LENGTH = 512
"""Position embeddings of BERT."""
VOCABULARY, SETTINGS, WHOLE = TOKENIZER_FILES = ("vocab.txt", "tokenizer_config.json", "tokenizer.json")
"""Files that a tokenizer is read from; only the first two are written here."""
VOCABULARY_FILES = (VOCABULARY, WHOLE)
"""Of which one has to be there."""

_BASIC = string.ascii_lowercase + string.digits
_MAX_CHARS = 100  # of a word: WordPiece takes longer ones for unknown
_REPEATS = 1000  # of a word in one text handed to the trainer


def basic_pieces() -> list[str]:
    """Return Latin letters, digits and ASCII punctuation, with which a word that nobody foresaw can be spelt."""
    return [*_BASIC, *string.punctuation, *(CONTINUED + piece for piece in _BASIC)]


def write_tokenizer(tokens: Sequence[str], folder: Path) -> None:
    """Write what `elip.data.tokenizer.Tokenizer.load(folder)` reads.

    Args:
        tokens: in the order of their ids.
        folder: made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": MAX_LENGTH}
    texts = {VOCABULARY: "".join(f"{token}\n" for token in tokens), SETTINGS: json.dumps(settings, indent=1) + "\n"}
    for name, text in texts.items():
        with replacing(folder / name) as file:
            file.write(text.encode())


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Return how often each word occurs, words being what BERT's tokenizer makes pieces of."""
    normalise, split = BertNormalizer(lowercase=True).normalize_str, BertPreTokenizer().pre_tokenize_str
    return Counter(word for text in texts for word, _ in split(normalise(text)))


def learn_vocabulary(words: Mapping[str, int], size: int, min_frequency: int) -> list[str]:
    """Return the tokens of a WordPiece vocabulary in the order of their ids: the same for the same words.

    It begins with the special tokens, `basic_pieces` and the characters of the words.

    Args:
        words: how often each occurs.
        size: the most tokens.
        min_frequency: characters, and pairs of pieces, that occur less often get no token.

    Raises:
        DataError: the characters alone are more than `size`.
    """
    start = [*SPECIAL_TOKENS, *_characters(words, min_frequency)]
    if len(start) > size:
        raise DataError(
            f"a vocabulary of {size} has no room: special tokens and characters alone are {len(start)}. "
            "Take a larger size, or a higher minimum frequency."
        )
    known = {*start}
    spelt = {w: n for w, n in words.items() if len(w) <= _MAX_CHARS and all(piece in known for piece in _spelling(w))}
    # The trainer numbers pieces as it meets them, in an order that differs between processes, and breaks ties by these
    # numbers: only what it is told are special tokens has its place.
    trainer = WordPieceTrainer(vocab_size=size, min_frequency=min_frequency, special_tokens=start, show_progress=False)
    wordpiece = WordPieceTokenizer(WordPiece(unk_token=SPECIAL_TOKENS[1]))
    wordpiece.pre_tokenizer = WhitespaceSplit()
    wordpiece.train_from_iterator(_repeated(spelt), trainer)
    ids = wordpiece.get_vocab()
    return sorted(ids, key=lambda token: ids[token])


def unknown_words(words: Iterable[str], tokens: Sequence[str]) -> list[str]:
    """Return those words that become `[UNK]`."""
    ids = {token: index for index, token in enumerate(tokens)}
    model = WordPiece(ids, unk_token=SPECIAL_TOKENS[1], max_input_chars_per_word=_MAX_CHARS)
    return [word for word in words if any(piece.value == SPECIAL_TOKENS[1] for piece in model.tokenize(word))]


def _characters(words: Mapping[str, int], min_frequency: int) -> list[str]:
    """Return the basic pieces, and the other characters that occur often enough in the forms they occur in."""
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for piece in _spelling(word):
            counts[piece] += count
    basic = basic_pieces()
    often = {piece for piece, count in counts.items() if count >= min_frequency}
    # the trainer wants each character as a beginning, too
    often |= {piece.removeprefix(CONTINUED) for piece in often if piece != CONTINUED}
    return [*basic, *sorted(often - {*basic})]


def _spelling(word: str) -> list[str]:
    return [word[0], *(CONTINUED + character for character in word[1:])]


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Yield texts that hold each word as often as it occurs."""
    for word, count in sorted(words.items()):
        for start in range(0, count, _REPEATS):
            yield " ".join([word] * min(_REPEATS, count - start))
