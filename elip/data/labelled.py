"""Data sets of texts about one or several pictures, each text with a label."""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from elip.data.annotations import Annotations
from elip.data.datasets import ItemT, Sample, TrainDataset
from elip.data.images import ImageFolder
from elip.data.messages import located
from elip.data.transforms import EvalTransform, TrainTransform


class Labelled(NamedTuple):
    """What an item says.

    Args:
        images: files of its K pictures.
        text: cleaned.
        label: number of its label.
        field: of the item, that names the pictures.
    """

    images: tuple[str, ...]
    text: str
    label: int
    field: str = "image"


class LabelledTrainSet(TrainDataset[ItemT]):
    """Texts to train on: `image` [3, S, S] float, or [K, 3, S, S] of K pictures; `caption`, `label`, `index`.

    Args:
        annotations, images, transform, seed, skip_broken: see `TrainDataset`.
        read: from an item to what it says; raises a DataError that names the field.
    """

    def __init__(
        self,
        annotations: Annotations[ItemT],
        images: ImageFolder,
        transform: TrainTransform,
        seed: int,
        read: Callable[[ItemT], Labelled],
        skip_broken: bool = False,
    ) -> None:
        super().__init__(annotations, images, transform, seed, skip_broken)
        self.read = read

    def texts(self, item: ItemT) -> Sequence[str]:
        """Return the one text."""
        return [self.read(item).text]

    def make_sample(self, item: ItemT, index: int, rng: random.Random) -> Sample:
        """Return pictures, each with a crop and colours of its own, text and label."""
        example = self.read(item)
        images = [self.load(image, rng, example.field) for image in example.images]
        return _sample(images, example, index)


class LabelledEvalSet(Dataset[Sample]):
    """Texts to evaluate on, of the same keys as `LabelledTrainSet`. None is passed over.

    Args:
        annotations: where the pictures are named, for messages.
        examples: what the items say.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
    """

    def __init__(
        self,
        annotations: Annotations[Any],
        examples: Sequence[Labelled],
        images: ImageFolder,
        transform: EvalTransform,
    ) -> None:
        self.annotations = annotations
        self.examples = examples
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Sample:
        example, images = self.examples[index], []
        for number, image in enumerate(example.images):
            with located(self.annotations.where(self.item_of(index, number))):
                images.append(self.transform(self.images.open(image, example.field)))
        return _sample(images, example, index)

    def item_of(self, index: int, number: int) -> int:
        """Return the item that names picture `number` of example `index`."""
        return index


def read_all(annotations: Annotations[ItemT], read: Callable[[ItemT], Labelled]) -> list[Labelled]:
    """Return what all items say.

    Raises:
        DataError: of the first broken one, with file and item.
    """
    examples = []
    for index, item in enumerate(annotations):
        with located(annotations.where(index)):
            examples.append(read(item))
    return examples


def _sample(images: list[Tensor], example: Labelled, index: int) -> Sample:
    image = images[0] if len(images) == 1 else torch.stack(images)
    return {"image": image, "caption": example.text, "label": example.label, "index": index}
