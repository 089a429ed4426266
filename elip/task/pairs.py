"""Pictures with texts about them: pairs to train on, and test files in which each picture has all its texts."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from typing_extensions import TypedDict

from elip.data.annotations import Annotations
from elip.data.cleaning import usable_caption
from elip.data.datasets import ItemT, PictureLoader, Sample, read_examples
from elip.data.ids import image_number, picture_path
from elip.data.shards import PairItem
from elip.errors import DataError


class Pair(NamedTuple):
    """What an item to train on says.

    Args:
        image: file of the picture.
        caption: about it, as it is written; of several, each visit takes one.
        image_id: the same for all texts about one picture; None takes the path of the picture.
        field: of the item, that holds the caption.
    """

    image: str
    caption: str | list[str]
    image_id: str | int | None = None
    field: str = "caption"


def read_pair(item: PairItem) -> Pair:
    """Return what an item of a pre-training file, or a sample of a shard, says."""
    return Pair(item["image"], item["caption"])


def pair_sample(
    item: ItemT,
    pictures: PictureLoader,
    rng: random.Random,
    *,
    read: Callable[[ItemT], Pair],
    max_words: int,
    root: str | Path | None = None,
) -> Sample:
    """Return `image` [3, S, S] float and `caption`, cleaned.

    Args:
        item, pictures, rng: see `elip.data.datasets.MakeSample`.
        read: from an item to what it says; raises a DataError that names the field.
        max_words: words of a caption kept after cleaning.
        root: folder that relative paths of pictures start from, which are the ids where an item gives none; with it,
            samples hold `image_id` too, a number that is the same for texts about one picture.
    """
    pair = read(item)
    # The caption is drawn before the crop: another order would be another run under the same seed.
    sample = {"caption": draw_caption(pair, rng, max_words), "image": pictures.load(pair.image)}
    if root is None:
        return sample
    image_id = picture_path(root, pair.image) if pair.image_id is None else pair.image_id
    return {**sample, "image_id": image_number(image_id)}


def pair_texts(item: ItemT, *, read: Callable[[ItemT], Pair], max_words: int) -> Sequence[str]:
    """Return all captions of an item, cleaned."""
    pair = read(item)
    captions = [pair.caption] if isinstance(pair.caption, str) else pair.caption
    return [usable_caption(caption, max_words, pair.field) for caption in captions]


def draw_caption(pair: Pair, rng: random.Random, max_words: int) -> str:
    """Return the caption of a pair, cleaned; one drawn from a list.

    Raises:
        DataError: there is none, or nothing of it is left after cleaning.
    """
    if not pair.caption:
        raise DataError(f"field {pair.field!r} is empty: {pair.caption!r}")
    caption = pair.caption if isinstance(pair.caption, str) else rng.choice(pair.caption)
    return usable_caption(caption, max_words, pair.field)


class CaptionedItem(TypedDict):
    """A picture with all its captions, to evaluate on."""

    image: str
    caption: list[str]


class Captioned(NamedTuple):
    """What an item to evaluate on says: file of the picture, and all its captions, cleaned."""

    image: str
    captions: list[str]


def read_captioned(annotations: Annotations[CaptionedItem], root: str | Path, max_words: int) -> list[Captioned]:
    """Return what the items say.

    Args:
        annotations: one item a picture.
        root: folder that relative paths of pictures start from.
        max_words: words of a caption kept after cleaning.

    Raises:
        DataError: two items name the same picture, or a caption is missing or empty after cleaning.
    """
    first_with: dict[str, int] = {}

    def read(item: CaptionedItem) -> Captioned:
        index = len(first_with)
        first = first_with.setdefault(picture_path(root, item["image"]), index)
        if first != index:
            raise DataError(
                f"field 'image': {item['image']} is in {annotations.where(first)} already; put all captions of "
                "a picture into one item"
            )
        if not item["caption"]:
            raise DataError("field 'caption' is an empty list")
        return Captioned(item["image"], [usable_caption(caption, max_words) for caption in item["caption"]])

    return read_examples(annotations, read)


def image_sample(example: Captioned, pictures: PictureLoader) -> Sample:
    """Return `image` [3, S, S] float."""
    return {"image": pictures.load(example.image)}


class Texts(NamedTuple):
    """All texts of a split, those of the first picture first, and which belong to which picture.

    Args:
        captions: the texts.
        text_to_image: for each text, the number of its picture.
        image_to_texts: for each picture, the numbers of its texts.
    """

    captions: list[str]
    text_to_image: list[int]
    image_to_texts: list[list[int]]


def texts_of(examples: Sequence[Captioned]) -> Texts:
    """Return the texts of pictures."""
    texts = Texts([], [], [])
    for number, example in enumerate(examples):
        first = len(texts.captions)
        texts.captions.extend(example.captions)
        texts.text_to_image.extend([number] * len(example.captions))
        texts.image_to_texts.append(list(range(first, len(texts.captions))))
    return texts
