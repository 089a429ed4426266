"""Training sets whose samples depend on nothing but seed, epoch and index, and how samples are joined to a batch."""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import TypedDict

from elip.data.annotations import Annotations
from elip.data.images import ImageFolder
from elip.data.messages import located, shorten
from elip.data.text import clean_caption
from elip.data.transforms import TrainTransform
from elip.data.words import PlacedText
from elip.errors import DataError

Sample = dict[str, Any]
MAX_ATTEMPTS = 20
"""Broken items in a row after which passing over them makes no sense."""


class PretrainItem(TypedDict):
    """A picture with its caption, or several of which each visit takes one."""

    image: str
    caption: str | list[str]


ItemT = TypeVar("ItemT")


class SampleKey(NamedTuple):
    """Names one visit to an item in training."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


def sample_rng(seed: int, *visit: int | str) -> random.Random:
    """Return the generator of one visit to a sample: the same for the same arguments, unrelated for others.

    Args:
        seed: the run's.
        visit: epoch and whatever else tells this visit from all others.
    """
    return random.Random("/".join(map(str, (seed, *visit))))  # Python hashes the text with SHA-512


def draw_caption(caption: str | list[str], rng: random.Random, max_words: int) -> str:
    """Return a caption cleaned, one drawn from a list.

    Raises:
        DataError: there is none, or nothing of it is left after cleaning.
    """
    if not caption:
        raise DataError(f"field 'caption' is empty: {caption!r}")
    return usable_caption(caption if isinstance(caption, str) else rng.choice(caption), max_words)


def usable_caption(caption: str, max_words: int, field: str = "caption") -> str:
    """Return the cleaned caption, which an item holds in `field`.

    Raises:
        DataError: nothing is left of it.
    """
    text = clean_caption(caption, max_words)
    if not text.strip():
        raise DataError(f"field {field!r} is empty after cleaning: {shorten(caption)}")
    return text


def first_sound(attempt: Callable[[int], Sample], skip_broken: bool) -> Sample:
    """Return what `attempt` gives for the first number 0, 1, ... where nothing is broken.

    Args:
        attempt: makes a sample, or raises a DataError; 0 means the sample that was asked for, others a stand-in.
        skip_broken: try further numbers at all. The sample's key `skipped` lists what was wrong with the earlier ones.

    Raises:
        DataError: of attempt 0, or, with `skip_broken`, when `MAX_ATTEMPTS` in a row fail.
    """
    skipped: list[str] = []
    for number in range(MAX_ATTEMPTS):
        try:
            return {**attempt(number), "skipped": skipped}
        except DataError as error:
            if not skip_broken:
                raise
            skipped.append(str(error))
    raise DataError(f"{MAX_ATTEMPTS} items drawn one after the other are broken; the last: {skipped[-1]}")


class TrainDataset(Dataset[Sample], Generic[ItemT]):
    """A training set over annotations: `dataset[SampleKey(epoch, index)]`.

    A sample depends on seed, epoch and index alone, not on the process that loads it or what it loaded before. Its key
    `skipped` lists the broken items it stands in for. Subclasses say in `make_sample` what a sample holds.

    Args:
        annotations: the items.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
        seed: of all random choices.
        skip_broken: put another, randomly drawn item in the place of a broken one, rather than stop.
    """

    def __init__(
        self,
        annotations: Annotations[ItemT],
        images: ImageFolder,
        transform: TrainTransform,
        seed: int,
        skip_broken: bool = False,
    ) -> None:
        self.annotations = annotations
        self.images = images
        self.transform = transform
        self.seed = seed
        self.skip_broken = skip_broken

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, index = key

        def attempt(number: int) -> Sample:
            rng = sample_rng(self.seed, epoch, index, number)
            chosen = rng.randrange(len(self)) if number else index
            with located(self.annotations.where(chosen)):
                return self.make_sample(self.annotations[chosen], chosen, rng)

        return first_sound(attempt, self.skip_broken)

    def make_sample(self, item: ItemT, index: int, rng: random.Random) -> Sample:
        """Return the sample of an item; all that is random in it comes from `rng`.

        Raises:
            DataError: the item is broken; the message names the field, the caller adds file and item.
        """
        raise NotImplementedError

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return what tells the content of the annotation files; see `elip.data.annotations.Annotations`."""
        return self.annotations.fingerprint()

    def texts(self, item: ItemT) -> Sequence[str]:
        """Return all texts of an item, cleaned as training sees them; none unless a subclass says so.

        Raises:
            DataError: one of them is broken.
        """
        return ()

    def sample_texts(self, items: int) -> Iterator[PlacedText]:
        """Yield the texts of so many items, spread evenly over the set; broken items are passed over."""
        count = min(items, len(self))
        for index in (number * len(self) // count for number in range(count)):
            with suppress(DataError):
                texts = self.texts(self.annotations[index])
                yield from (PlacedText(self.annotations.where(index), text) for text in texts)

    def load(self, image: str, rng: random.Random, field: str = "image") -> Tensor:
        """Return the picture that an item names in `field`, transformed: [3, S, S] float."""
        return self.transform(self.images.open(image, field), rng)


class PretrainDataset(TrainDataset[PretrainItem]):
    """Pairs to pre-train on: `image` [3, S, S] float, `caption` cleaned text, `index` of the item.

    Args:
        annotations, images, transform, seed, skip_broken: see `TrainDataset`.
        max_words: words of a caption kept after cleaning.
    """

    def __init__(
        self,
        annotations: Annotations[PretrainItem],
        images: ImageFolder,
        transform: TrainTransform,
        seed: int,
        max_words: int = 30,
        skip_broken: bool = False,
    ) -> None:
        super().__init__(annotations, images, transform, seed, skip_broken)
        self.max_words = max_words

    def texts(self, item: PretrainItem) -> Sequence[str]:
        """Return the captions."""
        captions = [item["caption"]] if isinstance(item["caption"], str) else item["caption"]
        return [usable_caption(caption, self.max_words) for caption in captions]

    def make_sample(self, item: PretrainItem, index: int, rng: random.Random) -> Sample:
        """Return picture and caption."""
        caption = draw_caption(item["caption"], rng, self.max_words)
        return {"image": self.load(item["image"], rng), "caption": caption, "index": index}


def collate_samples(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return samples joined to a batch, key by key.

    Tensors [...] are stacked to [B, ...], numbers become a tensor [B], `skipped` is one list of all, and the rest
    (texts) stays a list of B.
    """
    batch: dict[str, Any] = {}
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key == "skipped":
            batch[key] = [message for value in values for message in value]
        elif isinstance(values[0], Tensor):
            batch[key] = torch.stack(values)
        elif isinstance(values[0], int | float):
            batch[key] = torch.tensor(values)
        else:
            batch[key] = values
    return batch
