"""Pairs of pictures to check text assignment on, made from the captions of a retrieval test file."""

from elip.data.annotations import Annotations
from elip.data.datasets import sample_rng
from elip.data.images import ImageFolder
from elip.data.labelled import Labelled, LabelledEvalSet
from elip.data.retrieval import RetrievalEvalItem, RetrievalEvalSet
from elip.data.transforms import EvalTransform
from elip.errors import DataError
from tasks.nlvr_pretrain.objective import CHOICES, LEFT, RIGHT

MIN_PICTURES = 3
"""A caption's own, and two others."""


class AssignmentEvalSet(LabelledEvalSet):
    """Every caption with two pictures, always the same ones: its own on the left, on the right, or not at all.

    The label is that choice, a number of `CHOICES`; each holds for a third of the captions. Other pictures are drawn
    at random.

    Args:
        annotations: one item a picture.
        images: the folder of the pictures.
        transform: from a picture to the encoder's input.
        max_words: words of a caption kept after cleaning.

    Raises:
        DataError: see `RetrievalEvalSet`; or there are fewer than three pictures.
    """

    def __init__(
        self,
        annotations: Annotations[RetrievalEvalItem],
        images: ImageFolder,
        transform: EvalTransform,
        max_words: int,
    ) -> None:
        data = RetrievalEvalSet(annotations, images, transform, max_words)
        if len(annotations) < MIN_PICTURES:
            raise DataError(
                f"{annotations.sources[0]}: text assignment takes two pictures besides a caption's own, but there are "
                f"only {len(annotations)} in all; give a file of at least {MIN_PICTURES}."
            )
        self._pairs = [_pair(number, own, len(annotations)) for number, own in enumerate(data.text_to_image)]
        files = [item["image"] for item in annotations]
        examples = [
            Labelled((files[left], files[right]), data.texts.captions[number], _choice(number))
            for number, (left, right) in enumerate(self._pairs)
        ]
        super().__init__(annotations, examples, images, transform)

    def item_of(self, index: int, number: int) -> int:
        return self._pairs[index][number]


def _pair(number: int, own: int, num_pictures: int) -> tuple[int, int]:
    """Return the pictures, left and right, that caption `number` of picture `own` is shown with."""
    drawn = sample_rng(0, "assignment", number).sample(range(num_pictures - 1), 2)
    others = [other + (other >= own) for other in drawn]  # all pictures but its own
    if _choice(number) == LEFT:
        return own, others[0]
    return others[0], own if _choice(number) == RIGHT else others[1]


def _choice(number: int) -> int:
    return number % len(CHOICES)
