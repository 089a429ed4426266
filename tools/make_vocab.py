"""Make a WordPiece vocabulary from the texts of annotation files, and a tokenizer of it. Nothing is downloaded."""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from sys import maxsize
from typing import Any

from elip.data.cleaning import clean_caption, clean_question
from elip.data.json_files import read_items
from elip.data.opening import open_file
from elip.data.vocabulary import TOKENIZER_FILES, count_words, learn_vocabulary, unknown_words, write_tokenizer
from elip.errors import ConfigError, DataError, ElipError, located, shorten
from tools.cli import user_errors

EPILOG = """examples:
  python tools/make_vocab.py train.jsonl --out vocab
  python tools/train.py configs/small.yaml data.train=[train.jsonl] data.image_root=images model.text.tokenizer=vocab
"""

FIELDS: dict[str, Callable[[str], str]] = {
    "caption": lambda text: clean_caption(text, maxsize),
    "sentence": lambda text: clean_caption(text, maxsize),
    "text": lambda text: clean_caption(text, maxsize),
    "question": lambda text: clean_question(text, maxsize),
    "answer": str,
}
"""Fields of an item that hold texts, each with how training cleans it; words beyond `data.max_words` count too."""
PLAIN = ".txt"
"""Ending of files that hold one text a line."""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        prog="make_vocab.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=f"annotations, JSON lists or JSON-lines, with texts under {', '.join(FIELDS)}; or .txt with a text a line",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for it, the value of model.text.tokenizer"
    )
    parser.add_argument("--size", type=int, default=8192, metavar="N", help="the most tokens (default: %(default)s)")
    parser.add_argument(
        "--min-frequency",
        type=int,
        default=2,
        metavar="N",
        help="how often a character or a pair of pieces must occur to get a token (default: %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace a tokenizer that is already in DIR")
    return parser.parse_args(argv)


@user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Make the vocabulary, say what it covers, and return 0."""
    args = parse_args(argv)
    for name in ("size", "min_frequency"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: expected a number above 0, got {getattr(args, name)}.")
    there = [name for name in TOKENIZER_FILES if (args.out / name).exists()]
    if there and not args.force:
        raise ConfigError(f"--out: {args.out} holds {there[0]} already. Choose another folder, or replace it: --force.")
    words = count_words(chain.from_iterable(map(texts_of, args.files)))
    if not words:
        raise DataError(f"no word is left of the texts in {', '.join(map(str, args.files))} after cleaning.")
    tokens = learn_vocabulary(words, args.size, args.min_frequency)
    try:
        for name in there:
            (args.out / name).unlink()
        write_tokenizer(tokens, args.out)
    except OSError as error:
        raise ElipError(f"--out: cannot write {error.filename or args.out}: {error.strerror}.") from error
    total, known = words.total(), {*tokens}
    unknown = unknown_words(words, tokens)
    share = sum(words[word] for word in unknown) / total
    worst = max(unknown, key=lambda word: (words[word], word), default=None)
    print(f"{args.out}: {len(tokens)} tokens from {total} words, {len(words)} of them different.")
    print(f"{sum(words[word] for word in words if word in known) / total:.1%} of the words are a token of their own;")
    print(f"{share:.2%} are unknown" + (f", most often {worst!r}." if worst else "."))
    print(f"Use it with model.text.tokenizer={args.out}; model.text.options.vocab_size must be at least {len(tokens)}.")
    return 0


def texts_of(path: Path) -> Iterator[str]:
    """Yield the texts of a file, cleaned as training cleans them.

    Raises:
        DataError: the file cannot be read, or an item has no text.
    """
    if path.suffix.lower() == PLAIN:
        yield from map(FIELDS["caption"], _lines(path))
        return
    for number, item in enumerate(map(json.loads, read_items(path))):
        with located(f"{path} item {number}"):
            yield from _texts_in(item)


def _texts_in(item: dict[str, Any]) -> list[str]:
    found = {name: item[name] for name in FIELDS if name in item}
    if not found:
        raise DataError(f"it has none of the fields {', '.join(FIELDS)}; it has: {shorten(list(item))}")
    texts: list[str] = []
    for name, value in found.items():
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
            raise DataError(f"field {name!r} must be text or a list of texts, got {shorten(value)}")
        if any(_is_half(text) for text in values):
            raise DataError(f"field {name!r} holds half of a character (a lone surrogate): {shorten(value)}")
        texts += map(FIELDS[name], values)
    return texts


def _is_half(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _lines(path: Path) -> list[str]:
    with open_file(path) as file:
        try:
            return file.read().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error


if __name__ == "__main__":
    raise SystemExit(main())
