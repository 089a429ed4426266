"""What tasks train and are evaluated on, sample by sample, and how samples are joined to a batch.

What an item holds and how a sample is made of it stands with the task: a data set is given functions for that.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from elip.data.annotations import Annotations
from elip.data.images import ImageFolder, View
from elip.data.tokenizer import PlacedText
from elip.data.transforms import EvalTransform, TrainTransform
from elip.errors import DataError, located

Sample = dict[str, Any]
MAX_ATTEMPTS = 20
"""Broken items in a row after which passing over them makes no sense."""


ItemT = TypeVar("ItemT")
ExampleT = TypeVar("ExampleT")


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


@dataclass(frozen=True)
class PictureLoader:
    """Gives the pictures that one item names: as they are, or as the encoder takes them.

    Args:
        open: the picture of a name, and of the field that names it; raises a DataError that names field and file.
        transform: from a picture to the encoder's input.
        view: handed to `open` for what is to be transformed, where that is but a part; see `ImageFolder.open`.
    """

    open: Callable[..., Image.Image]
    transform: Callable[[Image.Image], Tensor]
    view: View | None = None

    @classmethod
    def augmenting(
        cls, open_picture: Callable[..., Image.Image], transform: TrainTransform, rng: random.Random
    ) -> "PictureLoader":
        """Return the loader of a visit in training, whose pictures are changed by `transform` as `rng` decides."""
        return cls(open_picture, partial(transform.finish, rng=rng), transform.view(rng))

    def load(self, name: str, field: str = "image") -> Tensor:
        """Return a picture, transformed: [3, S, S] float."""
        return self.transform(self.open(name, field, self.view) if self.view else self.open(name, field))


MakeSample: TypeAlias = Callable[[ItemT, PictureLoader, random.Random], Sample]
"""From an item to what training sees of it. All that is random comes from the generator, also inside the loader, so
the order of draws is part of a run's data. Raises a DataError that names the field; who calls adds file and item."""
TextsOf: TypeAlias = Callable[[ItemT], Sequence[str]]
"""From an item to all its texts, cleaned as training sees them. Raises a DataError where one is broken."""


def no_texts(_item: Any) -> Sequence[str]:
    """Return the texts of an item that nobody wants to look at."""
    return ()


class TrainDataset(Dataset[Sample], Generic[ItemT]):
    """A training set over annotations: `dataset[SampleKey(epoch, index)]`.

    A sample depends on seed, epoch and index alone, not on the process that loads it or what it loaded before. Beside
    what `make_sample` says it holds `index` of the item, and in `skipped` the broken items that this one stands in for.

    Args:
        annotations: the items.
        make_sample: from an item to its sample.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
        seed: of all random choices.
        texts: from an item to its texts, for `sample_texts`.
        skip_broken: put another, randomly drawn item in the place of a broken one, rather than stop.
    """

    def __init__(
        self,
        annotations: Annotations[ItemT],
        make_sample: MakeSample[ItemT],
        images: ImageFolder,
        transform: TrainTransform,
        seed: int,
        *,
        texts: TextsOf[ItemT] = no_texts,
        skip_broken: bool = False,
    ) -> None:
        self.annotations = annotations
        self.make_sample = make_sample
        self.images = images
        self.transform = transform
        self.seed = seed
        self.texts = texts
        self.skip_broken = skip_broken

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: SampleKey) -> Sample:
        epoch, index = key

        def attempt(number: int) -> Sample:
            rng = sample_rng(self.seed, epoch, index, number)  # a stand-in is drawn anew at each visit
            chosen = rng.randrange(len(self)) if number else index
            pictures = PictureLoader.augmenting(self.images.open, self.transform, rng)
            with located(self.annotations.where(chosen)):
                return {**self.make_sample(self.annotations[chosen], pictures, rng), "index": chosen}

        return first_sound(attempt, self.skip_broken)

    def fingerprint(self) -> list[dict[str, Any]]:
        """Return what tells the content of the annotation files; see `elip.data.annotations.Annotations`."""
        return self.annotations.fingerprint()

    def sample_texts(self, items: int) -> Iterator[PlacedText]:
        """Yield the texts of so many items, spread evenly over the set; broken items are passed over."""
        count = min(items, len(self))
        for index in (number * len(self) // count for number in range(count)):
            with suppress(DataError):
                texts = self.texts(self.annotations[index])
                yield from (PlacedText(self.annotations.where(index), text) for text in texts)


class EvalDataset(Dataset[Sample], Generic[ExampleT]):
    """What a split is evaluated on: `dataset[index]`. Nothing is random in it, and nothing is passed over.

    The examples are what the items of its files say, read and checked before the first picture is opened.

    Args:
        examples: one for each sample.
        make_sample: from an example to its sample, to which `index` is added; raises a DataError that names the field.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
        where: from an index to file and item, for messages; None where `make_sample` says it itself.
    """

    def __init__(
        self,
        examples: Sequence[ExampleT],
        make_sample: Callable[[ExampleT, PictureLoader], Sample],
        images: ImageFolder,
        transform: EvalTransform,
        where: Callable[[int], str] | None = None,
    ) -> None:
        self.examples = examples
        self.make_sample = make_sample
        self.transform = transform
        self.pictures = PictureLoader(images.open, transform)
        self.where = where

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        with nullcontext() if self.where is None else located(self.where(index)):
            return {**self.make_sample(self.examples[index], self.pictures), "index": index}

    def to_pixels(self, images: Tensor) -> Tensor:
        """Return images of samples [..., 3, H, W] as they look, uint8 of the same shape."""
        return self.transform.normalize.to_pixels(images)


def read_examples(annotations: Annotations[ItemT], read: Callable[[ItemT], ExampleT]) -> list[ExampleT]:
    """Return what all items say.

    Raises:
        DataError: of the first broken one, with file and item.
    """
    examples = []
    for index, item in enumerate(annotations):
        with located(annotations.where(index)):
            examples.append(read(item))
    return examples


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
