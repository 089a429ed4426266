"""Which picture an item is about: ids as annotation files give them, and that each names one picture.

One rule holds for all ids: they are compared as text, without white space around it, so 1 and "1" are the same id, "01"
is another. Where a task's items have no id, the path of the picture is the id.
"""

import json
import logging
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from elip.data.annotations import Annotations
from elip.data.cache import cached_file
from elip.errors import DataError, shorten

logger = logging.getLogger(__name__)


def id_text(value: str | int) -> str:
    """Return what an id is compared by."""
    return str(value).strip()


def image_number(image_id: str | int) -> int:
    """Return a number of 63 bits that stands for an image id: the same in all processes, without a table of all ids."""
    return int.from_bytes(sha256(id_text(image_id).encode()).digest()[:8], "big") >> 1


def picture_path(root: str | Path, image: str) -> str:
    """Return the path of a picture in one spelling, whether the item names it from `root` or in full."""
    return os.path.normpath(os.path.join(root, image))


def check_image_ids(annotations: Annotations[Any], root: str | Path) -> None:
    """Check that no id names two pictures, within a file or over several; warn of pictures that have two ids.

    Done once for the same files, of which later calls, in all processes, only repeat the warning.

    Args:
        annotations: items with the fields `image` and `image_id`.
        root: folder that relative image paths start from.

    Raises:
        DataError: naming both items.
    """
    content = json.dumps([str(root), annotations.fingerprint()])
    suffix = f".{sha256(content.encode()).hexdigest()[:16]}.ids"
    seal = cached_file(annotations.sources[0], suffix, lambda file: file.write(_check(annotations, root).encode()))
    warning = seal.read_text(encoding="utf-8")
    if warning:
        logger.warning(warning)


def _check(annotations: Annotations[Any], root: str | Path) -> str:
    """Return what is to be warned of, "" for nothing."""
    ids, paths = np.empty((2, len(annotations)), np.int64)  # hashes, so that 14 million items take 300 MB
    for index, item in enumerate(annotations):
        path = picture_path(root, item["image"])
        ids[index], paths[index] = hash(id_text(item["image_id"])), hash(path)
    clashes = _disagreeing(ids, paths)
    if len(clashes):
        first, second = clashes[0].tolist()
        raise _two_pictures(annotations, first, second, len(np.unique(ids[clashes[:, 0]])))
    doubles, warning = _disagreeing(paths, ids), ""
    if len(doubles):
        first, second = doubles[0].tolist()
        warning = _two_ids(annotations, first, second, len(np.unique(paths[doubles[:, 0]])))
    return warning


def _disagreeing(same: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return [K, 2]: a place that agrees in `same` with an earlier one and not in `other`, behind the first such."""
    order = np.argsort(same, kind="stable")
    begins = np.flatnonzero(np.r_[True, same[order][1:] != same[order][:-1]])
    first = np.repeat(order[begins], np.diff(np.r_[begins, len(order)]))
    differ = other[order] != other[first]
    pairs = np.stack([first[differ], order[differ]], axis=1)
    return pairs[np.argsort(pairs[:, 1])]


def _two_pictures(annotations: Annotations[Any], first: int, second: int, count: int) -> DataError:
    one, other = annotations[first], annotations[second]
    spelt = "" if one["image_id"] == other["image_id"] else f" (as {one['image_id']!r}: ids are compared as text)"
    return DataError(
        f"{annotations.where(second)}: field 'image_id': {other['image_id']!r} names {shorten(other['image'])}, but in "
        f"{annotations.where(first)} it names {shorten(one['image'])}{spelt}. Pictures of one id count as one, so each "
        "would be trained to fit the other's texts. Give every picture an id of its own, over all files: its path will "
        f"do, or file name and number. {count} id{'s name' if count > 1 else ' names'} more than one picture."
    )


def _two_ids(annotations: Annotations[Any], first: int, second: int, count: int) -> str:
    one, other = annotations[first], annotations[second]
    return (
        f"{count} picture{'s have' if count > 1 else ' has'} more than one image_id, so that texts which fit a picture "
        f"are trained not to: {shorten(other['image'])} is {one['image_id']!r} in {annotations.where(first)} and "
        f"{other['image_id']!r} in {annotations.where(second)}. Give all its items the same id."
    )
