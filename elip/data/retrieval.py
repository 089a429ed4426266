"""Texts with numbered pictures to fine-tune on, and the two views of a test file: its pictures and its texts."""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL import Image
from torch.utils.data import Dataset
from typing_extensions import TypedDict

from elip.data.annotations import Annotations
from elip.data.datasets import ItemT, Sample, TrainDataset, usable_caption
from elip.data.ids import image_number, picture_path
from elip.data.images import ImageFolder
from elip.data.messages import located
from elip.data.transforms import EvalTransform, TrainTransform
from elip.errors import DataError


class RetrievalItem(TypedDict):
    """A picture with one of its captions; all captions of a picture carry the same image id (see `elip.data.ids`)."""

    image: str
    caption: str
    image_id: str | int


class Described(NamedTuple):
    """What an item to train on says.

    Args:
        image: file of the picture.
        text: about it, cleaned.
        image_id: the same for all texts about one picture; None takes the path of the picture.
    """

    image: str
    text: str
    image_id: str | int | None = None


class DescribedTrainSet(TrainDataset[ItemT]):
    """Pictures with texts: `image` [3, S, S] float, `caption`, `image_id` (a number), `index`.

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
        read: Callable[[ItemT], Described],
        skip_broken: bool = False,
    ) -> None:
        super().__init__(annotations, images, transform, seed, skip_broken)
        self.read = read

    def texts(self, item: ItemT) -> Sequence[str]:
        """Return the one text."""
        return [self.read(item).text]

    def make_sample(self, item: ItemT, index: int, rng: random.Random) -> Sample:
        """Return picture, text and the number of the picture."""
        one = self.read(item)
        image = self.load(one.image, rng)
        image_id = picture_path(self.images.root, one.image) if one.image_id is None else one.image_id
        return {"image": image, "caption": one.text, "image_id": image_number(image_id), "index": index}


class RetrievalEvalItem(TypedDict):
    """A picture with all its captions."""

    image: str
    caption: list[str]


class EvalImages(Dataset[Sample]):
    """The pictures of a test file: `image` [3, S, S] float and `index`, by number of the item. None is passed over.

    Args:
        annotations: items with a field `image`.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
    """

    def __init__(self, annotations: Annotations[Any], images: ImageFolder, transform: EvalTransform) -> None:
        self.annotations = annotations
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.transform(self.picture(index)), "index": index}

    def picture(self, index: int) -> Image.Image:
        """Return the picture of an item as it is.

        Raises:
            DataError: it is missing or broken.
        """
        with located(self.annotations.where(index)):
            return self.images.open(self.annotations[index]["image"])


class EvalTexts(Dataset[Sample]):
    """Texts to evaluate on: `caption` and `index`.

    Args:
        captions: cleaned texts.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        self.captions = list(captions)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Sample:
        return {"caption": self.captions[index], "index": index}


class RetrievalEvalSet:
    """The two views of a retrieval test file, and which text belongs to which picture.

    Attributes:
        annotations: the items.
        images: the pictures, numbered as the items.
        texts: all captions, those of the first picture first.
        text_to_image: for each text, the number of its picture.
        image_to_texts: for each picture, the numbers of its texts.

    Args:
        annotations: one item a picture.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
        max_words: words of a caption kept after cleaning.

    Raises:
        DataError: two items name the same picture, or a caption is missing or empty after cleaning.
    """

    def __init__(
        self,
        annotations: Annotations[RetrievalEvalItem],
        images: ImageFolder,
        transform: EvalTransform,
        max_words: int = 30,
    ) -> None:
        captions: list[str] = []
        self.text_to_image: list[int] = []
        self.image_to_texts: list[list[int]] = []
        first_with: dict[str, int] = {}
        for index, item in enumerate(annotations):
            with located(annotations.where(index)):
                first = first_with.setdefault(picture_path(images.root, item["image"]), index)
                if first != index:
                    raise DataError(
                        f"field 'image': {item['image']} is in {annotations.where(first)} already; put all captions of "
                        "a picture into one item"
                    )
                texts = _all_usable(item["caption"], max_words)
            self.image_to_texts.append(list(range(len(captions), len(captions) + len(texts))))
            self.text_to_image += [index] * len(texts)
            captions += texts
        self.annotations = annotations
        self.images = EvalImages(annotations, images, transform)
        self.texts = EvalTexts(captions)


def _all_usable(captions: list[str], max_words: int) -> list[str]:
    if not captions:
        raise DataError("field 'caption' is an empty list")
    return [usable_caption(caption, max_words) for caption in captions]
