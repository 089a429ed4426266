"""Texts about one or several pictures, each text with a label: what an item says, and the samples made of it."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from elip.data.datasets import ItemT, PictureLoader, Sample


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


def labelled_sample(example: Labelled, pictures: PictureLoader) -> Sample:
    """Return `image` [3, S, S] float, or [K, 3, S, S] of K pictures; `caption`, `label`.

    In training each picture has a crop and colours of its own.
    """
    images = [pictures.load(image, example.field) for image in example.images]
    image = images[0] if len(images) == 1 else torch.stack(images)
    return {"image": image, "caption": example.text, "label": example.label}


def read_and_sample(
    item: ItemT, pictures: PictureLoader, _rng: random.Random, *, read: Callable[[ItemT], Labelled]
) -> Sample:
    """Return the sample of an item to train on.

    Args:
        read: from an item to what it says; raises a DataError that names the field.
    """
    return labelled_sample(read(item), pictures)


def read_text(item: ItemT, *, read: Callable[[ItemT], Labelled]) -> Sequence[str]:
    """Return the one text of an item to train on."""
    return [read(item).text]
