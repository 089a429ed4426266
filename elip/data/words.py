"""How much of the texts to train on a vocabulary knows: unknown words all become the same token, `[UNK]`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Protocol, runtime_checkable

from elip.data.text import Tokenizer

_TEXTS_AT_ONCE = 500


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
