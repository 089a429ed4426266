"""The handwritten digits of the pictures: the 1,797 of `sklearn.datasets.load_digits`, divided over the splits."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from elip.errors import ElipError

SPLITS = ("train", "val", "test")

# Cut in file order, where one writer's digits follow another's: the splits differ in writers, not only in samples.
_BOUNDS = {"train": (0, 1197), "val": (1197, 1497), "test": (1497, 1797)}


@dataclass(frozen=True)
class Handwriting:
    """All digits with the split and the value each belongs to."""

    images: NDArray[np.uint8]
    """(1797, 8, 8); 0 is paper, 255 is ink."""
    pools: dict[tuple[str, int], tuple[int, ...]]
    """(split, value) to the indices into `images`; the pools of two splits share nothing."""


@lru_cache(maxsize=1)
def load_handwriting() -> Handwriting:
    """Return the digits that scikit-learn carries in its package; nothing is downloaded.

    Raises:
        ElipError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ElipError('DigitScenes needs scikit-learn for its digits: pip install "elip[demo]"') from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    pools = {
        (split, value): tuple(i for i in range(*_BOUNDS[split]) if digits.target[i] == value)
        for split in SPLITS
        for value in range(10)
    }
    return Handwriting(images, pools)
