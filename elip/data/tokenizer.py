"""Texts as WordPiece ids, `[CLS]` before them and no final `[SEP]`; and how much of them a vocabulary knows."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from elip.data.opening import missing_file
from elip.data.vocabulary import TOKENIZER_FILES, VOCABULARY_FILES
from elip.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS_AT_ONCE = 500
_PROBE = "a A \u00e9 \u00c9 \u72d7\u72ac a-a a\u0301\tA"
"""What rules on letter case, accents, Chinese characters, hyphens and white space differ in."""


class TextBatch(NamedTuple):
    """Token ids of several texts, padded to the longest.

    Shape:
        ids: [B, L] long
        mask: [B, L] bool, True on tokens and False on padding
    """

    ids: Tensor
    mask: Tensor


class Tokenizer:
    """A BERT WordPiece tokenizer that writes `[CLS]` in front of a text and, by default, no `[SEP]` after it.

    The published ALBEF and ELIP checkpoints were trained so.

    Args:
        wordpiece: a fast BERT tokenizer of transformers.
    """

    def __init__(self, wordpiece: "PreTrainedTokenizerBase") -> None:
        self._wordpiece = wordpiece

    @classmethod
    def load(cls, name_or_dir: str | Path) -> "Tokenizer":
        """Return the tokenizer of a folder, a `vocab.txt`, or a name on the Hugging Face hub.

        Raises:
            DataError: nothing of that name is here or on the hub, the hub is out of reach, or it is no BERT vocabulary.
        """
        # A batch of captions is too short to share out, and threads here would warn in every forked loader process.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        # transformers is slow to import, so only who needs it pays; it makes this name at run time.
        from transformers import BertTokenizerFast  # type: ignore[attr-defined]

        folder = _vocabulary_folder(str(name_or_dir))
        wordpiece = BertTokenizerFast.from_pretrained(str(folder))
        _check_special_tokens(wordpiece, folder)
        return cls(wordpiece)

    def encode(self, texts: Sequence[str], max_length: int | None = None, append_sep: bool = False) -> TextBatch:
        """Return the ids of `texts`, padded to the longest of them.

        Args:
            texts: any number of texts; an empty one becomes `[CLS]` alone.
            max_length: tokens kept of each text, `[CLS]` (and `[SEP]`) included; None keeps all.
            append_sep: end every text with `[SEP]`, as answers that a decoder learns to finish. It is never cut off.
        """
        tail = [self.sep_id] if append_sep else []
        room = None if max_length is None else max(0, max_length - 1 - len(tail))
        rows = [[self.cls_id, *pieces[:room], *tail] for pieces in self._pieces(texts)]
        longest = max((len(row) for row in rows), default=1)
        ids = torch.full((len(rows), longest), self.pad_id)  # [B, L]
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.long)
        return TextBatch(ids, torch.arange(longest) < lengths[:, None])

    def decode(self, ids: Tensor) -> list[str]:
        """Return the texts of ids [B, L], without special tokens."""
        return self._wordpiece.batch_decode(ids.tolist(), skip_special_tokens=True)

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text as the vocabulary spells them, `[UNK]` where it has none."""
        return self._wordpiece.tokenize(text)

    def fingerprint(self) -> str:
        """Return a hash that differs where ids mean other words, or texts are parted into them by other rules."""
        ids = self._wordpiece.get_vocab()
        facts = [sorted(ids, key=lambda token: ids[token]), self._pieces([_PROBE])]
        return sha256(json.dumps(facts).encode()).hexdigest()

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return self._wordpiece(list(texts), add_special_tokens=False, verbose=False)["input_ids"]

    @property
    def pad_id(self) -> int:
        """Id of `[PAD]`."""
        return self._wordpiece.pad_token_id

    @property
    def cls_id(self) -> int:
        """Id of `[CLS]`, which starts every text."""
        return self._wordpiece.cls_token_id

    @property
    def sep_id(self) -> int:
        """Id of `[SEP]`, which ends an answer."""
        return self._wordpiece.sep_token_id

    @property
    def unk_id(self) -> int:
        """Id of `[UNK]`, which stands for every word that the vocabulary lacks."""
        return self._wordpiece.unk_token_id

    @property
    def mask_id(self) -> int:
        """Id of `[MASK]`, which hides a token in masked language modelling."""
        return self._wordpiece.mask_token_id

    @property
    def vocab_size(self) -> int:
        """Number of ids; each is below it."""
        return len(self._wordpiece)


class PlacedText(NamedTuple):
    """A cleaned text, and where it stands, for messages."""

    where: str
    text: str


@runtime_checkable
class HoldsTexts(Protocol):
    """A data set that can show its texts without opening a picture."""

    def sample_texts(self, items: int) -> Iterator[PlacedText]:
        """Yield the texts of about so many items; broken items are passed over."""
        ...


@dataclass
class KnownWords:
    """What a vocabulary makes of some texts.

    Args:
        texts: how many there are.
        tokens: in them, without special ones.
        unknown: of these, `[UNK]`.
        lost: texts of which nothing is known.
        worst: the text with the largest share of unknown tokens, None where all are known.
    """

    texts: int = 0
    tokens: int = 0
    unknown: int = 0
    lost: int = 0
    worst: PlacedText | None = None

    @property
    def unknown_share(self) -> float:
        """Share of the tokens that are unknown; 1 where there are none at all."""
        return self.unknown / self.tokens if self.tokens else 1.0


def count_known(texts: Iterable[PlacedText], tokenizer: Tokenizer) -> KnownWords:
    """Return what the vocabulary of `tokenizer` makes of texts."""
    found, worst_share, remaining = KnownWords(), 0.0, iter(texts)
    while several := list(islice(remaining, _TEXTS_AT_ONCE)):
        ids, mask = tokenizer.encode([one.text for one in several])
        tokens = (mask.sum(dim=1) - 1).tolist()  # without [CLS]
        unknown = ((ids == tokenizer.unk_id) & mask).sum(dim=1).tolist()
        for one, total, missing in zip(several, tokens, unknown, strict=True):
            share = missing / total if total else 1.0
            if share > worst_share:
                worst_share, found.worst = share, one
            found.lost += share == 1
        found.texts += len(several)
        found.tokens += sum(tokens)
        found.unknown += sum(unknown)
    return found


def _vocabulary_folder(name_or_dir: str) -> Path:
    path = Path(name_or_dir).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in VOCABULARY_FILES):
            raise DataError(f"tokenizer {name_or_dir}: the folder holds neither vocab.txt nor tokenizer.json")
        return path
    if path.is_file():
        if path.name not in VOCABULARY_FILES:
            raise DataError(f"tokenizer {name_or_dir}: the file must be named vocab.txt (or give the folder it is in)")
        return path.parent
    if path.is_absolute() or path.suffix in (".txt", ".json") or name_or_dir.startswith((".", "~")):
        raise DataError(f"tokenizer {name_or_dir}: {missing_file(path)}")
    return _download(name_or_dir)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # Falls back to an earlier download when the hub is out of reach.
        return Path(snapshot_download(name, allow_patterns=[*TOKENIZER_FILES]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"tokenizer {name}: no such folder here, and the Hugging Face hub did not give it ({reason}). Without a "
            "network, give a folder with the vocab.txt of a BERT vocabulary instead of a name."
        ) from error


def _check_special_tokens(wordpiece: "PreTrainedTokenizerBase", folder: Path) -> None:
    # transformers gives a token that the vocabulary lacks a new id at the end, beyond every embedding table.
    tokens = (wordpiece.pad_token, wordpiece.unk_token, wordpiece.cls_token, wordpiece.sep_token, wordpiece.mask_token)
    ids = wordpiece.get_vocab()
    lacking = [str(token) for token in tokens if ids[str(token)] >= wordpiece.vocab_size]
    if lacking:
        raise DataError(f"tokenizer {folder}: not a BERT vocabulary, it lacks {', '.join(lacking)}")
