"""Pairs of pictures to check text assignment on, made from the captions of a retrieval test file."""

from collections.abc import Mapping
from functools import partial

from PIL import Image

from elip.data.annotations import Annotations
from elip.data.datasets import EvalDataset, PictureLoader, Sample, sample_rng
from elip.data.images import ImageFolder
from elip.data.transforms import EvalTransform
from elip.errors import DataError, located
from elip.task.labelled import Labelled, labelled_sample
from elip.task.pairs import CaptionedItem, read_captioned, texts_of
from tasks.nlvr_pretrain.objective import CHOICES, LEFT, RIGHT

MIN_PICTURES = 3
"""A caption's own, and two others."""


def assignment_set(
    annotations: Annotations[CaptionedItem], images: ImageFolder, transform: EvalTransform, max_words: int
) -> EvalDataset[Labelled]:
    """Return every caption with two pictures, always the same ones: its own on the left, on the right, or not at all.

    The label is that choice, a number of `CHOICES`; each holds for a third of the captions. Other pictures are drawn
    at random.

    Args:
        annotations: one item a picture.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
        max_words: words of a caption kept after cleaning.

    Raises:
        DataError: see `read_captioned`; or there are fewer than three pictures.
    """
    captioned = read_captioned(annotations, images.root, max_words)
    if len(captioned) < MIN_PICTURES:
        raise DataError(
            f"{annotations.sources[0]}: text assignment takes two pictures besides a caption's own, but there are "
            f"only {len(captioned)} in all; give a file of at least {MIN_PICTURES}."
        )
    texts, files = texts_of(captioned), [one.image for one in captioned]
    examples = []
    for number, (caption, own) in enumerate(zip(texts.captions, texts.text_to_image, strict=True)):
        left, right = _pair(number, own, len(files))
        examples.append(Labelled((files[left], files[right]), caption, _choice(number)))
    item_of = {file: index for index, file in enumerate(files)}
    return EvalDataset(examples, partial(_sample, annotations=annotations, item_of=item_of), images, transform)


def _sample(
    example: Labelled, pictures: PictureLoader, *, annotations: Annotations[CaptionedItem], item_of: Mapping[str, int]
) -> Sample:
    """Return the sample of a caption; a broken picture is told with the item that names it, not with the caption's."""

    def open_picture(name: str, field: str) -> Image.Image:
        with located(annotations.where(item_of[name])):
            return pictures.open(name, field)

    return labelled_sample(example, PictureLoader(open_picture, pictures.transform))


def _pair(number: int, own: int, num_pictures: int) -> tuple[int, int]:
    """Return the pictures, left and right, that caption `number` of picture `own` is shown with."""
    drawn = sample_rng(0, "assignment", number).sample(range(num_pictures - 1), 2)
    others = [other + (other >= own) for other in drawn]  # all pictures but its own
    if _choice(number) == LEFT:
        return own, others[0]
    return others[0], own if _choice(number) == RIGHT else others[1]


def _choice(number: int) -> int:
    return number % len(CHOICES)
