"""Pictures to take the mean over, for reducers that keep different numbers of tokens in different images."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

from PIL import Image
from torch import Tensor
from typing_extensions import TypedDict

from elip.data.annotations import load_annotations
from elip.data.images import ImageFolder
from elip.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


class PictureItem(TypedDict):
    """What is wanted of an annotated item."""

    image: str


class Pictures(Sequence[Tensor]):
    """Pictures as the encoder gets them, [3, S, S] each, opened when they are asked for.

    Args:
        images: the folder of the pictures.
        paths: of the files.
        transform: from a picture to the encoder's input.
    """

    def __init__(self, images: ImageFolder, paths: Sequence[str], transform: Callable[[Image.Image], Tensor]) -> None:
        self._images, self._paths, self._transform = images, paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> "Pictures": ...
    def __getitem__(self, index: int | slice) -> "Tensor | Pictures":
        if isinstance(index, slice):
            return Pictures(self._images, self._paths[index], self._transform)
        return self._transform(self._images.open(self._paths[index]))


def find_pictures(
    source: Path, images: ImageFolder | None, limit: int, transform: Callable[[Image.Image], Tensor]
) -> Pictures:
    """Return pictures of a data set, evenly spread over it.

    Args:
        source: a folder of pictures, searched with its subfolders; or a JSON or JSON-lines file of items with a field
            `image`.
        images: the folder that relative paths in the file start from; None for the file's own.
        limit: the most pictures to take.
        transform: from a picture to the encoder's input.

    Raises:
        DataError: there are no pictures, or the file is missing or malformed.
    """
    if source.is_dir():
        images = replace(images or ImageFolder(), root=source)
        paths = [str(path.relative_to(source)) for path in sorted(source.rglob("*")) if _is_picture(path)]
    else:
        images = images or ImageFolder(source.parent)
        paths = [item["image"] for item in load_annotations([source], PictureItem)]
    if not paths:
        raise DataError(f"there are no pictures in {source} (known suffixes: {', '.join(sorted(SUFFIXES))}).")
    count = min(limit, len(paths))
    return Pictures(images, [paths[i * len(paths) // count] for i in range(count)], transform)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()
